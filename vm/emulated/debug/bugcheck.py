"""The emulated kernel's names of bugchecks: those that every machine shares."""

from __future__ import annotations

from vm.bugcheck_names import BugcheckCode, bugcheck_name, explain, fast_fail_name

__all__ = ["BugcheckCode", "bugcheck_name", "explain", "fast_fail_name"]
