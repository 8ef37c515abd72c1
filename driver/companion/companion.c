/*
 * companion.c - the companion driver of the conformance tests (see companion.h).
 *
 * The device keeps the security that IoCreateDevice gives it: tests open it as an administrator.
 */
#include "companion.h"
#include "ntproof_compat.h"
#include "service_parameters.h"

#define CN_WIDEN_(Text) L##Text
#define CN_WIDEN(Text) CN_WIDEN_(Text)
#define CN_STRING(Text) RTL_CONSTANT_STRING(CN_WIDEN(Text))

C_ASSERT(IOCTL_COMPANION_QUERY == CTL_CODE(0x8000, 0x900, METHOD_BUFFERED, FILE_READ_ACCESS));
C_ASSERT(COMPANION_MAXIMUM_SUFFIX == SERVICE_PARAMETERS_MAXIMUM_STRING);

typedef struct _CN_DRIVER {
    PDEVICE_OBJECT Device;
    ULONG Slots;
    ULONG Duplicate;
    ULONG Api;
    NTSTATUS DenyStatus;
    NTSTATUS FailEntry;
    UNICODE_STRING DenySuffix;
    WCHAR DenySuffixText[COMPANION_MAXIMUM_SUFFIX];
    ULONG Registered;
    NTSTATUS LastStatus;
    volatile LONG LastProcessId;
    volatile LONG64 FirstCreated;
    volatile LONG64 FirstExited;
    volatile LONG64 Created;
    volatile LONG64 Exited;
    volatile LONG64 Denied;
} CN_DRIVER, *PCN_DRIVER;

static const UNICODE_STRING CnDeviceName = CN_STRING(COMPANION_DEVICE_NAME);
static const UNICODE_STRING CnLinkName = CN_STRING(COMPANION_LINK_NAME);
static CN_DRIVER CnDriver;

DRIVER_INITIALIZE DriverEntry;
DRIVER_UNLOAD CnUnload;
DRIVER_DISPATCH CnDispatchCreateClose;
DRIVER_DISPATCH CnDispatchControl;

static WCHAR CnUpcaseAscii(_In_ WCHAR Unit)
{
    return (WCHAR)(Unit >= L'a' && Unit <= L'z' ? Unit - (L'a' - L'A') : Unit);
}

static BOOLEAN CnEndsWith(_In_ PCUNICODE_STRING Text, _In_ PCUNICODE_STRING Suffix)
{
    ULONG units = Suffix->Length / (ULONG)sizeof(WCHAR);
    const WCHAR *tail;
    ULONG i;

    if (units == 0 || Text->Length < Suffix->Length) {
        return FALSE;
    }
    tail = Text->Buffer + (Text->Length - Suffix->Length) / sizeof(WCHAR);
    for (i = 0; i < units; i++) {
        if (CnUpcaseAscii(tail[i]) != CnUpcaseAscii(Suffix->Buffer[i])) {
            return FALSE;
        }
    }
    return TRUE;
}

_IRQL_requires_max_(DISPATCH_LEVEL)
static VOID CnCount(_In_ ULONG Index, _In_ HANDLE ProcessId, _In_ BOOLEAN Create)
{
    (VOID)InterlockedExchange(&CnDriver.LastProcessId, (LONG)HandleToULong(ProcessId));
    (VOID)InterlockedIncrement64(Create ? &CnDriver.Created : &CnDriver.Exited);
    if (Index == 0) {
        (VOID)InterlockedIncrement64(Create ? &CnDriver.FirstCreated : &CnDriver.FirstExited);
    }
}

_IRQL_requires_(PASSIVE_LEVEL)
static VOID CnNotify(_In_ ULONG Index, _In_ HANDLE ProcessId, _Inout_opt_ PPS_CREATE_NOTIFY_INFO CreateInfo)
{
    CnCount(Index, ProcessId, CreateInfo != NULL);
    if (Index == 0 && CreateInfo != NULL && CreateInfo->ImageFileName != NULL &&
        CnEndsWith(CreateInfo->ImageFileName, &CnDriver.DenySuffix)) {
        CreateInfo->CreationStatus = CnDriver.DenyStatus;
        (VOID)InterlockedIncrement64(&CnDriver.Denied);
    }
}

/* Slots are told apart by the address of their routine, so each index has its own, in both flavours. */
#define CN_ROUTINE(Index)                                                                                              \
    _IRQL_requires_(PASSIVE_LEVEL)                                                                                     \
    static VOID NTAPI CnNotifyEx##Index(_Inout_ PEPROCESS Process, _In_ HANDLE ProcessId,                              \
                                        _Inout_opt_ PPS_CREATE_NOTIFY_INFO CreateInfo)                                 \
    {                                                                                                                  \
        UNREFERENCED_PARAMETER(Process);                                                                               \
        CnNotify(Index, ProcessId, CreateInfo);                                                                        \
    }                                                                                                                  \
    _IRQL_requires_(PASSIVE_LEVEL)                                                                                     \
    static VOID NTAPI CnNotifyLegacy##Index(_In_ HANDLE ParentId, _In_ HANDLE ProcessId, _In_ BOOLEAN Create)          \
    {                                                                                                                  \
        UNREFERENCED_PARAMETER(ParentId);                                                                              \
        CnCount(Index, ProcessId, Create);                                                                             \
    }

#define CN_EX(Index) CnNotifyEx##Index,
#define CN_LEGACY(Index) CnNotifyLegacy##Index,
#define CN_FOR_EACH(Do)                                                                                                \
    Do(0) Do(1) Do(2) Do(3) Do(4) Do(5) Do(6) Do(7) Do(8) Do(9) Do(10) Do(11) Do(12) Do(13) Do(14) Do(15)              \
    Do(16) Do(17) Do(18) Do(19) Do(20) Do(21) Do(22) Do(23) Do(24) Do(25) Do(26) Do(27) Do(28) Do(29) Do(30) Do(31)    \
    Do(32) Do(33) Do(34) Do(35) Do(36) Do(37) Do(38) Do(39) Do(40) Do(41) Do(42) Do(43) Do(44) Do(45) Do(46) Do(47)    \
    Do(48) Do(49) Do(50) Do(51) Do(52) Do(53) Do(54) Do(55) Do(56) Do(57) Do(58) Do(59) Do(60) Do(61) Do(62) Do(63)

CN_FOR_EACH(CN_ROUTINE)

static const PCREATE_PROCESS_NOTIFY_ROUTINE_EX CnExRoutines[] = {CN_FOR_EACH(CN_EX)};
static const PCREATE_PROCESS_NOTIFY_ROUTINE CnLegacyRoutines[] = {CN_FOR_EACH(CN_LEGACY)};

C_ASSERT(ARRAYSIZE(CnExRoutines) == COMPANION_MAXIMUM_SLOTS);
C_ASSERT(ARRAYSIZE(CnLegacyRoutines) == COMPANION_MAXIMUM_SLOTS);

_IRQL_requires_(PASSIVE_LEVEL)
static NTSTATUS CnSetRoutine(_In_ ULONG Index, _In_ BOOLEAN Remove)
{
    switch (CnDriver.Api) {
    case COMPANION_API_LEGACY:
        return PsSetCreateProcessNotifyRoutine(CnLegacyRoutines[Index], Remove);
    case COMPANION_API_EX:
        return PsSetCreateProcessNotifyRoutineEx(CnExRoutines[Index], Remove);
    case COMPANION_API_EX2:
        return PsSetCreateProcessNotifyRoutineEx2(PsCreateProcessNotifySubsystems, (PVOID)CnExRoutines[Index], Remove);
    default:
        return STATUS_INVALID_PARAMETER_1;
    }
}

/* The routine of the nth registration: each slot's own, then the first one again. */
static ULONG CnRoutineOf(_In_ ULONG Registration)
{
    return Registration < CnDriver.Slots ? Registration : 0;
}

_IRQL_requires_(PASSIVE_LEVEL)
static VOID CnUnregister(VOID)
{
    while (CnDriver.Registered != 0) {
        CnDriver.Registered--;
        (VOID)CnSetRoutine(CnRoutineOf(CnDriver.Registered), TRUE);
    }
}

/* Register everything; on failure what was registered before is removed. */
_IRQL_requires_(PASSIVE_LEVEL)
static NTSTATUS CnRegister(VOID)
{
    ULONG wanted = CnDriver.Slots == 0 ? 0 : CnDriver.Slots + CnDriver.Duplicate;

    while (CnDriver.Registered < wanted) {
        CnDriver.LastStatus = CnSetRoutine(CnRoutineOf(CnDriver.Registered), FALSE);
        if (!NT_SUCCESS(CnDriver.LastStatus)) {
            CnUnregister();
            return CnDriver.LastStatus;
        }
        CnDriver.Registered++;
    }
    return STATUS_SUCCESS;
}

_IRQL_requires_(PASSIVE_LEVEL)
static NTSTATUS CnReadParameters(_In_ PCUNICODE_STRING RegistryPath)
{
    static const UNICODE_STRING slots = CN_STRING(COMPANION_PARAMETER_SLOTS);
    static const UNICODE_STRING duplicate = CN_STRING(COMPANION_PARAMETER_DUPLICATE);
    static const UNICODE_STRING api = CN_STRING(COMPANION_PARAMETER_API);
    static const UNICODE_STRING denySuffix = CN_STRING(COMPANION_PARAMETER_DENY_SUFFIX);
    static const UNICODE_STRING denyStatus = CN_STRING(COMPANION_PARAMETER_DENY_STATUS);
    static const UNICODE_STRING failEntry = CN_STRING(COMPANION_PARAMETER_FAIL_ENTRY);
    HANDLE key;

    CnDriver.Slots = 1;
    CnDriver.Api = COMPANION_API_EX;
    CnDriver.DenyStatus = STATUS_ACCESS_DENIED;
    CnDriver.DenySuffix.Buffer = CnDriver.DenySuffixText;
    CnDriver.DenySuffix.MaximumLength = sizeof(CnDriver.DenySuffixText);
    if (NT_SUCCESS(ServiceParametersOpen(RegistryPath, &key))) {
        ServiceParametersDword(key, &slots, &CnDriver.Slots);
        ServiceParametersDword(key, &duplicate, &CnDriver.Duplicate);
        ServiceParametersDword(key, &api, &CnDriver.Api);
        ServiceParametersString(key, &denySuffix, &CnDriver.DenySuffix);
        ServiceParametersDword(key, &denyStatus, (PULONG)&CnDriver.DenyStatus);
        ServiceParametersDword(key, &failEntry, (PULONG)&CnDriver.FailEntry);
        (VOID)ZwClose(key);
    }
    CnDriver.Slots = min(CnDriver.Slots, COMPANION_MAXIMUM_SLOTS);
    CnDriver.Duplicate = min(CnDriver.Duplicate, COMPANION_MAXIMUM_SLOTS);
    return CnDriver.Api > COMPANION_API_EX2 ? STATUS_INVALID_PARAMETER_1 : STATUS_SUCCESS;
}

_IRQL_requires_max_(DISPATCH_LEVEL)
static NTSTATUS CnComplete(_In_ PIRP Irp, _In_ NTSTATUS Status, _In_ ULONG_PTR Information)
{
    Irp->IoStatus.Status = Status;
    Irp->IoStatus.Information = Information;
    IoCompleteRequest(Irp, IO_NO_INCREMENT);
    return Status;
}

_Function_class_(DRIVER_DISPATCH)
_IRQL_requires_(PASSIVE_LEVEL)
_Dispatch_type_(IRP_MJ_CREATE)
_Dispatch_type_(IRP_MJ_CLOSE)
_Use_decl_annotations_
NTSTATUS NTAPI CnDispatchCreateClose(PDEVICE_OBJECT DeviceObject, PIRP Irp)
{
    UNREFERENCED_PARAMETER(DeviceObject);
    return CnComplete(Irp, STATUS_SUCCESS, 0);
}

_Function_class_(DRIVER_DISPATCH)
_IRQL_requires_(PASSIVE_LEVEL)
_Dispatch_type_(IRP_MJ_DEVICE_CONTROL)
_Use_decl_annotations_
NTSTATUS NTAPI CnDispatchControl(PDEVICE_OBJECT DeviceObject, PIRP Irp)
{
    PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(Irp);
    COMPANION_STATUS *answer = Irp->AssociatedIrp.SystemBuffer;

    UNREFERENCED_PARAMETER(DeviceObject);
    if (stack->Parameters.DeviceIoControl.IoControlCode != IOCTL_COMPANION_QUERY) {
        return CnComplete(Irp, STATUS_INVALID_DEVICE_REQUEST, 0);
    }
    if (stack->Parameters.DeviceIoControl.InputBufferLength != 0) {
        return CnComplete(Irp, STATUS_INVALID_PARAMETER, 0);
    }
    if (stack->Parameters.DeviceIoControl.OutputBufferLength < sizeof(*answer)) {
        return CnComplete(Irp, STATUS_BUFFER_TOO_SMALL, 0);
    }
    answer->AbiVersion = COMPANION_ABI_VERSION;
    answer->Registered = CnDriver.Registered;
    answer->LastStatus = CnDriver.LastStatus;
    answer->LastProcessId = (ULONG)CnDriver.LastProcessId;
    answer->FirstCreated = (ULONG64)CnDriver.FirstCreated;
    answer->FirstExited = (ULONG64)CnDriver.FirstExited;
    answer->Created = (ULONG64)CnDriver.Created;
    answer->Exited = (ULONG64)CnDriver.Exited;
    answer->Denied = (ULONG64)CnDriver.Denied;
    return CnComplete(Irp, STATUS_SUCCESS, sizeof(*answer));
}

_Function_class_(DRIVER_UNLOAD)
_IRQL_requires_(PASSIVE_LEVEL)
_Use_decl_annotations_
VOID NTAPI CnUnload(PDRIVER_OBJECT DriverObject)
{
    UNREFERENCED_PARAMETER(DriverObject);
    CnUnregister();
    (VOID)IoDeleteSymbolicLink((PUNICODE_STRING)&CnLinkName);
    IoDeleteDevice(CnDriver.Device);
}

_Function_class_(DRIVER_INITIALIZE)
_IRQL_requires_(PASSIVE_LEVEL)
_Use_decl_annotations_
NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT DriverObject, PUNICODE_STRING RegistryPath)
{
    NTSTATUS status;

    DriverObject->MajorFunction[IRP_MJ_CREATE] = CnDispatchCreateClose;
    DriverObject->MajorFunction[IRP_MJ_CLOSE] = CnDispatchCreateClose;
    DriverObject->MajorFunction[IRP_MJ_DEVICE_CONTROL] = CnDispatchControl;
    DriverObject->DriverUnload = CnUnload;

    status = CnReadParameters(RegistryPath);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    status = IoCreateDevice(DriverObject, 0, (PUNICODE_STRING)&CnDeviceName, FILE_DEVICE_UNKNOWN,
                            FILE_DEVICE_SECURE_OPEN, FALSE, &CnDriver.Device);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    status = IoCreateSymbolicLink((PUNICODE_STRING)&CnLinkName, (PUNICODE_STRING)&CnDeviceName);
    if (!NT_SUCCESS(status)) {
        goto DeleteDevice;
    }
    status = CnRegister();
    if (!NT_SUCCESS(status)) {
        goto DeleteLink;
    }
    if (NT_SUCCESS(CnDriver.FailEntry)) {
        return status;
    }
    status = CnDriver.FailEntry;
    CnUnregister();
DeleteLink:
    (VOID)IoDeleteSymbolicLink((PUNICODE_STRING)&CnLinkName);
DeleteDevice:
    IoDeleteDevice(CnDriver.Device);
    return status;
}
