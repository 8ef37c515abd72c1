/* What ntguest.exe and child.exe say to each other.
 *
 * A scenario decides the child's image name and command line, so neither can carry anything: the child is found by its
 * pid. It serves the pipe CHILD_PIPE_PREFIX followed by its pid in decimal, and sets the event CHILD_EVENT_PREFIX
 * likewise, which it makes unless it is there, once the pipe is. Each connection carries any number of orders; each
 * order but ORDER_EXIT gets one reply. */
#pragma once

#include <windows.h>

#define CHILD_PIPE_PREFIX "\\\\.\\pipe\\ntproof-child-"
#define CHILD_EVENT_PREFIX "Global\\ntproof-child-"
#define CHILD_NAME_UNITS 64

#define ORDER_MAGIC 0x4F44524Fu
#define ORDER_TEXT_UNITS_MAXIMUM 32767u

typedef enum ORDER_KIND {
    /* ExitProcess(Status). No reply: the end of the process is the answer. */
    ORDER_EXIT = 1,
    /* CreateProcessW, suspended; the reply's handles are the child's own, for the other side to take over. */
    ORDER_SPAWN = 2,
    /* The reply is followed by the command line as the child has it, at most ORDER_TEXT_UNITS_MAXIMUM units of it. */
    ORDER_DESCRIBE = 3,
} ORDER_KIND;

#define ORDER_HAS_IMAGE 1u
#define ORDER_HAS_COMMAND_LINE 2u

/* Followed by ImageUnits, then CommandLineUnits UTF-16 units, no NUL. */
typedef struct ORDER {
    ULONG Magic;
    ULONG Kind;
    ULONG Flags;
    ULONG Status;
    ULONG ImageUnits;
    ULONG CommandLineUnits;
    /* The parent as a handle of the child, 0 for none. The child closes it. */
    ULONGLONG Parent;
} ORDER;

typedef struct ORDER_REPLY {
    ULONG Magic;
    /* Win32 error of the call, 0 for success. */
    ULONG Error;
    ULONG Pid;
    ULONG Tid;
    ULONG CallingTid;
    /* The NTSTATUS behind the error, 0 where no system service gave one. */
    ULONG Status;
    ULONG TextUnits;
    ULONG Reserved;
    ULONGLONG Process;
    ULONGLONG Thread;
} ORDER_REPLY;

C_ASSERT(sizeof(ORDER) == 32);
C_ASSERT(sizeof(ORDER_REPLY) == 48);
