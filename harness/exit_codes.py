"""Exit codes of the ntproof command: whose turn it is."""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    """What an ntproof command ends with."""

    PASSED = 0
    """All is as it must be."""
    DRIVER_FAILED = 1
    """The driver under test is at fault: discrepancies, a bugcheck, a hang, an image that does not load as it must."""
    USER_ERROR = 2
    """Wrong usage, or a file that is missing or malformed. Nothing was judged."""
    MACHINE_ERROR = 3
    """The machine (hypervisor, network, disk), a signing service or ntproof itself failed, or cannot do what was asked.
    Nothing is known of the driver."""
