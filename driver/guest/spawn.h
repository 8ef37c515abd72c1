/* CreateProcessW with exact control of what the kernel is told. */
#pragma once

#include "text.h"

/* A process to create.
 *
 * application and command_line go to CreateProcessW as they are; units NULL passes NULL. The system may write into
 * command_line, so it is not const. parent is a handle with PROCESS_CREATE_PROCESS access that becomes the parent
 * (PROC_THREAD_ATTRIBUTE_PARENT_PROCESS), NULL for the calling process. */
typedef struct SPAWN {
    const WCHAR *application;
    WCHAR *command_line;
    HANDLE parent;
} SPAWN;

/* Creates the process with its first thread suspended, no inherited handle and no console (so that no conhost.exe
 * comes with it). Returns the Win32 error, 0 for success; the caller owns both handles of `created`. `status` receives the
 * NTSTATUS behind the error, 0 where no system service gave one. */
DWORD spawn_suspended(const SPAWN *spawn, PROCESS_INFORMATION *created, ULONG *status);
