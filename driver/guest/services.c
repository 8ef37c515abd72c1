/* Driver services and their parameters.
 *
 * StartServiceW returns when the driver's entry point has, ControlService when its unload routine has (Microsoft's
 * pages on both), and while one of them hangs the service control manager may keep every other call waiting. Nothing
 * can call them back. So each call gets a deadline, the longest there is unless the request says otherwise, since
 * whoever sends it knows better how long a driver may take. What is not done then is answered as "stuck" and left to
 * itself, and the program reads on. A driver whose call is stuck can only be got rid of with the machine. */

#include "agent.h"
#include "service_calls.h"

/* Largest value of a parameter, in bytes. */
#define PARAMETER_SIZE_MAXIMUM (1u << 20)

/* A text that must be given and may be empty: what it is worth is for Windows to say. */
static TEXT given_text(REQUEST *request, const char *key)
{
    TEXT text = request_optional_text(request, key, TEXT_UNITS_MAXIMUM);

    if (text.units == NULL) {
        request_fail(request, "expected a text in", key);
    }
    return text;
}

/* Makes a call and answers its error; `with_state` answers the service's state and exit code as well if it succeeded.
 * Takes over the call, which is NULL when there was no memory for it. */
static const char *run(SERVICE_CALL *call, ULONG deadline, BOOL with_state, ANSWER *answer)
{
    if (call == NULL) {
        return "no-memory";
    }
    if (!service_call_run(call, deadline)) {
        answer_number(answer, "win32_error", ERROR_TIMEOUT);
        return "stuck";
    }
    answer_number(answer, "win32_error", call->error);
    if (with_state && call->error == ERROR_SUCCESS) {
        answer_number(answer, "state", call->status.dwCurrentState);
        answer_number(answer, "exit_code", call->status.dwWin32ExitCode);
    }
    service_call_free(call);
    return NULL;
}

/* An operation that names a service and no more. */
static const char *run_named(REQUEST *request, ANSWER *answer, SERVICE_WORK *work, BOOL with_state)
{
    TEXT service = given_text(request, "service");
    ULONG deadline = (ULONG)request_number(request, "deadline_ms", DEADLINE_MAXIMUM, DEADLINE_MAXIMUM);

    return request_complete(request) ? run(service_call_new(work, &service, NULL, NULL), deadline, with_state, answer)
                                     : NULL;
}

static DWORD create(SERVICE_CALL *call)
{
    SC_HANDLE manager = OpenSCManagerW(NULL, NULL, SC_MANAGER_CONNECT | SC_MANAGER_CREATE_SERVICE);
    SC_HANDLE service = NULL;
    DWORD error = ERROR_SUCCESS;

    if (manager != NULL) {
        service = CreateServiceW(manager, call->service.units, NULL, SERVICE_QUERY_STATUS, SERVICE_KERNEL_DRIVER,
                                 SERVICE_DEMAND_START, SERVICE_ERROR_NORMAL, call->path.units, NULL, NULL, NULL, NULL,
                                 NULL);
    }
    if (service == NULL) {
        error = GetLastError();
    } else {
        CloseServiceHandle(service);
    }
    if (manager != NULL) {
        CloseServiceHandle(manager);
    }
    return error;
}

const char *service_create(REQUEST *request, ANSWER *answer)
{
    TEXT service = given_text(request, "service");
    TEXT image = given_text(request, "image");
    ULONG deadline = (ULONG)request_number(request, "deadline_ms", DEADLINE_MAXIMUM, DEADLINE_MAXIMUM);

    return request_complete(request) ? run(service_call_new(create, &service, &image, NULL), deadline, FALSE, answer)
                                     : NULL;
}

static BOOL delete_opened(SERVICE_CALL *call, SC_HANDLE service)
{
    (void)call;
    return DeleteService(service);
}

static DWORD delete(SERVICE_CALL *call)
{
    return service_call_opened(call, DELETE, delete_opened);
}

const char *service_delete(REQUEST *request, ANSWER *answer)
{
    return run_named(request, answer, delete, FALSE);
}

static BOOL start_opened(SERVICE_CALL *call, SC_HANDLE service)
{
    (void)call;
    return StartServiceW(service, 0, NULL);
}

static DWORD start_work(SERVICE_CALL *call)
{
    return service_call_opened(call, SERVICE_START, start_opened);
}

const char *service_start(REQUEST *request, ANSWER *answer)
{
    return run_named(request, answer, start_work, FALSE);
}

static BOOL stop_opened(SERVICE_CALL *call, SC_HANDLE service)
{
    return ControlService(service, SERVICE_CONTROL_STOP, &call->status);
}

static DWORD stop(SERVICE_CALL *call)
{
    return service_call_opened(call, SERVICE_STOP, stop_opened);
}

const char *service_stop(REQUEST *request, ANSWER *answer)
{
    return run_named(request, answer, stop, TRUE);
}

static BOOL query_opened(SERVICE_CALL *call, SC_HANDLE service)
{
    return QueryServiceStatus(service, &call->status);
}

static DWORD query(SERVICE_CALL *call)
{
    return service_call_opened(call, SERVICE_QUERY_STATUS, query_opened);
}

const char *service_query(REQUEST *request, ANSWER *answer)
{
    return run_named(request, answer, query, TRUE);
}

const char *service_clear_parameters(REQUEST *request, ANSWER *answer)
{
    return run_named(request, answer, service_parameters_clear, FALSE);
}

/* The bytes of the one value given, as the registry keeps them, in memory of the caller; NULL on a mistake. */
static BYTE *given_value(REQUEST *request, DWORD *type, DWORD *size)
{
    const JSON_MEMBER *number = request_member(request, "number");
    const JSON_MEMBER *text = request_member(request, "text");
    const JSON_MEMBER *bytes = request_member(request, "data");
    BYTE *data = NULL;

    if ((number != NULL) + (text != NULL) + (bytes != NULL) != 1) {
        request_fail(request, "expected exactly one of 'number', 'text' and 'data'", NULL);
        return NULL;
    }
    if (bytes != NULL) {
        *type = REG_BINARY;
        return request_bytes(request, "data", PARAMETER_SIZE_MAXIMUM, size);
    }
    if (number != NULL) {
        DWORD value = (DWORD)request_number(request, "number", MAXDWORD, 0);

        *type = REG_DWORD;
        *size = sizeof(value);
        data = memory_get(sizeof(value));
        if (data != NULL) {
            memcpy(data, &value, sizeof(value));
        }
    } else {
        TEXT units = request_any_text(request, "text", PARAMETER_SIZE_MAXIMUM / sizeof(WCHAR));

        /* Any unit, a NUL as well; the one that ends the text is stored with it. */
        *type = REG_SZ;
        *size = (units.length + 1) * sizeof(WCHAR);
        data = memory_get(*size);
        if (data != NULL && units.length != 0) {
            memcpy(data, units.units, units.length * sizeof(WCHAR));
        }
    }
    if (data == NULL) {
        request_fail(request, "there is no memory for the value", NULL);
    }
    return data;
}

const char *service_set_parameter(REQUEST *request, ANSWER *answer)
{
    TEXT service = given_text(request, "service");
    TEXT value = given_text(request, "value");
    ULONG deadline = (ULONG)request_number(request, "deadline_ms", DEADLINE_MAXIMUM, DEADLINE_MAXIMUM);
    DWORD type = REG_NONE;
    DWORD size = 0;
    BYTE *data = given_value(request, &type, &size);
    SERVICE_CALL *call;

    if (!request_complete(request)) {
        memory_free(data);
        return NULL;
    }
    call = service_call_new(service_parameters_set, &service, NULL, &value);
    if (call == NULL) {
        memory_free(data);
        return "no-memory";
    }
    call->type = type;
    call->data = data;
    call->size = size;
    return run(call, deadline, FALSE, answer);
}
