/* What a plan does with processes: launches them with exact control, has them act, and ends them. */

#include "agent.h"
#include "job.h"
#include "orders.h"
#include "process_facts.h"
#include "process_table.h"
#include "spawn.h"

/* The process that a request's `process` member labels; NULL, with the mistake noted, when there is none. */
static PROCESS *named_process(REQUEST *request)
{
    TEXT label = request_text(request, "process", NAME_UNITS_MAXIMUM);
    PROCESS *found = label.units != NULL && request_complete(request) ? process_find(&label) : NULL;

    if (found == NULL) {
        request_fail(request, "there is no such process in", "process");
    }
    return found;
}

/* The process that an optional member names, by label or by pid. `target` is its entry or NULL, `opened` a handle of its
 * own for a pid, which the caller closes. */
static void other_process(REQUEST *request, const char *key, PROCESS **target, HANDLE *opened)
{
    const JSON_MEMBER *member = request_member(request, key);

    *target = NULL;
    *opened = NULL;
    if (member == NULL) {
        return;
    }
    if (member->type == JSON_TEXT) {
        *target = process_find(&member->text);
        if (*target == NULL) {
            request_fail(request, "there is no such process in", key);
        }
    } else if (member->type == JSON_INTEGER && !member->negative && member->number <= MAXDWORD) {
        *opened = OpenProcess(PROCESS_CREATE_PROCESS | PROCESS_DUP_HANDLE | PROCESS_QUERY_LIMITED_INFORMATION, FALSE,
                              (DWORD)member->number);
        if (*opened == NULL) {
            request_fail(request, "no process with this pid can be opened in", key);
        }
    } else {
        request_fail(request, "expected a label or a pid in", key);
    }
}

static HANDLE take_over(HANDLE owner, ULONGLONG handle)
{
    HANDLE own = NULL;

    if (handle == 0 || !DuplicateHandle(owner, (HANDLE)(ULONG_PTR)handle, GetCurrentProcess(), &own, 0, FALSE,
                                        DUPLICATE_CLOSE_SOURCE | DUPLICATE_SAME_ACCESS)) {
        return NULL;
    }
    return own;
}

/* What a launch came to, whoever made the call. */
typedef struct LAUNCHED {
    PROCESS_INFORMATION process;
    DWORD error;
    ULONG status;
    ULONG creator_pid;
    ULONG creator_tid;
} LAUNCHED;

/* Has a child make the process. Returns what kept the order from being obeyed, NULL if nothing did. */
static const char *launch_by_child(const PROCESS *creator, const TEXT *image, const TEXT *command_line, HANDLE parent,
                                   ULONG deadline, LAUNCHED *launched, DWORD *order_error)
{
    ORDER order;
    ORDER_REPLY reply;
    HANDLE given = NULL;

    memset(&order, 0, sizeof(order));
    order.Magic = ORDER_MAGIC;
    order.Kind = ORDER_SPAWN;
    order.Flags = (image->units != NULL ? ORDER_HAS_IMAGE : 0) |
                  (command_line->units != NULL ? ORDER_HAS_COMMAND_LINE : 0);
    order.ImageUnits = image->length;
    order.CommandLineUnits = command_line->length;
    if (parent != NULL && !DuplicateHandle(GetCurrentProcess(), parent, creator->process, &given, 0, FALSE,
                                           DUPLICATE_SAME_ACCESS)) {
        *order_error = GetLastError();
        return "creator-unreachable";
    }
    order.Parent = (ULONG_PTR)given;
    *order_error = order_send(creator->pid, creator->process, &order, image, command_line, &reply, NULL, deadline);
    if (*order_error == ERROR_IO_PENDING) {
        /* It makes the call, and something such as a driver's notify routine keeps it from returning. */
        *order_error = ERROR_TIMEOUT;
        return "stuck";
    }
    if (*order_error != ERROR_SUCCESS) {
        return "creator-unreachable";
    }
    launched->error = reply.Error;
    launched->status = reply.Status;
    launched->creator_pid = creator->pid;
    launched->creator_tid = reply.CallingTid;
    launched->process.dwProcessId = reply.Pid;
    launched->process.dwThreadId = reply.Tid;
    launched->process.hProcess = take_over(creator->process, reply.Process);
    if (launched->process.hProcess != NULL) {
        launched->process.hThread = take_over(creator->process, reply.Thread);
    }
    if (reply.Error == ERROR_SUCCESS && launched->process.hThread == NULL) {
        *order_error = GetLastError();
        if (launched->process.hProcess != NULL) {
            /* It cannot be resumed, and the plan has no name for it. */
            TerminateProcess(launched->process.hProcess, *order_error);
            CloseHandle(launched->process.hProcess);
        }
        return "creator-unreachable";
    }
    return NULL;
}

static void launch_here(const TEXT *image, const TEXT *command_line, HANDLE parent, LAUNCHED *launched)
{
    SPAWN spawn = {image->units, command_line->units, parent};

    launched->creator_pid = GetCurrentProcessId();
    launched->creator_tid = GetCurrentThreadId();
    launched->error = spawn_suspended(&spawn, &launched->process, &launched->status);
}

static void answer_launch(ANSWER *answer, const TEXT *image, const TEXT *command_line, const LAUNCHED *launched)
{
    BOOL made = launched->error == ERROR_SUCCESS;

    answer_number(answer, "win32_error", launched->error);
    answer_optional_number(answer, "status", made || launched->status != 0, launched->status);
    answer_optional_number(answer, "pid", made, launched->process.dwProcessId);
    answer_optional_number(answer, "tid", made, launched->process.dwThreadId);
    answer_number(answer, "creator_pid", launched->creator_pid);
    answer_number(answer, "creator_tid", launched->creator_tid);
    answer_image_name(answer, image);
    if (made) {
        answer_parent(answer, launched->process.hProcess);
        answer_native_image(answer, launched->process.hProcess);
        answer_command_line(answer, launched->process.hProcess, command_line);
    }
}

/* Brings a made process into the job and the table, and lets it run unless it stays suspended. */
static void keep(PROCESS *entry, const LAUNCHED *launched, BOOL suspended, ANSWER *answer)
{
    entry->in_job = job_take(launched->process.hProcess);
    entry->process = launched->process.hProcess;
    entry->pid = launched->process.dwProcessId;
    process_hold(entry);
    answer_boolean(answer, "in_job", entry->in_job);
    answer_boolean(answer, "suspended", suspended);
    if (suspended) {
        entry->thread = launched->process.hThread;
    } else {
        ResumeThread(launched->process.hThread);
        CloseHandle(launched->process.hThread);
    }
}

const char *process_launch(REQUEST *request, ANSWER *answer)
{
    TEXT label = request_text(request, "process", NAME_UNITS_MAXIMUM);
    TEXT image = request_optional_text(request, "image", TEXT_UNITS_MAXIMUM);
    TEXT command_line = request_optional_text(request, "command_line", TEXT_UNITS_MAXIMUM);
    BOOL suspended = request_flag(request, "suspended");
    ULONG deadline = (ULONG)request_number(request, "deadline_ms", DEADLINE_MAXIMUM, DEADLINE_DEFAULT);
    PROCESS *parent;
    PROCESS *creator;
    HANDLE opened;
    HANDLE foreign;
    PROCESS *entry = NULL;
    LAUNCHED launched;
    const char *failure = NULL;
    DWORD order_error = ERROR_SUCCESS;
    ULONGLONG before;

    memset(&launched, 0, sizeof(launched));
    other_process(request, "parent", &parent, &opened);
    other_process(request, "creator", &creator, &foreign);
    if (foreign != NULL) {
        CloseHandle(foreign);
        request_fail(request, "expected the label of a process of this plan in", "creator");
    }
    if (image.units == NULL && command_line.units == NULL) {
        request_fail(request, "a launch needs a command line or an image in", "image");
    }
    if (label.units != NULL && process_find(&label) != NULL) {
        request_fail(request, "a process has this label already; release it first", NULL);
    }
    if (processes_full()) {
        request_fail(request, "too many processes are held; release some first", NULL);
    }
    if (request_complete(request)) {
        entry = memory_get(sizeof(*entry));
        if (entry != NULL) {
            entry->label = text_copy(&label);
        }
        if (entry == NULL || entry->label.units == NULL) {
            failure = "no-memory";
        }
    }
    if (entry != NULL && failure == NULL) {
        HANDLE parent_handle = parent != NULL ? parent->process : opened;

        before = clock_now();
        if (creator != NULL) {
            failure = launch_by_child(creator, &image, &command_line, parent_handle, deadline, &launched, &order_error);
        } else {
            launch_here(&image, &command_line, parent_handle, &launched);
        }
        answer_number(answer, "time_before", before);
        answer_number(answer, "time_after", clock_now());
    }
    if (opened != NULL) {
        CloseHandle(opened);
    }
    if (failure == NULL && entry != NULL) {
        answer_launch(answer, &image, &command_line, &launched);
        if (launched.error == ERROR_SUCCESS) {
            keep(entry, &launched, suspended, answer);
            return NULL;
        }
    } else if (order_error != ERROR_SUCCESS) {
        answer_number(answer, "win32_error", order_error);
    }
    if (entry != NULL) {
        memory_free(entry->label.units);
        memory_free(entry);
    }
    return failure;
}

const char *process_resume(REQUEST *request, ANSWER *answer)
{
    PROCESS *process = named_process(request);

    if (process == NULL) {
        return NULL;
    }
    if (process->thread == NULL) {
        request_fail(request, "the process is not suspended in", "process");
        return NULL;
    }
    answer_number(answer, "win32_error", ResumeThread(process->thread) == MAXDWORD ? GetLastError() : 0);
    CloseHandle(process->thread);
    process->thread = NULL;
    return NULL;
}

static ULONGLONG from_filetime(FILETIME time)
{
    return (ULONGLONG)time.dwHighDateTime << 32 | time.dwLowDateTime;
}

/* Waits for the end and answers exit code and times; exit_code is null when the deadline passed. */
static void answer_end(PROCESS *process, ULONG deadline, ANSWER *answer)
{
    FILETIME created;
    FILETIME ended;
    FILETIME kernel;
    FILETIME user;
    DWORD code = 0;
    BOOL gone = WaitForSingleObject(process->process, deadline) == WAIT_OBJECT_0;
    BOOL known = gone && GetExitCodeProcess(process->process, &code);
    BOOL timed = gone && GetProcessTimes(process->process, &created, &ended, &kernel, &user);

    answer_number(answer, "pid", process->pid);
    answer_boolean(answer, "exited", gone);
    answer_optional_number(answer, "exit_code", known, code);
    answer_optional_number(answer, "created_time", timed, timed ? from_filetime(created) : 0);
    answer_optional_number(answer, "exit_time", timed, timed ? from_filetime(ended) : 0);
}

const char *process_exit(REQUEST *request, ANSWER *answer)
{
    ULONG status = (ULONG)request_number(request, "status", MAXDWORD, 0);
    ULONG deadline = (ULONG)request_number(request, "deadline_ms", DEADLINE_MAXIMUM, DEADLINE_DEFAULT);
    PROCESS *process = named_process(request);
    TEXT none = {NULL, 0};
    ORDER order;
    DWORD error;

    if (process == NULL || !request_complete(request)) {
        return NULL;
    }
    memset(&order, 0, sizeof(order));
    order.Magic = ORDER_MAGIC;
    order.Kind = ORDER_EXIT;
    order.Status = status;
    error = order_send(process->pid, process->process, &order, &none, &none, NULL, NULL, deadline);
    answer_number(answer, "win32_error", error);
    if (error != ERROR_SUCCESS) {
        return error == ERROR_PROCESS_ABORTED ? "process-gone" : "process-unreachable";
    }
    /* order_send has waited for the end until the deadline already. */
    answer_end(process, 0, answer);
    return NULL;
}

/* What the process itself sees of how it was made. */
const char *process_describe(REQUEST *request, ANSWER *answer)
{
    ULONG deadline = (ULONG)request_number(request, "deadline_ms", DEADLINE_MAXIMUM, DEADLINE_DEFAULT);
    PROCESS *process = named_process(request);
    TEXT none = {NULL, 0};
    TEXT seen = {NULL, 0};
    ORDER order;
    ORDER_REPLY reply;
    DWORD error;

    if (process == NULL) {
        return NULL;
    }
    memset(&order, 0, sizeof(order));
    order.Magic = ORDER_MAGIC;
    order.Kind = ORDER_DESCRIBE;
    error = order_send(process->pid, process->process, &order, &none, &none, &reply, &seen, deadline);
    answer_number(answer, "win32_error", error);
    if (error != ERROR_SUCCESS) {
        return error == ERROR_PROCESS_ABORTED ? "process-gone" : "process-unreachable";
    }
    answer_number(answer, "pid", process->pid);
    answer_text(answer, "command_line", seen.units, seen.length);
    memory_free(seen.units);
    return NULL;
}

const char *process_terminate(REQUEST *request, ANSWER *answer)
{
    ULONG status = (ULONG)request_number(request, "status", MAXDWORD, 1);
    ULONG deadline = (ULONG)request_number(request, "deadline_ms", DEADLINE_MAXIMUM, DEADLINE_DEFAULT);
    PROCESS *process = named_process(request);
    DWORD error;

    if (process == NULL || !request_complete(request)) {
        return NULL;
    }
    error = TerminateProcess(process->process, status) ? ERROR_SUCCESS : GetLastError();
    answer_number(answer, "win32_error", error);
    answer_end(process, error == ERROR_SUCCESS ? deadline : 0, answer);
    return NULL;
}

const char *process_wait(REQUEST *request, ANSWER *answer)
{
    ULONG deadline = (ULONG)request_number(request, "deadline_ms", DEADLINE_MAXIMUM, DEADLINE_DEFAULT);
    PROCESS *process = named_process(request);

    if (process != NULL && request_complete(request)) {
        answer_end(process, deadline, answer);
    }
    return NULL;
}

const char *process_release(REQUEST *request, ANSWER *answer)
{
    PROCESS *process = named_process(request);

    if (process != NULL) {
        answer_number(answer, "pid", process->pid);
        process_forget(process);
    }
    return NULL;
}

/* Ends what the plan launched and what came of it, and frees the labels of those that are gone. */
const char *process_terminate_all(REQUEST *request, ANSWER *answer)
{
    ULONG status = (ULONG)request_number(request, "status", MAXDWORD, 1);
    ULONG deadline = (ULONG)request_number(request, "deadline_ms", DEADLINE_MAXIMUM, DEADLINE_DEFAULT);
    ULONGLONG end = GetTickCount64() + deadline;
    ULONG remaining;

    if (!request_complete(request)) {
        return NULL;
    }
    answer_number(answer, "win32_error", processes_end(status, end, &remaining));
    answer_number(answer, "remaining", remaining);
    return NULL;
}
