/*
 * ntifs.h - just enough of the kernel's interface to run the driver's queue and rules as an ordinary library.
 *
 * Compiled for the host by test_queue.py and test_rules.py; shim.c implements what is declared here and lets a test
 * look in: it can run code of its own in the middle of a copy, and it counts pool blocks and held locks.
 */
#ifndef SHIM_NTIFS_H
#define SHIM_NTIFS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define _In_
#define _In_opt_
#define _Inout_
#define _Out_
#define _In_reads_(Count)
#define _In_reads_bytes_(Count)
#define _Out_writes_bytes_(Count)
#define _Out_writes_bytes_to_(Count, Written)
#define _Post_invalid_
#define _Must_inspect_result_
#define _Use_decl_annotations_
#define _Requires_lock_held_(Lock)
#define _IRQL_requires_(Level)
#define _IRQL_requires_max_(Level)

#define VOID void
#define TRUE 1
#define FALSE 0
#define MAXUSHORT 0xFFFFu
#define MAXULONG 0xFFFFFFFFu
#define DECLSPEC_ALIGN(Bytes) __attribute__((aligned(Bytes)))
#define DECLSPEC_NOINLINE __attribute__((noinline))
#define C_ASSERT(Expression) _Static_assert(Expression, #Expression)
#define FIELD_OFFSET(Type, Field) __builtin_offsetof(Type, Field)
#define min(A, B) ((A) < (B) ? (A) : (B))
#define __inline inline

typedef uint8_t UCHAR, *PUCHAR, BOOLEAN, KIRQL;
typedef uint16_t USHORT, *PUSHORT;
typedef wchar_t WCHAR, *PWCHAR;
typedef int32_t LONG, NTSTATUS;
typedef uint32_t ULONG, *PULONG;
typedef int64_t LONG64;
typedef uint64_t ULONG64;
typedef void *PVOID;
typedef uintptr_t KSPIN_LOCK;

typedef union _LARGE_INTEGER {
    LONG64 QuadPart;
} LARGE_INTEGER;

typedef struct _FAST_MUTEX {
    int Held;
} FAST_MUTEX;

typedef struct _UNICODE_STRING {
    USHORT Length;
    USHORT MaximumLength;
    PWCHAR Buffer;
} UNICODE_STRING;
typedef const UNICODE_STRING *PCUNICODE_STRING;

/* ntstatus.h */
#define NT_SUCCESS(Status) ((NTSTATUS)(Status) >= 0)
#define STATUS_SUCCESS ((NTSTATUS)0)
#define STATUS_INVALID_PARAMETER ((NTSTATUS)0xC000000D)
#define STATUS_ACCESS_DENIED ((NTSTATUS)0xC0000022)
#define STATUS_BUFFER_TOO_SMALL ((NTSTATUS)0xC0000023)
#define STATUS_REVISION_MISMATCH ((NTSTATUS)0xC0000059)
#define STATUS_INSUFFICIENT_RESOURCES ((NTSTATUS)0xC000009A)

enum { PagedPool = 1, NonPagedPoolNx = 512 };

PVOID ExAllocatePoolWithTag(int PoolType, size_t Bytes, ULONG Tag);
void ExFreePoolWithTag(PVOID Block, ULONG Tag);
void KeInitializeSpinLock(KSPIN_LOCK *Lock);
void KeAcquireSpinLock(KSPIN_LOCK *Lock, KIRQL *Irql);
void KeReleaseSpinLock(KSPIN_LOCK *Lock, KIRQL Irql);
void KeQuerySystemTime(LARGE_INTEGER *Time);
void ExInitializeFastMutex(FAST_MUTEX *Mutex);
void ExAcquireFastMutex(FAST_MUTEX *Mutex);
void ExReleaseFastMutex(FAST_MUTEX *Mutex);
void RtlCopyMemory(void *Target, const void *Source, size_t Bytes);
#define RtlZeroMemory(Target, Bytes) memset(Target, 0, Bytes)
#define RtlEqualMemory(A, B, Bytes) (memcmp(A, B, Bytes) == 0)
WCHAR RtlUpcaseUnicodeChar(WCHAR Unit);

#define InterlockedExchange64(Target, Value) __atomic_exchange_n(Target, Value, __ATOMIC_SEQ_CST)
#define InterlockedExchangeAdd64(Target, Value) __atomic_fetch_add(Target, Value, __ATOMIC_SEQ_CST)
#define InterlockedDecrement64(Target) __atomic_sub_fetch(Target, 1, __ATOMIC_SEQ_CST)

#define KeMemoryBarrier() __atomic_thread_fence(__ATOMIC_SEQ_CST)

/* One thread at a time runs here, and what a hook does runs to its end, so plain steps are atomic enough. */
static inline UCHAR InterlockedCompareExchange128(LONG64 volatile *Target, LONG64 High, LONG64 Low, LONG64 *Comparand)
{
    LONG64 low = Target[0];
    LONG64 high = Target[1];

    if (low == Comparand[0] && high == Comparand[1]) {
        Target[0] = Low;
        Target[1] = High;
        return 1;
    }
    Comparand[0] = low;
    Comparand[1] = high;
    return 0;
}

#endif /* SHIM_NTIFS_H */
