/*
 * service_parameters.c - the values under a driver service's Parameters key (see service_parameters.h).
 */
#include "service_parameters.h"

/* What ZwQueryValueKey stores for a REG_DWORD, and for the longest REG_SZ read here. */
typedef union _DWORD_VALUE {
    KEY_VALUE_PARTIAL_INFORMATION Information;
    UCHAR Bytes[FIELD_OFFSET(KEY_VALUE_PARTIAL_INFORMATION, Data) + sizeof(ULONG)];
} DWORD_VALUE;

typedef union _STRING_VALUE {
    KEY_VALUE_PARTIAL_INFORMATION Information;
    UCHAR Bytes[FIELD_OFFSET(KEY_VALUE_PARTIAL_INFORMATION, Data) +
                (SERVICE_PARAMETERS_MAXIMUM_STRING + 1) * sizeof(WCHAR)];
} STRING_VALUE;

_IRQL_requires_(PASSIVE_LEVEL)
static NTSTATUS OpenKey(_In_opt_ HANDLE Root, _In_ PCUNICODE_STRING Name, _Out_ PHANDLE Key)
{
    OBJECT_ATTRIBUTES attributes;

    InitializeObjectAttributes(&attributes, (PUNICODE_STRING)Name, OBJ_CASE_INSENSITIVE | OBJ_KERNEL_HANDLE, Root,
                               NULL);
    return ZwOpenKey(Key, KEY_READ, &attributes);
}

_Use_decl_annotations_
NTSTATUS ServiceParametersOpen(PCUNICODE_STRING RegistryPath, PHANDLE Key)
{
    static const UNICODE_STRING parameters = RTL_CONSTANT_STRING(L"Parameters");
    NTSTATUS status;
    HANDLE service;

    *Key = NULL;
    status = OpenKey(NULL, RegistryPath, &service);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    status = OpenKey(service, &parameters, Key);
    (VOID)ZwClose(service);
    return status;
}

_Use_decl_annotations_
VOID ServiceParametersDword(HANDLE Key, PCUNICODE_STRING Name, PULONG Value)
{
    DWORD_VALUE value;
    NTSTATUS status;
    ULONG length;

    status = ZwQueryValueKey(Key, (PUNICODE_STRING)Name, KeyValuePartialInformation, &value, sizeof(value), &length);
    if (NT_SUCCESS(status) && value.Information.Type == REG_DWORD && value.Information.DataLength == sizeof(ULONG)) {
        RtlCopyMemory(Value, value.Information.Data, sizeof(ULONG));
    }
}

_Use_decl_annotations_
VOID ServiceParametersString(HANDLE Key, PCUNICODE_STRING Name, PUNICODE_STRING Value)
{
    STRING_VALUE value;
    const WCHAR *text;
    NTSTATUS status;
    ULONG length;

    status = ZwQueryValueKey(Key, (PUNICODE_STRING)Name, KeyValuePartialInformation, &value, sizeof(value), &length);
    if (!NT_SUCCESS(status) || value.Information.Type != REG_SZ) {
        return;
    }
    /* The registry stores what it was given: a terminator is usual and not certain. */
    length = value.Information.DataLength / (ULONG)sizeof(WCHAR);
    text = (const WCHAR *)(const VOID *)value.Information.Data;
    while (length != 0 && text[length - 1] == UNICODE_NULL) {
        length--;
    }
    if (length * sizeof(WCHAR) <= Value->MaximumLength) {
        Value->Length = (USHORT)(length * sizeof(WCHAR));
        RtlCopyMemory(Value->Buffer, text, Value->Length);
    }
}
