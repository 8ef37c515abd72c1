/* One line of a plan: a flat JSON object whose values are texts, integers, booleans and null. */
#pragma once

#include "text.h"

/* Longest line accepted, its line feed not counted: room for a 1 MiB device buffer in base64 and two longest texts. */
#define REQUEST_LINE_MAXIMUM (4u << 20)
#define REQUEST_MEMBERS_MAXIMUM 32u
#define REQUEST_MESSAGE_SIZE 160u

typedef enum JSON_TYPE { JSON_NULL, JSON_BOOLEAN, JSON_INTEGER, JSON_TEXT } JSON_TYPE;

typedef struct JSON_MEMBER {
    TEXT key;
    JSON_TYPE type;
    BOOL negative;
    /* An integer's magnitude, or 0 and 1 of a boolean. */
    ULONGLONG number;
    TEXT text;
    BOOL used;
} JSON_MEMBER;

/* A parsed line. The first mistake found in it, by the parser or by a getter, stays in `message` (ASCII). */
typedef struct REQUEST {
    JSON_MEMBER members[REQUEST_MEMBERS_MAXIMUM];
    ULONG count;
    BOOL failed;
    char message[REQUEST_MESSAGE_SIZE];
    /* Texts of all members, owned by the request. */
    WCHAR *units;
} REQUEST;

/* Parses `length` bytes of UTF-8. FALSE with `message` set for anything that is not one flat object; never reads
 * outside. The request must be given to request_free in either case. */
BOOL request_parse(REQUEST *request, const BYTE *line, SIZE_T length);
void request_free(REQUEST *request);

/* Notes a mistake: `what` and, unless NULL, the key in quotation marks. Later ones are ignored. */
void request_fail(REQUEST *request, const char *what, const char *key);

/* The member, marked as used; NULL when it is missing or null. */
const JSON_MEMBER *request_member(REQUEST *request, const char *key);

/* A required text of 1 to `limit` units; absent, with the mistake noted, when it is not that. */
TEXT request_text(REQUEST *request, const char *key, ULONG limit);

/* An optional text of at most `limit` units, whatever they are. */
TEXT request_any_text(REQUEST *request, const char *key, ULONG limit);

/* An optional text of at most `limit` units, for texts that go to Windows: a NUL within is a mistake. */
TEXT request_optional_text(REQUEST *request, const char *key, ULONG limit);

/* An optional integer of 0 to `limit`; `missing` when there is none. */
ULONGLONG request_number(REQUEST *request, const char *key, ULONGLONG limit, ULONGLONG missing);
ULONGLONG request_required_number(REQUEST *request, const char *key, ULONGLONG limit);

/* An optional boolean, FALSE when it is missing. */
BOOL request_flag(REQUEST *request, const char *key);

/* Optional bytes in base64, at most `limit`; memory of the caller, NULL for none (or on a mistake). */
BYTE *request_bytes(REQUEST *request, const char *key, ULONG limit, ULONG *size);

/* To be called when all is read: notes a member that nobody asked for. TRUE when there was no mistake at all. */
BOOL request_complete(REQUEST *request);
