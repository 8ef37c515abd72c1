/*
 * csq.c - cancel-safe IRP queues.
 *
 * Follows "Cancel-Safe IRP Queues" and the pages of IoCsqInitialize, IoCsqInsertIrp, IoCsqRemoveNextIrp and
 * IoCsqRemoveIrp on Microsoft Learn: the driver keeps the queue and its lock, these functions call its routines and
 * settle the race between removal and cancellation. Whoever takes the cancel routine out of the IRP owns the IRP.
 *
 * The link between queue and IRP is Tail.Overlay.DriverContext[3], which the documentation reserves for it: it holds the
 * IO_CSQ, or the caller's IO_CSQ_IRP_CONTEXT, which holds both. Type values tell one from the other (csq.h).
 */
#include "kernel.h"

#define STATUS_CANCELLED ((NTSTATUS)0xC0000120)

#define TYPE_CONTEXT 1
#define TYPE_CSQ 2
#define TYPE_CSQ_EX 3

#define SL_PENDING_RETURNED 0x01

/* wdm.h, x64 */
typedef struct irp {
    uint8_t head[0x44];
    uint8_t cancel;
    uint8_t cancel_irql;
    uint8_t middle[0x22];
    void *volatile cancel_routine;
    uint64_t user_buffer;
    void *driver_context[4];
    uint8_t tail[0x20];
    uint8_t *current_stack_location;
} irp;

_Static_assert(offsetof(irp, cancel_routine) == 0x68, "IRP.CancelRoutine");
_Static_assert(offsetof(irp, driver_context) == 0x78, "IRP.Tail.Overlay.DriverContext");
_Static_assert(offsetof(irp, current_stack_location) == 0xB8, "IRP.Tail.Overlay.CurrentStackLocation");

/* csq.h */
typedef struct csq csq;
typedef struct {
    uint32_t type;
    irp *request;
    csq *queue;
} csq_context;

struct csq {
    uint32_t type;
    void *insert;
    void (*remove)(csq *, irp *);
    irp *(*peek_next)(csq *, irp *, void *);
    void (*acquire)(csq *, uint8_t *);
    void (*release)(csq *, uint8_t);
    void (*complete_cancelled)(csq *, irp *);
    void *reserved;
};

_Static_assert(sizeof(csq_context) == 0x18, "IO_CSQ_IRP_CONTEXT");
_Static_assert(sizeof(csq) == 0x40, "IO_CSQ");

typedef void (*insert_routine)(csq *, irp *);
typedef NTSTATUS (*insert_ex_routine)(csq *, irp *, void *);

extern void IoReleaseCancelSpinLock(uint8_t irql);

static void *take_cancel_routine(irp *request)
{
    return __atomic_exchange_n(&request->cancel_routine, NULL, __ATOMIC_SEQ_CST);
}

static void forget(irp *request, csq_context *context)
{
    request->driver_context[3] = NULL;
    if (context != NULL) {
        context->request = NULL;
    }
}

/* The context of a queued IRP, NULL when it was inserted without one. */
static csq_context *context_of(irp *request)
{
    csq_context *link = request->driver_context[3];
    return link != NULL && link->type == TYPE_CONTEXT ? link : NULL;
}

/* DRIVER_CANCEL: entered with the cancel spin lock held. */
static void cancel_queued(void *device, irp *request)
{
    (void)device;
    uint8_t irql;
    csq_context *context = context_of(request);
    csq *queue = context != NULL ? context->queue : request->driver_context[3];

    IoReleaseCancelSpinLock(request->cancel_irql);
    queue->acquire(queue, &irql);
    queue->remove(queue, request);
    forget(request, context);
    queue->release(queue, irql);
    queue->complete_cancelled(queue, request);
}

EXPORT NTSTATUS IoCsqInitialize(csq *queue, void *insert, void (*remove)(csq *, irp *),
                                irp *(*peek_next)(csq *, irp *, void *), void (*acquire)(csq *, uint8_t *),
                                void (*release)(csq *, uint8_t), void (*complete_cancelled)(csq *, irp *))
{
    queue->type = TYPE_CSQ;
    queue->insert = insert;
    queue->remove = remove;
    queue->peek_next = peek_next;
    queue->acquire = acquire;
    queue->release = release;
    queue->complete_cancelled = complete_cancelled;
    queue->reserved = NULL;
    return STATUS_SUCCESS;
}

EXPORT NTSTATUS IoCsqInitializeEx(csq *queue, void *insert, void (*remove)(csq *, irp *),
                                  irp *(*peek_next)(csq *, irp *, void *), void (*acquire)(csq *, uint8_t *),
                                  void (*release)(csq *, uint8_t), void (*complete_cancelled)(csq *, irp *))
{
    IoCsqInitialize(queue, insert, remove, peek_next, acquire, release, complete_cancelled);
    queue->type = TYPE_CSQ_EX;
    return STATUS_SUCCESS;
}

EXPORT NTSTATUS IoCsqInsertIrpEx(csq *queue, irp *request, csq_context *context, void *insert_context)
{
    NTSTATUS status = STATUS_SUCCESS;
    uint8_t irql;

    if (context != NULL) {
        context->type = TYPE_CONTEXT;
        context->request = request;
        context->queue = queue;
        request->driver_context[3] = context;
    } else {
        request->driver_context[3] = queue;
    }
    queue->acquire(queue, &irql);
    /* IoMarkIrpPending comes before the IRP can be seen by anybody else, and stays out when insertion is refused. */
    uint8_t control = request->current_stack_location[3];
    request->current_stack_location[3] = control | SL_PENDING_RETURNED;
    if (queue->type == TYPE_CSQ_EX) {
        status = ((insert_ex_routine)queue->insert)(queue, request, insert_context);
    } else {
        ((insert_routine)queue->insert)(queue, request);
    }
    if (status < 0) {
        request->current_stack_location[3] = control;
        forget(request, context);
        queue->release(queue, irql);
        return status;
    }
    __atomic_exchange_n(&request->cancel_routine, (void *)cancel_queued, __ATOMIC_SEQ_CST);
    if (request->cancel && take_cancel_routine(request) != NULL) {
        /* Cancelled before the routine was set: nobody else will complete it. */
        queue->remove(queue, request);
        forget(request, context);
        queue->release(queue, irql);
        queue->complete_cancelled(queue, request);
        return status;
    }
    queue->release(queue, irql);
    return status;
}

EXPORT void IoCsqInsertIrp(csq *queue, irp *request, csq_context *context)
{
    IoCsqInsertIrpEx(queue, request, context, NULL);
}

EXPORT irp *IoCsqRemoveNextIrp(csq *queue, void *peek_context)
{
    uint8_t irql;
    irp *request = NULL;

    queue->acquire(queue, &irql);
    while ((request = queue->peek_next(queue, request, peek_context)) != NULL) {
        if (take_cancel_routine(request) == NULL) {
            /* Its cancel routine runs and will remove it. */
            continue;
        }
        queue->remove(queue, request);
        forget(request, context_of(request));
        break;
    }
    queue->release(queue, irql);
    return request;
}

EXPORT irp *IoCsqRemoveIrp(csq *queue, csq_context *context)
{
    uint8_t irql;

    queue->acquire(queue, &irql);
    irp *request = context->request;
    if (request != NULL && take_cancel_routine(request) != NULL) {
        queue->remove(queue, request);
        forget(request, context);
    } else {
        request = NULL;
    }
    queue->release(queue, irql);
    return request;
}
