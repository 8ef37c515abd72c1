/*
 * notify.c - the process notify routine: decide, then record.
 *
 * The system calls it at PASSIVE_LEVEL inside a critical region: for a creation in the thread that creates, for an exit
 * in the last thread of the process. What it is given is valid only during the call.
 */
#include "procnotify_internal.h"

static __inline USHORT PnCreateFlags(_In_ const PS_CREATE_NOTIFY_INFO *CreateInfo)
{
    ULONG flags = 0;

    if (CreateInfo->FileOpenNameAvailable) {
        flags |= PROCNOTIFY_FLAG_FILE_OPEN_NAME_AVAILABLE;
    }
    if (PsCreateNotifyIsSubsystemProcess(CreateInfo)) {
        flags |= PROCNOTIFY_FLAG_IS_SUBSYSTEM_PROCESS;
    }
    if (CreateInfo->ImageFileName != NULL) {
        flags |= PROCNOTIFY_FLAG_HAS_IMAGE_NAME;
    }
    if (CreateInfo->CommandLine != NULL) {
        flags |= PROCNOTIFY_FLAG_HAS_COMMAND_LINE;
    }
    return (USHORT)flags;
}

_IRQL_requires_(PASSIVE_LEVEL)
static VOID PnProcessCreated(_In_ HANDLE ProcessId, _Inout_ PPS_CREATE_NOTIFY_INFO CreateInfo)
{
    static const UNICODE_STRING absent = {0, 0, NULL};
    PCUNICODE_STRING commandLine = CreateInfo->CommandLine != NULL ? CreateInfo->CommandLine : &absent;
    PCUNICODE_STRING imageName = CreateInfo->ImageFileName != NULL ? CreateInfo->ImageFileName : &absent;
    PROCNOTIFY_CREATE record;
    BOOLEAN denied = FALSE;

    /* A creation that another driver has denied already stays denied with that driver's status. */
    if (NT_SUCCESS(CreateInfo->CreationStatus)) {
        NTSTATUS status = PnRulesMatch(&PnDriver.Rules, imageName);

        if (!NT_SUCCESS(status)) {
            CreateInfo->CreationStatus = status;
            denied = TRUE;
        }
    }
    record.Record.Flags = PnCreateFlags(CreateInfo);
    record.ProcessId = HandleToULong(ProcessId);
    record.ParentProcessId = HandleToULong(CreateInfo->ParentProcessId);
    record.CreatingProcessId = HandleToULong(CreateInfo->CreatingThreadId.UniqueProcess);
    record.CreatingThreadId = HandleToULong(CreateInfo->CreatingThreadId.UniqueThread);
    record.Status = CreateInfo->CreationStatus;
    record.ImageNameLength = imageName->Length;
    record.CommandLineLength = commandLine->Length;
    record.Reserved = 0;
    PnQueueCreate(&PnDriver.Queue, &record, imageName->Buffer, commandLine->Buffer, denied);
}

_IRQL_requires_(PASSIVE_LEVEL)
static VOID PnProcessExited(_In_ PEPROCESS Process, _In_ HANDLE ProcessId)
{
    PROCNOTIFY_EXIT record;

    record.ProcessId = HandleToULong(ProcessId);
    record.ExitStatus = PsGetProcessExitStatus(Process);
    PnQueueExit(&PnDriver.Queue, &record);
}

_Use_decl_annotations_
VOID NTAPI PnProcessNotify(PEPROCESS Process, HANDLE ProcessId, PPS_CREATE_NOTIFY_INFO CreateInfo)
{
    if (CreateInfo != NULL) {
        PnProcessCreated(ProcessId, CreateInfo);
    } else {
        PnProcessExited(Process, ProcessId);
    }
    if (PnDriver.Reads.WaitingCount != 0) {
        PnReadsServe(&PnDriver);
    }
}
