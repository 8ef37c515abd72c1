/*
 * mission.c - a naive process blocker, as many tutorials write it. It is wrong on purpose: conformance must catch it.
 *
 * What is wrong:
 *   - the status of the registration is ignored, and the entry point reports success whatever happened: with all notify
 *     slots taken, or without /INTEGRITYCHECK, the driver loads, runs and silently blocks nothing;
 *   - the unload routine is declared to return NTSTATUS, which DRIVER_UNLOAD does not, and only a cast hides it;
 *   - the entry point is not named DriverEntry, so the linker has to be told its name;
 *   - it has no device: nobody can learn what it saw.
 */
#include "ntproof_compat.h"

static const WCHAR BlockedImage[] = L"blocked.exe";

NTSTATUS DriverInitialize(PDRIVER_OBJECT DriverObject, PUNICODE_STRING RegistryPath);
NTSTATUS DriverUnload(PDRIVER_OBJECT DriverObject);

static VOID OnProcessNotify(PEPROCESS Process, HANDLE ProcessId, PPS_CREATE_NOTIFY_INFO CreateInfo)
{
    UNICODE_STRING blocked;
    UNICODE_STRING tail;

    UNREFERENCED_PARAMETER(Process);
    if (CreateInfo == NULL || CreateInfo->ImageFileName == NULL) {
        return;
    }
    RtlInitUnicodeString(&blocked, BlockedImage);
    if (CreateInfo->ImageFileName->Length < blocked.Length) {
        return;
    }
    tail.Length = blocked.Length;
    tail.MaximumLength = blocked.Length;
    tail.Buffer = CreateInfo->ImageFileName->Buffer;
    tail.Buffer += (CreateInfo->ImageFileName->Length - blocked.Length) / sizeof(WCHAR);
    if (RtlEqualUnicodeString(&tail, &blocked, TRUE)) {
        DbgPrint("blocked process %lu\n", HandleToULong(ProcessId));
        CreateInfo->CreationStatus = STATUS_ACCESS_DENIED;
    }
}

NTSTATUS DriverUnload(PDRIVER_OBJECT DriverObject)
{
    UNREFERENCED_PARAMETER(DriverObject);
    PsSetCreateProcessNotifyRoutineEx(OnProcessNotify, TRUE);
    return STATUS_SUCCESS;
}

NTSTATUS DriverInitialize(PDRIVER_OBJECT DriverObject, PUNICODE_STRING RegistryPath)
{
    UNREFERENCED_PARAMETER(RegistryPath);
    DriverObject->DriverUnload = (PDRIVER_UNLOAD)(PVOID)DriverUnload;
    PsSetCreateProcessNotifyRoutineEx(OnProcessNotify, FALSE);
    return STATUS_SUCCESS;
}
