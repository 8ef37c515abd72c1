"""Version, time, random numbers, checksums and lookups of the runtime library (wdm.h, ntddk.h, ntifs.h).

Each function's page on Microsoft Learn is its source. The machine's time zone is UTC.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

from vm import ntstatus
from vm.emulated.exports import APC_LEVEL, DISPATCH_LEVEL, PASSIVE_LEVEL, ExportTable
from vm.emulated.ntstatus import (
    STATUS_INVALID_PARAMETER,
    STATUS_REVISION_MISMATCH,
    STATUS_SUCCESS,
)

if TYPE_CHECKING:
    from vm.emulated.kernel import Kernel

EXPORTS = ExportTable()

# Version

MAJOR, MINOR = 10, 0
_FREE_BUILD = 0xF0000000
_VERSION_INFO_SIZE, _VERSION_INFO_EX_SIZE = 276, 284
_PLATFORM_WIN32_NT = 2
_VER_NT_WORKSTATION = 1
_VER_SUITE_SINGLEUSERTS = 0x100

_VER_MINOR, _VER_MAJOR, _VER_BUILD, _VER_PLATFORM = 0x01, 0x02, 0x04, 0x08
_VER_SP_MINOR, _VER_SP_MAJOR, _VER_SUITE, _VER_PRODUCT = 0x10, 0x20, 0x40, 0x80
_EQUAL, _GREATER, _GREATER_EQUAL, _LESS, _LESS_EQUAL, _AND, _OR = range(1, 8)


def _build_number(kernel: Kernel) -> bytes:
    return struct.pack("<I", kernel.options.build | _FREE_BUILD)


EXPORTS.variable("NtBuildNumber", _build_number)


@EXPORTS.function("RtlGetVersion", args="ptr", irql=PASSIVE_LEVEL)
def rtl_get_version(kernel: Kernel, information: int) -> int:
    """Microsoft Learn, RtlGetVersion: fills RTL_OSVERSIONINFOEXW where the size says so."""
    size = kernel.mem.u32(information)
    kernel.mem.write(information + 4, struct.pack("<IIII", MAJOR, MINOR, kernel.options.build, _PLATFORM_WIN32_NT))
    kernel.mem.fill(information + 20, 256)
    if size == _VERSION_INFO_EX_SIZE:
        extra = struct.pack("<HHHBB", 0, 0, _VER_SUITE_SINGLEUSERTS, _VER_NT_WORKSTATION, 0)
        kernel.mem.write(information + _VERSION_INFO_SIZE, extra)
    return STATUS_SUCCESS


@EXPORTS.function("PsGetVersion", args="ptr ptr ptr ptr", irql=PASSIVE_LEVEL)
def ps_get_version(kernel: Kernel, major: int, minor: int, build: int, service_pack: int) -> int:
    """Microsoft Learn, PsGetVersion: every pointer is optional; FALSE means a free build."""
    for target, value in ((major, MAJOR), (minor, MINOR), (build, kernel.options.build)):
        if target:
            kernel.mem.set_u32(target, value)
    if service_pack:
        kernel.mem.set_u16(service_pack, 0)
    return 0


@EXPORTS.function("RtlIsNtDdiVersionAvailable", args="u32", irql=PASSIVE_LEVEL)
def rtl_is_nt_ddi_version_available(_kernel: Kernel, version: int) -> int:
    """Microsoft Learn, RtlIsNtDdiVersionAvailable: NTDDI_WIN10 and before; update numbers are not looked at."""
    return int(version & 0xFFFF == 0 and version <= MAJOR << 24)


@EXPORTS.function("VerSetConditionMask", args="u64 u32 u8")
def ver_set_condition_mask(_kernel: Kernel, mask: int, kinds: int, condition: int) -> int:
    """Microsoft Learn, VerSetConditionMask: three bits for each kind of check, in the order of its VER_ bit."""
    for slot in range(8):
        if kinds & 1 << slot:
            mask |= (condition & 7) << (slot * 3)
    return mask


def _holds(have: int, want: int, condition: int) -> bool:
    return {
        _EQUAL: have == want,
        _GREATER: have > want,
        _GREATER_EQUAL: have >= want,
        _LESS: have < want,
        _LESS_EQUAL: have <= want,
        _AND: have & want == want,
        _OR: not want or bool(have & want),
    }.get(condition, False)


@EXPORTS.function("RtlVerifyVersionInfo", args="ptr u32 u64", irql=PASSIVE_LEVEL)
def rtl_verify_version_info(kernel: Kernel, information: int, kinds: int, conditions: int) -> int:
    """Microsoft Learn, RtlVerifyVersionInfo: major, minor and service pack are compared as one number."""
    if not kinds or not conditions:
        return STATUS_INVALID_PARAMETER
    wanted = struct.unpack("<IIII256xHHHB", kernel.mem.read(information + 4, 279))
    have = dict(
        zip(
            (_VER_MAJOR, _VER_MINOR, _VER_BUILD, _VER_PLATFORM, _VER_SP_MAJOR, _VER_SP_MINOR, _VER_SUITE, _VER_PRODUCT),
            zip(
                (
                    MAJOR,
                    MINOR,
                    kernel.options.build,
                    _PLATFORM_WIN32_NT,
                    0,
                    0,
                    _VER_SUITE_SINGLEUSERTS,
                    _VER_NT_WORKSTATION,
                ),
                wanted,
                strict=True,
            ),
            strict=True,
        )
    )

    def condition(kind: int) -> int:
        return conditions >> ((kind.bit_length() - 1) * 3) & 7

    for kind in (_VER_BUILD, _VER_PLATFORM, _VER_SUITE, _VER_PRODUCT):
        if kinds & kind and not _holds(*have[kind], condition(kind)):
            return STATUS_REVISION_MISMATCH
    ranked = [kind for kind in (_VER_MAJOR, _VER_MINOR, _VER_SP_MAJOR, _VER_SP_MINOR) if kinds & kind]
    for kind in ranked:
        mine, theirs = have[kind]
        if mine != theirs or kind == ranked[-1]:
            return STATUS_SUCCESS if _holds(mine, theirs, condition(kind)) else STATUS_REVISION_MISMATCH
    return STATUS_SUCCESS


# Time

_DAY = 24 * 60 * 60 * 10_000_000
_SECOND = 10_000_000
_SINCE_1970 = 11_644_473_600
_SINCE_1980 = 11_960_006_400
_DAYS_IN_400_YEARS = 146_097
_MAXIMUM_YEAR = 30_827


def date_of_day(day: int) -> tuple[int, int, int]:
    """Year, month and day of a day count since 1601-01-01 of the Gregorian calendar."""
    # Years that begin in March put the leap day at their end: 1601-01-01 is day 306 of year 1600.
    era, of_era = divmod(day + 306, _DAYS_IN_400_YEARS)
    year_of_era = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    march_month = (5 * of_year + 2) // 153
    month = march_month + 3 if march_month < 10 else march_month - 9
    return 1600 + era * 400 + year_of_era + (month <= 2), month, of_year - (153 * march_month + 2) // 5 + 1


def day_of_date(year: int, month: int, day: int) -> int:
    """Day count since 1601-01-01; the inverse of `date_of_day`."""
    if month <= 2:
        year, month = year - 1, month + 12
    era, year_of_era = divmod(year - 1600, 400)
    of_year = (153 * (month - 3) + 2) // 5 + day - 1
    return era * _DAYS_IN_400_YEARS + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + of_year - 306


def time_fields(time: int) -> tuple[int, int, int, int, int, int, int, int]:
    """TIME_FIELDS (wdm.h) of a time: year, month, day, hour, minute, second, milliseconds, weekday (0 is Sunday)."""
    day, rest = divmod(time, _DAY)
    seconds, fraction = divmod(rest, _SECOND)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    return (*date_of_day(day), hour, minute, second, fraction // 10_000, (day + 1) % 7)


def time_of_fields(fields: tuple[int, ...]) -> int | None:
    """The time of TIME_FIELDS, None when a field is out of range; the weekday is not looked at."""
    year, month, day, hour, minute, second, milliseconds = fields[:7]
    in_range = (
        1601 <= year <= _MAXIMUM_YEAR
        and 1 <= month <= 12
        and 0 <= hour < 24
        and 0 <= minute < 60
        and 0 <= second < 60
        and 0 <= milliseconds < 1000
    )
    if not in_range or date_of_day(day_of_date(year, month, day)) != (year, month, day):
        return None
    seconds = ((hour * 60) + minute) * 60 + second
    return day_of_date(year, month, day) * _DAY + seconds * _SECOND + milliseconds * 10_000


@EXPORTS.function("RtlTimeToTimeFields", args="ptr ptr")
def rtl_time_to_time_fields(kernel: Kernel, time: int, fields: int) -> None:
    """Microsoft Learn, RtlTimeToTimeFields."""
    kernel.mem.write(fields, struct.pack("<8h", *time_fields(kernel.mem.i64(time))))


@EXPORTS.function("RtlTimeFieldsToTime", args="ptr ptr")
def rtl_time_fields_to_time(kernel: Kernel, fields: int, time: int) -> int:
    """Microsoft Learn, RtlTimeFieldsToTime: FALSE for a field out of range."""
    value = time_of_fields(struct.unpack("<8h", kernel.mem.read(fields, 16)))
    if value is None:
        return 0
    kernel.mem.set_u64(time, value)
    return 1


@EXPORTS.function("RtlTimeToElapsedTimeFields", args="ptr ptr")
def rtl_time_to_elapsed_time_fields(kernel: Kernel, time: int, fields: int) -> None:
    """Days and time of day of a duration, in the TIME_FIELDS that RtlTimeToTimeFields' page describes."""
    day, rest = divmod(kernel.mem.i64(time), _DAY)
    _, _, _, hour, minute, second, milliseconds, _ = time_fields(rest)
    kernel.mem.write(fields, struct.pack("<8h", 0, 0, day & 0x7FFF, hour, minute, second, milliseconds, 0))


@EXPORTS.function(
    "ExSystemTimeToLocalTime",
    "ExLocalTimeToSystemTime",
    "RtlSystemTimeToLocalTime",
    "RtlLocalTimeToSystemTime",
    args="ptr ptr",
)
def convert_local_time(kernel: Kernel, source: int, target: int) -> int:
    """Microsoft Learn, ExSystemTimeToLocalTime, ExLocalTimeToSystemTime: the time zone is UTC."""
    kernel.mem.set_u64(target, kernel.mem.u64(source))
    return STATUS_SUCCESS


def _declare_seconds(year: int, offset: int) -> None:
    @EXPORTS.function(f"RtlTimeToSecondsSince{year}", args="ptr ptr")
    def to_seconds(kernel: Kernel, time: int, seconds: int) -> int:
        value = kernel.mem.i64(time) // _SECOND - offset
        if not 0 <= value <= 0xFFFFFFFF:
            return 0
        kernel.mem.set_u32(seconds, value)
        return 1

    @EXPORTS.function(f"RtlSecondsSince{year}ToTime", args="u32 ptr")
    def to_time(kernel: Kernel, seconds: int, time: int) -> None:
        kernel.mem.set_u64(time, (seconds + offset) * _SECOND)


_declare_seconds(1970, _SINCE_1970)
_declare_seconds(1980, _SINCE_1980)


# Numbers


@EXPORTS.function("RtlRandom", "RtlRandomEx", args="ptr", irql=APC_LEVEL)
def rtl_random(kernel: Kernel, seed: int) -> int:
    """Microsoft Learn, RtlRandomEx: uniform in [0, MAXLONG - 1], and the seed moves on.

    The generator is the linear congruential one that RtlUniform's page names; nothing but the seed feeds it.
    """
    value = (kernel.mem.u32(seed) * 0x7FFFFFED + 0x7FFFFFC3) % 0x7FFFFFFF
    kernel.mem.set_u32(seed, value)
    return value


@EXPORTS.function("RtlComputeCrc32", args="u32 ptr u32")
def rtl_compute_crc32(kernel: Kernel, partial: int, data: int, size: int) -> int:
    """CRC-32 of ISO 3309, continued from a partial one (exported, declared in no public kernel header)."""
    return zlib.crc32(kernel.mem.read(data, size) if size else b"", partial)


@EXPORTS.function("RtlNtStatusToDosError", "RtlNtStatusToDosErrorNoTeb", args="u32")
def rtl_nt_status_to_dos_error(_kernel: Kernel, status: int) -> int:
    """Microsoft Learn, RtlNtStatusToDosError (ntifs.h)."""
    return ntstatus.to_win32(status)


# Lookups and names

_UUID_EPOCH = 6_653 * _DAY
"""From 1582-10-15, where UUID times begin, to 1601-01-01."""
_UUID_NODE = 0x02_00_4E_54_50_52
"""A locally administered address: the machine has no network card."""
_CLOCK_SEQUENCE = 0x8000


@EXPORTS.function("ExUuidCreate", args="ptr", irql=APC_LEVEL)
def ex_uuid_create(kernel: Kernel, result: int) -> int:
    """Microsoft Learn, ExUuidCreate: a time-based UUID (RFC 9562 version 1); each one moves the clock by a unit."""
    kernel.clock.advance(1)
    time = kernel.clock.system_time() + _UUID_EPOCH
    low, middle, high = time & 0xFFFFFFFF, time >> 32 & 0xFFFF, time >> 48 & 0xFFF | 0x1000
    tail = _CLOCK_SEQUENCE.to_bytes(2, "big") + _UUID_NODE.to_bytes(6, "big")
    kernel.mem.write(result, struct.pack("<IHH", low, middle, high) + tail)
    return STATUS_SUCCESS


@EXPORTS.function("MmGetSystemRoutineAddress", args="ptr", irql=PASSIVE_LEVEL)
def mm_get_system_routine_address(kernel: Kernel, name: int) -> int:
    """Microsoft Learn, MmGetSystemRoutineAddress: NULL for what this kernel does not export."""
    return kernel.resolve_export(kernel.mem.unicode_string(name))


@EXPORTS.function("MmIsAddressValid", args="ptr", irql=DISPATCH_LEVEL)
def mm_is_address_valid(kernel: Kernel, address: int) -> int:
    """Microsoft Learn, MmIsAddressValid: whether a read would fault now."""
    return int(kernel.mem.is_mapped(address))
