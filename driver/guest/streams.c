/* Requests that a thread of their own keeps under way, so that what a driver hands out streams while a plan runs. */

#include "devices.h"

#define STREAMS_MAXIMUM 8u
#define STREAM_DEPTH_MAXIMUM 16u

typedef struct STREAM {
    TEXT name;
    HANDLE stop;
    /* Set when the thread needs the stream no more. Nobody waits for the end of the thread itself: with a request under way
     * that the driver keeps it takes five minutes (Microsoft's page on canceling IRPs). */
    HANDLE ended;
    /* Whether the thread may still ask the device for something; cleared before the last event, which tells so. */
    volatile LONG asking;
    ULONG depth;
    TRANSFER *transfers[STREAM_DEPTH_MAXIMUM];
} STREAM;

static struct {
    STREAM *entries[STREAMS_MAXIMUM];
    ULONG count;
} streams;

static void begin_event(ANSWER *answer, const STREAM *stream, const char *event, ULONGLONG index)
{
    answer_begin(answer);
    answer_ascii(answer, "event", event);
    answer_text(answer, "stream", stream->name.units, stream->name.length);
    answer_number(answer, "index", index);
}

static void send_data(const STREAM *stream, ULONGLONG index, const TRANSFER *transfer)
{
    ANSWER answer;

    begin_event(&answer, stream, "data", index);
    answer_transfer(&answer, transfer);
    answer_send(&answer);
}

/* `failed` is the request that ended the stream, NULL when all of them brought data until it was told to stop. */
static void send_end(const STREAM *stream, ULONGLONG index, const TRANSFER *failed)
{
    ANSWER answer;

    begin_event(&answer, stream, "end", index);
    answer_number(&answer, "win32_error", failed != NULL ? failed->error : ERROR_SUCCESS);
    answer_number(&answer, "status", failed != NULL ? failed->status : 0);
    answer_send(&answer);
}

static void cancel_all(STREAM *stream)
{
    for (ULONG index = 0; index < stream->depth; index++) {
        transfer_cancel(stream->transfers[index]);
    }
}

/* Waits for a request or for the order to stop, then cancels what is left. FALSE when a cancelled one does not end. */
static BOOL await(STREAM *stream, TRANSFER *transfer, BOOL *stopping)
{
    HANDLE handles[2] = {stream->stop, transfer->overlapped.hEvent};

    if (!transfer->ended && !*stopping && WaitForMultipleObjects(2, handles, FALSE, INFINITE) == WAIT_OBJECT_0) {
        *stopping = TRUE;
        cancel_all(stream);
    }
    return transfer_wait(transfer, DEADLINE_DEFAULT);
}

/* Each request in turn, in the order of issue; the first failure or the order to stop ends the stream once all that
 * was issued has come back. What was read until then is sent, so nothing that a driver gave is lost. */
static void pump(STREAM *stream)
{
    BOOL stopping = FALSE;
    ULONG under_way = stream->depth;
    ULONGLONG sent = 0;
    const TRANSFER *failed = NULL;

    for (ULONG index = 0; index < stream->depth; index++) {
        transfer_start(stream->transfers[index]);
    }
    for (ULONG index = 0; under_way > 0; index = (index + 1) % stream->depth) {
        TRANSFER *transfer = stream->transfers[index];

        if (!await(stream, transfer, &stopping)) {
            InterlockedExchange(&stream->asking, FALSE);
            return;
        }
        if (transfer->error == ERROR_SUCCESS || transfer->error == ERROR_MORE_DATA) {
            send_data(stream, sent++, transfer);
        } else if (failed == NULL) {
            failed = transfer;
        }
        if (stopping || failed != NULL || WaitForSingleObject(stream->stop, 0) == WAIT_OBJECT_0) {
            under_way--;
        } else {
            transfer_start(transfer);
        }
        if (failed != NULL && !stopping) {
            stopping = TRUE;
            cancel_all(stream);
        }
    }
    InterlockedExchange(&stream->asking, FALSE);
    send_end(stream, sent, failed);
}

static DWORD WINAPI stream_thread(void *context)
{
    STREAM *stream = context;

    pump(stream);
    SetEvent(stream->ended);
    return 0;
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
    if (stream->ended != NULL) {
        CloseHandle(stream->ended);
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
    stream->asking = TRUE;
    stream->depth = 1;
    stream->transfers[0] = first;
    stream->name = text_copy(name);
    stream->stop = CreateEventW(NULL, TRUE, FALSE, NULL);
    stream->ended = CreateEventW(NULL, TRUE, FALSE, NULL);
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
    if (stream->depth < depth || stream->name.units == NULL || stream->stop == NULL || stream->ended == NULL) {
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

BOOL stream_runs_on(HANDLE device)
{
    for (ULONG index = 0; index < streams.count; index++) {
        const STREAM *stream = streams.entries[index];

        if (stream->transfers[0]->device == device && stream->asking) {
            return TRUE;
        }
    }
    return FALSE;
}

const char *stream_start(REQUEST *request, ANSWER *answer)
{
    TEXT name = request_text(request, "stream", NAME_UNITS_MAXIMUM);
    ULONG depth = (ULONG)request_number(request, "depth", STREAM_DEPTH_MAXIMUM, 1);
    TRANSFER *first;
    STREAM *stream;
    HANDLE thread;

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
    thread = CreateThread(NULL, 0, stream_thread, stream, 0, NULL);
    if (thread == NULL) {
        stream_free(stream);
        return "no-memory";
    }
    CloseHandle(thread);
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
    WaitForSingleObject(stream->ended, INFINITE);
    *place = streams.entries[--streams.count];
    for (ULONG index = 0; index < stream->depth; index++) {
        if (!stream->transfers[index]->ended) {
            /* The driver still owns its buffers, so they are never given back. */
            return "stuck";
        }
    }
    stream_free(stream);
    return NULL;
}
