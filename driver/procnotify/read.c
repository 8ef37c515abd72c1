/*
 * read.c - the one consumer and its reads that wait for a record.
 *
 * Waiting reads are on a cancel-safe queue. Three parties may complete one: the notify routine that brought a record,
 * the canceller, and the cleanup of its handle; whoever removes it from the queue completes it.
 *
 * No record may sit in the queue while a read waits. A reader enters the queue of IRPs and then looks at the records;
 * a notify routine commits its record and then looks at the IRPs; both steps have a full barrier between them.
 * Whoever finds both drains under DrainLock. A notify routine never blocks on that lock: the holder looks again after
 * letting it go.
 */
#include "procnotify_internal.h"

static PPN_READS PnReadsOf(_In_ PIO_CSQ Csq)
{
    return CONTAINING_RECORD(Csq, PN_READS, Csq);
}

_Function_class_(IO_CSQ_INSERT_IRP)
_IRQL_requires_(DISPATCH_LEVEL)
static VOID NTAPI PnCsqInsertIrp(_In_ PIO_CSQ Csq, _In_ PIRP Irp)
{
    PPN_READS reads = PnReadsOf(Csq);

    InsertTailList(&reads->Waiting, &Irp->Tail.Overlay.ListEntry);
    (VOID)InterlockedIncrement(&reads->WaitingCount);
}

_Function_class_(IO_CSQ_REMOVE_IRP)
_IRQL_requires_(DISPATCH_LEVEL)
static VOID NTAPI PnCsqRemoveIrp(_In_ PIO_CSQ Csq, _In_ PIRP Irp)
{
    (VOID)RemoveEntryList(&Irp->Tail.Overlay.ListEntry);
    (VOID)InterlockedDecrement(&PnReadsOf(Csq)->WaitingCount);
}

/* `PeekContext` is the file object whose IRPs are wanted, or NULL for any. */
_Function_class_(IO_CSQ_PEEK_NEXT_IRP)
_IRQL_requires_(DISPATCH_LEVEL)
static PIRP NTAPI PnCsqPeekNextIrp(_In_ PIO_CSQ Csq, _In_opt_ PIRP Irp, _In_opt_ PVOID PeekContext)
{
    PLIST_ENTRY head = &PnReadsOf(Csq)->Waiting;
    PLIST_ENTRY entry = Irp == NULL ? head->Flink : Irp->Tail.Overlay.ListEntry.Flink;

    for (; entry != head; entry = entry->Flink) {
        PIRP candidate = CONTAINING_RECORD(entry, IRP, Tail.Overlay.ListEntry);

        if (PeekContext == NULL || IoGetCurrentIrpStackLocation(candidate)->FileObject == PeekContext) {
            return candidate;
        }
    }
    return NULL;
}

_Function_class_(IO_CSQ_ACQUIRE_LOCK)
_IRQL_requires_max_(DISPATCH_LEVEL)
static VOID NTAPI PnCsqAcquireLock(_In_ PIO_CSQ Csq, _Out_ PKIRQL Irql)
{
    KeAcquireSpinLock(&PnReadsOf(Csq)->Lock, Irql);
}

_Function_class_(IO_CSQ_RELEASE_LOCK)
_IRQL_requires_(DISPATCH_LEVEL)
static VOID NTAPI PnCsqReleaseLock(_In_ PIO_CSQ Csq, _In_ KIRQL Irql)
{
    KeReleaseSpinLock(&PnReadsOf(Csq)->Lock, Irql);
}

_Function_class_(IO_CSQ_COMPLETE_CANCELED_IRP)
_IRQL_requires_max_(DISPATCH_LEVEL)
static VOID NTAPI PnCsqCompleteCanceledIrp(_In_ PIO_CSQ Csq, _In_ PIRP Irp)
{
    UNREFERENCED_PARAMETER(Csq);
    PnComplete(Irp, STATUS_CANCELLED, 0);
}

_Use_decl_annotations_
NTSTATUS PnReadsInitialize(PPN_READS Reads)
{
    RtlZeroMemory(Reads, sizeof(*Reads));
    KeInitializeSpinLock(&Reads->Lock);
    InitializeListHead(&Reads->Waiting);
    ExInitializeFastMutex(&Reads->DrainLock);
    return IoCsqInitialize(&Reads->Csq, PnCsqInsertIrp, PnCsqRemoveIrp, PnCsqPeekNextIrp, PnCsqAcquireLock,
                           PnCsqReleaseLock, PnCsqCompleteCanceledIrp);
}

/* Take the flags of a read, whose input is optional. */
_IRQL_requires_max_(DISPATCH_LEVEL)
static NTSTATUS PnReadFlags(_In_ PIRP Irp, _Out_ PULONG Flags)
{
    ULONG length = IoGetCurrentIrpStackLocation(Irp)->Parameters.DeviceIoControl.InputBufferLength;
    const PROCNOTIFY_READ *input = Irp->AssociatedIrp.SystemBuffer;

    *Flags = 0;
    if (length == 0) {
        return STATUS_SUCCESS;
    }
    if (length != sizeof(*input) || (input->Flags & ~(ULONG)PROCNOTIFY_READ_NO_WAIT) != 0 || input->Reserved != 0) {
        return STATUS_INVALID_PARAMETER;
    }
    *Flags = input->Flags;
    return STATUS_SUCCESS;
}

/* Map the caller's buffer, once: it stays mapped until the IRP completes. An empty buffer has no MDL and stays NULL. */
_IRQL_requires_max_(DISPATCH_LEVEL)
static NTSTATUS PnMapBuffer(_In_ PIRP Irp, _Out_ PUCHAR *Buffer)
{
    *Buffer = NULL;
    if (Irp->MdlAddress == NULL) {
        return STATUS_SUCCESS;
    }
    *Buffer = MmGetSystemAddressForMdlSafe(Irp->MdlAddress, NormalPagePriority | MdlMappingNoExecute);
    return *Buffer == NULL ? STATUS_INSUFFICIENT_RESOURCES : STATUS_SUCCESS;
}

/*
 * Make the handle the consumer if there is none. A read can arrive after its handle's cleanup has run; FsContext, which
 * cleanup sets, keeps it from becoming a consumer that nobody will ever clean up.
 */
_IRQL_requires_max_(DISPATCH_LEVEL)
static NTSTATUS PnClaim(_Inout_ PPN_READS Reads, _In_ PFILE_OBJECT FileObject)
{
    NTSTATUS status = STATUS_SUCCESS;
    KIRQL irql;

    KeAcquireSpinLock(&Reads->Lock, &irql);
    if (FileObject->FsContext != NULL) {
        status = STATUS_CANCELLED;
    } else if (Reads->Consumer == NULL) {
        Reads->Consumer = FileObject;
    } else if (Reads->Consumer != FileObject) {
        status = STATUS_SHARING_VIOLATION;
    }
    KeReleaseSpinLock(&Reads->Lock, irql);
    return status;
}

_IRQL_requires_max_(DISPATCH_LEVEL)
static BOOLEAN PnIsConsumer(_Inout_ PPN_READS Reads, _In_ PFILE_OBJECT FileObject)
{
    BOOLEAN consumer;
    KIRQL irql;

    KeAcquireSpinLock(&Reads->Lock, &irql);
    consumer = Reads->Consumer == FileObject;
    KeReleaseSpinLock(&Reads->Lock, irql);
    return consumer;
}

/* Fill an IRP's buffer, which PnRead has mapped or found empty. */
_Requires_lock_held_(Driver->Reads.DrainLock)
_IRQL_requires_max_(APC_LEVEL)
static NTSTATUS PnFill(_Inout_ PPN_DRIVER Driver, _In_ PIRP Irp, _Out_ PULONG Moved)
{
    ULONG length = IoGetCurrentIrpStackLocation(Irp)->Parameters.DeviceIoControl.OutputBufferLength;
    PUCHAR buffer;
    NTSTATUS status;

    *Moved = 0;
    status = PnMapBuffer(Irp, &buffer);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    return PnQueueDrain(&Driver->Queue, buffer, buffer == NULL ? 0 : length, Moved);
}

/* Take the oldest waiting read and fill it; NULL when none waits or nothing is there to read. */
_Requires_lock_held_(Driver->Reads.DrainLock)
_IRQL_requires_max_(APC_LEVEL)
static PIRP PnTakeFilled(_Inout_ PPN_DRIVER Driver, _Out_ PNTSTATUS Status, _Out_ PULONG Moved)
{
    PIRP irp;

    *Moved = 0;
    *Status = STATUS_SUCCESS;
    /* What is readable under DrainLock stays so: only a drain takes records away. */
    if (!PnQueueIsReadable(&Driver->Queue)) {
        return NULL;
    }
    irp = IoCsqRemoveNextIrp(&Driver->Reads.Csq, NULL);
    if (irp != NULL) {
        *Status = PnFill(Driver, irp, Moved);
    }
    return irp;
}

_Use_decl_annotations_
VOID PnReadsServe(PPN_DRIVER Driver)
{
    NTSTATUS status;
    ULONG moved;
    PIRP irp;

    while (Driver->Reads.WaitingCount != 0 && PnQueueIsReadable(&Driver->Queue)) {
        if (!ExTryToAcquireFastMutex(&Driver->Reads.DrainLock)) {
            return;
        }
        irp = PnTakeFilled(Driver, &status, &moved);
        ExReleaseFastMutex(&Driver->Reads.DrainLock);
        if (irp != NULL) {
            PnComplete(irp, status, moved);
        }
        KeMemoryBarrier();
    }
}

/* Let the read have what is there now. FALSE: nothing was, or older reads wait, and it has to wait too. */
_IRQL_requires_(PASSIVE_LEVEL)
static BOOLEAN PnReadNow(_Inout_ PPN_DRIVER Driver, _In_ PIRP Irp, _In_ BOOLEAN NoWait, _Out_ PNTSTATUS Status,
                         _Out_ PULONG Moved)
{
    *Status = STATUS_SUCCESS;
    *Moved = 0;
    ExAcquireFastMutex(&Driver->Reads.DrainLock);
    if (NoWait || Driver->Reads.WaitingCount == 0) {
        *Status = PnFill(Driver, Irp, Moved);
    }
    ExReleaseFastMutex(&Driver->Reads.DrainLock);
    KeMemoryBarrier();
    PnReadsServe(Driver);
    return NoWait || *Moved != 0 || !NT_SUCCESS(*Status);
}

_Use_decl_annotations_
NTSTATUS PnRead(PPN_DRIVER Driver, PIRP Irp)
{
    PFILE_OBJECT fileObject = IoGetCurrentIrpStackLocation(Irp)->FileObject;
    NTSTATUS status;
    PUCHAR buffer;
    ULONG moved = 0;
    ULONG flags;

    status = PnReadFlags(Irp, &flags);
    if (NT_SUCCESS(status)) {
        status = PnMapBuffer(Irp, &buffer);
    }
    if (NT_SUCCESS(status)) {
        status = PnClaim(&Driver->Reads, fileObject);
    }
    if (!NT_SUCCESS(status) ||
        PnReadNow(Driver, Irp, (flags & PROCNOTIFY_READ_NO_WAIT) != 0, &status, &moved)) {
        PnComplete(Irp, status, moved);
        return status;
    }

    /* From here on the IRP may be gone at any time. */
    IoCsqInsertIrp(&Driver->Reads.Csq, Irp, NULL);
    if (!PnIsConsumer(&Driver->Reads, fileObject)) {
        /* The handle's cleanup ran in between and did not see this IRP. */
        PnReadsCancel(&Driver->Reads, fileObject);
    }
    PnReadsServe(Driver);
    return STATUS_PENDING;
}

_Use_decl_annotations_
VOID PnReadsCancel(PPN_READS Reads, PFILE_OBJECT FileObject)
{
    PIRP irp;

    while ((irp = IoCsqRemoveNextIrp(&Reads->Csq, FileObject)) != NULL) {
        PnComplete(irp, STATUS_CANCELLED, 0);
    }
}

_Use_decl_annotations_
VOID PnReadsCleanup(PPN_READS Reads, PFILE_OBJECT FileObject)
{
    KIRQL irql;

    KeAcquireSpinLock(&Reads->Lock, &irql);
    FileObject->FsContext = Reads;
    if (Reads->Consumer == FileObject) {
        Reads->Consumer = NULL;
    }
    KeReleaseSpinLock(&Reads->Lock, irql);
    PnReadsCancel(Reads, FileObject);
}
