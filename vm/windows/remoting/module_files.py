"""Where the guest module lies in a guest, and what it consists of."""

from __future__ import annotations

from typing import Final

FOLDER: Final = r"C:\Program Files\WindowsPowerShell\Modules\NtproofGuest"
"""Where the module lives: only administrators write there."""

FILES: Final = ("NtproofGuest.psd1", "NtproofGuest.psm1", "NtproofNative.cs")
"""The module's files, in the order in which their hash is taken."""
