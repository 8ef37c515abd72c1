/* One overlapped request to a device, from its start to its end. */
#pragma once

#include "text.h"

/* Largest input and output of a device request. */
#define TRANSFER_SIZE_MAXIMUM (1u << 20)

typedef enum TRANSFER_KIND { TRANSFER_CONTROL, TRANSFER_READ, TRANSFER_WRITE } TRANSFER_KIND;

/* Owns its buffers; they stay valid until transfer_free, which may only follow the end of the request. */
typedef struct TRANSFER {
    OVERLAPPED overlapped;
    HANDLE device;
    TRANSFER_KIND kind;
    ULONG code;
    BYTE *input;
    ULONG input_size;
    BYTE *output;
    ULONG output_size;
    BOOL ended;
    /* Once ended: the Win32 error, the NTSTATUS, how many bytes the driver says it gave or took, and when. */
    DWORD error;
    ULONG status;
    ULONGLONG information;
    ULONGLONG time;
} TRANSFER;

/* A request that is not started yet; takes over `input` in every case. NULL when there is no memory. */
TRANSFER *transfer_new(HANDLE device, TRANSFER_KIND kind, ULONG code, BYTE *input, ULONG input_size,
                       ULONG output_size);

/* Issues it; it may have ended when this returns. An ended one may be started again. */
void transfer_start(TRANSFER *transfer);

/* Waits at most `deadline` milliseconds for the end; TRUE when it has ended. */
BOOL transfer_wait(TRANSFER *transfer, ULONG deadline);

/* Asks for cancellation (CancelIoEx): the Win32 error, ERROR_NOT_FOUND when nothing is left to cancel. */
DWORD transfer_cancel(TRANSFER *transfer);

/* Output bytes: what the driver says it gave, at most what there is room for. */
ULONG transfer_output_size(const TRANSFER *transfer);

void transfer_free(TRANSFER *transfer);
