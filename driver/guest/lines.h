/* Lines of standard input or of a file, each of bounded length. */
#pragma once

#include "text.h"

typedef enum LINE_RESULT {
    LINE_READ,
    /* Longer than the limit; it was skipped to its end. */
    LINE_TOO_LONG,
    LINE_NO_MEMORY,
    LINE_END
} LINE_RESULT;

typedef struct LINE_READER {
    HANDLE file;
    SIZE_T limit;
    BYTE chunk[4096];
    ULONG chunk_size;
    ULONG chunk_at;
    BYTE *line;
    SIZE_T size;
    SIZE_T capacity;
} LINE_READER;

void lines_open(LINE_READER *reader, HANDLE file, SIZE_T limit);

/* Reads the next line into `line` and `size`, without its line feed; valid until the next call. */
LINE_RESULT lines_next(LINE_READER *reader);
