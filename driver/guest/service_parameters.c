/* The values under a service's Parameters key, where a driver looks for what it can be told. */

#include "service_calls.h"

#define SERVICES_KEY L"SYSTEM\\CurrentControlSet\\Services\\"
#define PARAMETERS_KEY L"Parameters"

/* Longest name of a service (Microsoft's page on CreateServiceW). */
#define SERVICE_UNITS_MAXIMUM 256u

static BOOL exists(SERVICE_CALL *call, SC_HANDLE service)
{
    (void)call;
    (void)service;
    return TRUE;
}

/* Opens the service's own key. A name becomes part of a registry path only after it was seen to be one that no path can
 * hide in, and only for a service that there is. */
static DWORD open_service_key(SERVICE_CALL *call, REGSAM access, HKEY *key)
{
    WCHAR path[ARRAYSIZE(SERVICES_KEY) + SERVICE_UNITS_MAXIMUM] = SERVICES_KEY;
    const TEXT *name = &call->service;
    DWORD error;

    if (name->length == 0 || name->length > SERVICE_UNITS_MAXIMUM) {
        return ERROR_INVALID_NAME;
    }
    for (ULONG index = 0; index < name->length; index++) {
        if (name->units[index] == L'\\' || name->units[index] == L'/') {
            return ERROR_INVALID_NAME;
        }
    }
    error = service_call_opened(call, SERVICE_QUERY_STATUS, exists);
    if (error != ERROR_SUCCESS) {
        return error;
    }
    memcpy(path + ARRAYSIZE(SERVICES_KEY) - 1, name->units, name->length * sizeof(WCHAR));
    return (DWORD)RegOpenKeyExW(HKEY_LOCAL_MACHINE, path, 0, access, key);
}

DWORD service_parameters_clear(SERVICE_CALL *call)
{
    HKEY key = NULL;
    DWORD error = open_service_key(call, KEY_READ | KEY_WRITE | DELETE, &key);

    if (error == ERROR_SUCCESS) {
        error = (DWORD)RegDeleteTreeW(key, PARAMETERS_KEY);
        RegCloseKey(key);
        /* A service without parameters has no such key. */
        if (error == ERROR_FILE_NOT_FOUND) {
            error = ERROR_SUCCESS;
        }
    }
    return error;
}

DWORD service_parameters_set(SERVICE_CALL *call)
{
    HKEY service = NULL;
    HKEY parameters = NULL;
    DWORD error = open_service_key(call, KEY_CREATE_SUB_KEY, &service);

    if (error == ERROR_SUCCESS) {
        error = (DWORD)RegCreateKeyExW(service, PARAMETERS_KEY, 0, NULL, REG_OPTION_NON_VOLATILE, KEY_SET_VALUE, NULL,
                                       &parameters, NULL);
        RegCloseKey(service);
    }
    if (error == ERROR_SUCCESS) {
        error = (DWORD)RegSetValueExW(parameters, call->value.units, 0, call->type, call->data, call->size);
        RegCloseKey(parameters);
    }
    return error;
}
