"""Runs a command where ``--vm standin`` works: with a private libvirtd, and with the image.

``python -m tests.integration.standin.run COMMAND...``; people call it ``ci/standin``.
"""

from __future__ import annotations

import os
import subprocess
import sys

from tests.fixtures.libvirtd import missing_packages, private_libvirtd
from tests.integration.standin.image import CACHE, IMAGES, ensure_image, locked
from tests.integration.standin.packages import NoPackages
from vm.windows.images.store import VARIABLE


def main(command):
    if not command:
        print("usage: ci/standin COMMAND...", file=sys.stderr)
        return 4
    if missing := missing_packages():
        print(f"ci/standin: {', '.join(missing)} missing: apt-get install {' '.join(missing)}", file=sys.stderr)
        return 4
    # Two daemons would take the same slots for theirs.
    with locked(CACHE / "daemon.lock"), private_libvirtd(CACHE / "libvirt") as daemon:
        try:
            ensure_image(daemon.uri)
        except (NoPackages, RuntimeError) as error:
            print(f"ci/standin: {error}", file=sys.stderr)
            return 3
        environment = {**os.environ, "LIBVIRT_DEFAULT_URI": daemon.uri, VARIABLE: str(IMAGES)}
        return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
