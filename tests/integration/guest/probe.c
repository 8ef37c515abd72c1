/* A driver for tests of the guest program: echoes, fails as it is told, and keeps requests pending until another one
 * hands it what to give them; those that it holds it does not let go of when they are cancelled. It uses only what Wine
 * implements. */

#include <ntddk.h>

#define IOCTL_PROBE_ECHO 0x222000u
#define IOCTL_PROBE_WAIT 0x222004u
#define IOCTL_PROBE_PUT 0x222008u
#define IOCTL_PROBE_FAIL 0x22200Cu
#define IOCTL_PROBE_HOLD 0x222010u
#define IOCTL_PROBE_RELEASE 0x222014u

typedef struct PROBE {
    KSPIN_LOCK Lock;
    LIST_ENTRY Waiting;
    PIRP Held;
} PROBE;

DRIVER_INITIALIZE DriverEntry;
static DRIVER_UNLOAD ProbeUnload;
static DRIVER_DISPATCH ProbeOpen;
static DRIVER_DISPATCH ProbeCleanup;
static DRIVER_DISPATCH ProbeControl;
static DRIVER_CANCEL ProbeCancel;

static NTSTATUS ProbeComplete(PIRP Irp, NTSTATUS Status, ULONG_PTR Information)
{
    Irp->IoStatus.Status = Status;
    Irp->IoStatus.Information = Information;
    IoCompleteRequest(Irp, IO_NO_INCREMENT);
    return Status;
}

/* The oldest waiting request that can no longer be cancelled, NULL when there is none. */
static PIRP ProbeTake(PROBE *Probe)
{
    PIRP Found = NULL;
    KIRQL Irql;

    KeAcquireSpinLock(&Probe->Lock, &Irql);
    while (Found == NULL && !IsListEmpty(&Probe->Waiting)) {
        PIRP Irp = CONTAINING_RECORD(RemoveHeadList(&Probe->Waiting), IRP, Tail.Overlay.ListEntry);

        if (IoSetCancelRoutine(Irp, NULL) != NULL) {
            Found = Irp;
        } else {
            /* Its cancel routine is on its way and unlinks it once more. */
            InitializeListHead(&Irp->Tail.Overlay.ListEntry);
        }
    }
    KeReleaseSpinLock(&Probe->Lock, Irql);
    return Found;
}

static VOID NTAPI ProbeCancel(PDEVICE_OBJECT Device, PIRP Irp)
{
    PROBE *Probe = Device->DeviceExtension;
    KIRQL Irql;

    IoReleaseCancelSpinLock(Irp->CancelIrql);
    KeAcquireSpinLock(&Probe->Lock, &Irql);
    RemoveEntryList(&Irp->Tail.Overlay.ListEntry);
    KeReleaseSpinLock(&Probe->Lock, Irql);
    ProbeComplete(Irp, STATUS_CANCELLED, 0);
}

static NTSTATUS ProbeWait(PROBE *Probe, PIRP Irp)
{
    KIRQL Irql;

    KeAcquireSpinLock(&Probe->Lock, &Irql);
    IoMarkIrpPending(Irp);
    InsertTailList(&Probe->Waiting, &Irp->Tail.Overlay.ListEntry);
    IoSetCancelRoutine(Irp, ProbeCancel);
    KeReleaseSpinLock(&Probe->Lock, Irql);
    return STATUS_PENDING;
}

/* Gives `Size` bytes to a request, or as many as it has room for with a warning. */
static NTSTATUS ProbeGive(PIRP Irp, const void *Data, ULONG Size)
{
    ULONG Room = IoGetCurrentIrpStackLocation(Irp)->Parameters.DeviceIoControl.OutputBufferLength;
    ULONG Given = Size < Room ? Size : Room;

    RtlMoveMemory(Irp->AssociatedIrp.SystemBuffer, Data, Given);
    return ProbeComplete(Irp, Given < Size ? STATUS_BUFFER_OVERFLOW : STATUS_SUCCESS, Given);
}

static NTSTATUS NTAPI ProbeControl(PDEVICE_OBJECT Device, PIRP Irp)
{
    PROBE *Probe = Device->DeviceExtension;
    PIO_STACK_LOCATION Stack = IoGetCurrentIrpStackLocation(Irp);
    ULONG Size = Stack->Parameters.DeviceIoControl.InputBufferLength;
    void *Input = Irp->AssociatedIrp.SystemBuffer;
    PIRP Waiting;

    switch (Stack->Parameters.DeviceIoControl.IoControlCode) {
    case IOCTL_PROBE_ECHO:
        return ProbeGive(Irp, Input, Size);
    case IOCTL_PROBE_WAIT:
        return ProbeWait(Probe, Irp);
    case IOCTL_PROBE_PUT:
        Waiting = ProbeTake(Probe);
        if (Waiting == NULL) {
            return ProbeComplete(Irp, STATUS_NO_MORE_ENTRIES, 0);
        }
        ProbeGive(Waiting, Input, Size);
        return ProbeComplete(Irp, STATUS_SUCCESS, 0);
    case IOCTL_PROBE_HOLD:
        IoMarkIrpPending(Irp);
        Probe->Held = Irp;
        return STATUS_PENDING;
    case IOCTL_PROBE_RELEASE:
        ProbeComplete(Probe->Held, STATUS_SUCCESS, 0);
        return ProbeComplete(Irp, STATUS_SUCCESS, 0);
    case IOCTL_PROBE_FAIL:
        return ProbeComplete(Irp, Size == sizeof(NTSTATUS) ? *(NTSTATUS *)Input : STATUS_INVALID_PARAMETER, 0);
    default:
        return ProbeComplete(Irp, STATUS_INVALID_DEVICE_REQUEST, 0);
    }
}

static NTSTATUS NTAPI ProbeOpen(PDEVICE_OBJECT Device, PIRP Irp)
{
    UNREFERENCED_PARAMETER(Device);
    return ProbeComplete(Irp, STATUS_SUCCESS, 0);
}

static NTSTATUS NTAPI ProbeCleanup(PDEVICE_OBJECT Device, PIRP Irp)
{
    PIRP Waiting;

    while ((Waiting = ProbeTake(Device->DeviceExtension)) != NULL) {
        ProbeComplete(Waiting, STATUS_CANCELLED, 0);
    }
    return ProbeComplete(Irp, STATUS_SUCCESS, 0);
}

static VOID NTAPI ProbeUnload(PDRIVER_OBJECT Driver)
{
    UNICODE_STRING Link = RTL_CONSTANT_STRING(L"\\DosDevices\\GuestProbe");

    IoDeleteSymbolicLink(&Link);
    IoDeleteDevice(Driver->DeviceObject);
}

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT Driver, PUNICODE_STRING RegistryPath)
{
    UNICODE_STRING Name = RTL_CONSTANT_STRING(L"\\Device\\GuestProbe");
    UNICODE_STRING Link = RTL_CONSTANT_STRING(L"\\DosDevices\\GuestProbe");
    PDEVICE_OBJECT Device;
    PROBE *Probe;
    NTSTATUS Status;

    UNREFERENCED_PARAMETER(RegistryPath);
    Status = IoCreateDevice(Driver, sizeof(PROBE), &Name, FILE_DEVICE_UNKNOWN, 0, FALSE, &Device);
    if (!NT_SUCCESS(Status)) {
        return Status;
    }
    Status = IoCreateSymbolicLink(&Link, &Name);
    if (!NT_SUCCESS(Status)) {
        IoDeleteDevice(Device);
        return Status;
    }
    Probe = Device->DeviceExtension;
    KeInitializeSpinLock(&Probe->Lock);
    InitializeListHead(&Probe->Waiting);
    Driver->MajorFunction[IRP_MJ_CREATE] = ProbeOpen;
    Driver->MajorFunction[IRP_MJ_CLOSE] = ProbeOpen;
    Driver->MajorFunction[IRP_MJ_CLEANUP] = ProbeCleanup;
    Driver->MajorFunction[IRP_MJ_DEVICE_CONTROL] = ProbeControl;
    Driver->DriverUnload = ProbeUnload;
    Device->Flags &= ~DO_DEVICE_INITIALIZING;
    return STATUS_SUCCESS;
}
