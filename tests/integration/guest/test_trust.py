"""WinVerifyTrust, as Wine implements it, accepts the signatures made here and refuses what was altered.

Wine 8 compares the image digest and verifies the signer's signature. It does not ask who signed: a signer whom nobody
trusts is accepted. It looks neither at page hashes nor at time stamps; Windows' policy for drivers is not in it.
"""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import pytest

from harness.build import build_driver, pe
from harness.build.description import DriverSources
from harness.build.guest_tools import GuestProgram, _GuestToolchain
from harness.build.signing.authenticode import without_signature
from harness.build.signing.digests import page_hashes
from harness.build.signing.files import NamedFile
from harness.build.signing.pem_files import PemFiles
from harness.build.signing.signer import KeySigner
from tests.fixtures.signing_keys import team, write
from tests.integration.guest.wine import GUEST_FOLDER

ACCEPTED = 0
TRUST_E_BAD_DIGEST = 0x80096010
TRUST_E_NOSIGNATURE = 0x800B0100
IMPORTS = (
    ("kernel32", ("ExitProcess", "GetCommandLineW", "GetStdHandle", "WriteFile")),
    ("ntdll", ("memcpy", "memset")),
    ("shell32", ("CommandLineToArgvW",)),
    ("wintrust", ("WinVerifyTrust",)),
)


@pytest.fixture(scope="module")
def program(wine, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trust")
    linked = folder / "linked"
    linked.mkdir()
    toolchain = _GuestToolchain(imports=IMPORTS)
    source = Path(__file__).resolve().parent
    sources = DriverSources("trust", source, ("trust.c",), entry="start", integrity_check=False, label="guest")
    toolchain.compile(sources, "trust.c", folder / "trust.obj")
    made = toolchain.link_program(GuestProgram("trust", ("trust.c",), "console"), [folder / "trust.obj"], linked)
    shutil.copy2(made.image, wine.folder / "trust.exe")
    return f"{GUEST_FOLDER}\\trust.exe"


@pytest.fixture(scope="module")
def ask(wine, program):
    """What WinVerifyTrust answers for some images."""

    def answers(*images):
        names = []
        for number, data in enumerate(images):
            write(wine.folder / f"trust-{number}.sys", data)
            names.append(f"{GUEST_FOLDER}\\trust-{number}.sys")
        return [int(line, 16) for line in wine.run(program, *names).stdout.split()]

    return answers


@pytest.fixture(scope="module")
def driver():
    return build_driver("procnotify").image.read_bytes()


def test_a_signature_is_accepted(ask, driver):
    assert ask(driver) == [ACCEPTED]


def test_a_teams_signature_with_its_chain_is_accepted(ask, driver, tmp_path):
    source = PemFiles(
        NamedFile(write(tmp_path / "c.pem", team().pem()), "certificate"),
        NamedFile(write(tmp_path / "k.pem", team().key_pem()), "key"),
    )

    assert ask(KeySigner(source).sign(driver).data) == [ACCEPTED]


def test_one_changed_byte_in_each_page_is_refused(ask, driver):
    altered = []
    for offset, _ in page_hashes(pe.parse(driver))[:-1]:
        data = bytearray(driver)
        data[offset + (0x10 if offset == 0 else 1)] ^= 0x40
        altered.append(bytes(data))

    assert len(altered) > 5
    assert set(ask(*altered)) == {TRUST_E_BAD_DIGEST}


def test_an_image_without_its_signature_is_refused(ask, driver):
    assert ask(without_signature(driver)) == [TRUST_E_NOSIGNATURE]


def test_the_signature_of_another_image_is_refused(ask, driver):
    """A whole and valid signature, moved to an image that it was not made for."""
    image = pe.parse(driver)
    offset, size = image.certificate_table
    other = pe.load(build_driver("companion").image)
    start, _ = other.certificate_table
    data = bytearray(other.data[:start] + image.data[offset : offset + size])
    struct.pack_into("<II", data, other.directory_offset(pe.DIRECTORY_SECURITY), start, size)

    assert ask(bytes(data)) == [TRUST_E_BAD_DIGEST]


def test_a_changed_octet_of_the_signers_signature_is_refused(ask, driver):
    """The RSA signature is the last thing in the structure; zeros may pad it."""
    data = bytearray(driver)
    data[len(driver.rstrip(b"\0")) - 100] ^= 1

    (answer,) = ask(bytes(data))
    assert answer not in {ACCEPTED, TRUST_E_NOSIGNATURE}
