#include "transfers.h"

TRANSFER *transfer_new(HANDLE device, TRANSFER_KIND kind, ULONG code, BYTE *input, ULONG input_size, ULONG output_size)
{
    TRANSFER *transfer = memory_get(sizeof(*transfer));

    if (transfer == NULL) {
        memory_free(input);
        return NULL;
    }
    transfer->device = device;
    transfer->kind = kind;
    transfer->code = code;
    transfer->input = input;
    transfer->input_size = input_size;
    transfer->output_size = output_size;
    transfer->ended = TRUE;
    transfer->output = memory_get((SIZE_T)output_size + 1);
    transfer->overlapped.hEvent = CreateEventW(NULL, TRUE, FALSE, NULL);
    if (transfer->output == NULL || transfer->overlapped.hEvent == NULL) {
        transfer_free(transfer);
        return NULL;
    }
    return transfer;
}

/* OVERLAPPED.Internal holds the NTSTATUS and InternalHigh the byte count once the request has ended (Microsoft's page
 * on OVERLAPPED); a request refused at once leaves the status with the thread. */
static void note_end(TRANSFER *transfer, DWORD error, ULONG status, ULONGLONG information)
{
    transfer->ended = TRUE;
    transfer->error = error;
    transfer->status = status;
    transfer->information = information;
    transfer->time = clock_now();
}

void transfer_start(TRANSFER *transfer)
{
    HANDLE event = transfer->overlapped.hEvent;
    BOOL started;
    DWORD error;

    memset(&transfer->overlapped, 0, sizeof(transfer->overlapped));
    transfer->overlapped.hEvent = event;
    transfer->ended = FALSE;
    switch (transfer->kind) {
    case TRANSFER_CONTROL:
        started = DeviceIoControl(transfer->device, transfer->code, transfer->input, transfer->input_size,
                                  transfer->output_size != 0 ? transfer->output : NULL, transfer->output_size, NULL,
                                  &transfer->overlapped);
        break;
    case TRANSFER_READ:
        started = ReadFile(transfer->device, transfer->output, transfer->output_size, NULL, &transfer->overlapped);
        break;
    case TRANSFER_WRITE:
        started = WriteFile(transfer->device, transfer->input, transfer->input_size, NULL, &transfer->overlapped);
        break;
    }
    error = started ? ERROR_SUCCESS : GetLastError();
    if (error == ERROR_IO_PENDING || started) {
        /* What ended at once has set its event as well. */
        return;
    }
    /* A warning, such as STATUS_BUFFER_OVERFLOW, comes with output; an error does not. */
    note_end(transfer, error, (ULONG)RtlGetLastNtStatus(), transfer->overlapped.InternalHigh);
}

BOOL transfer_wait(TRANSFER *transfer, ULONG deadline)
{
    DWORD done = 0;

    if (transfer->ended) {
        return TRUE;
    }
    if (WaitForSingleObject(transfer->overlapped.hEvent, deadline) != WAIT_OBJECT_0) {
        return FALSE;
    }
    if (GetOverlappedResult(transfer->device, &transfer->overlapped, &done, FALSE)) {
        note_end(transfer, ERROR_SUCCESS, (ULONG)transfer->overlapped.Internal, transfer->overlapped.InternalHigh);
    } else {
        note_end(transfer, GetLastError(), (ULONG)transfer->overlapped.Internal, transfer->overlapped.InternalHigh);
    }
    return TRUE;
}

DWORD transfer_cancel(TRANSFER *transfer)
{
    if (transfer->ended) {
        return ERROR_NOT_FOUND;
    }
    return CancelIoEx(transfer->device, &transfer->overlapped) ? ERROR_SUCCESS : GetLastError();
}

ULONG transfer_output_size(const TRANSFER *transfer)
{
    if (transfer->kind == TRANSFER_WRITE || (transfer->status & 0xC0000000u) == 0xC0000000u) {
        return 0;
    }
    return transfer->information < transfer->output_size ? (ULONG)transfer->information : transfer->output_size;
}

void transfer_free(TRANSFER *transfer)
{
    if (transfer->overlapped.hEvent != NULL) {
        CloseHandle(transfer->overlapped.hEvent);
    }
    memory_free(transfer->input);
    memory_free(transfer->output);
    memory_free(transfer);
}
