/* One call to the service control manager or to a service's registry key, made in a thread of its own. */
#pragma once

#include "text.h"

typedef struct SERVICE_CALL SERVICE_CALL;

/* What the thread does: gives the Win32 error, 0 for success. */
typedef DWORD SERVICE_WORK(SERVICE_CALL *call);

/* Owns its texts and its data. The thread reads what is asked and writes what is answered; nobody else may look before
 * service_call_run has said TRUE. */
struct SERVICE_CALL {
    SERVICE_WORK *work;
    HANDLE thread;
    /* Asked: the service, and as the work needs it a path, or a registry value. */
    TEXT service;
    TEXT path;
    TEXT value;
    DWORD type;
    BYTE *data;
    DWORD size;
    /* Answered. */
    DWORD error;
    SERVICE_STATUS status;
};

/* A call with copies of the texts, of which `path` and `value` may be NULL; NULL when there is no memory. */
SERVICE_CALL *service_call_new(SERVICE_WORK *work, const TEXT *service, const TEXT *path, const TEXT *value);

/* Makes the call and waits for its end, at most `deadline` milliseconds. FALSE when it has not ended: it is then left
 * to itself with its thread and its memory, and must not be touched again. */
BOOL service_call_run(SERVICE_CALL *call, DWORD deadline);

void service_call_free(SERVICE_CALL *call);

/* Opens a service and does something with it; the work of a call is often no more than that. */
DWORD service_call_opened(SERVICE_CALL *call, DWORD access, BOOL (*act)(SERVICE_CALL *call, SC_HANDLE service));

/* service_parameters.c: the values under the service's Parameters key. */
SERVICE_WORK service_parameters_clear;
SERVICE_WORK service_parameters_set;
