/* ntguest.exe: runs a plan of operations on processes, devices, services and files, and answers each with what the
 * system said.
 *
 *     ntguest.exe              the plan comes on standard input
 *     ntguest.exe --plan FILE  the plan is a file
 *
 * A plan is JSON lines: flat objects with `op`, an optional integer `id` that comes back, and the operation's members.
 * Each line gets one line of answer on standard output, in order: `ok` with the ground truth, or `ok` false with
 * `error` (bad-request, no-memory, ...) and `message`. Streams send `event` lines between answers. Times are 100 ns
 * units since 1601 UTC, bytes are base64, texts carry any UTF-16 units. The end of the plan, or `quit`, ends the
 * program; every process that it launched dies with it. */

#include "agent.h"
#include "lines.h"

#define EXIT_USAGE 2
#define EXIT_SYSTEM 4

/* The program's entry point. */
void start(void);

NTSYSAPI LONG NTAPI RtlGetVersion(PRTL_OSVERSIONINFOW version);

static const char *operation_hello(REQUEST *request, ANSWER *answer)
{
    RTL_OSVERSIONINFOW version;

    (void)request;
    memset(&version, 0, sizeof(version));
    version.dwOSVersionInfoSize = sizeof(version);
    RtlGetVersion(&version);
    answer_number(answer, "protocol", 1);
    answer_number(answer, "pid", GetCurrentProcessId());
    answer_number(answer, "tid", GetCurrentThreadId());
    answer_number(answer, "build", version.dwBuildNumber);
    answer_number(answer, "time", clock_now());
    return NULL;
}

static const char *operation_time(REQUEST *request, ANSWER *answer)
{
    (void)request;
    answer_number(answer, "time", clock_now());
    return NULL;
}

static const struct {
    const char *name;
    OPERATION *run;
} operations[] = {
    {"hello", operation_hello},
    {"time", operation_time},
    {"launch", process_launch},
    {"resume", process_resume},
    {"describe", process_describe},
    {"exit", process_exit},
    {"terminate", process_terminate},
    {"terminate_all", process_terminate_all},
    {"wait", process_wait},
    {"release", process_release},
    {"open", device_open},
    {"duplicate", device_duplicate},
    {"close", device_close},
    {"control", device_control},
    {"read", device_read},
    {"write", device_write},
    {"start", device_start},
    {"finish", device_finish},
    {"cancel", device_cancel},
    {"stream", stream_start},
    {"stop", stream_stop},
    {"create_service", service_create},
    {"delete_service", service_delete},
    {"start_service", service_start},
    {"stop_service", service_stop},
    {"query_service", service_query},
    {"clear_parameters", service_clear_parameters},
    {"set_parameter", service_set_parameter},
    {"provide", file_provide},
    {"remove", file_remove},
};

static void send_mistake(ULONGLONG line, const ULONGLONG *id, const char *error, const char *message)
{
    ANSWER answer;

    answer_begin(&answer);
    answer_boolean(&answer, "ok", FALSE);
    answer_number(&answer, "line", line);
    if (id != NULL) {
        answer_number(&answer, "id", *id);
    }
    answer_ascii(&answer, "error", error);
    answer_ascii(&answer, "message", message);
    answer_send(&answer);
}

static OPERATION *find_operation(REQUEST *request, TEXT *name)
{
    *name = request_text(request, "op", NAME_UNITS_MAXIMUM);
    for (ULONG index = 0; name->units != NULL && index < ARRAYSIZE(operations); index++) {
        if (text_is(name, operations[index].name)) {
            return operations[index].run;
        }
    }
    return NULL;
}

/* Obeys one parsed request; FALSE for `quit`. */
static BOOL obey(REQUEST *request, ULONGLONG line)
{
    ULONGLONG id = request_number(request, "id", MAXLONGLONG, 0);
    const ULONGLONG *given = request_member(request, "id") != NULL && !request->failed ? &id : NULL;
    TEXT name;
    OPERATION *run = find_operation(request, &name);
    BOOL quit = name.units != NULL && text_is(&name, "quit");
    const char *failure = NULL;
    ANSWER body;

    answer_begin(&body);
    answer_number(&body, "line", line);
    if (given != NULL) {
        answer_number(&body, "id", id);
    }
    if (run == NULL && !quit) {
        request_fail(request, "unknown operation in", "op");
    } else if (run == operation_hello || run == operation_time || quit) {
        request_complete(request);
    }
    if (!request->failed && run != NULL) {
        failure = run(request, &body);
    }
    if (request->failed) {
        memory_free(body.data);
        send_mistake(line, given, "bad-request", request->message);
        return TRUE;
    }
    if (failure != NULL) {
        answer_ascii(&body, "error", failure);
    }
    answer_boolean(&body, "ok", failure == NULL);
    answer_send(&body);
    return !quit;
}

static void run_plan(HANDLE file)
{
    static LINE_READER reader;
    static REQUEST request;
    ULONGLONG line = 0;
    BOOL going_on = TRUE;

    lines_open(&reader, file, REQUEST_LINE_MAXIMUM);
    while (going_on) {
        LINE_RESULT result = lines_next(&reader);

        line++;
        if (result == LINE_END) {
            return;
        }
        if (result == LINE_TOO_LONG) {
            send_mistake(line, NULL, "bad-request", "the line is too long");
        } else if (result == LINE_NO_MEMORY) {
            send_mistake(line, NULL, "no-memory", "no memory for the line");
        } else {
            if (request_parse(&request, reader.line, reader.size)) {
                going_on = obey(&request, line);
            } else {
                send_mistake(line, NULL, "bad-request", request.message);
            }
            request_free(&request);
        }
    }
}

/* The tail of the command line after the program's name, which may stand in quotation marks. */
static const WCHAR *arguments_of(const WCHAR *command_line)
{
    BOOL quoted = FALSE;

    for (; *command_line != L'\0' && (quoted || *command_line != L' '); command_line++) {
        quoted ^= *command_line == L'"';
    }
    while (*command_line == L' ') {
        command_line++;
    }
    return command_line;
}

/* The file that the arguments name, standard input without any; INVALID_HANDLE_VALUE on a mistake. */
static HANDLE open_plan(const WCHAR *arguments)
{
    static WCHAR path[TEXT_UNITS_MAXIMUM];
    static const WCHAR option[] = L"--plan ";
    ULONG length = 0;

    if (*arguments == L'\0') {
        return GetStdHandle(STD_INPUT_HANDLE);
    }
    for (ULONG index = 0; index + 1 < ARRAYSIZE(option); index++, arguments++) {
        if (*arguments != option[index]) {
            return INVALID_HANDLE_VALUE;
        }
    }
    for (; *arguments != L'\0' && length + 1 < ARRAYSIZE(path); arguments++) {
        if (*arguments != L'"') {
            path[length++] = *arguments;
        }
    }
    return CreateFileW(path, GENERIC_READ, FILE_SHARE_READ, NULL, OPEN_EXISTING, 0, NULL);
}

void start(void)
{
    HANDLE plan = open_plan(arguments_of(GetCommandLineW()));

    answers_open(GetStdHandle(STD_OUTPUT_HANDLE));
    /* A child that cannot start must fail, not show a message box that nobody closes. */
    SetErrorMode(SEM_FAILCRITICALERRORS | SEM_NOGPFAULTERRORBOX);
    if (plan == INVALID_HANDLE_VALUE || plan == NULL) {
        send_mistake(0, NULL, "bad-usage", "usage: ntguest.exe [--plan FILE]; the file cannot be opened");
        ExitProcess(EXIT_USAGE);
    }
    if (!processes_open()) {
        send_mistake(0, NULL, "no-job", "the job object that ends every process cannot be made");
        ExitProcess(EXIT_SYSTEM);
    }
    run_plan(plan);
    processes_close();
    ExitProcess(0);
}
