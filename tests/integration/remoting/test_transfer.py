"""Files to and from the stand-in with a real paramiko client, and with chunks where there is no SSH."""

from __future__ import annotations

import os
import shutil
import time

import pytest

from tests.standin.requirements import require_remoting

require_remoting()

from tests.standin.sshd import StandInSsh, make_host_key  # noqa: E402
from vm.errors import MachineConfigurationError, Win32Error  # noqa: E402
from vm.windows.remoting.endpoint import Credentials  # noqa: E402
from vm.windows.remoting.errors import CredentialsRefused, IdentityChanged, TransferFailed  # noqa: E402
from vm.windows.remoting.ssh import SftpConnection, SshEndpoint, fingerprint, remote_path  # noqa: E402
from vm.windows.remoting.transfer import CHUNK, UNFINISHED, GuestFiles  # noqa: E402

TARGET = r"C:\ntproof\drivers\procnotify.sys"


@pytest.fixture
def sshd(standin):
    with StandInSsh(standin.windows, password=standin.password) as server:
        yield server


@pytest.fixture
def connect(sshd, standin):
    """Makes SFTP connections to whatever key and password are the right ones unless a test says otherwise."""
    made = []

    def make(deadline, *, host_key=None, password=None):
        endpoint = SshEndpoint("127.0.0.1", sshd.port, host_key or sshd.host_key)
        credentials = Credentials(standin.username, password or standin.password)
        made.append(SftpConnection.connect(endpoint, credentials, deadline))
        return made[-1]

    yield make
    for connection in made:
        connection.close()


@pytest.fixture(params=["sftp", "chunks"])
def files(request, session):
    """Both ways of sending."""
    return GuestFiles(session, request.getfixturevalue("connect") if request.param == "sftp" else None)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "procnotify.sys"
    path.write_bytes(os.urandom(3 * 1024 * 1024 + 17))
    return path


def test_a_file_arrives_whole_and_under_its_name(files, standin, source):
    report = files.send({TARGET: source})

    assert standin.windows.files.read(TARGET) == source.read_bytes()
    assert report.bytes_sent == source.stat().st_size
    assert standin.windows.files.get(TARGET + UNFINISHED) is None


def test_a_file_that_did_not_change_is_not_sent_again(files, source):
    files.send({TARGET: source})

    again = files.send({TARGET: source})

    assert again.bytes_sent == 0
    assert again.unchanged == (TARGET,)
    assert again.method == "none"


def test_a_folder_that_is_there_costs_no_command(session, connect, standin, source):
    files = GuestFiles(session, connect)
    files.send({TARGET: source})
    source.write_bytes(b"another")
    standin.requests.clear()

    files.send({TARGET: source})

    assert standin.windows.files.read(TARGET) == b"another"
    assert standin.requests.count("Command") == 2, "what is there, and the name for what was sent"


def test_only_what_changed_is_sent(files, standin, source, tmp_path):
    other = tmp_path / "other.exe"
    other.write_bytes(b"MZ 1")
    package = {TARGET: source, r"C:\ntproof\other.exe": other}
    files.send(package)
    other.write_bytes(b"MZ 2")

    report = files.send(package)

    assert dict(report.sent) == {r"C:\ntproof\other.exe": 4}
    assert standin.windows.files.read(r"C:\ntproof\other.exe") == b"MZ 2"


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1])
def test_a_file_of_any_size_arrives_and_comes_back(files, standin, tmp_path, size):
    source, back = tmp_path / "a", tmp_path / "b"
    source.write_bytes(os.urandom(size))

    files.send({TARGET: source})
    fetched = files.fetch(TARGET, back)

    assert standin.windows.files.read(TARGET) == source.read_bytes() == back.read_bytes()
    assert fetched == size


def test_a_file_for_which_there_is_no_room_is_not_fetched(files, source, tmp_path, monkeypatch):
    files.send({TARGET: source})
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1 << 20))

    with pytest.raises(TransferFailed, match="1048576"):
        files.fetch(TARGET, tmp_path / "back.sys")
    assert list(tmp_path.iterdir()) == [source]


def test_fetching_a_file_that_is_not_there_leaves_nothing_behind(session, tmp_path):
    with pytest.raises(Win32Error) as absent:
        GuestFiles(session).fetch(r"C:\absent.dmp", tmp_path / "absent.dmp")

    assert absent.value.code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_changes_on_its_way_never_gets_its_name(session, connect, sshd, standin, source):
    sshd.corrupt = True

    with pytest.raises(TransferFailed, match="changed on its way"):
        GuestFiles(session, connect).send({TARGET: source})

    assert standin.windows.files.get(TARGET) is None


def test_a_connection_that_breaks_in_mid_file_is_made_good_with_chunks(session, connect, sshd, standin, source):
    sshd.drop_after = 1024 * 1024

    report = GuestFiles(session, connect).send({TARGET: source})

    assert standin.windows.files.read(TARGET) == source.read_bytes()
    assert report.method == "chunks"


def test_a_guest_without_ssh_gets_its_files_in_chunks(session, connect, sshd, standin, source):
    sshd.stop()

    report = GuestFiles(session, connect).send({TARGET: source})

    assert report.method == "chunks"
    assert standin.windows.files.read(TARGET) == source.read_bytes()


def test_what_an_interrupted_transfer_left_does_no_harm(files, standin, source):
    standin.windows.files.write(TARGET + UNFINISHED, b"half a driver" * 1_000_000)

    files.send({TARGET: source})

    assert standin.windows.files.read(TARGET) == source.read_bytes()


def test_another_host_key_ends_it_before_the_password_is_sent(session, connect, sshd, standin, source):
    def changed(deadline):
        key = make_host_key()
        return connect(deadline, host_key=f"{key.get_name()} {key.get_base64()}")

    with pytest.raises(IdentityChanged, match="SSH host key is not the pinned one") as error:
        GuestFiles(session, changed).send({TARGET: source})

    assert error.value.seen == fingerprint(sshd.key.asbytes())
    assert sshd.logins == 0
    assert standin.windows.files.get(TARGET) is None


def test_a_server_without_a_key_of_the_pinned_kind_has_changed(session, connect, source):
    def other_kind(deadline):
        return connect(deadline, host_key="ecdsa-sha2-nistp256 AAAA")

    with pytest.raises(IdentityChanged, match="offers none of that kind"):
        GuestFiles(session, other_kind).send({TARGET: source})


def test_a_wrong_password_is_told_and_not_worked_around(session, connect, source):
    def wrong(deadline):
        return connect(deadline, password="wrong-Pa55word")

    with pytest.raises(CredentialsRefused) as refused:
        GuestFiles(session, wrong).send({TARGET: source})

    assert "wrong-Pa55word" not in str(refused.value)


def test_a_full_disk_is_told_with_the_file(session, standin, source):
    standin.windows.files.capacity = 2 * 1024 * 1024

    with pytest.raises(TransferFailed, match="ERROR_DISK_FULL"):
        GuestFiles(session).send({TARGET: source})


def test_a_folder_that_the_guest_refuses_is_told_with_the_file(files, standin, source):
    standin.windows.files.write(r"C:\in-the-way", b"")

    with pytest.raises(TransferFailed, match=r"in-the-way\\driver\.sys"):
        files.send({r"C:\in-the-way\driver.sys": source})


def test_a_transfer_that_stalls_ends_at_its_deadline(session, connect, sshd, tmp_path):
    large = tmp_path / "large"
    large.write_bytes(bytes(16 * 1024 * 1024))
    sshd.stalled = True
    start = time.monotonic()

    with pytest.raises(TransferFailed, match="within 2 s"):
        GuestFiles(session, connect).send({TARGET: large}, deadline=2)

    assert time.monotonic() - start < 6


def test_a_host_file_that_is_not_there_is_the_users_to_mend(session, tmp_path):
    with pytest.raises(MachineConfigurationError, match=r"absent\.sys cannot be read"):
        GuestFiles(session).send({TARGET: tmp_path / "absent.sys"})


@pytest.mark.parametrize("text", ["", "ssh-ed25519", "ssh-ed25519 ???", "0123"])
def test_a_host_key_that_is_none_is_refused(text):
    with pytest.raises(MachineConfigurationError, match="no SSH host key"):
        SshEndpoint("127.0.0.1", 22, text)


def test_paths_are_written_as_openssh_for_windows_has_them():
    assert remote_path(r"C:\Program Files\a.sys") == "/C:/Program Files/a.sys"
