"""ntguest.exe provides files where a plan wants them, and never touches one that was there before."""

from __future__ import annotations

import pytest

from tests.integration.guest.wine import CHILD, GUEST_FOLDER, Agent

ERROR_FILE_NOT_FOUND = 2
ERROR_ACCESS_DENIED = 5
ERROR_SHARING_VIOLATION = 32
ERROR_FILE_EXISTS = 80
ERROR_INVALID_NAME = 123

OTHER = f"{GUEST_FOLDER}\\other.exe"

NO_PATHS = [
    "child.exe",
    ".\\child.exe",
    "\\child.exe",
    "C:child.exe",
    "C:",
    "C:\\",
    "C:\\folder\\",
    "\\\\.\\C:\\x.exe",
    "\\\\.\\PhysicalDrive0",
    "\\\\?\\PhysicalDrive0",
    "\\\\?\\GLOBALROOT\\Device\\Null",
    "\\\\server\\share\\x.exe",
    "\\\\?\\UNC\\server\\share\\x.exe",
    "//server/share/x.exe",
    "NUL",
    "C:\\NUL",
    "C:\\windows\\system32\\notepad.exe:stream",
    "C:\\x.exe::$DATA",
    "C:\\C:\\x.exe",
    "\u00e9:\\x.exe",
    "\\\\?\\C:/x.exe",
    "\\\\?\\C:\\x\\",
    "\\\\?\\C:\\windows\\notepad.exe:stream",
    "\\??\\UNC\\server\\share\\x.exe",
    "\\\\?\\",
]


@pytest.fixture
def files(wine):
    """Two sources that differ, and a folder for a test's targets."""
    (wine.folder / "other.exe").write_bytes(b"MZ other")
    return wine.prefix / "drive_c" / "provided"


def provide(agent, path, source=CHILD):
    return agent.do("provide", source=source, path=path)["win32_error"]


def remove(agent, path):
    return agent.do("remove", path=path)["win32_error"]


def test_a_file_is_provided_with_its_folders_launched_and_removed(wine, agent, files):
    path = "C:\\provided\\deep er\\caf\u00e9\\tool.exe"

    assert provide(agent, path) == 0
    assert (files / "deep er" / "caf\u00e9" / "tool.exe").read_bytes() == (wine.folder / "child.exe").read_bytes()
    assert agent.launch("a", image=path)["image_name"] == f"\\??\\{path}"
    assert agent.do("exit", process="a")["exited"]
    assert remove(agent, path) == 0
    assert not (files / "deep er" / "caf\u00e9" / "tool.exe").exists()


def test_a_file_that_is_gone_is_no_error(agent):
    assert remove(agent, "C:\\provided\\never.exe") == 0
    assert remove(agent, "C:\\no such folder\\never.exe") == 0


def test_what_is_provided_from_a_read_only_file_can_be_replaced_and_removed(wine, agent, files):
    source, path = wine.folder / "readonly.exe", "C:\\provided\\readonly.exe"
    source.write_bytes(b"MZ read only")
    source.chmod(0o444)

    assert provide(agent, path, f"{GUEST_FOLDER}\\readonly.exe") == 0
    assert provide(agent, path, OTHER) == 0
    assert (files / "readonly.exe").read_bytes() == b"MZ other"
    assert provide(agent, path, f"{GUEST_FOLDER}\\readonly.exe") == 0
    assert remove(agent, path) == 0


def test_a_file_of_the_system_is_neither_replaced_nor_removed(wine, agent, files):
    for path in (
        "C:\\windows\\system32\\cmd.exe",
        "C:\\windows\\temp\\..\\System32\\CMD.EXE",
        "\\\\?\\C:\\windows\\notepad.exe",
    ):
        assert provide(agent, path) == ERROR_FILE_EXISTS
        assert remove(agent, path) == ERROR_ACCESS_DENIED

    assert (wine.prefix / "drive_c" / "windows" / "system32" / "cmd.exe").stat().st_size > 10_000


def test_a_file_that_holds_what_is_asked_for_is_left_as_it_is_and_stays_its_owners(wine, agent, files):
    theirs = wine.prefix / "drive_c" / "theirs.exe"
    theirs.write_bytes((wine.folder / "child.exe").read_bytes())

    assert provide(agent, "C:\\theirs.exe") == 0
    assert remove(agent, "C:\\theirs.exe") == ERROR_ACCESS_DENIED
    assert theirs.exists()
    assert provide(agent, "C:\\theirs.exe", OTHER) == ERROR_FILE_EXISTS


def test_a_provided_file_is_replaced_by_later_runs_under_any_spelling(wine, files):
    first, second = Agent(wine), Agent(wine)

    assert provide(first, "C:\\provided\\again.exe") == 0
    assert first.close() == 0
    assert provide(second, "c:/PROVIDED/x/../Again.EXE", OTHER) == 0
    assert (files / "again.exe").read_bytes() == b"MZ other"
    assert provide(second, "\\??\\C:\\provided\\again.exe") == 0
    assert remove(second, "\\\\?\\C:\\Provided\\AGAIN.exe") == 0
    assert second.close() == 0
    assert not (files / "again.exe").exists()


def test_what_somebody_puts_where_a_file_was_removed_is_theirs(agent, files):
    assert provide(agent, "C:\\provided\\once.exe") == 0
    assert remove(agent, "C:\\provided\\once.exe") == 0
    (files / "once.exe").write_bytes(b"somebody's")

    assert provide(agent, "C:\\provided\\once.exe") == ERROR_FILE_EXISTS
    assert remove(agent, "C:\\provided\\once.exe") == ERROR_ACCESS_DENIED
    assert (files / "once.exe").read_bytes() == b"somebody's"


def test_a_copy_that_failed_leaves_no_claim(wine, agent, files):
    assert provide(agent, "C:\\provided\\claim.exe", f"{GUEST_FOLDER}\\no such file.exe") == ERROR_FILE_NOT_FOUND
    # A folder is a file that opens and cannot be copied.
    assert provide(agent, "C:\\provided\\claim.exe", GUEST_FOLDER) != 0
    files.mkdir(exist_ok=True)
    (files / "claim.exe").write_bytes(b"somebody's")

    assert provide(agent, "C:\\provided\\claim.exe") == ERROR_FILE_EXISTS
    assert remove(agent, "C:\\provided\\claim.exe") == ERROR_ACCESS_DENIED


def test_a_folder_is_no_file(agent, files):
    assert provide(agent, "C:\\windows\\system32") == ERROR_FILE_EXISTS
    assert remove(agent, "C:\\windows\\system32") == ERROR_ACCESS_DENIED


def test_a_file_in_the_place_of_a_folder_is_told(wine, agent, files):
    (wine.prefix / "drive_c" / "plain").write_bytes(b"")

    assert provide(agent, "C:\\plain\\x.exe") != 0
    assert (wine.prefix / "drive_c" / "plain").is_file()


def test_a_running_image_is_kept_and_told(agent, files):
    path = "C:\\provided\\running.exe"
    assert provide(agent, path) == 0
    agent.launch("a", image=path)

    assert provide(agent, path) == 0
    assert provide(agent, path, OTHER) in (ERROR_SHARING_VIOLATION, ERROR_ACCESS_DENIED)
    assert remove(agent, path) in (ERROR_SHARING_VIOLATION, ERROR_ACCESS_DENIED)

    agent.do("terminate", process="a")
    agent.do("release", process="a")
    assert remove(agent, path) == 0


def test_a_path_longer_than_260_characters_is_provided(agent, files):
    path = "C:\\provided\\" + "\\".join(["d" * 100] * 5) + "\\tool.exe"

    assert provide(agent, path) == 0
    assert remove(agent, path) == 0


def test_a_path_with_a_prefix_is_taken_as_it_is(agent, files):
    # Windows takes a blank and a dot at the end of a name away from other paths.
    plain, literal = "C:\\provided\\ends.exe", "\\\\?\\C:\\provided\\ends.exe. "

    assert provide(agent, f"{plain}. ") == 0
    assert provide(agent, literal, OTHER) == 0
    assert (files / "ends.exe").read_bytes() != (files / "ends.exe. ").read_bytes() == b"MZ other"
    assert remove(agent, literal) == 0
    assert (files / "ends.exe").exists()
    assert remove(agent, plain) == 0


@pytest.mark.parametrize("units", [16_384, 32_590])
def test_a_path_is_not_too_long_before_it_is_so_for_the_system(agent, units):
    # Wine's paths end at 4,096 bytes; the answer is its own.
    path = "\\\\?\\C:\\" + "\\".join(["d" * 100] * 400)[: units - 10] + "\\x"

    assert provide(agent, path) not in (0, ERROR_INVALID_NAME, ERROR_ACCESS_DENIED)
    assert remove(agent, path) != ERROR_INVALID_NAME


@pytest.mark.parametrize("path", NO_PATHS, ids=lambda path: ascii(path)[:30])
def test_what_is_no_path_of_a_file_on_a_drive_is_refused(agent, files, path):
    assert provide(agent, path) == ERROR_INVALID_NAME
    assert provide(agent, "C:\\provided\\x.exe", path) == ERROR_INVALID_NAME
    assert remove(agent, path) == ERROR_INVALID_NAME


@pytest.mark.parametrize(
    "members",
    [{}, {"path": "C:\\x"}, {"source": "C:\\x"}, {"source": "", "path": "C:\\x"}, {"source": "C:\\x", "path": 7},
     {"source": "C:\\x", "path": "C:\\x\0.exe"}, {"source": "C:\\x", "path": "x" * 32_768},
     {"source": "C:\\x", "path": "C:\\y", "replace": True}],
    ids=lambda members: ascii(members)[:40],
)  # fmt: skip
def test_a_malformed_request_is_refused(agent, members):
    assert agent.ask("provide", **members)["error"] == "bad-request"
    assert agent.ask("remove", **{**members, "also": 1})["error"] == "bad-request"
