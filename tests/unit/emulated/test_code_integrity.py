"""A driver that was changed after it was signed does not start (StartServiceW: ERROR_INVALID_IMAGE_HASH)."""

from __future__ import annotations

import struct

import pytest

from tests.fixtures import guinea_pigs
from tests.fixtures import misuse as fixture
from vm.emulated.loader.code_integrity import Signature
from vm.emulated.loader.pe import DriverImage
from vm.emulated.machine import EmulatedMachine
from vm.errors import Win32Error

ERROR_INVALID_IMAGE_HASH = 577


@pytest.fixture(scope="module")
def signed():
    return fixture.image().read_bytes()


def optional_header(data):
    return struct.unpack_from("<I", data, 0x3C)[0] + 24


def security_directory(data):
    return optional_header(data) + 112 + 8 * 4


def changed(data, offset):
    return data[:offset] + bytes((data[offset] ^ 1,)) + data[offset + 1 :]


def test_a_signature_belongs_to_the_file_that_was_signed(signed):
    assert DriverImage.parse(signed).signature is Signature.MATCHES
    assert DriverImage.parse(guinea_pigs.build("image")).signature is Signature.ABSENT


@pytest.mark.parametrize("where", [0x40, 0x400, 0x1000])
def test_one_changed_bit_is_noticed(signed, where):
    assert DriverImage.parse(changed(signed, where)).signature is Signature.ALTERED


def test_bytes_behind_the_signature_are_noticed(signed):
    assert DriverImage.parse(signed + bytes(8)).signature is Signature.ALTERED


def test_the_checksum_is_not_covered(signed):
    assert DriverImage.parse(changed(signed, optional_header(signed) + 64)).signature is Signature.MATCHES


def test_a_signature_of_nonsense_is_no_signature(signed):
    offset, size = struct.unpack_from("<II", signed, security_directory(signed))
    nonsense = signed[: offset + 8] + bytes(size - 8) + signed[offset + size :]
    assert DriverImage.parse(nonsense).signature is Signature.ALTERED


def test_a_driver_that_was_changed_after_it_was_signed_is_not_started(signed, tmp_path):
    file = tmp_path / "changed.sys"
    file.write_bytes(changed(signed, 0x400))
    machine = EmulatedMachine()
    try:
        machine.install_driver("m", file)
        with pytest.raises(Win32Error, match=r"changed\.sys was changed after it was signed; sign it again") as caught:
            machine.start_driver("m")
    finally:
        machine.close()
    assert caught.value.code == ERROR_INVALID_IMAGE_HASH
