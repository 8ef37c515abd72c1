/*
 * The C runtime functions that ntoskrnl exports for text. Its locale is "C": only ASCII letters have case, and a wide
 * character is one UTF-16 unit.
 */
#include "kernel.h"

#define LOWER(unit) ((unsigned)(unit) - 'A' < 26u ? (unsigned)(unit) + ('a' - 'A') : (unsigned)(unit))
#define UPPER(unit) ((unsigned)(unit) - 'a' < 26u ? (unsigned)(unit) - ('a' - 'A') : (unsigned)(unit))

EXPORT int tolower(int unit)
{
    return (int)LOWER(unit);
}

EXPORT int toupper(int unit)
{
    return (int)UPPER(unit);
}

EXPORT WCHAR towlower(WCHAR unit)
{
    return (WCHAR)LOWER(unit);
}

EXPORT WCHAR towupper(WCHAR unit)
{
    return (WCHAR)UPPER(unit);
}

EXPORT int isdigit(int unit)
{
    return (unsigned)unit - '0' < 10u;
}

EXPORT int isxdigit(int unit)
{
    return isdigit(unit) || LOWER(unit) - 'a' < 6u;
}

EXPORT int isspace(int unit)
{
    return unit == ' ' || (unsigned)unit - '\t' < 5u;
}

EXPORT int isupper(int unit)
{
    return (unsigned)unit - 'A' < 26u;
}

EXPORT int islower(int unit)
{
    return (unsigned)unit - 'a' < 26u;
}

EXPORT int isprint(int unit)
{
    return (unsigned)unit - ' ' < 95u;
}

/* Every function exists for bytes and for UTF-16 units: T is the element, U the unsigned unit that is compared. */
#define DEFINE(T, U, LENGTH, CPY, CAT, NCPY, NCAT, CMP, NCMP, ICMP, NICMP, CHR, RCHR, STR, SPN, NLEN, LWR, UPR)       \
    EXPORT size_t LENGTH(const T *text)                                                                               \
    {                                                                                                                 \
        size_t length = 0;                                                                                            \
        while (text[length])                                                                                          \
            length++;                                                                                                 \
        return length;                                                                                                \
    }                                                                                                                 \
    EXPORT size_t NLEN(const T *text, size_t maximum)                                                                 \
    {                                                                                                                 \
        size_t length = 0;                                                                                            \
        while (length < maximum && text[length])                                                                      \
            length++;                                                                                                 \
        return length;                                                                                                \
    }                                                                                                                 \
    EXPORT T *CPY(T *target, const T *source)                                                                         \
    {                                                                                                                 \
        T *at = target;                                                                                               \
        while ((*at++ = *source++) != 0)                                                                              \
            ;                                                                                                         \
        return target;                                                                                                \
    }                                                                                                                 \
    EXPORT T *CAT(T *target, const T *source)                                                                         \
    {                                                                                                                 \
        CPY(target + LENGTH(target), source);                                                                         \
        return target;                                                                                                \
    }                                                                                                                 \
    EXPORT T *NCPY(T *target, const T *source, size_t count)                                                          \
    {                                                                                                                 \
        size_t at = 0;                                                                                                \
        for (; at < count && source[at]; at++)                                                                        \
            target[at] = source[at];                                                                                  \
        for (; at < count; at++)                                                                                      \
            target[at] = 0;                                                                                           \
        return target;                                                                                                \
    }                                                                                                                 \
    EXPORT T *NCAT(T *target, const T *source, size_t count)                                                          \
    {                                                                                                                 \
        T *at = target + LENGTH(target);                                                                              \
        while (count-- && *source)                                                                                    \
            *at++ = *source++;                                                                                        \
        *at = 0;                                                                                                      \
        return target;                                                                                                \
    }                                                                                                                 \
    EXPORT int NCMP(const T *first, const T *second, size_t count)                                                    \
    {                                                                                                                 \
        for (; count; first++, second++, count--) {                                                                   \
            if (*first != *second)                                                                                    \
                return (U)*first < (U)*second ? -1 : 1;                                                               \
            if (!*first)                                                                                              \
                break;                                                                                                \
        }                                                                                                             \
        return 0;                                                                                                     \
    }                                                                                                                 \
    EXPORT int CMP(const T *first, const T *second)                                                                   \
    {                                                                                                                 \
        return NCMP(first, second, SIZE_MAX);                                                                         \
    }                                                                                                                 \
    EXPORT int NICMP(const T *first, const T *second, size_t count)                                                   \
    {                                                                                                                 \
        for (; count; first++, second++, count--) {                                                                   \
            unsigned a = LOWER((U)*first), b = LOWER((U)*second);                                                     \
            if (a != b)                                                                                               \
                return (int)a - (int)b;                                                                               \
            if (!a)                                                                                                   \
                break;                                                                                                \
        }                                                                                                             \
        return 0;                                                                                                     \
    }                                                                                                                 \
    EXPORT int ICMP(const T *first, const T *second)                                                                  \
    {                                                                                                                 \
        return NICMP(first, second, SIZE_MAX);                                                                        \
    }                                                                                                                 \
    EXPORT T *CHR(const T *text, int unit)                                                                            \
    {                                                                                                                 \
        for (;; text++) {                                                                                             \
            if (*text == (T)unit)                                                                                     \
                return (T *)text;                                                                                     \
            if (!*text)                                                                                               \
                return NULL;                                                                                          \
        }                                                                                                             \
    }                                                                                                                 \
    EXPORT T *RCHR(const T *text, int unit)                                                                           \
    {                                                                                                                 \
        const T *found = NULL;                                                                                        \
        for (;; text++) {                                                                                             \
            if (*text == (T)unit)                                                                                     \
                found = text;                                                                                         \
            if (!*text)                                                                                               \
                return (T *)found;                                                                                    \
        }                                                                                                             \
    }                                                                                                                 \
    EXPORT T *STR(const T *text, const T *wanted)                                                                     \
    {                                                                                                                 \
        size_t length = LENGTH(wanted);                                                                               \
        for (;; text++) {                                                                                             \
            if (NCMP(text, wanted, length) == 0)                                                                      \
                return (T *)text;                                                                                     \
            if (!*text)                                                                                               \
                return NULL;                                                                                          \
        }                                                                                                             \
    }                                                                                                                 \
    EXPORT size_t SPN(const T *text, const T *set)                                                                    \
    {                                                                                                                 \
        size_t length = 0;                                                                                            \
        while (text[length] && CHR(set, text[length]))                                                                \
            length++;                                                                                                 \
        return length;                                                                                                \
    }                                                                                                                 \
    EXPORT T *LWR(T *text)                                                                                            \
    {                                                                                                                 \
        for (T *at = text; *at; at++)                                                                                 \
            *at = (T)LOWER((U)*at);                                                                                   \
        return text;                                                                                                  \
    }                                                                                                                 \
    EXPORT T *UPR(T *text)                                                                                            \
    {                                                                                                                 \
        for (T *at = text; *at; at++)                                                                                 \
            *at = (T)UPPER((U)*at);                                                                                   \
        return text;                                                                                                  \
    }

DEFINE(char, uint8_t, strlen, strcpy, strcat, strncpy, strncat, strcmp, strncmp, _stricmp, _strnicmp, strchr, strrchr,
       strstr, strspn, strnlen, _strlwr, _strupr)
DEFINE(WCHAR, WCHAR, wcslen, wcscpy, wcscat, wcsncpy, wcsncat, wcscmp, wcsncmp, _wcsicmp, _wcsnicmp, wcschr, wcsrchr,
       wcsstr, wcsspn, wcsnlen, _wcslwr, _wcsupr)

EXPORT size_t wcscspn(const WCHAR *text, const WCHAR *set)
{
    size_t length = 0;

    while (text[length] && !wcschr(set, text[length]))
        length++;
    return length;
}

static int32_t to_long(const char *text)
{
    int negative;
    uint32_t value = 0;

    while (isspace((uint8_t)*text))
        text++;
    negative = *text == '-';
    if (*text == '-' || *text == '+')
        text++;
    for (; isdigit((uint8_t)*text); text++)
        value = value * 10 + (uint32_t)(*text - '0');
    return (int32_t)(negative ? 0 - value : value);
}

EXPORT int atoi(const char *text)
{
    return to_long(text);
}

EXPORT long atol(const char *text)
{
    return to_long(text);
}
