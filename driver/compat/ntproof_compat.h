/*
 * ntproof_compat.h - what the mingw-w64 kernel headers lack, and nothing else.
 *
 * Under the Windows Driver Kit this header is the WDK's own <ntifs.h>; everything below is gated on mingw-w64.
 */
#ifndef NTPROOF_COMPAT_H
#define NTPROOF_COMPAT_H

#include <ntifs.h>

#ifdef __MINGW64_VERSION_MAJOR

/* SAL: role types of dispatch routines (wdm.h). */
#ifndef _Dispatch_type_
#define _Dispatch_type_(type)
#endif

/* ntifs.h: exported by ntoskrnl, not declared by mingw-w64. */
NTKERNELAPI NTSTATUS NTAPI PsGetProcessExitStatus(PEPROCESS Process);

/* ntddk.h: Windows 10 1703 and later. */
typedef enum _PSCREATEPROCESSNOTIFYTYPE {
    PsCreateProcessNotifySubsystems = 0
} PSCREATEPROCESSNOTIFYTYPE;

NTKERNELAPI NTSTATUS NTAPI PsSetCreateProcessNotifyRoutineEx2(PSCREATEPROCESSNOTIFYTYPE NotifyType,
                                                              PVOID NotifyInformation, BOOLEAN Remove);

/* wdm.h: priority flag of MmMapLockedPagesSpecifyCache, Windows 8 and later. */
#ifndef MdlMappingNoExecute
#define MdlMappingNoExecute 0x40000000
#endif

/* wdm.h: declared by mingw-w64 for x86 only. */
#ifndef KeMemoryBarrier
#define KeMemoryBarrier() __sync_synchronize()
#endif

/* ntddk.h: bit 1 of PS_CREATE_NOTIFY_INFO.Flags, which mingw-w64 leaves in Reserved. */
#define PsCreateNotifyIsSubsystemProcess(Info) (((Info)->Flags & 0x2) != 0)

/* wdm.h: an intrinsic for MSVC; clang's needs a target feature that every x64 processor Windows 8.1 runs on has. */
static __inline__ __attribute__((always_inline)) UCHAR
InterlockedCompareExchange128(LONG64 volatile *Destination, LONG64 ExchangeHigh, LONG64 ExchangeLow,
                              LONG64 *ComparandResult)
{
    UCHAR exchanged;

    __asm__ __volatile__("lock cmpxchg16b %1"
                         : "=@ccz"(exchanged), "+m"(*(__int128 volatile *)Destination), "+a"(ComparandResult[0]),
                           "+d"(ComparandResult[1])
                         : "b"(ExchangeLow), "c"(ExchangeHigh)
                         : "memory");
    return exchanged;
}

#else

#define PsCreateNotifyIsSubsystemProcess(Info) ((Info)->IsSubsystemProcess != 0)

#endif /* __MINGW64_VERSION_MAJOR */

#endif /* NTPROOF_COMPAT_H */
