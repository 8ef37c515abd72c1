#include "process_facts.h"

#include <winternl.h>

/* ntddk.h numbers it so; winternl.h does not. Answers a UNICODE_STRING followed by its text, since Windows 8.1. */
#define PROCESS_COMMAND_LINE_INFORMATION 60
#define COMMAND_LINE_ANSWER_SIZE (sizeof(UNICODE_STRING) + 65536)

void answer_image_name(ANSWER *answer, const TEXT *image)
{
    UNICODE_STRING name = {0, 0, NULL};

    /* It returns one byte; winternl.h declares four. */
    if (image->units != NULL && (BOOLEAN)RtlDosPathNameToNtPathName_U(image->units, &name, NULL, NULL)) {
        answer_text(answer, "image_name", name.Buffer, name.Length / sizeof(WCHAR));
        RtlFreeUnicodeString(&name);
    } else {
        answer_null(answer, "image_name");
    }
}

void answer_native_image(ANSWER *answer, HANDLE process)
{
    DWORD length = TEXT_UNITS_MAXIMUM;
    WCHAR *name = memory_get((length + 1) * sizeof(WCHAR));

    if (name != NULL && QueryFullProcessImageNameW(process, PROCESS_NAME_NATIVE, name, &length)) {
        answer_text(answer, "native_image", name, length);
    } else {
        answer_null(answer, "native_image");
    }
    memory_free(name);
}

void answer_command_line(ANSWER *answer, HANDLE process, const TEXT *passed)
{
    BYTE *buffer = memory_get(COMMAND_LINE_ANSWER_SIZE);
    const UNICODE_STRING *text = (const UNICODE_STRING *)buffer;
    BOOL read = buffer != NULL &&
                NtQueryInformationProcess(process, (PROCESSINFOCLASS)PROCESS_COMMAND_LINE_INFORMATION, buffer,
                                          COMMAND_LINE_ANSWER_SIZE, NULL) >= 0;

    if (read) {
        answer_text(answer, "command_line", text->Buffer, text->Length / sizeof(WCHAR));
    } else {
        answer_text(answer, "command_line", passed->units, passed->length);
    }
    answer_boolean(answer, "command_line_read", read);
    memory_free(buffer);
}

void answer_parent(ANSWER *answer, HANDLE process)
{
    PROCESS_BASIC_INFORMATION information;
    BOOL known = NtQueryInformationProcess(process, ProcessBasicInformation, &information, sizeof(information),
                                           NULL) >= 0;

    answer_optional_number(answer, "parent_pid", known, known ? information.InheritedFromUniqueProcessId : 0);
}
