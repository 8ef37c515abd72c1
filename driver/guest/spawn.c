#include "spawn.h"

/* Room for one attribute; InitializeProcThreadAttributeList says how much it needs and refuses if this is too small. */
#define ATTRIBUTE_LIST_SIZE 128

/* A restricted version of the caller's own token needs no privilege in CreateProcessAsUserW (Microsoft's page on restricted
 * tokens). */
static DWORD limited_token(HANDLE *token)
{
    HANDLE own = NULL;
    DWORD error = ERROR_SUCCESS;

    if (!OpenProcessToken(GetCurrentProcess(), TOKEN_ASSIGN_PRIMARY | TOKEN_DUPLICATE | TOKEN_QUERY, &own)) {
        return GetLastError();
    }
    if (!CreateRestrictedToken(own, LUA_TOKEN, 0, NULL, 0, NULL, 0, NULL, token)) {
        error = GetLastError();
    }
    CloseHandle(own);
    return error;
}

/* The call itself; `token` is NULL for the caller's own. */
static DWORD create(const SPAWN *spawn, HANDLE token, DWORD flags, STARTUPINFOW *startup, PROCESS_INFORMATION *created)
{
    BOOL done = token != NULL ? CreateProcessAsUserW(token, spawn->application, spawn->command_line, NULL, NULL, FALSE,
                                                     flags, NULL, NULL, startup, created)
                              : CreateProcessW(spawn->application, spawn->command_line, NULL, NULL, FALSE, flags, NULL,
                                               NULL, startup, created);

    return done ? ERROR_SUCCESS : GetLastError();
}

DWORD spawn_suspended(const SPAWN *spawn, PROCESS_INFORMATION *created)
{
    DECLSPEC_ALIGN(16) BYTE storage[ATTRIBUTE_LIST_SIZE];
    LPPROC_THREAD_ATTRIBUTE_LIST attributes = NULL;
    STARTUPINFOEXW startup;
    SIZE_T size = sizeof(storage);
    HANDLE parent = spawn->parent;
    DWORD flags = CREATE_SUSPENDED | DETACHED_PROCESS;
    HANDLE token = NULL;
    DWORD error = ERROR_SUCCESS;

    memset(&startup, 0, sizeof(startup));
    memset(created, 0, sizeof(*created));
    startup.StartupInfo.cb = sizeof(startup.StartupInfo);
    if (parent != NULL) {
        if (!InitializeProcThreadAttributeList((LPPROC_THREAD_ATTRIBUTE_LIST)storage, 1, 0, &size)) {
            return GetLastError();
        }
        attributes = (LPPROC_THREAD_ATTRIBUTE_LIST)storage;
        startup.StartupInfo.cb = sizeof(startup);
        flags |= EXTENDED_STARTUPINFO_PRESENT;
        if (!UpdateProcThreadAttribute(attributes, 0, PROC_THREAD_ATTRIBUTE_PARENT_PROCESS, &parent, sizeof(parent),
                                       NULL, NULL)) {
            error = GetLastError();
        }
    }
    startup.lpAttributeList = attributes;
    if (error == ERROR_SUCCESS && spawn->limited) {
        error = limited_token(&token);
    }
    if (error == ERROR_SUCCESS) {
        error = create(spawn, token, flags, &startup.StartupInfo, created);
    }
    if (token != NULL) {
        CloseHandle(token);
    }
    if (attributes != NULL) {
        DeleteProcThreadAttributeList(attributes);
    }
    return error;
}
