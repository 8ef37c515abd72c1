/*
 * parameters.c - the values under the service's Parameters key.
 */
#include "procnotify_internal.h"

/* A REG_DWORD as ZwQueryValueKey stores it. */
typedef union _PN_DWORD_VALUE {
    KEY_VALUE_PARTIAL_INFORMATION Information;
    UCHAR Bytes[FIELD_OFFSET(KEY_VALUE_PARTIAL_INFORMATION, Data) + sizeof(ULONG)];
} PN_DWORD_VALUE;

_IRQL_requires_(PASSIVE_LEVEL)
static NTSTATUS PnOpenKey(_In_opt_ HANDLE Root, _In_ PCUNICODE_STRING Name, _Out_ PHANDLE Key)
{
    OBJECT_ATTRIBUTES attributes;

    InitializeObjectAttributes(&attributes, (PUNICODE_STRING)Name, OBJ_CASE_INSENSITIVE | OBJ_KERNEL_HANDLE, Root, NULL);
    return ZwOpenKey(Key, KEY_READ, &attributes);
}

/* A value that is absent or of another type leaves `Value` as it is. */
_IRQL_requires_(PASSIVE_LEVEL)
static VOID PnQueryDword(_In_ HANDLE Key, _In_ PCUNICODE_STRING Name, _Inout_ PULONG Value)
{
    PN_DWORD_VALUE value;
    NTSTATUS status;
    ULONG length;

    status = ZwQueryValueKey(Key, (PUNICODE_STRING)Name, KeyValuePartialInformation, &value, sizeof(value), &length);
    if (NT_SUCCESS(status) && value.Information.Type == REG_DWORD && value.Information.DataLength == sizeof(ULONG)) {
        RtlCopyMemory(Value, value.Information.Data, sizeof(ULONG));
    }
}

_Use_decl_annotations_
ULONG PnReadQueueBytes(PCUNICODE_STRING RegistryPath)
{
    static const UNICODE_STRING parametersName = RTL_CONSTANT_STRING(L"Parameters");
    static const UNICODE_STRING queueBytesName = RTL_CONSTANT_STRING(PN_WIDEN(PROCNOTIFY_PARAMETER_QUEUE_BYTES));
    ULONG bytes = PROCNOTIFY_QUEUE_BYTES_DEFAULT;
    HANDLE parameters;
    HANDLE service;

    if (NT_SUCCESS(PnOpenKey(NULL, RegistryPath, &service))) {
        if (NT_SUCCESS(PnOpenKey(service, &parametersName, &parameters))) {
            PnQueryDword(parameters, &queueBytesName, &bytes);
            (VOID)ZwClose(parameters);
        }
        (VOID)ZwClose(service);
    }
    return max(PROCNOTIFY_QUEUE_BYTES_MINIMUM, min(bytes, PROCNOTIFY_QUEUE_BYTES_MAXIMUM));
}
