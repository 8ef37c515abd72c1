/* Requests that a thread of their own keeps under way, so that what a driver hands out streams while a plan runs. */

#include "devices.h"

#define STREAMS_MAXIMUM 8u
#define STREAM_DEPTH_MAXIMUM 16u

typedef struct STREAM {
    TEXT name;
    HANDLE thread;
    HANDLE stop;
    ULONG depth;
    TRANSFER *transfers[STREAM_DEPTH_MAXIMUM];
} STREAM;

static struct {
    STREAM *entries[STREAMS_MAXIMUM];
    ULONG count;
} streams;

static void send_event(const STREAM *stream, const char *event, ULONGLONG index, const TRANSFER *transfer)
{
    ANSWER answer;

    answer_begin(&answer);
    answer_ascii(&answer, "event", event);
    answer_text(&answer, "stream", stream->name.units, stream->name.length);
    answer_number(&answer, "index", index);
    answer_transfer(&answer, transfer);
    answer_send(&answer);
}

/* Waits for a request or for the order to stop, then cancels what is left. FALSE when a cancelled one does not end. */
static BOOL await(STREAM *stream, TRANSFER *transfer, BOOL *stopping)
{
    HANDLE handles[2] = {stream->stop, transfer->overlapped.hEvent};

    if (!transfer->ended && !*stopping && WaitForMultipleObjects(2, handles, FALSE, INFINITE) == WAIT_OBJECT_0) {
        *stopping = TRUE;
        for (ULONG index = 0; index < stream->depth; index++) {
            transfer_cancel(stream->transfers[index]);
        }
    }
    return transfer_wait(transfer, DEADLINE_DEFAULT);
}

/* Each request in turn, in the order of issue; the first failure or the order to stop ends the stream once all that
 * was issued has come back. What was read until then is sent, so nothing that a driver gave is lost. */
static DWORD WINAPI stream_thread(void *context)
{
    STREAM *stream = context;
    BOOL stopping = FALSE;
    BOOL failed = FALSE;
    ULONG under_way = stream->depth;
    ULONGLONG sent = 0;
    const TRANSFER *last = stream->transfers[0];

    for (ULONG index = 0; index < stream->depth; index++) {
        transfer_start(stream->transfers[index]);
    }
    for (ULONG index = 0; under_way > 0; index = (index + 1) % stream->depth) {
        TRANSFER *transfer = stream->transfers[index];

        if (!await(stream, transfer, &stopping)) {
            return ERROR_IO_PENDING;
        }
        if (transfer->error == ERROR_SUCCESS || transfer->error == ERROR_MORE_DATA) {
            send_event(stream, "data", sent++, transfer);
        } else if (!failed) {
            failed = TRUE;
            last = transfer;
        }
        if (stopping || failed || WaitForSingleObject(stream->stop, 0) == WAIT_OBJECT_0) {
            under_way--;
        } else {
            transfer_start(transfer);
        }
        if (failed && !stopping) {
            stopping = TRUE;
            for (ULONG other = 0; other < stream->depth; other++) {
                transfer_cancel(stream->transfers[other]);
            }
        }
    }
    send_event(stream, "end", sent, last);
    return ERROR_SUCCESS;
}

static void stream_free(STREAM *stream)
{
    for (ULONG index = 0; index < stream->depth; index++) {
        if (stream->transfers[index] != NULL) {
            transfer_free(stream->transfers[index]);
        }
    }
    if (stream->stop != NULL) {
        CloseHandle(stream->stop);
    }
    memory_free(stream->name.units);
    memory_free(stream);
}

static BYTE *copy_bytes(const BYTE *bytes, ULONG size)
{
    BYTE *copy = memory_get((SIZE_T)size + 1);

    if (copy != NULL && size != 0) {
        memcpy(copy, bytes, size);
    }
    return copy;
}

/* A stream whose requests are all like `first`, which it takes over; NULL when there is no memory. */
static STREAM *stream_new(const TEXT *name, TRANSFER *first, ULONG depth)
{
    STREAM *stream = memory_get(sizeof(*stream));

    if (stream == NULL) {
        transfer_free(first);
        return NULL;
    }
    stream->depth = 1;
    stream->transfers[0] = first;
    stream->name = text_copy(name);
    stream->stop = CreateEventW(NULL, TRUE, FALSE, NULL);
    for (; stream->depth < depth; stream->depth++) {
        BYTE *input = copy_bytes(first->input, first->input_size);
        TRANSFER *further = input == NULL ? NULL
                                          : transfer_new(first->device, TRANSFER_CONTROL, first->code, input,
                                                         first->input_size, first->output_size);

        if (further == NULL) {
            break;
        }
        stream->transfers[stream->depth] = further;
    }
    if (stream->depth < depth || stream->name.units == NULL || stream->stop == NULL) {
        stream_free(stream);
        return NULL;
    }
    return stream;
}

static STREAM **find_stream(const TEXT *name)
{
    for (ULONG index = 0; index < streams.count; index++) {
        if (text_equal(&streams.entries[index]->name, name)) {
            return &streams.entries[index];
        }
    }
    return NULL;
}

const char *stream_start(REQUEST *request, ANSWER *answer)
{
    TEXT name = request_text(request, "stream", NAME_UNITS_MAXIMUM);
    ULONG depth = (ULONG)request_number(request, "depth", STREAM_DEPTH_MAXIMUM, 1);
    TRANSFER *first;
    STREAM *stream;

    if (name.units != NULL && find_stream(&name) != NULL) {
        request_fail(request, "a stream has this name already; stop it first", NULL);
    }
    if (streams.count == STREAMS_MAXIMUM) {
        request_fail(request, "too many streams run; stop some first", NULL);
    }
    if (depth == 0) {
        request_fail(request, "the integer is out of range in", "depth");
    }
    first = device_transfer(request, TRANSFER_CONTROL);
    if (first == NULL) {
        return NULL;
    }
    stream = stream_new(&name, first, depth);
    if (stream == NULL) {
        return "no-memory";
    }
    stream->thread = CreateThread(NULL, 0, stream_thread, stream, 0, NULL);
    if (stream->thread == NULL) {
        stream_free(stream);
        return "no-memory";
    }
    streams.entries[streams.count++] = stream;
    answer_number(answer, "depth", depth);
    return NULL;
}

const char *stream_stop(REQUEST *request, ANSWER *answer)
{
    TEXT name = request_text(request, "stream", NAME_UNITS_MAXIMUM);
    STREAM **place = name.units != NULL ? find_stream(&name) : NULL;
    STREAM *stream;

    (void)answer;
    if (place == NULL) {
        request_fail(request, "there is no such stream in", "stream");
    }
    if (!request_complete(request)) {
        return NULL;
    }
    stream = *place;
    SetEvent(stream->stop);
    /* The thread itself gives each cancelled request a deadline. */
    WaitForSingleObject(stream->thread, INFINITE);
    *place = streams.entries[--streams.count];
    CloseHandle(stream->thread);
    for (ULONG index = 0; index < stream->depth; index++) {
        if (!stream->transfers[index]->ended) {
            /* The driver still owns its buffers, so they are never given back. */
            return "stuck";
        }
    }
    stream_free(stream);
    return NULL;
}
