/* Executable files that a plan has at the paths of its choice.
 *
 * A file that was there before is never replaced and never deleted, whatever a plan asks: only those that were provided
 * are. Which they are is written down in the registry, since a later run has to know as well. Its value names are
 * compared as file names are, without regard to case. */

#include "agent.h"

#define RECORD_KEY L"SOFTWARE\\NtproofProvided"

/* Paths are given to Windows in this form, which has no limit of MAX_PATH. */
#define LONG_PREFIX L"\\\\?\\"
#define PREFIX_UNITS (ARRAYSIZE(LONG_PREFIX) - 1)
#define PATH_UNITS (TEXT_UNITS_MAXIMUM + 1)
#define ROOT_UNITS (PREFIX_UNITS + 3)

/* Longest name of a registry value (Microsoft's page "Registry element size limits"). */
#define RECORD_UNITS_MAXIMUM 16383u

#define CHUNK_SIZE (64u * 1024)

typedef struct PATHS {
    WCHAR source[PATH_UNITS];
    WCHAR target[PATH_UNITS];
    WCHAR full[PATH_UNITS];
    BYTE chunks[2][CHUNK_SIZE];
} PATHS;

static BOOL is_separator(WCHAR unit)
{
    return unit == L'\\' || unit == L'/';
}

/* Whether it begins with a drive and its root: what is relative, on a share or a device is no place for a file here. */
static BOOL has_root(const WCHAR *path)
{
    WCHAR letter = (WCHAR)(path[0] | 0x20);

    return letter >= L'a' && letter <= L'z' && path[1] == L':' && is_separator(path[2]);
}

/* The file that a path means in the form of LONG_PREFIX: absolute, with the dots, blanks and slashes that Windows takes
 * away taken away. FALSE for what is no path of a file on a drive. */
static BOOL resolve(const TEXT *path, WCHAR *target, WCHAR *full)
{
    const WCHAR *given = path->units;
    DWORD length;

    if (path->length > PREFIX_UNITS && memcmp(given, LONG_PREFIX, PREFIX_UNITS * sizeof(WCHAR)) == 0) {
        given += PREFIX_UNITS;
    }
    if (!has_root(given)) {
        return FALSE;
    }
    length = GetFullPathNameW(given, PATH_UNITS - PREFIX_UNITS, full, NULL);
    /* The name of a device, such as C:\NUL, has become another path. So may a colon name a stream of another file. */
    if (length <= 3 || length >= PATH_UNITS - PREFIX_UNITS || length > RECORD_UNITS_MAXIMUM || !has_root(full) ||
        is_separator(full[length - 1])) {
        return FALSE;
    }
    for (DWORD index = 2; index < length; index++) {
        if (full[index] == L':') {
            return FALSE;
        }
    }
    memcpy(target, LONG_PREFIX, PREFIX_UNITS * sizeof(WCHAR));
    memcpy(target + PREFIX_UNITS, full, (length + 1) * sizeof(WCHAR));
    return TRUE;
}

static DWORD open_record(HKEY *key)
{
    return (DWORD)RegCreateKeyExW(HKEY_LOCAL_MACHINE, RECORD_KEY, 0, NULL, REG_OPTION_NON_VOLATILE,
                                  KEY_QUERY_VALUE | KEY_SET_VALUE, NULL, key, NULL);
}

static BOOL is_recorded(HKEY record, const WCHAR *target)
{
    return RegQueryValueExW(record, target + PREFIX_UNITS, NULL, NULL, NULL, NULL) == ERROR_SUCCESS;
}

static DWORD write_record(HKEY record, const WCHAR *target)
{
    return (DWORD)RegSetValueExW(record, target + PREFIX_UNITS, 0, REG_NONE, NULL, 0);
}

static HANDLE open_for_reading(const WCHAR *path)
{
    return CreateFileW(path, GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_DELETE, NULL, OPEN_EXISTING,
                       FILE_FLAG_SEQUENTIAL_SCAN, NULL);
}

/* Whether two open files hold the same bytes. */
static DWORD compare(HANDLE left, HANDLE right, PATHS *paths, BOOL *equal)
{
    for (;;) {
        DWORD sizes[2] = {0, 0};

        if (!ReadFile(left, paths->chunks[0], CHUNK_SIZE, &sizes[0], NULL) ||
            !ReadFile(right, paths->chunks[1], CHUNK_SIZE, &sizes[1], NULL)) {
            return GetLastError();
        }
        *equal = sizes[0] == sizes[1] && memcmp(paths->chunks[0], paths->chunks[1], sizes[0]) == 0;
        if (!*equal || sizes[0] == 0) {
            return ERROR_SUCCESS;
        }
    }
}

/* Whether the file at the target is what the source is; ERROR_FILE_NOT_FOUND or ERROR_PATH_NOT_FOUND without one. */
static DWORD compare_files(PATHS *paths, BOOL *equal)
{
    HANDLE source = open_for_reading(paths->source);
    HANDLE target = INVALID_HANDLE_VALUE;
    DWORD error = ERROR_SUCCESS;

    if (source == INVALID_HANDLE_VALUE) {
        return GetLastError();
    }
    target = open_for_reading(paths->target);
    error = target == INVALID_HANDLE_VALUE ? GetLastError() : compare(source, target, paths, equal);
    if (target != INVALID_HANDLE_VALUE) {
        CloseHandle(target);
    }
    CloseHandle(source);
    return error;
}

/* Makes the folders above a file. */
static DWORD make_folders(WCHAR *path)
{
    for (ULONG index = ROOT_UNITS; path[index] != L'\0'; index++) {
        DWORD error = ERROR_SUCCESS;

        if (path[index] != L'\\') {
            continue;
        }
        path[index] = L'\0';
        if (!CreateDirectoryW(path, NULL)) {
            error = GetLastError();
        }
        path[index] = L'\\';
        if (error != ERROR_SUCCESS && error != ERROR_ALREADY_EXISTS) {
            return error;
        }
    }
    return ERROR_SUCCESS;
}

/* Copies where nothing is yet. It is written down before it is done: a file that nobody knows of could never be replaced
 * or removed again. */
static DWORD copy_new(PATHS *paths, HKEY record)
{
    DWORD error = make_folders(paths->target);

    if (error == ERROR_SUCCESS) {
        error = write_record(record, paths->target);
    }
    if (error == ERROR_SUCCESS && !CopyFileW(paths->source, paths->target, TRUE)) {
        error = GetLastError();
        RegDeleteValueW(record, paths->target + PREFIX_UNITS);
    }
    return error;
}

static DWORD provide(PATHS *paths, HKEY record)
{
    BOOL known = is_recorded(record, paths->target);
    BOOL equal = FALSE;
    DWORD attributes;
    DWORD error;

    if (GetFileAttributesW(paths->source) == INVALID_FILE_ATTRIBUTES) {
        return GetLastError();
    }
    attributes = GetFileAttributesW(paths->target);
    if (attributes == INVALID_FILE_ATTRIBUTES) {
        error = GetLastError();
        return error == ERROR_FILE_NOT_FOUND || error == ERROR_PATH_NOT_FOUND ? copy_new(paths, record) : error;
    }
    if ((attributes & FILE_ATTRIBUTE_DIRECTORY) != 0) {
        return ERROR_FILE_EXISTS;
    }
    error = compare_files(paths, &equal);
    if (error != ERROR_SUCCESS || equal) {
        return error;
    }
    if (!known) {
        return ERROR_FILE_EXISTS;
    }
    return CopyFileW(paths->source, paths->target, FALSE) ? ERROR_SUCCESS : GetLastError();
}

static DWORD remove_file(PATHS *paths, HKEY record)
{
    DWORD error = ERROR_SUCCESS;

    if (GetFileAttributesW(paths->target) == INVALID_FILE_ATTRIBUTES) {
        error = GetLastError();
    } else if (!is_recorded(record, paths->target)) {
        return ERROR_NOT_FOUND;
    } else if (!DeleteFileW(paths->target)) {
        error = GetLastError();
    }
    if (error == ERROR_FILE_NOT_FOUND || error == ERROR_PATH_NOT_FOUND) {
        error = ERROR_SUCCESS;
    }
    if (error == ERROR_SUCCESS) {
        RegDeleteValueW(record, paths->target + PREFIX_UNITS);
    }
    return error;
}

/* Does one of the two with paths that are files' and answers its error. `source` is NULL for a removal. */
static const char *run(ANSWER *answer, const TEXT *source, const TEXT *path)
{
    PATHS *paths = memory_get(sizeof(*paths));
    HKEY record = NULL;
    DWORD error = ERROR_INVALID_NAME;

    if (paths == NULL) {
        return "no-memory";
    }
    if ((source == NULL || resolve(source, paths->source, paths->full)) && resolve(path, paths->target, paths->full)) {
        error = open_record(&record);
    }
    if (error == ERROR_SUCCESS) {
        error = source != NULL ? provide(paths, record) : remove_file(paths, record);
    }
    answer_number(answer, "win32_error", error);
    if (record != NULL) {
        RegCloseKey(record);
    }
    memory_free(paths);
    return NULL;
}

const char *file_provide(REQUEST *request, ANSWER *answer)
{
    TEXT source = request_text(request, "source", TEXT_UNITS_MAXIMUM);
    TEXT path = request_text(request, "path", TEXT_UNITS_MAXIMUM);

    return request_complete(request) ? run(answer, &source, &path) : NULL;
}

const char *file_remove(REQUEST *request, ANSWER *answer)
{
    TEXT path = request_text(request, "path", TEXT_UNITS_MAXIMUM);

    return request_complete(request) ? run(answer, NULL, &path) : NULL;
}
