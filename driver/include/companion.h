/*
 * companion.h - the public interface of the companion driver, which conformance tests load beside the driver under
 * test.
 *
 * It takes notify slots, denies creations with any status, and counts its calls. Written like procnotify.h: fixed-width
 * integers, natural alignment, no pointers, readable by the driver, by user-mode programs and by Python.
 */
#ifndef NTPROOF_COMPANION_H
#define NTPROOF_COMPANION_H

#include <stdint.h>

#define COMPANION_ABI_VERSION 1

#define COMPANION_SERVICE_NAME "ntproof-companion"
#define COMPANION_DEVICE_NAME "\\Device\\NtproofCompanion"
#define COMPANION_LINK_NAME "\\DosDevices\\NtproofCompanion"
#define COMPANION_WIN32_NAME "\\\\.\\NtproofCompanion"

/*
 * Values under the service's Parameters key, read when the driver loads.
 *
 * Slots       REG_DWORD, default 1: how many different notify routines to register, at most COMPANION_MAXIMUM_SLOTS.
 * Duplicate   REG_DWORD, default 0: how many more times to register the first routine, at most COMPANION_MAXIMUM_SLOTS.
 *             Nothing is registered when Slots is 0.
 * Api         REG_DWORD, default COMPANION_API_EX: COMPANION_API_*. Another value fails the load with
 *             STATUS_INVALID_PARAMETER_1.
 * DenySuffix  REG_SZ, at most COMPANION_MAXIMUM_SUFFIX units, default none: the first routine sets DenyStatus for
 *             images whose name ends with it, ASCII letters compared without case. The legacy API cannot deny.
 * DenyStatus  REG_DWORD, default STATUS_ACCESS_DENIED: any NTSTATUS, also one that does not deny.
 * FailEntry   REG_DWORD, default 0: a failure status, with which the load ends after everything was registered and
 *             removed again. A success status has no effect.
 *
 * Values above their maximum are replaced by it. When a registration fails, the load fails with its status, after
 * what was registered before is removed.
 */
#define COMPANION_PARAMETER_SLOTS "Slots"
#define COMPANION_PARAMETER_DUPLICATE "Duplicate"
#define COMPANION_PARAMETER_API "Api"
#define COMPANION_PARAMETER_DENY_SUFFIX "DenySuffix"
#define COMPANION_PARAMETER_DENY_STATUS "DenyStatus"
#define COMPANION_PARAMETER_FAIL_ENTRY "FailEntry"

#define COMPANION_MAXIMUM_SLOTS 64
#define COMPANION_MAXIMUM_SUFFIX 260

#define COMPANION_API_LEGACY 0
#define COMPANION_API_EX 1
#define COMPANION_API_EX2 2

/*
 * Control codes: CTL_CODE(0x8000, function, method, access).
 *
 * QUERY  0x900 METHOD_BUFFERED FILE_READ_ACCESS  out: COMPANION_STATUS. STATUS_INVALID_PARAMETER for any input,
 *        STATUS_BUFFER_TOO_SMALL for a short output, STATUS_INVALID_DEVICE_REQUEST for another code.
 */
#define IOCTL_COMPANION_QUERY 0x80006400

typedef struct _COMPANION_STATUS {
    uint32_t AbiVersion;    /* COMPANION_ABI_VERSION */
    uint32_t Registered;    /* registrations in force, duplicates included */
    int32_t LastStatus;     /* NTSTATUS of the last registration; 0 when none was asked for */
    uint32_t LastProcessId; /* pid of the last call of any routine; 0 before the first */
    uint64_t FirstCreated;  /* create calls of the first routine */
    uint64_t FirstExited;   /* exit calls of the first routine */
    uint64_t Created;       /* create calls of all routines */
    uint64_t Exited;        /* exit calls of all routines */
    uint64_t Denied;        /* times the first routine set DenyStatus */
} COMPANION_STATUS;

#ifndef COMPANION_NO_STATIC_ASSERT
#if defined(__cplusplus)
#define COMPANION_ASSERT(Expression) static_assert(Expression, #Expression)
#else
#define COMPANION_ASSERT(Expression) _Static_assert(Expression, #Expression)
#endif
#define COMPANION_OFFSET(Type, Field) __builtin_offsetof(Type, Field)

COMPANION_ASSERT(sizeof(COMPANION_STATUS) == 56);
COMPANION_ASSERT(COMPANION_OFFSET(COMPANION_STATUS, FirstCreated) == 16);
#endif

#endif /* NTPROOF_COMPANION_H */
