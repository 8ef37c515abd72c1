/*
 * queue.h - the bounded queue of records between the notify routine and the reader.
 *
 * One preallocated byte ring in nonpaged memory. Records have a variable length, always a multiple of 8, and may
 * continue at the start of the ring. A record is written in three steps so that no pageable text is ever touched with
 * the lock held: its space and sequence number are reserved under the lock, its bytes are copied without the lock,
 * and it is committed by one interlocked store of its first eight bytes. A reader stops at the first record that is
 * reserved and not yet committed, so records come out in sequence order.
 *
 * What does not fit is lost and counted in `Lost`, which becomes a gap record in front of the next record that fits, or
 * goes to the reader directly once the ring is empty.
 */
#ifndef PROCNOTIFY_QUEUE_H
#define PROCNOTIFY_QUEUE_H

#include "ntproof_compat.h"
#include "procnotify.h"

typedef struct _PN_QUEUE {
    KSPIN_LOCK Lock;           /* guards everything below but the bytes of reserved records */
    PUCHAR Buffer;             /* immutable after initialisation */
    ULONG Capacity;            /* immutable after initialisation; a multiple of 8 */
    ULONG Head;                /* offset of the oldest record */
    ULONG Used;                /* bytes of all records, reserved ones included */
    ULONG HighWater;           /* largest value of Used */
    ULONG64 NextSequence;
    ULONG64 Created;
    ULONG64 Exited;
    ULONG64 Denied;
    ULONG64 Queued;
    ULONG64 Delivered;
    ULONG64 Dropped;
    ULONG64 LostCount;         /* notifications lost since the newest record in the ring; 0 for none */
    ULONG64 LostSequence;      /* of the first of them */
    LONG64 LostTime;           /* of the first of them */
} PN_QUEUE, *PPN_QUEUE;

_IRQL_requires_(PASSIVE_LEVEL)
_Must_inspect_result_
NTSTATUS PnQueueInitialize(_Out_ PPN_QUEUE Queue, _In_ ULONG Capacity);

_IRQL_requires_max_(DISPATCH_LEVEL)
VOID PnQueueFree(_Inout_ PPN_QUEUE Queue);

/*
 * Queue a create record: `Create` with its identifiers, status and record flags filled in, and its two texts, which may
 * be pageable. The queue fills in size, type, sequence and time. What cannot be queued is counted as dropped.
 */
_IRQL_requires_max_(APC_LEVEL)
VOID PnQueueCreate(_Inout_ PPN_QUEUE Queue, _Inout_ PROCNOTIFY_CREATE *Create,
                   _In_reads_bytes_(Create->ImageNameLength) const VOID *ImageName,
                   _In_reads_bytes_(Create->CommandLineLength) const VOID *CommandLine, _In_ BOOLEAN Denied);

/* Queue an exit record in the same way. */
_IRQL_requires_max_(DISPATCH_LEVEL)
VOID PnQueueExit(_Inout_ PPN_QUEUE Queue, _Inout_ PROCNOTIFY_EXIT *Exit);

/* TRUE when PnQueueDrain would find a record or a gap. */
_IRQL_requires_max_(DISPATCH_LEVEL)
BOOLEAN PnQueueIsReadable(_Inout_ PPN_QUEUE Queue);

/*
 * Move as many whole records as fit into `Buffer`, which must be nonpaged. Callers serialise: one drain at a time.
 *
 * Returns STATUS_SUCCESS with the bytes moved, zero when there is nothing to read, or STATUS_BUFFER_TOO_SMALL with
 * nothing moved when the next record is longer than `Length`.
 */
_IRQL_requires_max_(DISPATCH_LEVEL)
_Must_inspect_result_
NTSTATUS PnQueueDrain(_Inout_ PPN_QUEUE Queue, _Out_writes_bytes_to_(Length, *Moved) PUCHAR Buffer, _In_ ULONG Length,
                      _Out_ PULONG Moved);

/* Fill in the statistics that the queue keeps; the fields about rules are left alone. */
_IRQL_requires_max_(DISPATCH_LEVEL)
VOID PnQueueStatistics(_Inout_ PPN_QUEUE Queue, _Inout_ PROCNOTIFY_STATISTICS *Statistics);

#endif /* PROCNOTIFY_QUEUE_H */
