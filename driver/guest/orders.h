/* ntguest's side of the orders that children take (child_orders.h). */
#pragma once

#include "child_orders.h"
#include "text.h"

/* Sends an order with its texts to the child with this pid and, if `reply` is given, waits for the answer. If `text` is
 * given too, it receives the text behind the reply, memory of the caller.
 *
 * `process` is a handle of the child with SYNCHRONIZE access; deadline in milliseconds, for everything together.
 * Returns a Win32 error: ERROR_TIMEOUT when the process takes no orders in time, ERROR_IO_PENDING when it took this one and
 * the answer did not come in time, ERROR_PROCESS_ABORTED when it ended. */
DWORD order_send(ULONG pid, HANDLE process, const ORDER *order, const TEXT *image, const TEXT *command_line,
                 ORDER_REPLY *reply, TEXT *text, ULONG deadline);
