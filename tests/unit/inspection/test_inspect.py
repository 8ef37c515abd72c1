"""ntproof inspect tells what a file is, and never crashes whatever it is given."""

from __future__ import annotations

import json
import os
import pty
import re
import struct
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import cli
from harness.build import pe
from harness.build.signing.authenticode import without_signature
from harness.build.signing.signer import KeySigner
from harness.errors import ImageError
from harness.inspection.inspect import inspect
from harness.inspection.report import lines, to_json
from harness.printable import printable
from tests.fixtures.resources import string, tree, version_info, with_resources
from tests.fuzzing.inspect_images import broken_by, main, mutated


def ntproof(*arguments):
    return cli.main(["inspect", *map(str, arguments)])


def test_a_sound_driver_passes_and_its_facts_are_told(minimal, capsys):
    assert ntproof(minimal.image) == 0

    told = capsys.readouterr().out
    for expected in (
        "machine: x64 (0x8664)",
        "subsystem: native",
        "flags: FORCE_INTEGRITY, NX_COMPAT, DYNAMIC_BASE",
        "not set: GUARD_CF",
        "imports of ntoskrnl.exe: ",
        "PDB: minimal.pdb",
        "reproducible: marked so (/Brepro)",
        "version: none",
        "signature 1: sha256 ",
        "verified; 6 page hashes",
        "signer: CN=ntproof test signing (",
        "chain ends: self-signed",
        "time stamp: none",
        "imports held against build 17763",
    ):
        assert expected in told, told


def test_json_says_the_same_and_more(minimal, capsys):
    assert ntproof("--json", "--build", "26100", minimal.image) == 0

    found = json.loads(capsys.readouterr().out)
    assert (found["format"], found["version"], found["passed"]) == ("ntproof-inspection", 1, True)
    assert found["sha256"] == minimal.sha256
    assert found["windows_build"] == 26100
    assert found["signatures"][0]["page_hashes"] == 6
    assert found["signature_error"] is None
    assert {section["name"] for section in found["sections"]} >= {".text", ".rdata", ".reloc"}
    assert {finding["severity"] for finding in found["findings"]} == {"note"}
    assert all(finding["advice"] for finding in found["findings"])
    assert all(p["certainty"] in {"will", "may", "open"} and p["advice"] for p in found["predictions"])


def test_a_version_resource_is_told(minimal, identity, tmp_path, capsys):
    content = version_info(string("CompanyName", "Watchers"))
    data = with_resources(minimal.image.read_bytes(), lambda rva: tree(content, rva))
    path = tmp_path / "v.sys"
    path.write_bytes(KeySigner(identity).sign(data).data)

    assert ntproof(path) == 0
    told = capsys.readouterr().out
    assert "version: file 1.2.3.4, product 5.6.7.8\nCompanyName: Watchers\n" in told
    assert "note: version" not in told


@pytest.fixture
def unsigned(minimal, tmp_path):
    path = tmp_path / "unsigned.sys"
    path.write_bytes(pe.with_checksum(without_signature(minimal.image.read_bytes())))
    return path


def test_an_error_in_the_image_is_the_drivers(unsigned, capsys):
    assert ntproof(unsigned) == 1
    assert "error: signature: the image is not signed\n    advice: sign the image" in capsys.readouterr().out


def test_an_unsigned_image_passes_where_that_is_meant(unsigned, capsys):
    assert ntproof("--unsigned", unsigned) == 0
    assert "signature: the image is not signed" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"MZ", b"\x7fELF" + bytes(200), b"MZ" + bytes(58) + b"\xff\xff\xff\x7f"])
def test_a_file_that_is_no_image_is_the_users(tmp_path, capsys, content):
    path = tmp_path / "wrong.sys"
    path.write_bytes(content)

    assert ntproof(path) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith(f"ntproof: error: {path}: ")


def test_a_file_that_is_absent_or_a_folder_is_the_users(tmp_path, capsys):
    assert ntproof(tmp_path / "absent.sys") == 2
    assert "cannot be read: No such file" in capsys.readouterr().err
    assert ntproof(tmp_path) == 2
    assert "cannot be read: Is a directory" in capsys.readouterr().err


def test_a_huge_file_is_not_read(tmp_path, capsys):
    path = tmp_path / "huge.sys"
    with path.open("wb") as file:
        file.truncate(1 << 34)

    assert ntproof(path) == 2
    assert "which no driver is" in capsys.readouterr().err


@pytest.mark.parametrize("build", ["win11", "-1", "7", "1234567", "²6100"])
def test_a_build_that_is_none_is_refused(minimal, capsys, build):
    assert ntproof(f"--build={build}", minimal.image) == 2
    assert "is no Windows build; give a number such as 17763 or 26100" in capsys.readouterr().err


def test_a_32_bit_image_is_named(minimal, tmp_path, capsys):
    data = bytearray(minimal.image.read_bytes())
    struct.pack_into("<H", data, pe.parse(bytes(data)).header_offset + 4, 0x14C)
    path = tmp_path / "x86.sys"
    path.write_bytes(data)

    assert ntproof(path) == 2
    assert "the image is for x86 (0x14C)" in capsys.readouterr().err


def test_on_a_terminal_there_are_tables(minimal):
    """A real terminal of 200 columns."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "COLUMNS": "200", "TERM": "xterm-256color"}
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.cli", "inspect", minimal.image],
        stdin=subprocess.DEVNULL, stdout=follower, stderr=subprocess.PIPE, env=environment,
    )  # fmt: skip
    os.close(follower)
    told = b""
    try:
        while part := os.read(leader, 65536):
            told += part
    except OSError:
        pass  # Linux says so when the last writer has closed the terminal.
    os.close(leader)
    _, complaint = process.communicate(timeout=60)
    text = re.sub(r"\x1b\[[0-9;]*m", "", told.decode())

    assert (process.returncode, complaint) == (0, b"")
    assert "what Windows will answer" in text
    assert "│ machine" in text
    assert "\x1b[" in told.decode()


def test_what_a_file_says_reaches_a_terminal_only_as_escapes(minimal, tmp_path):
    """A section name that would clear the screen, a right-to-left override, and a surrogate that no encoding has."""
    data = bytearray(minimal.image.read_bytes())
    image = pe.parse(bytes(data))
    data[image.section_table_offset : image.section_table_offset + 8] = b"\x1b[2J\x07\x00\x00\x00"
    path = tmp_path / "hostile.sys"
    path.write_bytes(data)
    told = "\n".join(lines(inspect(path)))

    assert "section \\x1b[2J\\x07: " in told
    assert all(line.isprintable() for line in told.splitlines())
    assert printable("\u202e a\ud800b é") == "\\u202e a\\ud800b é"


def overlapping(image, data, first, second, field):
    """Give one section the address (12) or the file offset (20) of another."""
    table = image.section_table_offset
    data[table + second * 40 + field : table + second * 40 + field + 4] = data[
        table + first * 40 + field : table + first * 40 + field + 4
    ]


@pytest.mark.parametrize(("field", "where"), [(12, "in memory"), (20, "in the file")])
def test_overlapping_sections_are_found(minimal, tmp_path, field, where):
    image = pe.load(minimal.image)
    data = bytearray(image.data)
    overlapping(image, data, 0, 1, field)
    path = tmp_path / "overlap.sys"
    path.write_bytes(data)

    messages = [finding.message for finding in inspect(path).findings if finding.check == "section-layout"]
    assert any("overlaps" in message and where in message for message in messages), messages


@pytest.mark.parametrize(
    ("offset", "size", "complaint"),
    [
        (0x40, 0x100, "lies outside the file"),
        (0xFFFFFFF8, 0x100, "lies outside the file"),
        (0x400, 0x200, "overlaps"),
        (None, 4, "too small to hold a signature"),
        (None, 0xFFFFFFFF, "lies outside the file"),
    ],
)
def test_a_hostile_certificate_table_is_told(minimal, tmp_path, offset, size, complaint):
    image = pe.load(minimal.image)
    data = bytearray(image.data)
    start, _ = image.certificate_table
    struct.pack_into(
        "<II", data, image.directory_offset(pe.DIRECTORY_SECURITY), start if offset is None else offset, size
    )
    path = tmp_path / "table.sys"
    path.write_bytes(data)

    assert complaint in "\n".join(lines(inspect(path)))


@pytest.mark.parametrize("depth", [50_000])
def test_a_signature_of_nothing_but_beginnings_is_malformed(minimal, tmp_path, depth):
    """Structures inside structures, deeper than any stack."""
    nested = b"\x30\x84" + (depth * 6).to_bytes(4, "big")
    blob = b"".join(b"\x30\x84" + ((depth - i) * 6).to_bytes(4, "big") for i in range(depth)) + nested
    image = pe.load(minimal.image)
    start, _ = image.certificate_table
    table = struct.pack("<IHH", 8 + len(blob), 0x200, 2) + blob
    data = bytearray(image.data[:start] + table)
    struct.pack_into("<II", data, image.directory_offset(pe.DIRECTORY_SECURITY), start, len(table))
    path = tmp_path / "deep.sys"
    path.write_bytes(data)

    assert "malformed" in str(inspect(path).signature)


def test_every_truncation_is_refused_or_found(minimal, tmp_path):
    data = minimal.image.read_bytes()
    path = tmp_path / "short.sys"
    for size in [*range(0, 0x400, 13), *range(0x400, len(data), 257)]:
        path.write_bytes(data[:size])
        try:
            found = inspect(path)
        except ImageError:
            continue
        assert not found.passed


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 64))
def test_a_mutated_image_is_told_or_refused(cookie, minimal, tmp_path, seed):
    path = tmp_path / "m.sys"
    path.write_bytes(mutated([minimal.image.read_bytes(), cookie.image.read_bytes()], seed))
    try:
        found = inspect(path)
    except ImageError:
        return
    assert json.dumps(to_json(found))
    assert all(line.isprintable() for line in lines(found))


def test_the_mutation_loop_prints_its_seed_and_what_it_did(capsys):
    assert main(["--seconds", "0.5", "--seed", "7"]) == 0
    assert re.fullmatch(r"seed 7\n[1-9]\d* images, each told or refused\n", capsys.readouterr().out)


def test_the_mutation_loop_tells_what_breaks(minimal, tmp_path):
    def broken(_):
        raise ZeroDivisionError("as planned")

    data = minimal.image.read_bytes()

    assert "ZeroDivisionError: as planned" in broken_by(data, tmp_path / "m.sys", broken)
    assert broken_by(data, tmp_path / "m.sys") is None


def test_the_same_seed_gives_the_same_image(minimal):
    images = [minimal.image.read_bytes()]

    assert mutated(images, 5) == mutated(images, 5)
    assert len({mutated(images, seed) for seed in range(20)}) == 20
