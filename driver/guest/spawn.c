#include "spawn.h"

/* Room for one attribute; InitializeProcThreadAttributeList says how much it needs and refuses if this is too small. */
#define ATTRIBUTE_LIST_SIZE 128

DWORD spawn_suspended(const SPAWN *spawn, PROCESS_INFORMATION *created, ULONG *status)
{
    DECLSPEC_ALIGN(16) BYTE storage[ATTRIBUTE_LIST_SIZE];
    LPPROC_THREAD_ATTRIBUTE_LIST attributes = NULL;
    STARTUPINFOEXW startup;
    SIZE_T size = sizeof(storage);
    HANDLE parent = spawn->parent;
    DWORD flags = CREATE_SUSPENDED | DETACHED_PROCESS;
    DWORD error = ERROR_SUCCESS;

    memset(&startup, 0, sizeof(startup));
    memset(created, 0, sizeof(*created));
    *status = 0;
    status_forget();
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
    if (error == ERROR_SUCCESS && !CreateProcessW(spawn->application, spawn->command_line, NULL, NULL, FALSE, flags,
                                                  NULL, NULL, &startup.StartupInfo, created)) {
        error = GetLastError();
        *status = (ULONG)RtlGetLastNtStatus();
    }
    if (attributes != NULL) {
        DeleteProcThreadAttributeList(attributes);
    }
    return error;
}
