/* Answers and events: one JSON object a line on standard output, in ASCII. */
#pragma once

#include "text.h"

/* An object being written. A failed allocation turns the whole line into an error object. */
typedef struct ANSWER {
    char *data;
    SIZE_T size;
    SIZE_T capacity;
    BOOL failed;
} ANSWER;

/* Names the file that lines go to; to be called once, before any other thread runs. */
void answers_open(HANDLE output);

void answer_begin(ANSWER *answer);
void answer_number(ANSWER *answer, const char *key, ULONGLONG value);
void answer_boolean(ANSWER *answer, const char *key, BOOL value);
void answer_null(ANSWER *answer, const char *key);

/* A number, or null where it is not known. */
void answer_optional_number(ANSWER *answer, const char *key, BOOL known, ULONGLONG value);

/* A text of ASCII characters. */
void answer_ascii(ANSWER *answer, const char *key, const char *value);

/* A text of any UTF-16 units: what is not printable ASCII is escaped, so lone surrogates survive. NULL gives null. */
void answer_text(ANSWER *answer, const char *key, const WCHAR *units, SIZE_T length);

/* Bytes in base64. */
void answer_bytes(ANSWER *answer, const char *key, const BYTE *bytes, SIZE_T size);

/* Writes the line and frees the answer. Lines of several threads do not mix. Ends the program when nobody reads. */
void answer_send(ANSWER *answer);
