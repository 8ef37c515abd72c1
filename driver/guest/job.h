/* The job that every process of a plan is brought into: with all that they start, it dies with this program. */
#pragma once

#include "text.h"

BOOL job_open(void);

/* FALSE for a process that was born into a job that this one is not part of. */
BOOL job_take(HANDLE process);

/* Whether a process is gone, waiting for that until `end`, a time of GetTickCount64. */
BOOL process_ended(HANDLE process, ULONGLONG end);

/* Whether a process is one that the caller waits for, and counts, himself. */
typedef BOOL JOB_COUNTED(ULONG pid);

/* Terminates everything in the job and waits until `end` for its end. `remaining` is how many of the processes run on that
 * `counted` does not say the caller counts. Returns a Win32 error, with which nothing is known of them. */
DWORD job_terminate(ULONG status, ULONGLONG end, JOB_COUNTED *counted, ULONG *remaining);
