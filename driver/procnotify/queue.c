/*
 * queue.c - the ring that carries records from the notify routine to the reader (see queue.h).
 */
#include "queue.h"

#define PN_QUEUE_TAG 'QnPN'
#define PN_RECORD_ALIGNMENT 8u

/* The first eight bytes of a record, stored at once: type 0 marks a record that is reserved and not yet committed. */
#define PN_RECORD_WORD(Size, Type, Flags) ((ULONG64)(Size) | ((ULONG64)(Type) << 32) | ((ULONG64)(Flags) << 48))
#define PN_WORD_SIZE(Word) ((ULONG)(Word))
#define PN_WORD_TYPE(Word) ((USHORT)((Word) >> 32))

typedef struct _PN_RESERVATION {
    ULONG Offset;
    ULONG64 Sequence;
    LONG64 Time;
} PN_RESERVATION, *PPN_RESERVATION;

C_ASSERT(FIELD_OFFSET(PROCNOTIFY_RECORD, Size) == 0);
C_ASSERT(FIELD_OFFSET(PROCNOTIFY_RECORD, Type) == 4);
C_ASSERT(FIELD_OFFSET(PROCNOTIFY_RECORD, Flags) == 6);
C_ASSERT(sizeof(PROCNOTIFY_CREATE) + 2 * (MAXUSHORT + 1) <= PROCNOTIFY_QUEUE_BYTES_MINIMUM);

static __inline volatile LONG64 *PnRecordWord(_In_ const PN_QUEUE *Queue, _In_ ULONG Offset)
{
    return (volatile LONG64 *)(VOID *)(Queue->Buffer + Offset);
}

/* Offsets stay below Capacity, itself far below 2^31, so the sum cannot wrap. */
static __inline ULONG PnAdvance(_In_ const PN_QUEUE *Queue, _In_ ULONG Offset, _In_ ULONG Bytes)
{
    ULONG next = Offset + Bytes;

    return next >= Queue->Capacity ? next - Queue->Capacity : next;
}

static __inline BOOLEAN PnIsContiguous(_In_ const PN_QUEUE *Queue, _In_ ULONG Offset, _In_ ULONG Bytes)
{
    return Bytes <= Queue->Capacity - Offset;
}

_IRQL_requires_max_(DISPATCH_LEVEL)
static VOID PnRingWrite(_Inout_ PPN_QUEUE Queue, _In_ ULONG Offset, _In_reads_bytes_(Length) const VOID *Source,
                        _In_ ULONG Length)
{
    ULONG first = min(Length, Queue->Capacity - Offset);

    RtlCopyMemory(Queue->Buffer + Offset, Source, first);
    if (first < Length) {
        RtlCopyMemory(Queue->Buffer, (const UCHAR *)Source + first, Length - first);
    }
}

_IRQL_requires_max_(DISPATCH_LEVEL)
static VOID PnRingRead(_In_ const PN_QUEUE *Queue, _In_ ULONG Offset, _Out_writes_bytes_(Length) PUCHAR Target,
                       _In_ ULONG Length)
{
    ULONG first = min(Length, Queue->Capacity - Offset);

    RtlCopyMemory(Target, Queue->Buffer + Offset, first);
    if (first < Length) {
        RtlCopyMemory(Target + first, Queue->Buffer, Length - first);
    }
}

static __inline VOID PnFillGap(_In_ const PN_QUEUE *Queue, _Out_ PROCNOTIFY_GAP *Gap)
{
    Gap->Record.Size = sizeof(*Gap);
    Gap->Record.Type = PROCNOTIFY_RECORD_GAP;
    Gap->Record.Flags = 0;
    Gap->Record.Sequence = Queue->LostSequence;
    Gap->Record.Time = Queue->LostTime;
    Gap->Count = Queue->LostCount;
}

/* Out of line: the fast path never comes here. */
_Requires_lock_held_(Queue->Lock)
_IRQL_requires_(DISPATCH_LEVEL)
static DECLSPEC_NOINLINE VOID PnQueueGap(_Inout_ PPN_QUEUE Queue)
{
    PROCNOTIFY_GAP gap;

    PnFillGap(Queue, &gap);
    PnRingWrite(Queue, PnAdvance(Queue, Queue->Head, Queue->Used), &gap, sizeof(gap));
    Queue->Used += (ULONG)sizeof(gap);
    Queue->LostCount = 0;
}

_Requires_lock_held_(Queue->Lock)
_IRQL_requires_(DISPATCH_LEVEL)
static DECLSPEC_NOINLINE VOID PnQueueLose(_Inout_ PPN_QUEUE Queue, _In_ const PN_RESERVATION *Reservation)
{
    if (Queue->LostCount == 0) {
        Queue->LostSequence = Reservation->Sequence;
        Queue->LostTime = Reservation->Time;
    }
    Queue->LostCount++;
    Queue->Dropped++;
}

/*
 * Take the next sequence number and, when the record and the gap that may have to precede it fit, `Size` bytes.
 * FALSE: the notification is lost, and counted so.
 */
_Requires_lock_held_(Queue->Lock)
_IRQL_requires_(DISPATCH_LEVEL)
static __inline BOOLEAN PnQueueReserve(_Inout_ PPN_QUEUE Queue, _In_ ULONG Size, _Out_ PPN_RESERVATION Reservation)
{
    ULONG needed = Size;
    LARGE_INTEGER now;

    KeQuerySystemTime(&now);
    Reservation->Time = now.QuadPart;
    Reservation->Sequence = Queue->NextSequence++;
    Reservation->Offset = 0;
    if (Queue->LostCount != 0) {
        needed += (ULONG)sizeof(PROCNOTIFY_GAP);
    }
    if (needed > Queue->Capacity - Queue->Used) {
        PnQueueLose(Queue, Reservation);
        return FALSE;
    }
    if (Queue->LostCount != 0) {
        PnQueueGap(Queue);
    }
    Reservation->Offset = PnAdvance(Queue, Queue->Head, Queue->Used);
    *PnRecordWord(Queue, Reservation->Offset) = (LONG64)PN_RECORD_WORD(Size, 0, 0);
    Queue->Used += Size;
    Queue->Queued++;
    if (Queue->Used > Queue->HighWater) {
        Queue->HighWater = Queue->Used;
    }
    return TRUE;
}

/* Full barrier: the record's bytes come before it, and the caller's look at waiting readers after it. */
static __inline VOID PnQueueCommit(_Inout_ PPN_QUEUE Queue, _In_ ULONG Offset, _In_ ULONG Size, _In_ USHORT Type,
                                   _In_ USHORT Flags)
{
    (VOID)InterlockedExchange64(PnRecordWord(Queue, Offset), (LONG64)PN_RECORD_WORD(Size, Type, Flags));
}

_Use_decl_annotations_
NTSTATUS PnQueueInitialize(PPN_QUEUE Queue, ULONG Capacity)
{
    RtlZeroMemory(Queue, sizeof(*Queue));
    KeInitializeSpinLock(&Queue->Lock);
    Queue->Capacity = Capacity & ~(PN_RECORD_ALIGNMENT - 1);
    Queue->NextSequence = 1;
    Queue->Buffer = ExAllocatePoolWithTag(NonPagedPoolNx, Queue->Capacity, PN_QUEUE_TAG);
    return Queue->Buffer == NULL ? STATUS_INSUFFICIENT_RESOURCES : STATUS_SUCCESS;
}

_Use_decl_annotations_
VOID PnQueueFree(PPN_QUEUE Queue)
{
    if (Queue->Buffer != NULL) {
        ExFreePoolWithTag(Queue->Buffer, PN_QUEUE_TAG);
        Queue->Buffer = NULL;
    }
}

_Use_decl_annotations_
VOID PnQueueCreate(PPN_QUEUE Queue, PROCNOTIFY_CREATE *Create, const VOID *ImageName, const VOID *CommandLine,
                   BOOLEAN Denied)
{
    PN_RESERVATION reservation;
    USHORT flags = Create->Record.Flags;
    BOOLEAN reserved;
    KIRQL irql;
    ULONG offset;
    ULONG length;
    ULONG size;

    /* Both lengths come from a UNICODE_STRING, so the sum stays below 2^18. */
    length = (ULONG)sizeof(*Create) + Create->ImageNameLength + Create->CommandLineLength;
    size = (length + PN_RECORD_ALIGNMENT - 1) & ~(PN_RECORD_ALIGNMENT - 1);

    KeAcquireSpinLock(&Queue->Lock, &irql);
    Queue->Created++;
    Queue->Denied += Denied;
    reserved = PnQueueReserve(Queue, size, &reservation);
    KeReleaseSpinLock(&Queue->Lock, irql);
    if (!reserved) {
        return;
    }

    /* The first eight bytes stay as they were reserved until the commit. */
    Create->Record.Size = size;
    Create->Record.Type = 0;
    Create->Record.Flags = 0;
    Create->Record.Sequence = reservation.Sequence;
    Create->Record.Time = reservation.Time;
    if (length != size) {
        offset = PnAdvance(Queue, reservation.Offset, size - PN_RECORD_ALIGNMENT);
        *PnRecordWord(Queue, offset) = 0;
    }
    offset = reservation.Offset;
    if (PnIsContiguous(Queue, offset, size)) {
        PUCHAR target = Queue->Buffer + offset;

        *(PROCNOTIFY_CREATE *)(VOID *)target = *Create;
        target += sizeof(*Create);
        RtlCopyMemory(target, ImageName, Create->ImageNameLength);
        RtlCopyMemory(target + Create->ImageNameLength, CommandLine, Create->CommandLineLength);
    } else {
        PnRingWrite(Queue, offset, Create, sizeof(*Create));
        offset = PnAdvance(Queue, offset, sizeof(*Create));
        PnRingWrite(Queue, offset, ImageName, Create->ImageNameLength);
        offset = PnAdvance(Queue, offset, Create->ImageNameLength);
        PnRingWrite(Queue, offset, CommandLine, Create->CommandLineLength);
    }
    PnQueueCommit(Queue, reservation.Offset, size, PROCNOTIFY_RECORD_CREATE, flags);
}

_Use_decl_annotations_
VOID PnQueueExit(PPN_QUEUE Queue, PROCNOTIFY_EXIT *Exit)
{
    PN_RESERVATION reservation;
    BOOLEAN reserved;
    KIRQL irql;

    KeAcquireSpinLock(&Queue->Lock, &irql);
    Queue->Exited++;
    reserved = PnQueueReserve(Queue, sizeof(*Exit), &reservation);
    KeReleaseSpinLock(&Queue->Lock, irql);
    if (!reserved) {
        return;
    }

    Exit->Record.Size = sizeof(*Exit);
    Exit->Record.Type = 0;
    Exit->Record.Flags = 0;
    Exit->Record.Sequence = reservation.Sequence;
    Exit->Record.Time = reservation.Time;
    if (PnIsContiguous(Queue, reservation.Offset, sizeof(*Exit))) {
        *(PROCNOTIFY_EXIT *)(VOID *)(Queue->Buffer + reservation.Offset) = *Exit;
    } else {
        PnRingWrite(Queue, reservation.Offset, Exit, sizeof(*Exit));
    }
    PnQueueCommit(Queue, reservation.Offset, sizeof(*Exit), PROCNOTIFY_RECORD_EXIT, 0);
}

_Use_decl_annotations_
BOOLEAN PnQueueIsReadable(PPN_QUEUE Queue)
{
    BOOLEAN readable;
    KIRQL irql;

    KeAcquireSpinLock(&Queue->Lock, &irql);
    if (Queue->Used != 0) {
        readable = PN_WORD_TYPE(*PnRecordWord(Queue, Queue->Head)) != 0;
    } else {
        readable = Queue->LostCount != 0;
    }
    KeReleaseSpinLock(&Queue->Lock, irql);
    return readable;
}

/*
 * Measure the committed records at the head that fit into `Length` bytes. `Next` receives the size of the first
 * committed record that does not fit, or zero.
 */
_IRQL_requires_max_(DISPATCH_LEVEL)
static ULONG PnQueueMeasure(_In_ const PN_QUEUE *Queue, _In_ ULONG Head, _In_ ULONG Used, _In_ ULONG Length,
                            _Out_ PULONG Notifications, _Out_ PULONG Next)
{
    ULONG bytes = 0;

    *Notifications = 0;
    *Next = 0;
    while (bytes < Used) {
        ULONG64 word = (ULONG64)*PnRecordWord(Queue, PnAdvance(Queue, Head, bytes));

        if (PN_WORD_TYPE(word) == 0) {
            break;
        }
        if (PN_WORD_SIZE(word) > Length - bytes) {
            *Next = PN_WORD_SIZE(word);
            break;
        }
        bytes += PN_WORD_SIZE(word);
        *Notifications += PN_WORD_TYPE(word) != PROCNOTIFY_RECORD_GAP;
    }
    return bytes;
}

_Use_decl_annotations_
NTSTATUS PnQueueDrain(PPN_QUEUE Queue, PUCHAR Buffer, ULONG Length, PULONG Moved)
{
    PROCNOTIFY_GAP gap;
    BOOLEAN lost = FALSE;
    ULONG notifications;
    ULONG bytes;
    ULONG head;
    ULONG next;
    ULONG used;
    KIRQL irql;

    KeAcquireSpinLock(&Queue->Lock, &irql);
    head = Queue->Head;
    used = Queue->Used;
    KeReleaseSpinLock(&Queue->Lock, irql);

    /* Only a drain moves the head, so committed records stay where they are while they are copied. */
    bytes = PnQueueMeasure(Queue, head, used, Length, &notifications, &next);
    /* ARM64 might have loaded a record's bytes before the word that says they are all there. */
    KeMemoryBarrier();
    PnRingRead(Queue, head, Buffer, bytes);

    KeAcquireSpinLock(&Queue->Lock, &irql);
    Queue->Head = PnAdvance(Queue, head, bytes);
    Queue->Used -= bytes;
    Queue->Delivered += notifications;
    if (Queue->Used == 0 && Queue->LostCount != 0) {
        if (Length - bytes >= sizeof(gap)) {
            PnFillGap(Queue, &gap);
            Queue->LostCount = 0;
            lost = TRUE;
        } else {
            next = sizeof(gap);
        }
    }
    KeReleaseSpinLock(&Queue->Lock, irql);

    if (lost) {
        RtlCopyMemory(Buffer + bytes, &gap, sizeof(gap));
        bytes += (ULONG)sizeof(gap);
    }
    *Moved = bytes;
    return bytes == 0 && next != 0 ? STATUS_BUFFER_TOO_SMALL : STATUS_SUCCESS;
}

_Use_decl_annotations_
VOID PnQueueStatistics(PPN_QUEUE Queue, PROCNOTIFY_STATISTICS *Statistics)
{
    KIRQL irql;

    KeAcquireSpinLock(&Queue->Lock, &irql);
    Statistics->Created = Queue->Created;
    Statistics->Exited = Queue->Exited;
    Statistics->Denied = Queue->Denied;
    Statistics->Queued = Queue->Queued;
    Statistics->Delivered = Queue->Delivered;
    Statistics->Dropped = Queue->Dropped;
    Statistics->HighWaterBytes = Queue->HighWater;
    Statistics->QueuedBytes = Queue->Used;
    Statistics->NextSequence = Queue->NextSequence;
    if (Queue->Used != 0) {
        Statistics->NextRecordSize = PN_WORD_SIZE((ULONG64)*PnRecordWord(Queue, Queue->Head));
    } else {
        Statistics->NextRecordSize = Queue->LostCount != 0 ? (ULONG)sizeof(PROCNOTIFY_GAP) : 0;
    }
    KeReleaseSpinLock(&Queue->Lock, irql);
}
