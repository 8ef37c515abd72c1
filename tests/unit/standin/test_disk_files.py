"""Files on the guest's disk answer as those in memory do."""

from __future__ import annotations

import pytest

from tests.standin.guest.disk_files import DiskFiles
from tests.standin.windows import Files, Refused
from vm import win32


@pytest.fixture(params=["memory", "disk"])
def files(request, tmp_path, monkeypatch):
    if request.param == "memory":
        return Files()
    # The folder of a test looks at case, which only the guest's own file system does not.
    (tmp_path / "C:").mkdir()
    return DiskFiles(tmp_path)


def code(call, *arguments, **options):
    with pytest.raises(Refused) as caught:
        call(*arguments, **options)
    return caught.value.code


def test_a_file_is_as_it_was_written(files):
    files.write(r"C:\a\b\file.bin", b"1")
    files.write(r"C:\a\b\file.bin", b"12")

    assert files.read(r"C:\a\b\file.bin") == b"12"
    assert files.get(r"C:\a\b\file.bin").content == b"12"
    assert files.is_folder(r"C:\a\b")
    assert not files.is_folder(r"C:\a\b\file.bin")
    assert [file.path for file in files.within(r"C:\a")] == [r"C:\a\b\file.bin"]


def test_what_is_not_there_is_told_as_windows_tells_it(files):
    files.make_folder(r"C:\a")

    assert files.get(r"C:\a\none") is None
    assert code(files.read, r"C:\a\none") == win32.ERROR_FILE_NOT_FOUND
    assert code(files.read, r"C:\none\none") == win32.ERROR_PATH_NOT_FOUND
    assert code(files.write, r"C:\none\none", b"", make_folders=False) == win32.ERROR_PATH_NOT_FOUND
    files.remove(r"C:\a\none")


def test_a_folder_is_no_file_and_a_file_no_folder(files):
    files.write(r"C:\a\file", b"")

    assert code(files.write, r"C:\a", b"") == win32.ERROR_ACCESS_DENIED
    assert code(files.make_folder, r"C:\a\file") == win32.ERROR_ALREADY_EXISTS


def test_a_moved_file_takes_the_place_of_another(files):
    files.write(r"C:\a\new", b"new")
    files.write(r"C:\a\old", b"old")
    files.move(r"C:\a\new", r"C:\a\old")

    assert files.read(r"C:\a\old") == b"new"
    assert files.get(r"C:\a\new") is None
    assert code(files.move, r"C:\a\new", r"C:\a\old") == win32.ERROR_FILE_NOT_FOUND


@pytest.mark.parametrize("path", ["relative", r"C:", r"CC:\a", r"C:\a?", "C:/a", r"C:\a|b"])
def test_what_is_no_path_is_refused(files, path):
    assert code(files.read, path) == win32.ERROR_INVALID_NAME


def test_paths_that_differ_in_case_have_one_key(files):
    assert files.key(r"C:\A\b") == files.key(r"c:\a\B")


def test_a_name_may_hold_any_unit(files):
    path = "C:\\a\\lone \ud800 and \xe4.txt"
    files.write(path, b"1")

    assert files.read(path) == b"1"
    assert [file.path for file in files.within(r"C:\a")] == [path]
