/*
 * io.c - the part of the I/O manager that drivers' code runs through: passing an IRP to a driver.
 *
 * A dispatch routine may wait, so the call to it is made from guest code: the waiting thread then has no host frames.
 * Which routine to call, and what is wrong with the IRP, the host decides (vm/emulated/io/irp.py).
 */
#include "kernel.h"
#include "processor.h"

#define STATUS_INVALID_DEVICE_REQUEST ((NTSTATUS)0xC0000010)

typedef NTSTATUS (*dispatch_routine)(void *device, void *irp);

/* wdm.h, x64: IRP.IoStatus at 0x30. */
typedef struct {
    uint8_t head[0x30];
    NTSTATUS status;
    uint64_t information;
} irp_head;

_Static_assert(offsetof(irp_head, information) == 0x38, "IRP");

extern dispatch_routine HostIoPrepareCall(void *device, void *irp);
extern void HostIoCallReturned(void *device, uint8_t irql_before);
extern void IofCompleteRequest(void *irp, uint8_t boost);

EXPORT NTSTATUS IofCallDriver(void *device, void *irp)
{
    uint8_t irql = CURRENT_IRQL;
    NTSTATUS status = HostIoPrepareCall(device, irp)(device, irp);
    if (CURRENT_IRQL != irql) {
        HostIoCallReturned(device, irql);
    }
    return status;
}

EXPORT NTSTATUS IoCallDriver(void *device, void *irp)
{
    return IofCallDriver(device, irp);
}

/* What a driver's MajorFunction table holds for functions that the driver does not fill in (wdm.h, DRIVER_OBJECT). */
EXPORT NTSTATUS HostInvalidDeviceRequest(void *device, irp_head *irp)
{
    (void)device;
    irp->status = STATUS_INVALID_DEVICE_REQUEST;
    irp->information = 0;
    IofCompleteRequest(irp, 0);
    return STATUS_INVALID_DEVICE_REQUEST;
}

/* Where a system worker thread starts for one work item; the host fills in the call. */
typedef struct {
    void (*routine)(uint64_t, uint64_t, uint64_t);
    uint64_t arguments[3];
} work_call;

extern void HostWorkItemStarts(work_call *item);
extern void HostWorkItemReturned(work_call *item, uint64_t routine);

EXPORT void HostWorker(work_call *item)
{
    work_call call = *item;
    /* The routine may free the item: nothing of it is read after this. */
    HostWorkItemStarts(item);
    call.routine(call.arguments[0], call.arguments[1], call.arguments[2]);
    HostWorkItemReturned(item, (uint64_t)call.routine);
}
