/* Executable files that a plan has at the paths of its choice.
 *
 * A file that was there before is never replaced and never deleted, whatever a plan asks: only those that were provided
 * are. Which they are is written down in the registry, since a later run has to know as well: each path is a value
 * there, named by a hash of it, as the name of a value is too short for the longest paths. */

#include "agent.h"

#define RECORD_KEY L"SOFTWARE\\NtproofProvided"
#define RECORD_NAME_UNITS 17

/* Paths are given to Windows in this form, which has no limit of MAX_PATH. */
#define LONG_PREFIX L"\\\\?\\"
#define NATIVE_PREFIX L"\\??\\"
#define PREFIX_UNITS (ARRAYSIZE(LONG_PREFIX) - 1)
#define PATH_UNITS (TEXT_UNITS_MAXIMUM + 1)
#define ROOT_UNITS (PREFIX_UNITS + 3)

#define CHUNK_SIZE (64u * 1024)

/* Offset basis and prime of the 64-bit FNV-1a hash. */
#define HASH_BASIS 0xCBF29CE484222325u
#define HASH_PRIME 0x100000001B3u

typedef struct PATHS {
    WCHAR source[PATH_UNITS];
    WCHAR target[PATH_UNITS];
    WCHAR spare[PATH_UNITS];
    BYTE chunks[2][CHUNK_SIZE];
} PATHS;

/* ntdll; winternl.h does not declare it. */
NTSYSAPI WCHAR NTAPI RtlUpcaseUnicodeChar(WCHAR unit);

static BOOL is_separator(WCHAR unit)
{
    return unit == L'\\' || unit == L'/';
}

static BOOL has_prefix(const TEXT *path, const WCHAR *prefix)
{
    return path->length > PREFIX_UNITS && memcmp(path->units, prefix, PREFIX_UNITS * sizeof(WCHAR)) == 0;
}

/* Whether it begins with a drive and its root: what is relative, on a share or a device is no place for a file here. */
static BOOL has_root(const WCHAR *path)
{
    WCHAR letter = (WCHAR)(path[0] | 0x20);

    return letter >= L'a' && letter <= L'z' && path[1] == L':' && is_separator(path[2]);
}

/* Whether an absolute path can be a file's. A colon may name a stream of another file. */
static BOOL is_file_path(const WCHAR *path, DWORD length)
{
    for (DWORD index = 2; index < length; index++) {
        if (path[index] == L':') {
            return FALSE;
        }
    }
    return length > 3 && !is_separator(path[length - 1]);
}

/* The file that a path means, in the form of LONG_PREFIX. A path with a prefix is taken as it is; from others the dots,
 * blanks and slashes are taken away that Windows takes away. FALSE for what is no path of a file on a drive. */
static BOOL resolve(const TEXT *path, WCHAR *target)
{
    WCHAR *full = target + PREFIX_UNITS;
    DWORD length = path->length;

    memcpy(target, LONG_PREFIX, PREFIX_UNITS * sizeof(WCHAR));
    if (has_prefix(path, LONG_PREFIX) || has_prefix(path, NATIVE_PREFIX)) {
        length -= PREFIX_UNITS;
        memcpy(full, path->units + PREFIX_UNITS, (length + 1) * sizeof(WCHAR));
    } else {
        if (!has_root(path->units)) {
            return FALSE;
        }
        /* What names a device, such as C:\NUL, becomes a path without a drive. */
        length = GetFullPathNameW(path->units, PATH_UNITS - PREFIX_UNITS, full, NULL);
        if (length == 0 || length >= PATH_UNITS - PREFIX_UNITS) {
            return FALSE;
        }
    }
    return has_root(full) && full[2] == L'\\' && is_file_path(full, length);
}

static DWORD open_record(HKEY *key)
{
    return (DWORD)RegCreateKeyExW(HKEY_LOCAL_MACHINE, RECORD_KEY, 0, NULL, REG_OPTION_NON_VOLATILE,
                                  KEY_QUERY_VALUE | KEY_SET_VALUE, NULL, key, NULL);
}

/* The name under which a path is written down, which is the same for every spelling of it. */
static void record_name(const WCHAR *path, WCHAR *name)
{
    static const WCHAR digits[] = L"0123456789abcdef";
    ULONGLONG hash = HASH_BASIS;

    for (; *path != L'\0'; path++) {
        hash = (hash ^ RtlUpcaseUnicodeChar(*path)) * HASH_PRIME;
    }
    for (ULONG place = 0; place + 1 < RECORD_NAME_UNITS; place++) {
        name[place] = digits[hash >> (60 - 4 * place) & 0xF];
    }
    name[RECORD_NAME_UNITS - 1] = L'\0';
}

static BOOL is_recorded(HKEY record, PATHS *paths)
{
    WCHAR name[RECORD_NAME_UNITS];
    DWORD type = REG_NONE;
    DWORD size = sizeof(paths->spare);

    record_name(paths->target, name);
    return RegQueryValueExW(record, name, NULL, &type, (BYTE *)paths->spare, &size) == ERROR_SUCCESS &&
           type == REG_SZ && size >= sizeof(WCHAR) &&
           CompareStringOrdinal(paths->spare, (int)(size / sizeof(WCHAR) - 1), paths->target, -1, TRUE) == CSTR_EQUAL;
}

static DWORD write_record(HKEY record, const PATHS *paths)
{
    WCHAR name[RECORD_NAME_UNITS];
    DWORD units = 0;

    while (paths->target[units] != L'\0') {
        units++;
    }
    record_name(paths->target, name);
    return (DWORD)RegSetValueExW(record, name, 0, REG_SZ, (const BYTE *)paths->target, (units + 1) * sizeof(WCHAR));
}

static void forget_record(HKEY record, PATHS *paths)
{
    WCHAR name[RECORD_NAME_UNITS];

    record_name(paths->target, name);
    if (is_recorded(record, paths)) {
        RegDeleteValueW(record, name);
    }
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

/* A copy has the attributes of its source, and read-only would keep it from being replaced or removed. */
static DWORD make_plain(const WCHAR *path)
{
    return SetFileAttributesW(path, FILE_ATTRIBUTE_NORMAL) ? ERROR_SUCCESS : GetLastError();
}

/* Copies where nothing is yet. It is written down before it is done: a file that nobody knows of could never be
 * replaced or removed again. */
static DWORD copy_new(PATHS *paths, HKEY record)
{
    DWORD error = make_folders(paths->target);

    if (error == ERROR_SUCCESS) {
        error = write_record(record, paths);
    }
    if (error == ERROR_SUCCESS && !CopyFileW(paths->source, paths->target, TRUE)) {
        error = GetLastError();
        forget_record(record, paths);
    }
    return error == ERROR_SUCCESS ? make_plain(paths->target) : error;
}

static DWORD provide(PATHS *paths, HKEY record)
{
    BOOL known = is_recorded(record, paths);
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
    return CopyFileW(paths->source, paths->target, FALSE) ? make_plain(paths->target) : GetLastError();
}

static DWORD remove_file(PATHS *paths, HKEY record)
{
    DWORD error = ERROR_SUCCESS;

    if (GetFileAttributesW(paths->target) == INVALID_FILE_ATTRIBUTES) {
        error = GetLastError();
    } else if (!is_recorded(record, paths)) {
        return ERROR_ACCESS_DENIED;
    } else if (!DeleteFileW(paths->target)) {
        error = GetLastError();
    }
    if (error == ERROR_FILE_NOT_FOUND || error == ERROR_PATH_NOT_FOUND) {
        error = ERROR_SUCCESS;
    }
    if (error == ERROR_SUCCESS) {
        forget_record(record, paths);
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
    if ((source == NULL || resolve(source, paths->source)) && resolve(path, paths->target)) {
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
