#include "json_request.h"

typedef struct PARSER {
    REQUEST *request;
    const BYTE *at;
    const BYTE *end;
    /* Where the next decoded unit goes. Each byte of a line gives at most one unit, each text one NUL more. */
    WCHAR *next;
} PARSER;

static void message_append(REQUEST *request, const char *text)
{
    ULONG length = 0;

    while (request->message[length] != '\0') {
        length++;
    }
    while (*text != '\0' && length + 1 < REQUEST_MESSAGE_SIZE) {
        request->message[length++] = *text++;
    }
    request->message[length] = '\0';
}

void request_fail(REQUEST *request, const char *what, const char *key)
{
    if (request->failed) {
        return;
    }
    request->failed = TRUE;
    request->message[0] = '\0';
    message_append(request, what);
    if (key != NULL) {
        message_append(request, " '");
        message_append(request, key);
        message_append(request, "'");
    }
}

static BOOL fail(PARSER *parser, const char *what)
{
    request_fail(parser->request, what, NULL);
    return FALSE;
}

static void skip_blanks(PARSER *parser)
{
    while (parser->at < parser->end &&
           (*parser->at == ' ' || *parser->at == '\t' || *parser->at == '\r' || *parser->at == '\n')) {
        parser->at++;
    }
}

static BOOL accept(PARSER *parser, BYTE byte)
{
    skip_blanks(parser);
    if (parser->at < parser->end && *parser->at == byte) {
        parser->at++;
        return TRUE;
    }
    return FALSE;
}

static int hexadecimal(BYTE byte)
{
    if (byte >= '0' && byte <= '9') {
        return byte - '0';
    }
    if (byte >= 'a' && byte <= 'f') {
        return byte - 'a' + 10;
    }
    return byte >= 'A' && byte <= 'F' ? byte - 'A' + 10 : -1;
}

static BOOL parse_escape(PARSER *parser)
{
    static const char escapes[] = "\"\"\\\\//b\bf\fn\nr\rt\t";
    BYTE kind;
    ULONG unit = 0;

    if (parser->at == parser->end) {
        return fail(parser, "a text does not end");
    }
    kind = *parser->at++;
    if (kind != 'u') {
        for (ULONG index = 0; index + 1 < sizeof(escapes); index += 2) {
            if (kind == (BYTE)escapes[index]) {
                *parser->next++ = (WCHAR)escapes[index + 1];
                return TRUE;
            }
        }
        return fail(parser, "a text holds an unknown escape");
    }
    if (parser->end - parser->at < 4) {
        return fail(parser, "\\u needs four hexadecimal digits");
    }
    for (int place = 0; place < 4; place++) {
        int digit = hexadecimal(*parser->at++);

        if (digit < 0) {
            return fail(parser, "\\u needs four hexadecimal digits");
        }
        unit = unit << 4 | (ULONG)digit;
    }
    *parser->next++ = (WCHAR)unit;
    return TRUE;
}

/* One UTF-8 sequence (RFC 3629): shortest form only, no surrogates, nothing above U+10FFFF. */
static BOOL parse_utf8(PARSER *parser)
{
    BYTE first = *parser->at++;
    ULONG more = first >= 0xF0 ? 3 : first >= 0xE0 ? 2 : 1;
    ULONG code = first & (0x3Fu >> more);
    static const ULONG least[] = {0, 0x80, 0x800, 0x10000};

    if (first < 0xC2 || first > 0xF4 || (SIZE_T)(parser->end - parser->at) < more) {
        return fail(parser, "a text is not UTF-8");
    }
    for (ULONG index = 0; index < more; index++) {
        BYTE byte = *parser->at++;

        if ((byte & 0xC0) != 0x80) {
            return fail(parser, "a text is not UTF-8");
        }
        code = code << 6 | (byte & 0x3Fu);
    }
    if (code < least[more] || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) {
        return fail(parser, "a text is not UTF-8");
    }
    if (code >= 0x10000) {
        *parser->next++ = (WCHAR)(0xD800 + ((code - 0x10000) >> 10));
        code = 0xDC00 + ((code - 0x10000) & 0x3FF);
    }
    *parser->next++ = (WCHAR)code;
    return TRUE;
}

/* The rest of a text, its opening quotation mark read. */
static BOOL parse_text(PARSER *parser, TEXT *text)
{
    text->units = parser->next;
    while (parser->at < parser->end) {
        BYTE byte = *parser->at;

        if (byte == '"') {
            parser->at++;
            text->length = (ULONG)(parser->next - text->units);
            *parser->next++ = L'\0';
            return TRUE;
        }
        if (byte == '\\') {
            parser->at++;
            if (!parse_escape(parser)) {
                return FALSE;
            }
        } else if (byte >= 0x80) {
            if (!parse_utf8(parser)) {
                return FALSE;
            }
        } else if (byte < 0x20) {
            return fail(parser, "a text holds a control character; write it as \\u00XX");
        } else {
            *parser->next++ = byte;
            parser->at++;
        }
    }
    return fail(parser, "a text does not end");
}

static BOOL parse_integer(PARSER *parser, JSON_MEMBER *member)
{
    const BYTE *first;

    member->type = JSON_INTEGER;
    if (*parser->at == '-') {
        member->negative = TRUE;
        parser->at++;
    }
    for (first = parser->at; parser->at < parser->end && *parser->at >= '0' && *parser->at <= '9'; parser->at++) {
        ULONG digit = *parser->at - '0';

        if (member->number > (MAXULONGLONG - digit) / 10) {
            return fail(parser, "an integer has more than 64 bits");
        }
        member->number = member->number * 10 + digit;
    }
    if (parser->at == first || (*first == '0' && parser->at - first > 1)) {
        return fail(parser, "expected a value");
    }
    if (parser->at < parser->end && (*parser->at == '.' || *parser->at == 'e' || *parser->at == 'E')) {
        return fail(parser, "a number must be an integer");
    }
    return TRUE;
}

static BOOL accept_word(PARSER *parser, const char *word)
{
    SIZE_T length = 0;

    while (word[length] != '\0') {
        length++;
    }
    if ((SIZE_T)(parser->end - parser->at) < length || memcmp(parser->at, word, length) != 0) {
        return FALSE;
    }
    parser->at += length;
    return TRUE;
}

static BOOL parse_value(PARSER *parser, JSON_MEMBER *member)
{
    skip_blanks(parser);
    if (parser->at == parser->end) {
        return fail(parser, "expected a value");
    }
    if (accept(parser, '"')) {
        member->type = JSON_TEXT;
        return parse_text(parser, &member->text);
    }
    if (accept_word(parser, "null")) {
        member->type = JSON_NULL;
        return TRUE;
    }
    if (accept_word(parser, "true") || accept_word(parser, "false")) {
        member->type = JSON_BOOLEAN;
        member->number = parser->at[-2] == 'u';
        return TRUE;
    }
    if (*parser->at == '{' || *parser->at == '[') {
        return fail(parser, "a value must be a text, an integer, true, false or null");
    }
    return parse_integer(parser, member);
}

static BOOL parse_member(PARSER *parser)
{
    REQUEST *request = parser->request;
    JSON_MEMBER *member = &request->members[request->count];

    if (request->count == REQUEST_MEMBERS_MAXIMUM) {
        return fail(parser, "an object has too many members");
    }
    if (!accept(parser, '"')) {
        return fail(parser, "expected a key in quotation marks");
    }
    if (!parse_text(parser, &member->key)) {
        return FALSE;
    }
    for (ULONG index = 0; index < request->count; index++) {
        if (text_equal(&request->members[index].key, &member->key)) {
            return fail(parser, "a key is given twice");
        }
    }
    if (!accept(parser, ':')) {
        return fail(parser, "expected ':' after a key");
    }
    if (!parse_value(parser, member)) {
        return FALSE;
    }
    request->count++;
    return TRUE;
}

BOOL request_parse(REQUEST *request, const BYTE *line, SIZE_T length)
{
    PARSER parser = {request, line, line + length, NULL};

    memset(request, 0, sizeof(*request));
    request->units = memory_get((length + 2 * REQUEST_MEMBERS_MAXIMUM + 2) * sizeof(WCHAR));
    if (request->units == NULL) {
        return fail(&parser, "there is no memory for the line");
    }
    parser.next = request->units;
    if (!accept(&parser, '{')) {
        return fail(&parser, "expected an object");
    }
    if (!accept(&parser, '}')) {
        do {
            if (!parse_member(&parser)) {
                return FALSE;
            }
        } while (accept(&parser, ','));
        if (!accept(&parser, '}')) {
            return fail(&parser, "expected ',' or '}' after a value");
        }
    }
    skip_blanks(&parser);
    return parser.at == parser.end ? TRUE : fail(&parser, "something follows the object");
}

void request_free(REQUEST *request)
{
    memory_free(request->units);
    request->units = NULL;
    request->count = 0;
}

const JSON_MEMBER *request_member(REQUEST *request, const char *key)
{
    for (ULONG index = 0; index < request->count; index++) {
        JSON_MEMBER *member = &request->members[index];

        if (text_is(&member->key, key)) {
            member->used = TRUE;
            return member->type == JSON_NULL ? NULL : member;
        }
    }
    return NULL;
}

TEXT request_any_text(REQUEST *request, const char *key, ULONG limit)
{
    const JSON_MEMBER *member = request_member(request, key);
    TEXT absent = {NULL, 0};

    if (member == NULL) {
        return absent;
    }
    if (member->type != JSON_TEXT) {
        request_fail(request, "expected a text in", key);
    } else if (member->text.length > limit) {
        request_fail(request, "the text is too long in", key);
    } else {
        return member->text;
    }
    return absent;
}

TEXT request_optional_text(REQUEST *request, const char *key, ULONG limit)
{
    TEXT text = request_any_text(request, key, limit);

    if (text.units != NULL && text_has_nul(&text)) {
        request_fail(request, "the text holds a NUL in", key);
        text.units = NULL;
        text.length = 0;
    }
    return text;
}

TEXT request_text(REQUEST *request, const char *key, ULONG limit)
{
    TEXT text = request_optional_text(request, key, limit);

    if (text.length == 0) {
        request_fail(request, "expected a text that is not empty in", key);
        text.units = NULL;
    }
    return text;
}

ULONGLONG request_number(REQUEST *request, const char *key, ULONGLONG limit, ULONGLONG missing)
{
    const JSON_MEMBER *member = request_member(request, key);

    if (member == NULL) {
        return missing;
    }
    if (member->type != JSON_INTEGER) {
        request_fail(request, "expected an integer in", key);
    } else if (member->negative || member->number > limit) {
        request_fail(request, "the integer is out of range in", key);
    } else {
        return member->number;
    }
    return missing;
}

ULONGLONG request_required_number(REQUEST *request, const char *key, ULONGLONG limit)
{
    if (request_member(request, key) == NULL) {
        request_fail(request, "expected an integer in", key);
    }
    return request_number(request, key, limit, 0);
}

BOOL request_flag(REQUEST *request, const char *key)
{
    const JSON_MEMBER *member = request_member(request, key);

    if (member != NULL && member->type != JSON_BOOLEAN) {
        request_fail(request, "expected true or false in", key);
        return FALSE;
    }
    return member != NULL && member->number != 0;
}

BYTE *request_bytes(REQUEST *request, const char *key, ULONG limit, ULONG *size)
{
    const JSON_MEMBER *member = request_member(request, key);
    SIZE_T decoded = 0;
    BYTE *bytes;

    *size = 0;
    if (member == NULL) {
        return NULL;
    }
    if (member->type != JSON_TEXT) {
        request_fail(request, "expected bytes in base64 in", key);
        return NULL;
    }
    bytes = memory_get(base64_bytes(member->text.length) + 1);
    if (bytes == NULL) {
        request_fail(request, "there is no memory for the bytes of", key);
    } else if (!base64_decode(member->text.units, member->text.length, bytes, &decoded)) {
        request_fail(request, "expected bytes in base64 in", key);
    } else if (decoded > limit) {
        request_fail(request, "too many bytes in", key);
    } else {
        *size = (ULONG)decoded;
        return bytes;
    }
    memory_free(bytes);
    return NULL;
}

BOOL request_complete(REQUEST *request)
{
    for (ULONG index = 0; index < request->count && !request->failed; index++) {
        const JSON_MEMBER *member = &request->members[index];
        char key[33];
        ULONG length;

        if (member->used) {
            continue;
        }
        for (length = 0; length < member->key.length && length + 1 < sizeof(key); length++) {
            WCHAR unit = member->key.units[length];

            key[length] = unit > 0x20 && unit < 0x7F ? (char)unit : '?';
        }
        key[length] = '\0';
        request_fail(request, "unknown key", key);
    }
    return !request->failed;
}
