#include "orders.h"

typedef struct CONNECTION {
    HANDLE pipe;
    HANDLE event;
    HANDLE process;
    ULONGLONG end;
} CONNECTION;

static DWORD remaining(const CONNECTION *connection)
{
    ULONGLONG now = GetTickCount64();

    return now < connection->end ? (DWORD)(connection->end - now) : 0;
}

static DWORD wait_for(const CONNECTION *connection, HANDLE event)
{
    HANDLE handles[2] = {event, connection->process};

    switch (WaitForMultipleObjects(2, handles, FALSE, remaining(connection))) {
    case WAIT_OBJECT_0:
        return ERROR_SUCCESS;
    case WAIT_OBJECT_0 + 1:
        return ERROR_PROCESS_ABORTED;
    case WAIT_TIMEOUT:
        return ERROR_TIMEOUT;
    default:
        return GetLastError();
    }
}

static DWORD wait_until_ready(const CONNECTION *connection, ULONG pid)
{
    WCHAR name[CHILD_NAME_UNITS];
    HANDLE ready;
    DWORD error;

    text_numbered(name, CHILD_NAME_UNITS, CHILD_EVENT_PREFIX, pid);
    ready = CreateEventW(NULL, TRUE, FALSE, name);
    if (ready == NULL) {
        return GetLastError();
    }
    error = wait_for(connection, ready);
    CloseHandle(ready);
    return error;
}

/* Reads or writes all of `size` bytes. Memory that the request uses stays valid: it is always waited for. */
static DWORD transfer(const CONNECTION *connection, BOOL writing, BYTE *bytes, DWORD size)
{
    while (size > 0) {
        OVERLAPPED overlapped;
        DWORD done = 0;
        DWORD error = ERROR_SUCCESS;
        BOOL started;

        memset(&overlapped, 0, sizeof(overlapped));
        overlapped.hEvent = connection->event;
        started = writing ? WriteFile(connection->pipe, bytes, size, NULL, &overlapped)
                          : ReadFile(connection->pipe, bytes, size, NULL, &overlapped);
        if (!started) {
            error = GetLastError();
            if (error != ERROR_IO_PENDING) {
                return error;
            }
            error = wait_for(connection, connection->event);
            if (error != ERROR_SUCCESS) {
                CancelIoEx(connection->pipe, &overlapped);
            }
        }
        if (!GetOverlappedResult(connection->pipe, &overlapped, &done, TRUE)) {
            return error != ERROR_SUCCESS ? error : GetLastError();
        }
        if (done == 0) {
            return ERROR_BROKEN_PIPE;
        }
        bytes += done;
        size -= done;
    }
    return ERROR_SUCCESS;
}

static DWORD receive_text(const CONNECTION *connection, ULONG units, TEXT *text)
{
    DWORD error;

    if (units > ORDER_TEXT_UNITS_MAXIMUM) {
        return ERROR_INVALID_DATA;
    }
    text->length = units;
    text->units = memory_get(((SIZE_T)units + 1) * sizeof(WCHAR));
    if (text->units == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    error = transfer(connection, FALSE, (BYTE *)text->units, units * sizeof(WCHAR));
    if (error != ERROR_SUCCESS) {
        memory_free(text->units);
        text->units = NULL;
    }
    return error;
}

static DWORD exchange(const CONNECTION *connection, const ORDER *order, const TEXT *image, const TEXT *command_line,
                      ORDER_REPLY *reply, TEXT *text)
{
    DWORD image_size = order->ImageUnits * sizeof(WCHAR);
    DWORD command_size = order->CommandLineUnits * sizeof(WCHAR);
    DWORD size = sizeof(*order) + image_size + command_size;
    BYTE *message = memory_get(size);
    DWORD error;

    if (message == NULL) {
        return ERROR_NOT_ENOUGH_MEMORY;
    }
    memcpy(message, order, sizeof(*order));
    if (image_size != 0) {
        memcpy(message + sizeof(*order), image->units, image_size);
    }
    if (command_size != 0) {
        memcpy(message + sizeof(*order) + image_size, command_line->units, command_size);
    }
    error = transfer(connection, TRUE, message, size);
    memory_free(message);
    if (error == ERROR_SUCCESS && reply == NULL) {
        /* The order is read for certain once the child is gone; until then the connection stays. */
        WaitForSingleObject(connection->process, remaining(connection));
    }
    if (error == ERROR_SUCCESS && reply != NULL) {
        error = transfer(connection, FALSE, (BYTE *)reply, sizeof(*reply));
        if (error == ERROR_SUCCESS && reply->Magic != ORDER_MAGIC) {
            error = ERROR_INVALID_DATA;
        } else if (error == ERROR_TIMEOUT) {
            error = ERROR_IO_PENDING;
        }
    }
    return error == ERROR_SUCCESS && text != NULL ? receive_text(connection, reply->TextUnits, text) : error;
}

/* The pipe is busy for the moment that the child needs to leave the connection before this one. Its name can be guessed:
 * whoever serves it may learn who calls, but not act in the caller's name. */
static DWORD open_pipe(CONNECTION *connection, ULONG pid)
{
    WCHAR name[CHILD_NAME_UNITS];

    text_numbered(name, CHILD_NAME_UNITS, CHILD_PIPE_PREFIX, pid);
    for (;;) {
        DWORD left = remaining(connection);
        DWORD error;

        connection->pipe =
            CreateFileW(name, GENERIC_READ | GENERIC_WRITE, 0, NULL, OPEN_EXISTING,
                        FILE_FLAG_OVERLAPPED | SECURITY_SQOS_PRESENT | SECURITY_IDENTIFICATION, NULL);
        if (connection->pipe != INVALID_HANDLE_VALUE) {
            return ERROR_SUCCESS;
        }
        error = GetLastError();
        if (error != ERROR_PIPE_BUSY) {
            return error;
        }
        /* A timeout of 0 would mean the server's default. */
        if (left == 0 || (!WaitNamedPipeW(name, left) && GetLastError() == ERROR_SEM_TIMEOUT)) {
            return ERROR_TIMEOUT;
        }
    }
}

/* What an error means that came of the pipe: it breaks a moment before the end of its process can be seen. */
static DWORD meaning(const CONNECTION *connection, DWORD error)
{
    switch (error) {
    case ERROR_FILE_NOT_FOUND:
    case ERROR_BROKEN_PIPE:
    case ERROR_NO_DATA:
    case ERROR_PIPE_NOT_CONNECTED:
        return WaitForSingleObject(connection->process, remaining(connection)) == WAIT_OBJECT_0 ? ERROR_PROCESS_ABORTED
                                                                                                : error;
    default:
        return error;
    }
}

DWORD order_send(ULONG pid, HANDLE process, const ORDER *order, const TEXT *image, const TEXT *command_line,
                 ORDER_REPLY *reply, TEXT *text, ULONG deadline)
{
    CONNECTION connection = {INVALID_HANDLE_VALUE, NULL, process, GetTickCount64() + deadline};
    DWORD error = wait_until_ready(&connection, pid);

    if (error != ERROR_SUCCESS) {
        return error;
    }
    connection.event = CreateEventW(NULL, TRUE, FALSE, NULL);
    if (connection.event == NULL) {
        return GetLastError();
    }
    error = open_pipe(&connection, pid);
    if (error == ERROR_SUCCESS) {
        error = exchange(&connection, order, image, command_line, reply, text);
        CloseHandle(connection.pipe);
    }
    CloseHandle(connection.event);
    return meaning(&connection, error);
}
