"""Remembers which accelerator a local hypervisor was seen to have, until the computer starts anew or versions change.

Another computer's boot cannot be seen from here, so its accelerator is found out by each process.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from uuid import uuid4

from vm.windows.hypervisor.accelerator import Choice
from vm.windows.hypervisor.domain_xml import Accelerator
from vm.windows.hypervisor.uri import HypervisorUri

_LOG = logging.getLogger(__name__)
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")


class AcceleratorMemory:
    """What is remembered of one hypervisor. It is a convenience: where it cannot be kept, nothing is remembered.

    Args:
        environment: names the user's cache folder (XDG Base Directory).
        uri: the hypervisor.
        versions: of its parts.
    """

    def __init__(self, environment: Mapping[str, str], uri: HypervisorUri, versions: Mapping[str, str]) -> None:
        self._path = _path(environment, uri, versions) if uri.is_local else None

    def recall(self) -> Choice | None:
        """What was kept, None where nothing was that counts now."""
        if self._path is None:
            return None
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
            return Choice(Accelerator(found["accelerator"]), str(found["reason"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, choice: Choice) -> None:
        """Keep a choice that was measured; what was only said or refused is asked for again."""
        if self._path is None or not choice.measured:
            return
        text = json.dumps({"accelerator": choice.accelerator.value, "reason": choice.reason})
        unfinished = self._path.with_suffix(f".{uuid4().hex}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_text(text, encoding="utf-8")
            unfinished.replace(self._path)
        except OSError as error:
            _LOG.debug("%s: %s", self._path, error.strerror)


def _path(environment: Mapping[str, str], uri: HypervisorUri, versions: Mapping[str, str]) -> Path | None:
    cache = environment.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache):  # noqa: PTH117 - the specification says to ignore relative ones; "" is no Path
        home = environment.get("HOME")
        if not home:
            return None
        cache = f"{home}/.cache"
    try:
        boot = _BOOT.read_text(encoding="ascii").strip()
    except OSError:
        return None
    parts = json.dumps([uri.driver, uri.path, sorted(uri.parameters.items()), boot, sorted(versions.items())])
    return Path(cache) / "ntproof" / f"accelerator-{hashlib.sha256(parts.encode()).hexdigest()[:16]}.json"
