"""What Windows will answer is predicted from the file: each defect has its answer, and a sound driver has none."""

from __future__ import annotations

import dataclasses
import importlib.util
import struct
from pathlib import Path

import pytest

from harness.build import der, pe
from harness.build.signing.authenticode import sign, without_signature
from harness.build.signing.identifiers import RSA_ENCRYPTION, SHA256
from harness.build.signing.signature import verify
from harness.build.signing.signer import KeySigner, SigningKey
from harness.build.signing.usable import rsa_signature
from harness.inspection import answers
from harness.inspection.inspect import inspect
from harness.inspection.predictions import Certainty, Evidence, predict
from tests.fixtures.signing_keys import SERVER, make, rsa_key
from vm import win32

NO_CATALOG = "without an installed catalog that is signed for it"
HASH = "ERROR_INVALID_IMAGE_HASH 577 (STATUS_INVALID_IMAGE_HASH 0xC0000428)"
FORMAT = "ERROR_BAD_EXE_FORMAT 193 (STATUS_INVALID_IMAGE_FORMAT 0xC000007B)"


class Patient:
    """An image that is changed in one place, and signed again unless told otherwise."""

    def __init__(self, built, identity, path):
        self.image = pe.load(built.image)
        self.data = bytearray(self.image.data)
        self.identity = identity
        self.path = path

    def flags(self, change):
        position = self.image.optional_header_offset + 70
        (value,) = struct.unpack_from("<H", self.data, position)
        struct.pack_into("<H", self.data, position, change(value))

    def section_flags(self, name, change):
        index = [s.name for s in self.image.sections].index(name)
        position = self.image.section_table_offset + index * 40 + 36
        (value,) = struct.unpack_from("<I", self.data, position)
        struct.pack_into("<I", self.data, position, change(value))

    def replace(self, old, new):
        assert self.data.count(old) == 1
        start = self.data.index(old)
        self.data[start : start + len(old)] = new.ljust(len(old), b"\0")

    def write(self):
        self.path.write_bytes(pe.with_checksum(bytes(self.data)))
        return self.path

    def predictions(self, *, signed=True, **options):
        self.path.write_bytes(KeySigner(self.identity).sign(bytes(self.data)).data if signed else self.data)
        return inspect(self.path, **options).predictions


@pytest.fixture
def patient(minimal, identity, tmp_path):
    return Patient(minimal, identity, tmp_path / "patient.sys")


def told(predictions, *certainties):
    return [(p.where, p.condition, p.answer) for p in predictions if p.certainty in certainties]


def test_a_sound_test_signed_driver_is_refused_only_where_test_signing_is_off_or_a_policy_wants_more(patient):
    found = patient.predictions()

    assert told(found, Certainty.WILL) == [
        ("StartService", "test signing off", HASH),
        (
            "StartService",
            "an App Control policy with Required:WHQL in force",
            "ERROR_SYSTEM_INTEGRITY_WHQL_NOT_SATISFIED 4583 (0xC0E9000E)",
        ),
    ]
    assert told(found, Certainty.MAY) == [
        ("executable memory at run time", "memory integrity on", "refused; with which error is not documented")
    ]


def test_what_depends_on_the_machine_is_said_to_be_open(patient):
    found = told(patient.predictions(), Certainty.OPEN)

    assert [answer.split(" (")[0] for _, _, answer in found] == [
        "ERROR_SYSTEM_INTEGRITY_POLICY_VIOLATION 4551",
        "ERROR_DRIVER_BLOCKED 1275",
        "one of 4556, 4557, 4558, 4559, 4580, 4581, 4582",
    ]


def test_an_unsigned_driver_is_refused_unless_a_catalog_lists_it(patient):
    patient.data = bytearray(pe.with_checksum(without_signature(bytes(patient.data))))

    assert told(patient.predictions(signed=False), Certainty.WILL) == [("StartService", NO_CATALOG, HASH)]


def signed_by(owner, data):
    return bytearray(sign(bytes(data), SigningKey(owner.der, (), rsa_signature(owner.key))))


def test_a_test_certificate_that_names_no_usage_is_as_good_as_any(patient):
    patient.data = signed_by(make("Bare", rsa_key(4), usages=()), patient.data)
    found = inspect(patient.write())

    assert found.passed
    assert ("StartService", "test signing off", HASH) in told(found.predictions, Certainty.WILL)
    assert ("StartService", NO_CATALOG, HASH) not in told(found.predictions, *Certainty)


def test_a_certificate_for_something_else_is_an_error_and_may_be_refused(patient):
    patient.data = signed_by(make("Web", rsa_key(4), usages=(SERVER,)), patient.data)
    found = inspect(patient.write())

    assert [f.message for f in found.findings if f.check == "signature"] == [
        "the certificate of CN=Web is not meant for code signing"
    ]
    assert ("StartService", NO_CATALOG, HASH) in told(found.predictions, Certainty.MAY)


@pytest.mark.parametrize(
    ("identifier", "replacement", "reason"),
    [
        (RSA_ENCRYPTION, "1.2.840.113549.1.1.10", "the signature is made with RSASSA-PSS"),
        (SHA256, "2.16.840.1.101.3.4.2.8", "the digest algorithm 2.16.840.1.101.3.4.2.8 is not known here"),
    ],
)
def test_of_a_signature_that_cannot_be_verified_here_nothing_is_sure(patient, identifier, replacement, reason):
    # What SignerInfo says of its algorithms comes last of all that names them.
    position = patient.data.rindex(der.object_identifier(identifier))
    patient.data[position : position + len(der.object_identifier(identifier))] = der.object_identifier(replacement)
    found = inspect(patient.write())

    assert not found.passed
    assert found.signature.startswith(reason)
    assert ("StartService", NO_CATALOG, HASH) in told(found.predictions, Certainty.MAY)
    assert HASH not in [answer for _, _, answer in told(found.predictions, Certainty.WILL)]


def test_a_time_stamp_that_cannot_be_read_makes_no_refusal_sure(patient):
    key = make("Signer", rsa_key(4))
    signing = SigningKey(key.der, (), rsa_signature(key.key))
    patient.data = bytearray(sign(bytes(patient.data), signing, lambda _: der.sequence(der.integer(1))))
    found = inspect(patient.write())

    assert not found.passed
    assert ("StartService", NO_CATALOG, HASH) in told(found.predictions, Certainty.MAY)
    assert HASH not in [answer for _, _, answer in told(found.predictions, Certainty.WILL)]


def test_names_of_microsoft_are_not_taken_for_microsoft(patient):
    root = make("Microsoft Root Certificate Authority 2010", rsa_key(5), usages=(), authority=True)
    forged = make("Microsoft Windows Hardware Compatibility Publisher", rsa_key(4), issuer=root)
    patient.data = signed_by(forged, patient.data)

    found = inspect(patient.write()).predictions

    assert ("StartService", "if Microsoft's own root did not issue the chain", HASH) in told(found, Certainty.OPEN)


def test_a_driver_changed_after_signing_is_refused(patient):
    patient.data[patient.image.sections[0].raw_offset] ^= 1
    found = patient.predictions(signed=False)

    assert ("StartService", NO_CATALOG, HASH) in told(found, Certainty.WILL)
    assert "the page at file offset" in found[0].because


def test_a_wrong_checksum_may_be_refused(patient):
    patient.data[patient.image.checksum_offset] ^= 1

    assert ("StartService", "always", FORMAT) in told(patient.predictions(signed=False), Certainty.MAY)


def test_without_force_integrity_the_ex_registration_is_denied(patient):
    patient.replace(b"ExAllocatePoolWithTag", b"PsSetCreateProcessNot")
    patient.flags(lambda value: value & ~pe.DLLCHARACTERISTICS_FORCE_INTEGRITY)
    found = told(patient.predictions(), Certainty.WILL, Certainty.MAY)

    denied = [one for one in found if one[2] == "STATUS_ACCESS_DENIED (0xC0000022)"]
    assert denied == [
        (
            "PsSetCreateProcessNotifyRoutineEx",
            "if the driver finds it with MmGetSystemRoutineAddress",
            "STATUS_ACCESS_DENIED (0xC0000022)",
        )
    ]


def test_a_driver_that_imports_the_ex_registration_without_force_integrity_is_denied_for_sure(tmp_path):
    from harness.build import build_driver

    image = pe.load(build_driver("procnotify").image)
    data = bytearray(image.data)
    position = image.optional_header_offset + 70
    (value,) = struct.unpack_from("<H", data, position)
    struct.pack_into("<H", data, position, value & ~pe.DLLCHARACTERISTICS_FORCE_INTEGRITY)
    path = tmp_path / "p.sys"
    path.write_bytes(pe.with_checksum(without_signature(bytes(data))))

    found = inspect(path).predictions
    assert any(
        p.where.startswith("PsSetCreateProcessNotifyRoutineEx")
        and (p.condition, p.certainty, p.answer) == ("always", Certainty.WILL, "STATUS_ACCESS_DENIED (0xC0000022)")
        for p in found
    )


def test_an_import_that_the_chosen_build_lacks_is_refused_there_alone(patient):
    patient.replace(b"ExAllocatePoolWithTag", b"ExAllocatePool2")
    absent = ("StartService", "on the chosen build", str(answers.ENTRYPOINT_NOT_FOUND))

    assert absent in told(patient.predictions(windows_build=17763), Certainty.WILL)
    assert absent not in told(patient.predictions(windows_build=26100), *Certainty)


def test_an_import_that_no_list_knows_may_be_refused(patient):
    patient.replace(b"ExAllocatePoolWithTag", b"ExNoSuchFunction")

    assert ("StartService", "on the chosen build", str(answers.ENTRYPOINT_NOT_FOUND)) in told(
        patient.predictions(), Certainty.MAY
    )


def test_code_that_can_be_written_is_refused_by_memory_integrity(patient):
    refused = ("StartService", "memory integrity on", "refused; with which error is not documented")
    patient.section_flags(".text", lambda value: value | pe.SCN_MEM_WRITE)
    assert refused in told(patient.predictions(), Certainty.WILL)

    patient.section_flags(".text", lambda value: value | pe.SCN_MEM_DISCARDABLE)
    found = patient.predictions()
    assert refused in told(found, Certainty.MAY)
    assert refused not in told(found, Certainty.WILL)


def test_an_image_for_another_processor_may_be_refused_either_way(patient):
    struct.pack_into("<H", patient.data, patient.image.header_offset + 4, pe.MACHINE_ARM64)
    patient.data = bytearray(patient.data)
    patient.path.write_bytes(patient.data)
    found = inspect(patient.path)

    assert found.machine == "Arm64 (0xAA64)"
    assert [p.answer for p in found.predictions if p.condition == "on an x64 system"] == [
        FORMAT,
        "ERROR_DRIVER_BLOCKED 1275 (STATUS_DRIVER_BLOCKED 0xC000036C)",
    ]


def test_a_driver_that_microsoft_signed_is_not_said_to_need_test_signing():
    """WinDivert carries a cross-signed signature and one of the Hardware Dev Center."""
    spec = importlib.util.find_spec("pydivert")
    found = inspect(Path(spec.origin).parent / "windivert_dll" / "WinDivert64.sys")

    assert len(found.signature.all()) == 2
    assert [f.message.split()[1] for f in found.findings if f.check == "imports"] == [
        "NDIS.SYS",
        "fwpkclnt.sys",
        "WDFLDR.SYS",
    ]
    assert not any(p.condition == "on the chosen build" for p in found.predictions)
    assert not any("test signing" in p.condition or "WHQL" in p.condition for p in found.predictions)


def test_a_driver_that_is_only_cross_signed_may_need_test_signing(patient):
    spec = importlib.util.find_spec("pydivert")
    path = Path(spec.origin).parent / "windivert_dll" / "WinDivert64.sys"
    alone = dataclasses.replace(verify(path), nested=())
    found = predict(Evidence(pe.load(path), (), alone, ()))

    assert ("StartService", "test signing off, Secure Boot on, Windows 10 1607 or later", HASH) in told(
        found, Certainty.MAY
    )
    assert any(p.answer.startswith("ERROR_SYSTEM_INTEGRITY_WHQL") for p in found if p.certainty is Certainty.WILL)


def test_the_surest_comes_first(patient):
    patient.flags(lambda value: value & ~pe.DLLCHARACTERISTICS_FORCE_INTEGRITY)
    order = [list(Certainty).index(p.certainty) for p in patient.predictions()]

    assert order == sorted(order)


def test_each_answer_has_the_name_of_its_number():
    numbered = {answer.code: answer for answer in answers.ALL}

    assert {577, 1275, *range(4550, 4560), *range(4580, 4584)} <= set(numbered)
    for code, answer in numbered.items():
        assert answer.name == win32.error_name(code)
        assert answer.name.startswith("ERROR_")
        assert answer.advice
    assert numbered[4551].status == 0xC0E90002
    assert numbered[4583].status == 0xC0E9000E
