/*
 * procnotify.h - the public interface of the procnotify driver.
 *
 * This header is the contract: the driver (kernel mode), user-mode programs and the Python harness read this one
 * file. It must therefore stay self-contained: fixed-width integers only, natural alignment with explicit padding,
 * no pointers, no conditional fields. Python reads every `#define` whose value is an integer or string literal and
 * every `typedef struct` below; the static asserts at the end pin the layout for all three readers.
 *
 * All text is UTF-16LE code units, counted in bytes, never NUL-terminated, and passed through unchanged: lone
 * surrogates and embedded NULs included. All structures start at a multiple of 8 within a buffer.
 */
#ifndef PROCNOTIFY_H
#define PROCNOTIFY_H

#include <stdint.h>

#define PROCNOTIFY_ABI_VERSION 1

/* Names. Win32 programs open \\.\ProcNotify. */
#define PROCNOTIFY_SERVICE_NAME "procnotify"
#define PROCNOTIFY_DEVICE_NAME "\\Device\\ProcNotify"
#define PROCNOTIFY_LINK_NAME "\\DosDevices\\ProcNotify"
#define PROCNOTIFY_WIN32_NAME "\\\\.\\ProcNotify"

/*
 * Registry value, REG_DWORD, under the service's Parameters key, read once when the driver loads: the bytes of
 * nonpaged memory for queued records. A value outside the limits is replaced by the nearest limit.
 */
#define PROCNOTIFY_PARAMETER_QUEUE_BYTES "QueueBytes"
#define PROCNOTIFY_QUEUE_BYTES_DEFAULT 0x100000
#define PROCNOTIFY_QUEUE_BYTES_MINIMUM 0x40000
#define PROCNOTIFY_QUEUE_BYTES_MAXIMUM 0x4000000

/*
 * Control codes: CTL_CODE(0x8000, function, method, access).
 * A request whose input or output lengths are not what is stated below ends with STATUS_INVALID_PARAMETER (malformed
 * input) or STATUS_BUFFER_TOO_SMALL (output too short for a fixed-size answer); an unknown code with
 * STATUS_INVALID_DEVICE_REQUEST.
 *
 * GET_VERSION     0x800 METHOD_BUFFERED   FILE_READ_ACCESS   out: PROCNOTIFY_VERSION
 * SET_RULES       0x801 METHOD_BUFFERED   FILE_WRITE_ACCESS  in:  PROCNOTIFY_RULES followed by its rules
 * GET_RULES       0x802 METHOD_BUFFERED   FILE_READ_ACCESS   out: PROCNOTIFY_RULES followed by its rules
 * GET_STATISTICS  0x803 METHOD_BUFFERED   FILE_READ_ACCESS   out: PROCNOTIFY_STATISTICS
 * READ            0x804 METHOD_OUT_DIRECT FILE_READ_ACCESS   in:  nothing, or PROCNOTIFY_READ; out: whole records
 */
#define IOCTL_PROCNOTIFY_GET_VERSION 0x80006000
#define IOCTL_PROCNOTIFY_SET_RULES 0x8000A004
#define IOCTL_PROCNOTIFY_GET_RULES 0x80006008
#define IOCTL_PROCNOTIFY_GET_STATISTICS 0x8000600C
#define IOCTL_PROCNOTIFY_READ 0x80006012

/*
 * PROCNOTIFY_VERSION.Capabilities: denies creations, tells losses by gap records, is notified of subsystem (Pico)
 * processes too.
 */
#define PROCNOTIFY_CAPABILITY_DENY 0x1
#define PROCNOTIFY_CAPABILITY_GAPS 0x2
#define PROCNOTIFY_CAPABILITY_SUBSYSTEM_PROCESSES 0x4

typedef struct _PROCNOTIFY_VERSION {
    uint32_t AbiVersion;   /* PROCNOTIFY_ABI_VERSION */
    uint32_t Capabilities; /* PROCNOTIFY_CAPABILITY_* */
    uint32_t MaximumRules; /* PROCNOTIFY_MAXIMUM_RULES */
    uint32_t QueueBytes;   /* the queue's memory budget in force */
} PROCNOTIFY_VERSION;

/*
 * Rules: the first rule in order that matches the image name denies the creation with its status.
 *
 * The image name is matched as the kernel reports it in PS_CREATE_NOTIFY_INFO.ImageFileName, units compared after
 * RtlUpcaseUnicodeChar.
 *   EXACT    the whole name.
 *   SUBTREE  the pattern names a directory: the name starts with the pattern followed by a backslash. A pattern may end
 *            in one backslash, which changes nothing.
 *   SUFFIX   the name ends with the pattern and either equals it or has a backslash right before it, so that
 *            `tool.exe` matches `C:\x\tool.exe` and not `C:\x\mytool.exe`.
 *
 * Status must be a failure (negative); 0 stands for STATUS_ACCESS_DENIED. A set is refused whole, and the old set
 * stays, with STATUS_INVALID_PARAMETER when any length, count, kind, status or padding is off (padding and Reserved
 * must be zero; patterns are non-empty, an even number of bytes, at most PROCNOTIFY_MAXIMUM_PATTERN_BYTES), with
 * STATUS_REVISION_MISMATCH when AbiVersion differs, and with STATUS_INSUFFICIENT_RESOURCES when memory is short. An
 * empty set (Count 0) removes all rules. GET_RULES answers STATUS_BUFFER_TOO_SMALL when the set does not fit;
 * PROCNOTIFY_STATISTICS.RulesSize says what does.
 */
#define PROCNOTIFY_MAXIMUM_RULES 1024
#define PROCNOTIFY_MAXIMUM_PATTERN_BYTES 65534
#define PROCNOTIFY_MATCH_EXACT 1
#define PROCNOTIFY_MATCH_SUBTREE 2
#define PROCNOTIFY_MATCH_SUFFIX 3

typedef struct _PROCNOTIFY_RULES {
    uint32_t AbiVersion; /* PROCNOTIFY_ABI_VERSION */
    uint32_t Count;      /* rules that follow */
    uint32_t Size;       /* bytes of this header and all rules: the input length, exactly */
    uint32_t Reserved;   /* zero */
} PROCNOTIFY_RULES;

typedef struct _PROCNOTIFY_RULE {
    uint32_t Size;          /* bytes of this header, the pattern and zero padding to a multiple of 8 */
    uint16_t Match;         /* PROCNOTIFY_MATCH_* */
    uint16_t Reserved;      /* zero */
    int32_t Status;         /* NTSTATUS */
    uint32_t PatternLength; /* bytes of pattern, which follows this header */
} PROCNOTIFY_RULE;

typedef struct _PROCNOTIFY_STATISTICS {
    uint64_t Created;        /* create callbacks */
    uint64_t Exited;         /* exit callbacks */
    uint64_t Denied;         /* creations this driver denied */
    uint64_t Queued;         /* notifications that went into the queue */
    uint64_t Delivered;      /* notifications that went out to a reader; gap records do not count */
    uint64_t Dropped;        /* notifications lost: queue full or no memory */
    uint64_t HighWaterBytes; /* most bytes the queue ever held */
    uint64_t QueuedBytes;    /* bytes the queue holds now */
    uint64_t NextSequence;   /* sequence number the next notification will get; the first is 1 */
    uint32_t NextRecordSize; /* bytes the reader's buffer needs for the next record; 0 when there is none */
    uint32_t RuleCount;      /* rules in force */
    uint32_t RulesSize;      /* output bytes GET_RULES needs */
    uint32_t RulesGeneration; /* times a set was accepted */
} PROCNOTIFY_STATISTICS;

/*
 * Reading: as many whole records as fit are copied. With an empty queue the request waits, unless it says
 * PROCNOTIFY_READ_NO_WAIT, which completes at once with zero bytes. A buffer too small for the next record completes
 * with STATUS_BUFFER_TOO_SMALL and consumes nothing. The first handle that reads is the consumer until its last
 * reference is closed (cleanup); a read through another handle ends with STATUS_SHARING_VIOLATION. Cleanup cancels
 * the handle's waiting reads with STATUS_CANCELLED. Unloading completes them so too.
 */
#define PROCNOTIFY_READ_NO_WAIT 0x1

typedef struct _PROCNOTIFY_READ {
    uint32_t Flags;    /* PROCNOTIFY_READ_* */
    uint32_t Reserved; /* zero */
} PROCNOTIFY_READ;

/* PROCNOTIFY_RECORD.Type */
#define PROCNOTIFY_RECORD_CREATE 1
#define PROCNOTIFY_RECORD_EXIT 2
#define PROCNOTIFY_RECORD_GAP 3

/* PROCNOTIFY_RECORD.Flags of a create record */
#define PROCNOTIFY_FLAG_FILE_OPEN_NAME_AVAILABLE 0x1
#define PROCNOTIFY_FLAG_IS_SUBSYSTEM_PROCESS 0x2
#define PROCNOTIFY_FLAG_HAS_IMAGE_NAME 0x4
#define PROCNOTIFY_FLAG_HAS_COMMAND_LINE 0x8

/*
 * Every notification, delivered or dropped, takes one sequence number, in the order of the callbacks. Records come in
 * sequence order. A notification is dropped when its record, together with the gap record that has to come before it
 * if the one before was dropped too, does not fit in the budget beside the queued bytes. A loss with nothing queued
 * after it is told by a gap record that takes no queue memory, once everything before it is read.
 */
typedef struct _PROCNOTIFY_RECORD {
    uint32_t Size;     /* bytes of the whole record, a multiple of 8; padding is zero */
    uint16_t Type;     /* PROCNOTIFY_RECORD_* */
    uint16_t Flags;    /* PROCNOTIFY_FLAG_*, else zero */
    uint64_t Sequence; /* of the notification; of the first lost one in a gap record */
    int64_t Time;      /* system time, 100 ns units since 1601 UTC; of the first lost one in a gap record */
} PROCNOTIFY_RECORD;

typedef struct _PROCNOTIFY_CREATE {
    PROCNOTIFY_RECORD Record;
    uint32_t ProcessId;
    uint32_t ParentProcessId;   /* PS_CREATE_NOTIFY_INFO.ParentProcessId */
    uint32_t CreatingProcessId; /* PS_CREATE_NOTIFY_INFO.CreatingThreadId */
    uint32_t CreatingThreadId;
    int32_t Status;             /* CreationStatus when this driver's routine returned */
    uint32_t ImageNameLength;   /* bytes; the text follows this structure */
    uint32_t CommandLineLength; /* bytes; the text follows the image name, with no padding between */
    uint32_t Reserved;          /* zero */
} PROCNOTIFY_CREATE;

typedef struct _PROCNOTIFY_EXIT {
    PROCNOTIFY_RECORD Record;
    uint32_t ProcessId;
    int32_t ExitStatus; /* NTSTATUS or whatever the process ended with */
} PROCNOTIFY_EXIT;

typedef struct _PROCNOTIFY_GAP {
    PROCNOTIFY_RECORD Record;
    uint64_t Count; /* notifications lost here: sequence numbers Sequence to Sequence + Count - 1 */
} PROCNOTIFY_GAP;

#define PROCNOTIFY_MAXIMUM_TEXT_BYTES 65534

#ifndef PROCNOTIFY_NO_STATIC_ASSERT
#if defined(__cplusplus)
#define PROCNOTIFY_ASSERT(Expression) static_assert(Expression, #Expression)
#else
#define PROCNOTIFY_ASSERT(Expression) _Static_assert(Expression, #Expression)
#endif
#define PROCNOTIFY_OFFSET(Type, Field) __builtin_offsetof(Type, Field)

PROCNOTIFY_ASSERT(sizeof(PROCNOTIFY_VERSION) == 16);
PROCNOTIFY_ASSERT(sizeof(PROCNOTIFY_RULES) == 16);
PROCNOTIFY_ASSERT(sizeof(PROCNOTIFY_RULE) == 16);
PROCNOTIFY_ASSERT(PROCNOTIFY_OFFSET(PROCNOTIFY_RULE, Status) == 8);
PROCNOTIFY_ASSERT(sizeof(PROCNOTIFY_STATISTICS) == 88);
PROCNOTIFY_ASSERT(PROCNOTIFY_OFFSET(PROCNOTIFY_STATISTICS, NextRecordSize) == 72);
PROCNOTIFY_ASSERT(sizeof(PROCNOTIFY_READ) == 8);
PROCNOTIFY_ASSERT(sizeof(PROCNOTIFY_RECORD) == 24);
PROCNOTIFY_ASSERT(PROCNOTIFY_OFFSET(PROCNOTIFY_RECORD, Time) == 16);
PROCNOTIFY_ASSERT(sizeof(PROCNOTIFY_CREATE) == 56);
PROCNOTIFY_ASSERT(PROCNOTIFY_OFFSET(PROCNOTIFY_CREATE, Status) == 40);
PROCNOTIFY_ASSERT(sizeof(PROCNOTIFY_EXIT) == 32);
PROCNOTIFY_ASSERT(sizeof(PROCNOTIFY_GAP) == 32);
#endif

#endif /* PROCNOTIFY_H */
