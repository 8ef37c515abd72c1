#include "service_calls.h"

static BOOL copy(TEXT *target, const TEXT *source)
{
    if (source == NULL) {
        return TRUE;
    }
    *target = text_copy(source);
    return target->units != NULL;
}

SERVICE_CALL *service_call_new(SERVICE_WORK *work, const TEXT *service, const TEXT *path, const TEXT *value)
{
    SERVICE_CALL *call = memory_get(sizeof(*call));

    if (call == NULL) {
        return NULL;
    }
    call->work = work;
    if (!copy(&call->service, service) || !copy(&call->path, path) || !copy(&call->value, value)) {
        service_call_free(call);
        return NULL;
    }
    return call;
}

static DWORD WINAPI call_thread(void *context)
{
    SERVICE_CALL *call = context;

    call->error = call->work(call);
    return 0;
}

BOOL service_call_run(SERVICE_CALL *call, DWORD deadline)
{
    call->thread = CreateThread(NULL, 0, call_thread, call, 0, NULL);
    if (call->thread == NULL) {
        call->error = GetLastError();
        return TRUE;
    }
    return WaitForSingleObject(call->thread, deadline) == WAIT_OBJECT_0;
}

void service_call_free(SERVICE_CALL *call)
{
    if (call->thread != NULL) {
        CloseHandle(call->thread);
    }
    memory_free(call->service.units);
    memory_free(call->path.units);
    memory_free(call->value.units);
    memory_free(call->data);
    memory_free(call);
}

DWORD service_call_opened(SERVICE_CALL *call, DWORD access, BOOL (*act)(SERVICE_CALL *call, SC_HANDLE service))
{
    SC_HANDLE manager = OpenSCManagerW(NULL, NULL, SC_MANAGER_CONNECT);
    SC_HANDLE service = NULL;
    DWORD error = ERROR_SUCCESS;

    if (manager != NULL) {
        service = OpenServiceW(manager, call->service.units, access);
    }
    if (service == NULL || !act(call, service)) {
        error = GetLastError();
    }
    if (service != NULL) {
        CloseServiceHandle(service);
    }
    if (manager != NULL) {
        CloseServiceHandle(manager);
    }
    return error;
}
