/* A driver for tests of the guest program: its entry point starts it, its unload routine never returns. */

#include <ntddk.h>

DRIVER_INITIALIZE DriverEntry;
static DRIVER_UNLOAD StallUnload;

static VOID NTAPI StallUnload(PDRIVER_OBJECT Driver)
{
    KEVENT Never;

    UNREFERENCED_PARAMETER(Driver);
    KeInitializeEvent(&Never, NotificationEvent, FALSE);
    KeWaitForSingleObject(&Never, Executive, KernelMode, FALSE, NULL);
}

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT Driver, PUNICODE_STRING RegistryPath)
{
    UNREFERENCED_PARAMETER(RegistryPath);
    Driver->DriverUnload = StallUnload;
    return STATUS_SUCCESS;
}
