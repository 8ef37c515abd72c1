/* The open devices of a plan, by name. */
#pragma once

#include "agent.h"
#include "transfers.h"

/* A request that names its device in `device` and says what to do: `code` and `input` in base64 for a control,
 * `output_size` in bytes. NULL, with the mistake noted, when it is malformed; not started. */
TRANSFER *device_transfer(REQUEST *request, TRANSFER_KIND kind);

/* Writes how a request ended: win32_error, status, information, time, and the output in base64. */
void answer_transfer(ANSWER *answer, const TRANSFER *transfer);
