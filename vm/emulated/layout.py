"""Where things lie in the emulated machine's address space, and sizes of the structures the public headers define.

Addresses follow the shape of an x64 Windows (user half below, kernel half above), not its exact values. Structure
sizes and offsets are those of the public WDK headers (wdm.h, ntddk.h) for x64.
"""

from __future__ import annotations

PAGE = 0x1000

USER_BASE = 0x0000_0000_1000_0000
"""User-mode buffers of the programs that talk to drivers."""
USER_PROBE_ADDRESS = 0x0000_7FFF_FFFF_0000
"""MmUserProbeAddress on x64 (wdm.h)."""
SYSTEM_RANGE_START = 0xFFFF_8000_0000_0000
"""MmSystemRangeStart."""

KERNEL_DATA = 0xFFFF_8A00_0000_0000
"""Structures that the kernel itself owns."""
KERNEL_DATA_SIZE = 0x400_0000
SHARED_USER_DATA = 0xFFFF_F780_0000_0000
"""KUSER_SHARED_DATA, at its fixed documented address (KI_USER_SHARED_DATA, ntddk.h)."""
STUBS = 0xFFFF_F800_0000_0000
"""Import stubs and the entry into driver code."""
STUBS_SIZE = 0x4_0000
TRAP_PAGE = 0xFFFF_F800_0008_0000
"""Page through which stubs and the host exchange arguments and results."""
PCR = 0xFFFF_F800_000A_0000
"""Processor control region: base of gs."""
PCR_SIZE = 0x4000
GUEST_IMAGE = 0xFFFF_F800_0100_0000
"""The part of the kernel that runs as machine code."""
DRIVER_IMAGES = 0xFFFF_F800_1000_0000
STACKS = 0xFFFF_F900_0000_0000
STACK_SIZE = 0x6000
"""KERNEL_STACK_SIZE for x64 (ntddk.h): 24 KiB."""
STACK_STRIDE = 0x1_0000
SPECIAL_POOL = 0xFFFF_A800_0000_0000
NOTIFY_TEXT = 0xFFFF_AC00_0000_0000
"""Image names and command lines during process notify calls."""
NOTIFY_TEXT_PAGEABLE = 0xFFFF_AD00_0000_0000
"""The same memory, as a driver sees it when it was paged out."""
MDL_MAPPINGS = 0xFFFF_B000_0000_0000
"""System addresses of locked-down user buffers (MmGetSystemAddressForMdlSafe)."""

# KPCR, KPRCB: the offsets that public headers expose, then the machine's own cells, shared with guest/kernel.h.
PCR_SELF = 0x18
PCR_PRCB = 0x20
PCR_IRQL = 0x50
PRCB = 0x180
PRCB_CURRENT_THREAD = 0x188
PCR_SLOW_IRQL = 0x3000
"""Nonzero when an IRQL change has to go through the host: pageable memory is in the TLB, or a DPC waits."""
PCR_HELD_COUNT = 0x3008
"""Spin locks held by the processor, and below, which and taken where: pairs of lock and return address."""
PCR_HELD = 0x3010
PCR_HELD_MAXIMUM = 64

# ETHREAD and EPROCESS are opaque to drivers; their size is ours, and so are the cells that guest code shares.
ETHREAD_SIZE = 0x200
ETHREAD_KERNEL_APC_DISABLE = 0x100
ETHREAD_SPECIAL_APC_DISABLE = 0x104
EPROCESS_SIZE = 0x200

DRIVER_OBJECT_SIZE = 0x150
DEVICE_OBJECT_SIZE = 0x150
FILE_OBJECT_SIZE = 0xD8
IRP_SIZE = 0xD0
IO_STACK_LOCATION_SIZE = 0x48
MDL_SIZE = 0x30
PS_CREATE_NOTIFY_INFO_SIZE = 0x48
