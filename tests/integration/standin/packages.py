"""Debian packages that the guest is made of: downloaded by apt, unpacked into a folder, installed nowhere.

What a package's own scripts would do at its installation is not done; the guest needs none of it.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tarfile
from dataclasses import dataclass

KERNEL = "linux-image-amd64"
"""Names the kernel's package of the day. The one for clouds would be smaller, but it knows neither AHCI nor e1000e."""

SYSTEM = (
    "busybox-static",  # init, shell, network, and the tools of the set-up
    "dosfstools",  # makes the firmware's partition
    "e2fsprogs",  # makes the root file system, whose folders can be without regard to case
    "libblkid1",
    "libcom-err2",
    "libext2fs2",
    "libss2",
    "libuuid1",
    "systemd-boot-efi",  # starts the kernel from a FAT file system
)
"""What the set-up needs as well."""

PYTHON = (
    "python3.11-minimal",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libbz2-1.0",
    "libc6",
    "libcrypt1",
    "libexpat1",
    "libffi8",
    "libgcc-s1",
    "liblzma5",
    "libssl3",
    "libstdc++6",
    "zlib1g",
)

SSH = (
    "openssh-server",
    "openssh-client",  # ssh-keygen
    "libaudit1",
    "libcap-ng0",
    "libcap2",
    "libgcrypt20",
    "libgpg-error0",
    "libgssapi-krb5-2",
    "libk5crypto3",
    "libkeyutils1",
    "libkrb5-3",
    "libkrb5support0",
    "liblz4-1",
    "libnsl2",
    "libpam0g",
    "libpcre2-8-0",
    "libselinux1",
    "libsystemd0",
    "libtirpc3",
    "libwrap0",
    "libzstd1",
)

_URI = re.compile(r"'(?P<uri>[^']+)' (?P<name>\S+) (?P<size>\d+) SHA256:(?P<sha256>[0-9a-f]{64})")


@dataclass(frozen=True)
class Package:
    """A package as apt offers it."""

    name: str
    file: str
    sha256: str


class NoPackages(Exception):
    """A package cannot be had; says which and what to do."""


def kernel_package():
    """The name of the kernel's package."""
    listed = _run("apt-cache", "depends", "--important", KERNEL)
    found = re.search(r"Depends: (linux-image-\S+-amd64)", listed)
    if found is None:
        raise NoPackages(f"apt knows no {KERNEL}; run apt-get update, on Debian 12")
    return found[1]


def offered(names):
    """What apt offers of these packages, without downloading any."""
    listed = _run("apt-get", "download", "--print-uris", *names)
    found = {}
    for match in _URI.finditer(listed):
        name = match["name"].partition("_")[0]
        found[name] = Package(name, match["name"], match["sha256"])
    if missing := sorted(set(names) - set(found)):
        raise NoPackages(f"apt offers no {', '.join(missing)}; run apt-get update, on Debian 12")
    return tuple(found[name] for name in names)


def download(packages, folder):
    """Files of the packages, from the folder where they are there already; each has the hash that apt says."""
    folder.mkdir(parents=True, exist_ok=True)
    absent = [package for package in packages if not (folder / package.file).exists()]
    if absent:
        # Not as root's own sandbox user, who cannot write here.
        sandbox = ["-o", "APT::Sandbox::User=root"] if os.getuid() == 0 else []
        _run("apt-get", "-qq", *sandbox, "download", *(package.name for package in absent), cwd=folder)
    for package in packages:
        path = folder / package.file
        if hashlib.sha256(path.read_bytes()).hexdigest() != package.sha256:
            path.unlink()
            raise NoPackages(f"{path.name} is not what apt offers; run this again")
    return tuple(folder / package.file for package in packages)


def unpack(path, folder, wanted):
    """Unpack the members of a package for whose path, without ``./``, `wanted` is true."""
    with (
        subprocess.Popen(["dpkg-deb", "--fsys-tarfile", path], stdout=subprocess.PIPE) as reading,
        tarfile.open(fileobj=reading.stdout, mode="r|") as archive,
    ):
        for member in archive:
            if member.isdir() or not wanted(member.name.removeprefix("./")):
                continue
            archive.extract(member, folder, filter=_for_its_owner)
        # What is left of the stream is padding; dpkg-deb must not end by a broken pipe.
        reading.stdout.read()
    if reading.returncode:
        raise NoPackages(f"{path.name} cannot be unpacked; remove it and run this again")


def _for_its_owner(member, _folder):
    """Whoever unpacks owns the file; links stay as they are, because they are followed in the guest only."""
    return member.replace(uid=None, gid=None, uname=None, gname=None, mode=(member.mode or 0) | 0o600, deep=False)


def _run(*command, **options):
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    except FileNotFoundError as error:
        raise NoPackages(f"{command[0]} is missing: the stand-in guest is built on Debian") from error
    if done.returncode:
        raise NoPackages(f"{command[0]} {command[1]}: {done.stderr.strip()[-2000:]}")
    return done.stdout
