"""The guest's set-up reads answers as Windows' does, and says what is wrong with those that it could not follow."""

from __future__ import annotations

import pytest

from tests.standin.guest.answers import WrongAnswers, read_answers
from tests.standin.guest.disk_layout import place, table
from tests.standin.guest.first_logon import scripts_of
from tests.standin.guest.media import Medium, find_answers
from tests.standin.guest.steps import STEPS
from tests.standin.guest.windows_pe import check_computer
from vm.windows import profiles
from vm.windows.images.answer_media import setup_scripts
from vm.windows.images.credentials import new_credentials
from vm.windows.images.unattend import build_unattend

WIN11 = profiles.load("win11")
ACCOUNTS = new_credentials(WIN11)


@pytest.fixture
def document():
    return build_unattend(WIN11, ACCOUNTS, image_index=6).decode()


def test_what_setup_acts_on_is_read(document):
    answers = read_answers(document)

    assert [(one.kind, one.size_mib, one.format) for one in answers.disk.partitions] == [
        ("EFI", 260, "FAT32"),
        ("MSR", 16, None),
        ("Primary", None, "NTFS"),
    ]
    assert answers.target == (0, 3)
    assert answers.image_index == 6
    assert answers.computer_name == "NTPROOF-WIN11"
    words = {one.name: one.password for one in answers.accounts}
    assert words == {one.name: one.password.reveal() for one in (ACCOUNTS.administrator, ACCOUNTS.standard_user)}
    assert answers.auto_logon == ACCOUNTS.administrator.name
    assert "BypassCPUCheck" in answers.bypassed


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<AcceptEula>true", "<AcceptEula>false", "AcceptEula"),
        ("/IMAGE/INDEX", "/IMAGE/NAME", "names no image by its index"),
        ("<WillWipeDisk>true", "<WillWipeDisk>false", "not one disk that is wiped"),
        ("<Username>ntproof-admin", "<Username>ntproof-user", "user name or password of 'ntproof-user' is incorrect"),
        ("<Enabled>true", "<Enabled>false", "nobody is logged on"),
        ("<PlainText>false", "<PlainText>true", "plain text"),
        ('pass="oobeSystem"', 'pass="auditUser"', "pass oobeSystem has no component"),
        ('processorArchitecture="amd64"', 'processorArchitecture="x86"', "not for amd64"),
        ("reg.exe add", "reg add", "no command that is known here"),
        ("<unattend", "<unattended", "it is no XML"),
    ],
)
def test_answers_that_cannot_be_followed_are_refused(document, old, new, message):
    assert old in document

    with pytest.raises(WrongAnswers, match=message):
        read_answers(document.replace(old, new))


def test_partitions_lie_one_behind_the_other_and_the_last_takes_the_rest(document):
    partitions, sectors = read_answers(document).disk.partitions, 32 << 21
    places = place(partitions, sectors)

    assert places[0] == (2048, 2048 + 260 * 2048 - 1)
    assert [first for first, _ in places[1:]] == [last + 1 for _, last in places[:-1]]
    assert sectors - 2 * 2048 < places[-1][1] < sectors - 33
    assert len(table(partitions, places, sectors)[1024]) == 128 * 128


def test_a_disk_that_is_too_small_is_refused(document):
    with pytest.raises(WrongAnswers, match="does not fit"):
        place(read_answers(document).disk.partitions, 100 << 11)


def test_a_computer_that_windows_11_would_refuse_is_refused_unless_the_check_is_left_out(document):
    answers = read_answers(document)

    check_computer(answers, 4096, has_tpm=True)
    with pytest.raises(WrongAnswers, match="2048 MiB of memory"):
        check_computer(answers, 2048, has_tpm=True)
    with pytest.raises(WrongAnswers, match=r"there is no TPM 2\.0"):
        check_computer(answers, 4096, has_tpm=False)


def test_the_first_logon_runs_the_script_on_the_drive_that_has_it(document, tmp_path):
    for letter in "DE":
        (tmp_path / letter).mkdir()
    (tmp_path / "E" / "NTPROOF").mkdir()
    script = tmp_path / "E" / "NTPROOF" / "Setup.ps1"
    script.touch()
    media = [Medium(letter, tmp_path / letter) for letter in "DE"]
    (command,) = read_answers(document).first_logon

    assert scripts_of(command, media) == [script]
    assert scripts_of(command, media[:1]) == []
    with pytest.raises(WrongAnswers, match="no command that is known here"):
        scripts_of(command.replace("-ExecutionPolicy Bypass ", ""), media)


def test_answers_are_found_at_the_root_of_a_medium_only(tmp_path):
    (tmp_path / "D").mkdir()
    medium = Medium("D", tmp_path / "D")
    (tmp_path / "D" / "folder").mkdir()
    (tmp_path / "D" / "folder" / "autounattend.xml").touch()
    assert find_answers([medium]) is None

    (tmp_path / "D" / "AutoUnattend.xml").touch()
    assert find_answers([medium]) == tmp_path / "D" / "AutoUnattend.xml"


def test_the_guest_knows_every_step_of_the_set_up_and_no_other():
    steps = {path.removeprefix("steps/").removesuffix(".ps1") for path in setup_scripts() if path.startswith("steps/")}
    assert set(STEPS) == steps
