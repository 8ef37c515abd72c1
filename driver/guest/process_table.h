/* The processes of a plan, held by label until they are released, all in one job. */
#pragma once

#include "text.h"

typedef struct PROCESS {
    TEXT label;
    HANDLE process;
    /* The first thread while it is suspended, else NULL. */
    HANDLE thread;
    ULONG pid;
    /* FALSE for one that was born into a job that this program's is not part of. */
    BOOL in_job;
} PROCESS;

/* NULL when no process has the label. */
PROCESS *process_find(const TEXT *label);

/* Whether no further process can be held. */
BOOL processes_full(void);

/* Takes an entry of memory_get, with its label, over. */
void process_hold(PROCESS *process);

/* Closes its handles and frees it and its label. */
void process_forget(PROCESS *process);

/* Terminates what the job holds and what could not be brought into it, waits for that until `end`, a time of GetTickCount64,
 * and forgets those that are gone. `remaining` is how many run on, held or not. Returns the Win32 error of job_terminate. */
DWORD processes_end(ULONG status, ULONGLONG end, ULONG *remaining);
