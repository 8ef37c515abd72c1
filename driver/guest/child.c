/* child.exe: a process that does as it is told.
 *
 * Without arguments of its own it takes orders over its pipe (child_orders.h) until it is told to exit or is
 * terminated; command lines that a scenario made up are none of its business. Arguments of its own follow the program's
 * name as the command line's tail:
 *
 *     --ntproof exit STATUS        exits at once
 *     --ntproof event NAME STATUS  exits when the named event is set
 *
 * STATUS is decimal, or hexadecimal after 0x. A malformed tail exits with EXIT_USAGE. A process that was made when nobody
 * waited for it any more is terminated with EXIT_UNWANTED. */

#include "child_orders.h"
#include "spawn.h"

#define EXIT_USAGE 0xE0000001u
#define EXIT_NO_PIPE 0xE0000002u
#define EXIT_UNWANTED 0xE0000003u

/* The program's entry point. */
void start(void);

/* The first `--ntproof ` that begins an argument; NULL when there is none. */
static const WCHAR *own_arguments(const WCHAR *command_line)
{
    static const WCHAR mark[] = L" --ntproof ";
    const ULONG length = sizeof(mark) / sizeof(mark[0]) - 1;

    for (; *command_line != L'\0'; command_line++) {
        ULONG index = 0;

        while (index < length && command_line[index] == mark[index]) {
            index++;
        }
        if (index == length) {
            return command_line + length;
        }
    }
    return NULL;
}

static const WCHAR *after_word(const WCHAR *text, const WCHAR *word)
{
    for (; *word != L'\0'; word++, text++) {
        if (*text != *word) {
            return NULL;
        }
    }
    return text;
}

static DWORD wait_for_event(const WCHAR *name)
{
    WCHAR copy[MAX_PATH];
    ULONG length = 0;
    ULONG status;
    HANDLE event;

    for (; *name != L'\0' && *name != L' ' && length + 1 < MAX_PATH; name++) {
        copy[length++] = *name;
    }
    copy[length] = L'\0';
    if (*name != L' ' || !text_to_number(name + 1, &status)) {
        return EXIT_USAGE;
    }
    event = OpenEventW(SYNCHRONIZE, FALSE, copy);
    if (event == NULL) {
        return GetLastError();
    }
    WaitForSingleObject(event, INFINITE);
    CloseHandle(event);
    return status;
}

static DWORD obey_arguments(const WCHAR *arguments)
{
    const WCHAR *rest = after_word(arguments, L"exit ");
    ULONG status;

    if (rest != NULL) {
        return text_to_number(rest, &status) ? status : EXIT_USAGE;
    }
    rest = after_word(arguments, L"event ");
    return rest != NULL ? wait_for_event(rest) : EXIT_USAGE;
}

static BOOL read_all(HANDLE pipe, void *target, DWORD size)
{
    BYTE *at = target;

    while (size > 0) {
        DWORD done = 0;

        if (!ReadFile(pipe, at, size, &done, NULL) || done == 0) {
            return FALSE;
        }
        at += done;
        size -= done;
    }
    return TRUE;
}

/* A text of the order, NUL-terminated; FALSE when the connection is lost or there is no memory. */
static BOOL read_text(HANDLE pipe, BOOL present, ULONG units, WCHAR **text)
{
    *text = NULL;
    if (!present) {
        return units == 0;
    }
    *text = memory_get(((SIZE_T)units + 1) * sizeof(WCHAR));
    return *text != NULL && read_all(pipe, *text, units * sizeof(WCHAR));
}

/* Whoever asked for the process does not know of it, so that nobody would ever resume or end it. */
static void undo_spawn(const PROCESS_INFORMATION *created)
{
    TerminateProcess(created->hProcess, EXIT_UNWANTED);
    CloseHandle(created->hThread);
    CloseHandle(created->hProcess);
}

static BOOL obey_spawn(HANDLE pipe, const ORDER *order)
{
    ORDER_REPLY reply;
    PROCESS_INFORMATION created;
    WCHAR *image = NULL;
    WCHAR *command_line = NULL;
    SPAWN spawn;
    DWORD written = 0;
    BOOL intact = read_text(pipe, (order->Flags & ORDER_HAS_IMAGE) != 0, order->ImageUnits, &image) &&
                  read_text(pipe, (order->Flags & ORDER_HAS_COMMAND_LINE) != 0, order->CommandLineUnits, &command_line);

    spawn.parent = (HANDLE)(ULONG_PTR)order->Parent;
    if (intact) {
        memset(&reply, 0, sizeof(reply));
        spawn.application = image;
        spawn.command_line = command_line;
        reply.Magic = ORDER_MAGIC;
        reply.CallingTid = GetCurrentThreadId();
        reply.Error = spawn_suspended(&spawn, &created, &reply.Status);
        reply.Pid = created.dwProcessId;
        reply.Tid = created.dwThreadId;
        reply.Process = (ULONG_PTR)created.hProcess;
        reply.Thread = (ULONG_PTR)created.hThread;
        intact = WriteFile(pipe, &reply, sizeof(reply), &written, NULL) && written == sizeof(reply);
        if (!intact && reply.Error == ERROR_SUCCESS) {
            undo_spawn(&created);
        }
    }
    if (spawn.parent != NULL) {
        CloseHandle(spawn.parent);
    }
    memory_free(image);
    memory_free(command_line);
    return intact;
}

static BOOL obey_describe(HANDLE pipe)
{
    const WCHAR *command_line = GetCommandLineW();
    ORDER_REPLY reply;
    DWORD size;
    DWORD written = 0;

    memset(&reply, 0, sizeof(reply));
    reply.Magic = ORDER_MAGIC;
    reply.CallingTid = GetCurrentThreadId();
    while (reply.TextUnits < ORDER_TEXT_UNITS_MAXIMUM && command_line[reply.TextUnits] != L'\0') {
        reply.TextUnits++;
    }
    size = reply.TextUnits * sizeof(WCHAR);
    return WriteFile(pipe, &reply, sizeof(reply), &written, NULL) && written == sizeof(reply) &&
           (size == 0 || (WriteFile(pipe, command_line, size, &written, NULL) && written == size));
}

/* Obeys one order; FALSE ends the connection. */
static BOOL obey(HANDLE pipe)
{
    ORDER order;

    if (!read_all(pipe, &order, sizeof(order)) || order.Magic != ORDER_MAGIC ||
        order.ImageUnits > ORDER_TEXT_UNITS_MAXIMUM || order.CommandLineUnits > ORDER_TEXT_UNITS_MAXIMUM) {
        return FALSE;
    }
    if (order.Kind == ORDER_EXIT) {
        ExitProcess(order.Status);
    }
    if (order.Kind == ORDER_DESCRIBE) {
        return obey_describe(pipe);
    }
    return order.Kind == ORDER_SPAWN && obey_spawn(pipe, &order);
}

static DWORD serve(void)
{
    WCHAR name[CHILD_NAME_UNITS];
    HANDLE ready;
    HANDLE pipe;

    text_numbered(name, CHILD_NAME_UNITS, CHILD_PIPE_PREFIX, GetCurrentProcessId());
    pipe = CreateNamedPipeW(name, PIPE_ACCESS_DUPLEX | FILE_FLAG_FIRST_PIPE_INSTANCE,
                            PIPE_TYPE_BYTE | PIPE_WAIT | PIPE_REJECT_REMOTE_CLIENTS, 1, 4096, 4096, 0, NULL);
    text_numbered(name, CHILD_NAME_UNITS, CHILD_EVENT_PREFIX, GetCurrentProcessId());
    ready = CreateEventW(NULL, TRUE, FALSE, name);
    if (pipe == INVALID_HANDLE_VALUE || ready == NULL) {
        return EXIT_NO_PIPE;
    }
    SetEvent(ready);
    for (;;) {
        /* A client may have come before this call, and even have gone again; what it wrote is still there. */
        if (!ConnectNamedPipe(pipe, NULL) && GetLastError() != ERROR_PIPE_CONNECTED &&
            GetLastError() != ERROR_NO_DATA) {
            return EXIT_NO_PIPE;
        }
        while (obey(pipe)) {
        }
        DisconnectNamedPipe(pipe);
    }
}

void start(void)
{
    const WCHAR *arguments = own_arguments(GetCommandLineW());

    ExitProcess(arguments != NULL ? obey_arguments(arguments) : serve());
}
