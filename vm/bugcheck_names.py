"""Names of bugchecks, of Driver Verifier's violations and of fast-fail codes, which every kind of machine reports.

Sources: bugcodes.h and winnt.h (Windows SDK); "Bug Check Code Reference" and "Bug Check 0xC4" (Microsoft Learn).
"""

from __future__ import annotations

import enum
from typing import Final


class BugcheckCode(enum.IntEnum):
    """STOP codes that drivers provoke (bugcodes.h)."""

    APC_INDEX_MISMATCH = 0x01
    INVALID_AFFINITY_SET = 0x03
    INVALID_PROCESS_ATTACH_ATTEMPT = 0x05
    INVALID_PROCESS_DETACH_ATTEMPT = 0x06
    IRQL_NOT_GREATER_OR_EQUAL = 0x09
    IRQL_NOT_LESS_OR_EQUAL = 0x0A
    MAXIMUM_WAIT_OBJECTS_EXCEEDED = 0x0C
    MUTEX_LEVEL_NUMBER_VIOLATION = 0x0D
    SPIN_LOCK_ALREADY_OWNED = 0x0F
    SPIN_LOCK_NOT_OWNED = 0x10
    REFERENCE_BY_POINTER = 0x18
    BAD_POOL_HEADER = 0x19
    MEMORY_MANAGEMENT = 0x1A
    KMODE_EXCEPTION_NOT_HANDLED = 0x1E
    KERNEL_APC_PENDING_DURING_EXIT = 0x20
    NO_MORE_IRP_STACK_LOCATIONS = 0x35
    SYSTEM_SERVICE_EXCEPTION = 0x3B
    MULTIPLE_IRP_COMPLETE_REQUESTS = 0x44
    CANCEL_STATE_IN_COMPLETED_IRP = 0x48
    IRQL_GT_ZERO_AT_SYSTEM_SERVICE = 0x4A
    PFN_LIST_CORRUPT = 0x4E
    PAGE_FAULT_IN_NONPAGED_AREA = 0x50
    PROCESS_HAS_LOCKED_PAGES = 0x76
    KERNEL_STACK_INPAGE_ERROR = 0x77
    SYSTEM_THREAD_EXCEPTION_NOT_HANDLED = 0x7E
    UNEXPECTED_KERNEL_MODE_TRAP = 0x7F
    NMI_HARDWARE_FAILURE = 0x80
    KERNEL_MODE_EXCEPTION_NOT_HANDLED = 0x8E
    INVALID_KERNEL_HANDLE = 0x93
    INVALID_WORK_QUEUE_ITEM = 0x96
    DRIVER_POWER_STATE_FAILURE = 0x9F
    ATTEMPTED_SWITCH_FROM_DPC = 0xB8
    ATTEMPTED_WRITE_TO_READONLY_MEMORY = 0xBE
    SPECIAL_POOL_DETECTED_MEMORY_CORRUPTION = 0xC1
    BAD_POOL_CALLER = 0xC2
    DRIVER_VERIFIER_DETECTED_VIOLATION = 0xC4
    DRIVER_CORRUPTED_EXPOOL = 0xC5
    DRIVER_CAUGHT_MODIFYING_FREED_POOL = 0xC6
    TIMER_OR_DPC_INVALID = 0xC7
    IRQL_UNEXPECTED_VALUE = 0xC8
    DRIVER_VERIFIER_IOMANAGER_VIOLATION = 0xC9
    DRIVER_LEFT_LOCKED_PAGES_IN_PROCESS = 0xCB
    PAGE_FAULT_IN_FREED_SPECIAL_POOL = 0xCC
    PAGE_FAULT_BEYOND_END_OF_ALLOCATION = 0xCD
    DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS = 0xCE
    DRIVER_CORRUPTED_MMPOOL = 0xD0
    DRIVER_IRQL_NOT_LESS_OR_EQUAL = 0xD1
    DRIVER_PORTION_MUST_BE_NONPAGED = 0xD3
    SYSTEM_SCAN_AT_RAISED_IRQL_CAUGHT_IMPROPER_DRIVER_UNLOAD = 0xD4
    DRIVER_PAGE_FAULT_IN_FREED_SPECIAL_POOL = 0xD5
    DRIVER_PAGE_FAULT_BEYOND_END_OF_ALLOCATION = 0xD6
    DRIVER_UNMAPPING_INVALID_VIEW = 0xD7
    LOCKED_PAGES_TRACKER_CORRUPTION = 0xD9
    SYSTEM_PTE_MISUSE = 0xDA
    DRIVER_CORRUPTED_SYSPTES = 0xDB
    DRIVER_INVALID_STACK_ACCESS = 0xDC
    WORKER_THREAD_RETURNED_AT_BAD_IRQL = 0xE1
    MANUALLY_INITIATED_CRASH = 0xE2
    RESOURCE_NOT_OWNED = 0xE3
    WORKER_INVALID = 0xE4
    DRIVER_VERIFIER_DMA_VIOLATION = 0xE6
    THREAD_STUCK_IN_DEVICE_DRIVER = 0xEA
    CRITICAL_PROCESS_DIED = 0xEF
    DRIVER_OVERRAN_STACK_BUFFER = 0xF7
    ATTEMPTED_EXECUTE_OF_NOEXECUTE_MEMORY = 0xFC
    DRIVER_RETURNED_HOLDING_CANCEL_LOCK = 0x11B
    DPC_WATCHDOG_VIOLATION = 0x133
    KERNEL_SECURITY_CHECK_FAILURE = 0x139
    KERNEL_LOCK_ENTRY_LEAKED_ON_THREAD_TERMINATION = 0x153
    KERNEL_THREAD_PRIORITY_FLOOR_VIOLATION = 0x157
    KERNEL_AUTO_BOOST_INVALID_LOCK_RELEASE = 0x162
    KERNEL_AUTO_BOOST_LOCK_ACQUISITION_WITH_RAISED_IRQL = 0x192
    PREVIOUS_MODE_MISMATCH = 0x1F9
    INTERRUPTS_STATE_MISMATCH = 0x20A
    THREAD_TERMINATE_HELD_MUTEX = 0x4000_008A


_FAST_FAIL_NAMES: Final = {
    0: "legacy /GS violation",
    1: "VTGUARD_CHECK_FAILURE",
    2: "STACK_COOKIE_CHECK_FAILURE",
    3: "CORRUPT_LIST_ENTRY",
    4: "INCORRECT_STACK",
    5: "INVALID_ARG",
    6: "GS_COOKIE_INIT",
    7: "FATAL_APP_EXIT",
    8: "RANGE_CHECK_FAILURE",
    9: "UNSAFE_REGISTRY_ACCESS",
    10: "GUARD_ICALL_CHECK_FAILURE",
    11: "GUARD_WRITE_CHECK_FAILURE",
    12: "INVALID_FIBER_SWITCH",
    13: "INVALID_SET_OF_CONTEXT",
    14: "INVALID_REFERENCE_COUNT",
    18: "INVALID_JUMP_BUFFER",
    19: "MRDATA_MODIFIED",
    20: "CERTIFICATION_FAILURE",
    21: "INVALID_EXCEPTION_CHAIN",
    22: "CRYPTO_LIBRARY",
    23: "INVALID_CALL_IN_DLL_CALLOUT",
    24: "INVALID_IMAGE_BASE",
    29: "INVALID_BALANCED_TREE",
    30: "INVALID_NEXT_THREAD",
    32: "APCS_DISABLED",
    33: "INVALID_IDLE_STATE",
    34: "MRDATA_PROTECTION_FAILURE",
    35: "UNEXPECTED_HEAP_EXCEPTION",
    36: "INVALID_LOCK_STATE",
    37: "GUARD_JUMPTABLE",
    38: "INVALID_LONGJUMP_TARGET",
    39: "INVALID_DISPATCH_CONTEXT",
    40: "INVALID_THREAD",
    44: "GUARD_EXPORT_SUPPRESSION_FAILURE",
    45: "INVALID_CONTROL_STACK",
}
"""FAST_FAIL_* of winnt.h."""

_VERIFIER_NAMES: Final = {
    0x00: "pool allocation of zero bytes",
    0x01: "paged pool allocated at a raised IRQL",
    0x02: "nonpaged pool allocated at a raised IRQL",
    0x11: "paged pool freed at a raised IRQL",
    0x12: "nonpaged pool freed at a raised IRQL",
    0x13: "pool freed that is not allocated",
    0x14: "pool freed twice",
    0x30: "KeRaiseIrql with an invalid IRQL",
    0x31: "KeLowerIrql with an invalid IRQL",
    0x32: "spin lock released at a wrong IRQL",
    0x33: "fast mutex acquired above APC_LEVEL",
    0x34: "fast mutex released at another IRQL than APC_LEVEL",
    0x37: "resource acquired with APCs enabled",
    0x39: "fast mutex acquired unsafely with APCs enabled",
    0x3E: "critical region left by a thread that is in none",
    0x40: "KeAcquireSpinLockAtDpcLevel below DISPATCH_LEVEL",
    0x41: "KeReleaseSpinLockFromDpcLevel below DISPATCH_LEVEL",
    0x42: "KeAcquireSpinLock above DISPATCH_LEVEL",
    0x60: "driver unloaded without freeing its pool, detected while it is loading",
    0x61: "driver thread allocates pool while the driver unloads",
    0x62: "driver unloaded without freeing its pool",
    0xCA: "lookaside list initialised again",
    0xCB: "uninitialised lookaside list deleted",
    0xCC: "memory freed that holds an active lookaside list",
    0xCD: "lookaside list for blocks that are too small",
    0xD0: "resource initialised again",
    0xD1: "uninitialised resource deleted",
    0xD2: "memory freed that holds an active resource",
    0xE1: "synchronization object at an invalid address",
    0xE5: "routine called at a wrong IRQL",
    0xEA: "push lock acquired with APCs enabled",
    0xEB: "push lock released with APCs enabled",
    0x120: "wait above DISPATCH_LEVEL",
    0x121: "wait without a timeout at DISPATCH_LEVEL",
    0x122: "wait with a timeout at DISPATCH_LEVEL",
    0x1000: "self-deadlock",
    0x1002: "uninitialised resource acquired",
    0x1004: "lock released by another thread than its owner",
    0x1007: "lock released that is not owned",
    0x100B: "lock deleted that is still owned",
    0x40003: "critical region rule",
    0x40009: "spin lock rule",
}
"""First parameter of bugcheck 0xC4 ("Bug Check 0xC4")."""


def bugcheck_name(code: int) -> str:
    """Symbolic name of a STOP code; its number for one that is not listed."""
    try:
        return BugcheckCode(code).name
    except ValueError:
        return f"BUGCHECK_0x{code:X}"


def fast_fail_name(code: int) -> str:
    """Name of a fast-fail code without its FAST_FAIL_ prefix."""
    return _FAST_FAIL_NAMES.get(code, "unknown code")


def explain(code: int, parameters: tuple[int, int, int, int]) -> str | None:
    """What the first parameter of a bugcheck stands for, where that is a code of its own; else None."""
    if code == BugcheckCode.KERNEL_SECURITY_CHECK_FAILURE:
        return f"fast fail {parameters[0]}: {fast_fail_name(parameters[0])}"
    if code == BugcheckCode.DRIVER_VERIFIER_DETECTED_VIOLATION:
        name = _VERIFIER_NAMES.get(parameters[0])
        return f"Driver Verifier 0x{parameters[0]:X}: {name}" if name else None
    return None
