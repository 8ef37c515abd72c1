#include "json_answer.h"

/* Nobody reads the answers, so there is no one to work for; closing the job ends every process of the plan. */
#define EXIT_OUTPUT_LOST 3

static const char no_memory[] = "{\"ok\": false, \"error\": \"no-memory\", \"message\": \"no memory for the answer\"}\n";

static struct {
    HANDLE file;
    SRWLOCK lock;
} output = {NULL, SRWLOCK_INIT};

void answers_open(HANDLE file)
{
    output.file = file;
}

static BOOL reserve(ANSWER *answer, SIZE_T more)
{
    if (answer->failed) {
        return FALSE;
    }
    if (answer->capacity - answer->size < more) {
        SIZE_T capacity = (answer->size + more) * 2;
        char *data = memory_get(capacity);

        if (data == NULL) {
            answer->failed = TRUE;
            return FALSE;
        }
        if (answer->size != 0) {
            memcpy(data, answer->data, answer->size);
        }
        memory_free(answer->data);
        answer->data = data;
        answer->capacity = capacity;
    }
    return TRUE;
}

static void put(ANSWER *answer, const char *text)
{
    SIZE_T length = 0;

    while (text[length] != '\0') {
        length++;
    }
    if (reserve(answer, length)) {
        memcpy(answer->data + answer->size, text, length);
        answer->size += length;
    }
}

static void put_key(ANSWER *answer, const char *key)
{
    put(answer, answer->size > 1 ? ", \"" : "\"");
    put(answer, key);
    put(answer, "\": ");
}

void answer_begin(ANSWER *answer)
{
    memset(answer, 0, sizeof(*answer));
    put(answer, "{");
}

void answer_number(ANSWER *answer, const char *key, ULONGLONG value)
{
    char digits[21];
    ULONG at = sizeof(digits) - 1;

    digits[at] = '\0';
    do {
        digits[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value != 0);
    put_key(answer, key);
    put(answer, digits + at);
}

void answer_boolean(ANSWER *answer, const char *key, BOOL value)
{
    put_key(answer, key);
    put(answer, value ? "true" : "false");
}

void answer_null(ANSWER *answer, const char *key)
{
    put_key(answer, key);
    put(answer, "null");
}

void answer_optional_number(ANSWER *answer, const char *key, BOOL known, ULONGLONG value)
{
    if (known) {
        answer_number(answer, key, value);
    } else {
        answer_null(answer, key);
    }
}

static void put_unit(ANSWER *answer, WCHAR unit)
{
    static const char digits[] = "0123456789abcdef";
    char *at = answer->data + answer->size;

    if (unit >= 0x20 && unit < 0x7F && unit != '"' && unit != '\\') {
        *at = (char)unit;
        answer->size++;
        return;
    }
    at[0] = '\\';
    if (unit == '"' || unit == '\\') {
        at[1] = (char)unit;
        answer->size += 2;
        return;
    }
    at[1] = 'u';
    for (int place = 0; place < 4; place++) {
        at[2 + place] = digits[unit >> (12 - 4 * place) & 0xF];
    }
    answer->size += 6;
}

void answer_text(ANSWER *answer, const char *key, const WCHAR *units, SIZE_T length)
{
    if (units == NULL) {
        answer_null(answer, key);
        return;
    }
    put_key(answer, key);
    put(answer, "\"");
    if (reserve(answer, length * 6)) {
        for (SIZE_T index = 0; index < length; index++) {
            put_unit(answer, units[index]);
        }
    }
    put(answer, "\"");
}

void answer_ascii(ANSWER *answer, const char *key, const char *value)
{
    put_key(answer, key);
    put(answer, "\"");
    for (; *value != '\0'; value++) {
        if (reserve(answer, 6)) {
            put_unit(answer, (BYTE)*value);
        }
    }
    put(answer, "\"");
}

void answer_bytes(ANSWER *answer, const char *key, const BYTE *bytes, SIZE_T size)
{
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    put_key(answer, key);
    put(answer, "\"");
    if (reserve(answer, (size + 2) / 3 * 4)) {
        for (SIZE_T index = 0; index < size; index += 3) {
            SIZE_T left = size - index;
            char *at = answer->data + answer->size;
            ULONG group = (ULONG)bytes[index] << 16 | (ULONG)(left > 1 ? bytes[index + 1] : 0) << 8 |
                          (ULONG)(left > 2 ? bytes[index + 2] : 0);

            at[0] = alphabet[group >> 18];
            at[1] = alphabet[group >> 12 & 0x3F];
            at[2] = (char)(left > 1 ? alphabet[group >> 6 & 0x3F] : '=');
            at[3] = (char)(left > 2 ? alphabet[group & 0x3F] : '=');
            answer->size += 4;
        }
    }
    put(answer, "\"");
}

static void write_whole(const char *data, SIZE_T size)
{
    while (size > 0) {
        DWORD written = 0;

        if (!WriteFile(output.file, data, (DWORD)(size < (1u << 20) ? size : 1u << 20), &written, NULL) ||
            written == 0) {
            ExitProcess(EXIT_OUTPUT_LOST);
        }
        data += written;
        size -= written;
    }
}

void answer_send(ANSWER *answer)
{
    put(answer, "}\n");
    AcquireSRWLockExclusive(&output.lock);
    if (answer->failed) {
        write_whole(no_memory, sizeof(no_memory) - 1);
    } else {
        write_whole(answer->data, answer->size);
    }
    ReleaseSRWLockExclusive(&output.lock);
    memory_free(answer->data);
    answer->data = NULL;
}
