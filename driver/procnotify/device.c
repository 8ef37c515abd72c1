/*
 * device.c - dispatch routines: opening, closing and the control interface of procnotify.h.
 */
#include "procnotify_internal.h"

#define PN_DEVICE_TYPE 0x8000
#define PN_CONTROL(Function, Method, Access) CTL_CODE(PN_DEVICE_TYPE, Function, Method, Access)

C_ASSERT(IOCTL_PROCNOTIFY_GET_VERSION == PN_CONTROL(0x800, METHOD_BUFFERED, FILE_READ_ACCESS));
C_ASSERT(IOCTL_PROCNOTIFY_SET_RULES == PN_CONTROL(0x801, METHOD_BUFFERED, FILE_WRITE_ACCESS));
C_ASSERT(IOCTL_PROCNOTIFY_GET_RULES == PN_CONTROL(0x802, METHOD_BUFFERED, FILE_READ_ACCESS));
C_ASSERT(IOCTL_PROCNOTIFY_GET_STATISTICS == PN_CONTROL(0x803, METHOD_BUFFERED, FILE_READ_ACCESS));
C_ASSERT(IOCTL_PROCNOTIFY_READ == PN_CONTROL(0x804, METHOD_OUT_DIRECT, FILE_READ_ACCESS));

_Use_decl_annotations_
VOID PnComplete(PIRP Irp, NTSTATUS Status, ULONG_PTR Information)
{
    Irp->IoStatus.Status = Status;
    Irp->IoStatus.Information = Information;
    IoCompleteRequest(Irp, IO_NO_INCREMENT);
}

_Function_class_(DRIVER_DISPATCH)
_IRQL_requires_(PASSIVE_LEVEL)
_Use_decl_annotations_
NTSTATUS NTAPI PnDispatchCreateClose(PDEVICE_OBJECT DeviceObject, PIRP Irp)
{
    UNREFERENCED_PARAMETER(DeviceObject);
    PnComplete(Irp, STATUS_SUCCESS, 0);
    return STATUS_SUCCESS;
}

_Function_class_(DRIVER_DISPATCH)
_IRQL_requires_(PASSIVE_LEVEL)
_Use_decl_annotations_
NTSTATUS NTAPI PnDispatchCleanup(PDEVICE_OBJECT DeviceObject, PIRP Irp)
{
    UNREFERENCED_PARAMETER(DeviceObject);
    PnReadsCleanup(&PnDriver.Reads, IoGetCurrentIrpStackLocation(Irp)->FileObject);
    PnComplete(Irp, STATUS_SUCCESS, 0);
    return STATUS_SUCCESS;
}

/* The requests below share input and output in `Buffer`; `Written` receives the bytes of the answer. */

_IRQL_requires_(PASSIVE_LEVEL)
static NTSTATUS PnGetVersion(_In_ const PN_DRIVER *Driver, _Out_writes_bytes_to_(OutputLength, *Written) PVOID Buffer,
                             _In_ ULONG InputLength, _In_ ULONG OutputLength, _Out_ PULONG Written)
{
    PROCNOTIFY_VERSION *version = Buffer;

    if (InputLength != 0) {
        return STATUS_INVALID_PARAMETER;
    }
    if (OutputLength < sizeof(*version)) {
        return STATUS_BUFFER_TOO_SMALL;
    }
    version->AbiVersion = PROCNOTIFY_ABI_VERSION;
    /* Subsystem processes reach only routines registered with PsSetCreateProcessNotifyRoutineEx2. */
    version->Capabilities = PROCNOTIFY_CAPABILITY_DENY | PROCNOTIFY_CAPABILITY_GAPS;
    version->MaximumRules = PROCNOTIFY_MAXIMUM_RULES;
    version->QueueBytes = Driver->Queue.Capacity;
    *Written = sizeof(*version);
    return STATUS_SUCCESS;
}

_IRQL_requires_(PASSIVE_LEVEL)
static NTSTATUS PnGetRules(_Inout_ PPN_DRIVER Driver, _Out_writes_bytes_to_(OutputLength, *Written) PVOID Buffer,
                           _In_ ULONG InputLength, _In_ ULONG OutputLength, _Out_ PULONG Written)
{
    if (InputLength != 0) {
        return STATUS_INVALID_PARAMETER;
    }
    return PnRulesQuery(&Driver->Rules, Buffer, OutputLength, Written);
}

_IRQL_requires_(PASSIVE_LEVEL)
static NTSTATUS PnGetStatistics(_Inout_ PPN_DRIVER Driver, _Out_writes_bytes_to_(OutputLength, *Written) PVOID Buffer,
                                _In_ ULONG InputLength, _In_ ULONG OutputLength, _Out_ PULONG Written)
{
    if (InputLength != 0) {
        return STATUS_INVALID_PARAMETER;
    }
    if (OutputLength < sizeof(PROCNOTIFY_STATISTICS)) {
        return STATUS_BUFFER_TOO_SMALL;
    }
    RtlZeroMemory(Buffer, sizeof(PROCNOTIFY_STATISTICS));
    PnQueueStatistics(&Driver->Queue, Buffer);
    PnRulesStatistics(&Driver->Rules, Buffer);
    *Written = sizeof(PROCNOTIFY_STATISTICS);
    return STATUS_SUCCESS;
}

_Function_class_(DRIVER_DISPATCH)
_IRQL_requires_(PASSIVE_LEVEL)
_Use_decl_annotations_
NTSTATUS NTAPI PnDispatchControl(PDEVICE_OBJECT DeviceObject, PIRP Irp)
{
    PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(Irp);
    ULONG outputLength = stack->Parameters.DeviceIoControl.OutputBufferLength;
    ULONG inputLength = stack->Parameters.DeviceIoControl.InputBufferLength;
    PVOID buffer = Irp->AssociatedIrp.SystemBuffer;
    ULONG written = 0;
    NTSTATUS status;

    UNREFERENCED_PARAMETER(DeviceObject);
    switch (stack->Parameters.DeviceIoControl.IoControlCode) {
    case IOCTL_PROCNOTIFY_READ:
        return PnRead(&PnDriver, Irp);
    case IOCTL_PROCNOTIFY_GET_VERSION:
        status = PnGetVersion(&PnDriver, buffer, inputLength, outputLength, &written);
        break;
    case IOCTL_PROCNOTIFY_SET_RULES:
        status = PnRulesReplace(&PnDriver.Rules, buffer, inputLength);
        break;
    case IOCTL_PROCNOTIFY_GET_RULES:
        status = PnGetRules(&PnDriver, buffer, inputLength, outputLength, &written);
        break;
    case IOCTL_PROCNOTIFY_GET_STATISTICS:
        status = PnGetStatistics(&PnDriver, buffer, inputLength, outputLength, &written);
        break;
    default:
        status = STATUS_INVALID_DEVICE_REQUEST;
        break;
    }
    PnComplete(Irp, status, written);
    return status;
}
