#include "lines.h"

void lines_open(LINE_READER *reader, HANDLE file, SIZE_T limit)
{
    memset(reader, 0, sizeof(*reader));
    reader->file = file;
    reader->limit = limit;
}

static BOOL fill(LINE_READER *reader)
{
    DWORD size = 0;

    if (!ReadFile(reader->file, reader->chunk, sizeof(reader->chunk), &size, NULL)) {
        size = 0;
    }
    reader->chunk_at = 0;
    reader->chunk_size = size;
    return size > 0;
}

static BOOL append(LINE_READER *reader, const BYTE *bytes, SIZE_T count)
{
    if (reader->capacity - reader->size < count) {
        SIZE_T capacity = (reader->size + count) * 2;
        BYTE *line = memory_get(capacity);

        if (line == NULL) {
            return FALSE;
        }
        if (reader->size != 0) {
            memcpy(line, reader->line, reader->size);
        }
        memory_free(reader->line);
        reader->line = line;
        reader->capacity = capacity;
    }
    memcpy(reader->line + reader->size, bytes, count);
    reader->size += count;
    return TRUE;
}

LINE_RESULT lines_next(LINE_READER *reader)
{
    LINE_RESULT result = LINE_READ;
    BOOL any = FALSE;

    reader->size = 0;
    for (;;) {
        ULONG first;
        ULONG at;

        if (reader->chunk_at == reader->chunk_size && !fill(reader)) {
            return any ? result : LINE_END;
        }
        any = TRUE;
        first = at = reader->chunk_at;
        while (at < reader->chunk_size && reader->chunk[at] != '\n') {
            at++;
        }
        if (result == LINE_READ) {
            if (at - first > reader->limit - reader->size) {
                result = LINE_TOO_LONG;
            } else if (at > first && !append(reader, reader->chunk + first, at - first)) {
                result = LINE_NO_MEMORY;
            }
        }
        if (at < reader->chunk_size) {
            reader->chunk_at = at + 1;
            return result;
        }
        reader->chunk_at = at;
    }
}
