#include "process_table.h"

#include "agent.h"
#include "job.h"

#define PROCESSES_MAXIMUM 4096u

static struct {
    PROCESS *entries[PROCESSES_MAXIMUM];
    ULONG count;
} processes;

BOOL processes_open(void)
{
    return job_open();
}

static void terminate_outside_job(ULONG status)
{
    for (ULONG index = 0; index < processes.count; index++) {
        if (!processes.entries[index]->in_job) {
            TerminateProcess(processes.entries[index]->process, status);
        }
    }
}

void processes_close(void)
{
    terminate_outside_job(1);
}

PROCESS *process_find(const TEXT *label)
{
    for (ULONG index = 0; index < processes.count; index++) {
        if (text_equal(&processes.entries[index]->label, label)) {
            return processes.entries[index];
        }
    }
    return NULL;
}

BOOL processes_full(void)
{
    return processes.count == PROCESSES_MAXIMUM;
}

void process_hold(PROCESS *process)
{
    processes.entries[processes.count++] = process;
}

void process_forget(PROCESS *process)
{
    for (ULONG index = 0; index < processes.count; index++) {
        if (processes.entries[index] == process) {
            processes.entries[index] = processes.entries[--processes.count];
            break;
        }
    }
    if (process->thread != NULL) {
        CloseHandle(process->thread);
    }
    CloseHandle(process->process);
    memory_free(process->label.units);
    memory_free(process);
}

/* A held process keeps its pid. */
static BOOL is_held(ULONG pid)
{
    for (ULONG index = 0; index < processes.count; index++) {
        if (processes.entries[index]->pid == pid) {
            return TRUE;
        }
    }
    return FALSE;
}

DWORD processes_end(ULONG status, ULONGLONG end, ULONG *remaining)
{
    DWORD error;

    terminate_outside_job(status);
    error = job_terminate(status, end, is_held, remaining);
    /* Backwards, since the last, which takes the place of one that is forgotten, has been looked at by then. */
    for (ULONG index = processes.count; index-- > 0;) {
        if (process_ended(processes.entries[index]->process, end)) {
            process_forget(processes.entries[index]);
        } else {
            *remaining += 1;
        }
    }
    return error;
}
