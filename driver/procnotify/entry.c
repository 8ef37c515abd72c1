/*
 * entry.c - loading and unloading.
 *
 * The notify routine is registered last, when all it needs is there, and removed first; the removal waits for calls
 * under way. Everything between is undone in reverse order of its making, on failure and at unload alike.
 */
#include "procnotify_internal.h"
#include "service_parameters.h"

static const UNICODE_STRING PnDeviceName = RTL_CONSTANT_STRING(PN_WIDEN(PROCNOTIFY_DEVICE_NAME));
static const UNICODE_STRING PnLinkName = RTL_CONSTANT_STRING(PN_WIDEN(PROCNOTIFY_LINK_NAME));

PN_DRIVER PnDriver;

DRIVER_INITIALIZE DriverEntry;
DRIVER_UNLOAD PnUnload;

/* The queue's budget as the service is configured, within the limits of procnotify.h. */
_IRQL_requires_(PASSIVE_LEVEL)
static ULONG PnQueueBytes(_In_ PCUNICODE_STRING RegistryPath)
{
    static const UNICODE_STRING name = RTL_CONSTANT_STRING(PN_WIDEN(PROCNOTIFY_PARAMETER_QUEUE_BYTES));
    ULONG bytes = PROCNOTIFY_QUEUE_BYTES_DEFAULT;
    HANDLE key;

    if (NT_SUCCESS(ServiceParametersOpen(RegistryPath, &key))) {
        ServiceParametersDword(key, &name, &bytes);
        (VOID)ZwClose(key);
    }
    return max(PROCNOTIFY_QUEUE_BYTES_MINIMUM, min(bytes, PROCNOTIFY_QUEUE_BYTES_MAXIMUM));
}

_Function_class_(DRIVER_UNLOAD)
_IRQL_requires_(PASSIVE_LEVEL)
_Use_decl_annotations_
VOID NTAPI PnUnload(PDRIVER_OBJECT DriverObject)
{
    UNREFERENCED_PARAMETER(DriverObject);
    (VOID)PsSetCreateProcessNotifyRoutineEx(PnProcessNotify, TRUE);
    PnReadsCancel(&PnDriver.Reads, NULL);
    (VOID)IoDeleteSymbolicLink((PUNICODE_STRING)&PnLinkName);
    IoDeleteDevice(PnDriver.Device);
    PnQueueFree(&PnDriver.Queue);
    PnRulesFree(&PnDriver.Rules);
}

_Function_class_(DRIVER_INITIALIZE)
_IRQL_requires_(PASSIVE_LEVEL)
_Use_decl_annotations_
NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT DriverObject, PUNICODE_STRING RegistryPath)
{
    NTSTATUS status;

    DriverObject->MajorFunction[IRP_MJ_CREATE] = PnDispatchCreateClose;
    DriverObject->MajorFunction[IRP_MJ_CLOSE] = PnDispatchCreateClose;
    DriverObject->MajorFunction[IRP_MJ_CLEANUP] = PnDispatchCleanup;
    DriverObject->MajorFunction[IRP_MJ_DEVICE_CONTROL] = PnDispatchControl;
    DriverObject->DriverUnload = PnUnload;

    PnRulesInitialize(&PnDriver.Rules);
    status = PnReadsInitialize(&PnDriver.Reads);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    status = PnQueueInitialize(&PnDriver.Queue, PnQueueBytes(RegistryPath));
    if (!NT_SUCCESS(status)) {
        return status;
    }
    status = IoCreateDevice(DriverObject, 0, (PUNICODE_STRING)&PnDeviceName, FILE_DEVICE_UNKNOWN,
                            FILE_DEVICE_SECURE_OPEN, FALSE, &PnDriver.Device);
    if (!NT_SUCCESS(status)) {
        goto FreeQueue;
    }
    status = PnRestrictDevice(PnDriver.Device);
    if (!NT_SUCCESS(status)) {
        goto DeleteDevice;
    }
    status = IoCreateSymbolicLink((PUNICODE_STRING)&PnLinkName, (PUNICODE_STRING)&PnDeviceName);
    if (!NT_SUCCESS(status)) {
        goto DeleteDevice;
    }
    status = PsSetCreateProcessNotifyRoutineEx(PnProcessNotify, FALSE);
    if (NT_SUCCESS(status)) {
        return status;
    }
    (VOID)IoDeleteSymbolicLink((PUNICODE_STRING)&PnLinkName);
DeleteDevice:
    IoDeleteDevice(PnDriver.Device);
FreeQueue:
    PnQueueFree(&PnDriver.Queue);
    return status;
}
