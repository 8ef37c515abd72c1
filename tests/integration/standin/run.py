"""Runs a command where ``--vm standin`` works: with a private libvirtd, and with the image.

``python -m tests.integration.standin.run COMMAND...``; people call it ``ci/standin``. With ``--where-possible`` before
the command it is not run where a package is missing, which counts as success but under CI=true.
"""

from __future__ import annotations

import os
import subprocess
import sys

from tests.fixtures.libvirtd import private_libvirtd
from tests.integration.standin.image import CACHE, ensure_image, locked, settings
from tests.integration.standin.needed import absent
from tests.integration.standin.packages import NoPackages
from vm.errors import MachineError

WHERE_POSSIBLE = "--where-possible"


def told(message, status):
    """Say why nothing is run; the exit status, as docs/reference/exit-codes.md has it."""
    sys.stderr.write(message + "\n")
    return status


def main(arguments):
    lenient = arguments[:1] == [WHERE_POSSIBLE]
    command = arguments[1:] if lenient else arguments
    if not command:
        return told("usage: ci/standin COMMAND...", 4)
    if message := absent():
        passes = lenient and os.environ.get("CI") != "true"
        return told(f"ci/standin: {message}{': not run' if passes else ''}", 0 if passes else 4)
    # Two daemons would take the same slots for theirs.
    with locked(CACHE / "daemon.lock"), private_libvirtd(CACHE / "libvirt") as daemon:
        try:
            ensure_image(daemon.uri)
        except (NoPackages, RuntimeError, MachineError) as error:
            return told(f"ci/standin: {error}", 3)
        environment = {**os.environ, **settings(daemon.uri)}
        return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
