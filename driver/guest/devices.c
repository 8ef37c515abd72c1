#include "devices.h"

#define DEVICES_MAXIMUM 64u
#define TRANSFERS_MAXIMUM 256u

typedef struct DEVICE {
    TEXT name;
    HANDLE file;
} DEVICE;

typedef struct NAMED_TRANSFER {
    TEXT name;
    TRANSFER *transfer;
} NAMED_TRANSFER;

static struct {
    DEVICE devices[DEVICES_MAXIMUM];
    ULONG device_count;
    NAMED_TRANSFER transfers[TRANSFERS_MAXIMUM];
    ULONG transfer_count;
} open;

static DEVICE *find_device(const TEXT *name)
{
    for (ULONG index = 0; index < open.device_count; index++) {
        if (text_equal(&open.devices[index].name, name)) {
            return &open.devices[index];
        }
    }
    return NULL;
}

static DEVICE *named_device(REQUEST *request)
{
    TEXT name = request_text(request, "device", NAME_UNITS_MAXIMUM);
    DEVICE *found = name.units != NULL ? find_device(&name) : NULL;

    if (found == NULL) {
        request_fail(request, "there is no such device in", "device");
    }
    return found;
}

/* Notes a mistake unless another device may be opened under the name. */
static BOOL may_open(REQUEST *request, const TEXT *name)
{
    if (name->units != NULL && find_device(name) != NULL) {
        request_fail(request, "a device has this name already; close it first", NULL);
    }
    if (open.device_count == DEVICES_MAXIMUM) {
        request_fail(request, "too many devices are open; close some first", NULL);
    }
    return request_complete(request);
}

static const char *keep(const TEXT *name, HANDLE file)
{
    TEXT copy = text_copy(name);

    if (copy.units == NULL) {
        CloseHandle(file);
        return "no-memory";
    }
    open.devices[open.device_count].name = copy;
    open.devices[open.device_count].file = file;
    open.device_count++;
    return NULL;
}

const char *device_open(REQUEST *request, ANSWER *answer)
{
    TEXT name = request_text(request, "device", NAME_UNITS_MAXIMUM);
    TEXT path = request_text(request, "path", TEXT_UNITS_MAXIMUM);
    DWORD access = (request_flag(request, "read") ? GENERIC_READ : 0) |
                   (request_flag(request, "write") ? GENERIC_WRITE : 0);
    DWORD error;
    ULONG status;
    HANDLE file;

    if (!may_open(request, &name)) {
        return NULL;
    }
    status_forget();
    file = CreateFileW(path.units, access, FILE_SHARE_READ | FILE_SHARE_WRITE, NULL, OPEN_EXISTING,
                       FILE_FLAG_OVERLAPPED, NULL);
    if (file == INVALID_HANDLE_VALUE) {
        error = GetLastError();
        status = (ULONG)RtlGetLastNtStatus();
        answer_number(answer, "win32_error", error);
        answer_optional_number(answer, "status", status != 0, status);
        return NULL;
    }
    answer_number(answer, "win32_error", ERROR_SUCCESS);
    answer_number(answer, "status", 0);
    return keep(&name, file);
}

const char *device_duplicate(REQUEST *request, ANSWER *answer)
{
    DEVICE *device = named_device(request);
    TEXT name = request_text(request, "as", NAME_UNITS_MAXIMUM);
    HANDLE file = NULL;

    if (!may_open(request, &name)) {
        return NULL;
    }
    if (!DuplicateHandle(GetCurrentProcess(), device->file, GetCurrentProcess(), &file, 0, FALSE,
                         DUPLICATE_SAME_ACCESS)) {
        answer_number(answer, "win32_error", GetLastError());
        return NULL;
    }
    answer_number(answer, "win32_error", ERROR_SUCCESS);
    return keep(&name, file);
}

const char *device_close(REQUEST *request, ANSWER *answer)
{
    DEVICE *device = named_device(request);

    if (device != NULL && stream_runs_on(device->file)) {
        /* Its thread would go on with the number of the handle, which may be another device's by then. */
        request_fail(request, "a stream runs on the device; stop it first", NULL);
    }
    if (device == NULL || !request_complete(request)) {
        return NULL;
    }
    answer_number(answer, "win32_error", CloseHandle(device->file) ? ERROR_SUCCESS : GetLastError());
    memory_free(device->name.units);
    *device = open.devices[--open.device_count];
    return NULL;
}

TRANSFER *device_transfer(REQUEST *request, TRANSFER_KIND kind)
{
    DEVICE *device = named_device(request);
    ULONG code = kind == TRANSFER_CONTROL ? (ULONG)request_required_number(request, "code", MAXDWORD) : 0;
    ULONG size = kind == TRANSFER_WRITE ? 0 : (ULONG)request_number(request, "output_size", TRANSFER_SIZE_MAXIMUM, 0);
    ULONG input_size = 0;
    BYTE *input = kind == TRANSFER_READ ? NULL : request_bytes(request, "input", TRANSFER_SIZE_MAXIMUM, &input_size);
    TRANSFER *transfer;

    if (!request_complete(request)) {
        memory_free(input);
        return NULL;
    }
    transfer = transfer_new(device->file, kind, code, input, input_size, size);
    if (transfer == NULL) {
        request_fail(request, "there is no memory for the request", NULL);
    }
    return transfer;
}

void answer_transfer(ANSWER *answer, const TRANSFER *transfer)
{
    answer_number(answer, "win32_error", transfer->error);
    answer_number(answer, "status", transfer->status);
    answer_number(answer, "information", transfer->information);
    answer_number(answer, "time", transfer->time);
    answer_bytes(answer, "output", transfer->output, transfer_output_size(transfer));
}

/* Runs a request to its end. One that is still pending at the deadline is cancelled, and `timed_out` says so; a driver
 * that ignores the cancellation keeps the request, whose memory is then never given back. */
static const char *run(REQUEST *request, ANSWER *answer, TRANSFER_KIND kind)
{
    ULONG deadline = (ULONG)request_number(request, "deadline_ms", DEADLINE_MAXIMUM, DEADLINE_DEFAULT);
    TRANSFER *transfer = device_transfer(request, kind);
    BOOL timed_out;

    if (transfer == NULL) {
        return NULL;
    }
    transfer_start(transfer);
    timed_out = !transfer_wait(transfer, deadline);
    answer_boolean(answer, "timed_out", timed_out);
    if (timed_out) {
        transfer_cancel(transfer);
        if (!transfer_wait(transfer, DEADLINE_DEFAULT)) {
            return "stuck";
        }
    }
    answer_transfer(answer, transfer);
    transfer_free(transfer);
    return NULL;
}

const char *device_control(REQUEST *request, ANSWER *answer)
{
    return run(request, answer, TRANSFER_CONTROL);
}

const char *device_read(REQUEST *request, ANSWER *answer)
{
    return run(request, answer, TRANSFER_READ);
}

const char *device_write(REQUEST *request, ANSWER *answer)
{
    return run(request, answer, TRANSFER_WRITE);
}

static NAMED_TRANSFER *find_transfer(const TEXT *name)
{
    for (ULONG index = 0; index < open.transfer_count; index++) {
        if (text_equal(&open.transfers[index].name, name)) {
            return &open.transfers[index];
        }
    }
    return NULL;
}

static NAMED_TRANSFER *named_transfer(REQUEST *request)
{
    TEXT name = request_text(request, "request", NAME_UNITS_MAXIMUM);
    NAMED_TRANSFER *found = name.units != NULL ? find_transfer(&name) : NULL;

    if (found == NULL) {
        request_fail(request, "there is no such request in", "request");
    }
    return request_complete(request) ? found : NULL;
}

const char *device_start(REQUEST *request, ANSWER *answer)
{
    TEXT name = request_text(request, "request", NAME_UNITS_MAXIMUM);
    NAMED_TRANSFER *kept = &open.transfers[open.transfer_count];
    TEXT copy;
    TRANSFER *transfer;

    if (name.units != NULL && find_transfer(&name) != NULL) {
        request_fail(request, "a request has this name already; finish it first", NULL);
    }
    if (open.transfer_count == TRANSFERS_MAXIMUM) {
        request_fail(request, "too many requests are under way; finish some first", NULL);
    }
    transfer = device_transfer(request, TRANSFER_CONTROL);
    if (transfer == NULL) {
        return NULL;
    }
    copy = text_copy(&name);
    if (copy.units == NULL) {
        transfer_free(transfer);
        return "no-memory";
    }
    transfer_start(transfer);
    kept->name = copy;
    kept->transfer = transfer;
    open.transfer_count++;
    answer_boolean(answer, "done", transfer_wait(transfer, 0));
    return NULL;
}

const char *device_finish(REQUEST *request, ANSWER *answer)
{
    ULONG deadline = (ULONG)request_number(request, "deadline_ms", DEADLINE_MAXIMUM, DEADLINE_DEFAULT);
    NAMED_TRANSFER *named = named_transfer(request);
    BOOL done;

    if (named == NULL) {
        return NULL;
    }
    done = transfer_wait(named->transfer, deadline);
    answer_boolean(answer, "done", done);
    if (done) {
        answer_transfer(answer, named->transfer);
        transfer_free(named->transfer);
        memory_free(named->name.units);
        *named = open.transfers[--open.transfer_count];
    }
    return NULL;
}

const char *device_cancel(REQUEST *request, ANSWER *answer)
{
    NAMED_TRANSFER *named = named_transfer(request);

    if (named != NULL) {
        answer_number(answer, "win32_error", transfer_cancel(named->transfer));
    }
    return NULL;
}
