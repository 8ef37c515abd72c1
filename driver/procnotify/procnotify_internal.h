/*
 * procnotify_internal.h - the driver's state and what its modules offer each other.
 *
 *   entry.c       loading and unloading, in order and in reverse
 *   security.c    the device's DACL
 *   device.c      dispatch routines and the control interface
 *   read.c        the one consumer and its waiting reads
 *   notify.c      the process notify routine
 *   rules.c       what is denied
 *   queue.c       records on their way to the reader
 *   ../common     what other drivers share: the service's registry values
 *
 * Lock order: PN_RULES.Lock and PN_READS.DrainLock are never held together; the spin locks are leaves. No lock is
 * held when an IRP is completed.
 */
#ifndef PROCNOTIFY_INTERNAL_H
#define PROCNOTIFY_INTERNAL_H

#include "ntproof_compat.h"
#include "procnotify.h"
#include "queue.h"
#include "rules.h"

#define PN_WIDEN_(Text) L##Text
#define PN_WIDEN(Text) PN_WIDEN_(Text)

typedef struct _PN_READS {
    IO_CSQ Csq;
    KSPIN_LOCK Lock;           /* guards what follows */
    LIST_ENTRY Waiting;        /* IRPs, oldest first */
    volatile LONG WaitingCount;
    PFILE_OBJECT Consumer;     /* identity only, never dereferenced; NULL when there is none */
    FAST_MUTEX DrainLock;      /* one drain of the queue at a time */
} PN_READS, *PPN_READS;

typedef struct _PN_DRIVER {
    PN_RULES Rules;
    PN_QUEUE Queue;
    PN_READS Reads;
    PDEVICE_OBJECT Device;
} PN_DRIVER, *PPN_DRIVER;

/* A process notify routine has no context argument, so the state is a global. */
extern PN_DRIVER PnDriver;

/* security.c: let only SYSTEM and Administrators open the device, while it still refuses opens. */
_IRQL_requires_(PASSIVE_LEVEL)
_Must_inspect_result_
NTSTATUS PnRestrictDevice(_In_ PDEVICE_OBJECT Device);

/* device.c */
_Dispatch_type_(IRP_MJ_CREATE)
_Dispatch_type_(IRP_MJ_CLOSE)
DRIVER_DISPATCH PnDispatchCreateClose;

_Dispatch_type_(IRP_MJ_CLEANUP)
DRIVER_DISPATCH PnDispatchCleanup;

_Dispatch_type_(IRP_MJ_DEVICE_CONTROL)
DRIVER_DISPATCH PnDispatchControl;

_IRQL_requires_max_(DISPATCH_LEVEL)
VOID PnComplete(_In_ PIRP Irp, _In_ NTSTATUS Status, _In_ ULONG_PTR Information);

/* read.c */
_IRQL_requires_(PASSIVE_LEVEL)
_Must_inspect_result_
NTSTATUS PnReadsInitialize(_Out_ PPN_READS Reads);

/* IOCTL_PROCNOTIFY_READ: completes the IRP or leaves it waiting. */
_IRQL_requires_(PASSIVE_LEVEL)
NTSTATUS PnRead(_Inout_ PPN_DRIVER Driver, _In_ PIRP Irp);

/* Complete waiting reads for as long as there is something to read. Never blocks on another drain. */
_IRQL_requires_max_(APC_LEVEL)
VOID PnReadsServe(_Inout_ PPN_DRIVER Driver);

/* Cleanup of a file object: cancel its waiting reads and let another handle become the consumer. */
_IRQL_requires_(PASSIVE_LEVEL)
VOID PnReadsCleanup(_Inout_ PPN_READS Reads, _In_ PFILE_OBJECT FileObject);

/* Cancel the waiting reads of one file object, or of all for NULL. */
_IRQL_requires_max_(APC_LEVEL)
VOID PnReadsCancel(_Inout_ PPN_READS Reads, _In_opt_ PFILE_OBJECT FileObject);

/* notify.c: PCREATE_PROCESS_NOTIFY_ROUTINE_EX. */
_IRQL_requires_(PASSIVE_LEVEL)
VOID NTAPI PnProcessNotify(_Inout_ PEPROCESS Process, _In_ HANDLE ProcessId,
                           _Inout_opt_ PPS_CREATE_NOTIFY_INFO CreateInfo);

#endif /* PROCNOTIFY_INTERNAL_H */
