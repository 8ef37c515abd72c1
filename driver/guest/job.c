#include "job.h"

#define PIDS_AT_FIRST 32u

static HANDLE job;

/* What the job held at one moment. */
typedef struct MEMBERS {
    JOBOBJECT_BASIC_PROCESS_ID_LIST *pids;
    /* One of each pid: NULL where the process is gone, INVALID_HANDLE_VALUE where it cannot be opened. */
    HANDLE *handles;
    ULONG count;
} MEMBERS;

BOOL job_open(void)
{
    JOBOBJECT_EXTENDED_LIMIT_INFORMATION limits;

    memset(&limits, 0, sizeof(limits));
    limits.BasicLimitInformation.LimitFlags = JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE;
    job = CreateJobObjectW(NULL, NULL);
    return job != NULL && SetInformationJobObject(job, JobObjectExtendedLimitInformation, &limits, sizeof(limits));
}

BOOL job_take(HANDLE process)
{
    return AssignProcessToJobObject(job, process);
}

BOOL process_ended(HANDLE process, ULONGLONG end)
{
    ULONGLONG now = GetTickCount64();

    return WaitForSingleObject(process, now < end ? (DWORD)(end - now) : 0) == WAIT_OBJECT_0;
}

/* Reads the pids, those of jobs within this one included (Microsoft Learn, JOBOBJECT_BASIC_PROCESS_ID_LIST); a list that is
 * full may lack some. */
static DWORD list_members(MEMBERS *members)
{
    for (ULONG room = PIDS_AT_FIRST;; room *= 2) {
        ULONG size = sizeof(*members->pids) + room * sizeof(ULONG_PTR);
        DWORD error = ERROR_SUCCESS;

        members->pids = memory_get(size);
        if (members->pids == NULL) {
            return ERROR_NOT_ENOUGH_MEMORY;
        }
        if (!QueryInformationJobObject(job, JobObjectBasicProcessIdList, members->pids, size, NULL)) {
            error = GetLastError();
        } else if (members->pids->NumberOfProcessIdsInList < room) {
            members->count = members->pids->NumberOfProcessIdsInList;
            return ERROR_SUCCESS;
        }
        memory_free(members->pids);
        members->pids = NULL;
        if (error != ERROR_SUCCESS && error != ERROR_MORE_DATA) {
            return error;
        }
    }
}

static HANDLE open_member(DWORD pid)
{
    HANDLE process = OpenProcess(SYNCHRONIZE | PROCESS_QUERY_LIMITED_INFORMATION, FALSE, pid);
    BOOL inside = FALSE;

    if (process == NULL) {
        return GetLastError() == ERROR_INVALID_PARAMETER ? NULL : INVALID_HANDLE_VALUE;
    }
    /* Since it was listed it may have ended, and its pid be another's. */
    if (!IsProcessInJob(process, job, &inside) || !inside) {
        CloseHandle(process);
        return NULL;
    }
    return process;
}

/* Opens them while their pids are theirs, before they are told to end; returns how many run. */
static ULONG open_members(MEMBERS *members)
{
    ULONG running = 0;

    for (ULONG index = 0; index < members->count; index++) {
        HANDLE process = open_member((DWORD)members->pids->ProcessIdList[index]);

        members->handles[index] = process;
        if (process == INVALID_HANDLE_VALUE || (process != NULL && !process_ended(process, 0))) {
            running++;
        }
    }
    return running;
}

/* Waits for all of them and closes them; returns how many run on. */
static ULONG await_members(MEMBERS *members, ULONGLONG end, JOB_COUNTED *counted, ULONG *remaining)
{
    ULONG running = 0;

    for (ULONG index = 0; index < members->count; index++) {
        HANDLE process = members->handles[index];
        BOOL ended = process == NULL || (process != INVALID_HANDLE_VALUE && process_ended(process, end));

        if (!ended) {
            running++;
            *remaining += !counted((ULONG)members->pids->ProcessIdList[index]);
        }
        if (process != NULL && process != INVALID_HANDLE_VALUE) {
            CloseHandle(process);
        }
    }
    return running;
}

/* Their own handles say when they are gone: when on its way out a process, which drivers are told of meanwhile, ceases to be
 * one of the job's active ones is not documented. */
DWORD job_terminate(ULONG status, ULONGLONG end, JOB_COUNTED *counted, ULONG *remaining)
{
    BOOL again = TRUE;

    *remaining = 0;
    /* A process that was about to start another may have done so before it ended. */
    while (again) {
        MEMBERS members = {NULL, NULL, 0};
        DWORD error = list_members(&members);
        ULONG running;

        if (error == ERROR_SUCCESS) {
            members.handles = memory_get((members.count + 1) * sizeof(HANDLE));
            error = members.handles == NULL ? ERROR_NOT_ENOUGH_MEMORY : ERROR_SUCCESS;
        }
        if (error != ERROR_SUCCESS) {
            memory_free(members.pids);
            return error;
        }
        running = open_members(&members);
        error = TerminateJobObject(job, status) ? ERROR_SUCCESS : GetLastError();
        again = await_members(&members, error == ERROR_SUCCESS ? end : 0, counted, remaining) == 0 && running > 0;
        memory_free(members.handles);
        memory_free(members.pids);
        if (error != ERROR_SUCCESS) {
            return error;
        }
    }
    return ERROR_SUCCESS;
}
