/*
 * service_parameters.h - reading the values under a driver service's Parameters key.
 */
#ifndef SERVICE_PARAMETERS_H
#define SERVICE_PARAMETERS_H

#include "ntproof_compat.h"

#define SERVICE_PARAMETERS_MAXIMUM_STRING 260

/* Open the Parameters key below the path that DriverEntry was given; close it with ZwClose. */
_IRQL_requires_(PASSIVE_LEVEL)
_Must_inspect_result_
NTSTATUS ServiceParametersOpen(_In_ PCUNICODE_STRING RegistryPath, _Out_ PHANDLE Key);

/* Read a REG_DWORD. A value that is absent or of another type leaves `Value` as it is. */
_IRQL_requires_(PASSIVE_LEVEL)
VOID ServiceParametersDword(_In_ HANDLE Key, _In_ PCUNICODE_STRING Name, _Inout_ PULONG Value);

/*
 * Read a REG_SZ, without its terminator, into `Value`, whose buffer the caller provides. One that is absent, of another
 * type, longer than SERVICE_PARAMETERS_MAXIMUM_STRING units or too long for the buffer leaves `Value` as it is.
 */
_IRQL_requires_(PASSIVE_LEVEL)
VOID ServiceParametersString(_In_ HANDLE Key, _In_ PCUNICODE_STRING Name, _Inout_ PUNICODE_STRING Value);

#endif /* SERVICE_PARAMETERS_H */
