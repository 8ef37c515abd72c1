"""Tests of `ntproof image`: what people see, and the exit code of each end."""

from __future__ import annotations

import json

import pytest

from harness import cli
from harness.commands.image import known_profiles
from harness.exit_codes import ExitCode
from tests.fixtures.process_host import ProcessHost
from tests.fixtures.windows_media import Media, write_iso
from vm.windows.images import credentials, first_start, hypervisor, media


class FirstStart:
    """Sees what a guest with the profile's settings tells; over real remoting it is tested with the stand-in."""

    def __init__(self, host):
        self.host = host

    def observe(self, folder, name, profile, guest):
        return {"TestSigning": "on" if profile.features.test_signing else "off"}


@pytest.fixture
def host(monkeypatch):
    made = ProcessHost()
    monkeypatch.setattr(first_start, "FirstStart", FirstStart)
    monkeypatch.setattr(hypervisor, "open_host", lambda uri: made)
    # A computer that runs tests need not have room for a Windows.
    monkeypatch.setattr(media, "require_space", lambda *_: None)
    return made


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("NTPROOF_IMAGE_DIR", str(tmp_path / "images"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "images"


@pytest.fixture
def iso(tmp_path):
    return write_iso(tmp_path / "windows.iso", Media.windows())


@pytest.fixture
def package(tmp_path):
    path = tmp_path / "openssh.msi"
    path.write_bytes(bytes.fromhex("d0cf11e0a1b11ae1"))
    return path


@pytest.fixture
def built(store, host, iso, package, capsys):
    assert cli.main(["image", "build", "win11", "--iso", str(iso), "--openssh", str(package)]) == ExitCode.PASSED
    return capsys.readouterr().out


def run(capsys, *arguments):
    code = cli.main(["image", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_build_tells_stages_steps_and_where_the_image_is(built, store):
    for line in (
        "media: look at the Windows ISO",
        "install: install Windows and set it up",
        "  guest: 20-remoting done in 0.1 s",
        "  guest: set up, Windows build 26100.1",
        f"image win11-24h2 is sealed in {store / 'win11-24h2'}",
    ):
        assert line in built.splitlines()


def test_a_failed_build_is_an_error_of_the_machine_and_goes_on_later(store, host, iso, package, capsys):
    host.behaviour = "fails"
    code, out, err = run(capsys, "build", "win11", "--iso", iso, "--openssh", package)
    assert code == ExitCode.MACHINE_ERROR
    assert "install: failed after" in out
    assert "ntproof: error: step 30-openssh of the set-up failed" in err
    assert run(capsys, "list")[1] == "win11-24h2  unfinished build\n"

    host.behaviour = "works"
    code, out, _ = run(capsys, "build", "win11", "--iso", iso, "--openssh", package)
    assert code == ExitCode.PASSED
    assert "boot-media: done before" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["win11", "--iso", "none.iso"], "--iso none.iso: no such file"),
        (["win7", "--iso", "none.iso"], "there is no profile 'win7'"),
        (["win11", "--iso", "windows.iso", "--sha256", "0" * 64], f"expected {'0' * 64}"),
        (
            ["server2022", "--iso", "windows.iso"],
            "'Windows Server 2022 SERVERSTANDARDCORE' of profile 'server2022' is not on it",
        ),
        (["win11", "--iso", "windows.iso", "--name", "../x"], "is no name of an image"),
        (["win11", "--iso", "windows.iso", "--profiles", "none"], "name a folder with profiles"),
        (["win11", "--iso", "windows.iso", "--virtio-iso", "none.iso"], "none.iso: No such file"),
        (["win11", "--iso", "windows.iso", "--openssh", "none.msi"], "none.msi: No such file"),
    ],
)
def test_a_mistake_of_the_user_is_one_message(store, host, iso, package, capsys, arguments, message):
    code, _, err = run(capsys, "build", "--openssh", package, *arguments)

    assert code == ExitCode.USER_ERROR
    assert err.startswith("ntproof: error: ")
    assert message in err
    assert "Traceback" not in err


def test_a_computer_without_a_hypervisor_is_told_what_it_lacks(store, iso, capsys, monkeypatch):
    monkeypatch.setattr(hypervisor, "_MODULE", "vm.windows.no_such_module")
    code, _, err = run(capsys, "build", "win11", "--iso", iso)

    assert code == ExitCode.USER_ERROR
    assert "qemu:///session: vm.windows.no_such_module is missing; run 'ntproof doctor'" in err


def test_images_are_listed(built, store, capsys):
    code, out, _ = run(capsys, "list")
    assert code == ExitCode.PASSED
    assert out.startswith("win11-24h2  sealed  win11-24h2  26100.1  20")

    (row,) = json.loads(run(capsys, "list", "--json")[1])
    assert row["state"] == "sealed"


def test_an_empty_store_says_how_to_fill_it(store, capsys):
    assert "no images in" in run(capsys, "list")[1]
    assert run(capsys, "list", "--json")[1] == "[]\n"


def test_a_manifest_is_shown_without_secrets(built, store, capsys):
    code, out, _ = run(capsys, "show", "win11-24h2")

    assert code == ExitCode.PASSED
    assert json.loads(out)["guest"]["test_signing"] is True
    assert json.loads(out)["observed"] == {"TestSigning": "on"}
    for secret in credentials.load(store / "win11-24h2").secrets():
        assert secret.reveal() not in out + built


def test_a_damaged_image_is_listed_and_fails_its_verification(built, store, capsys):
    assert run(capsys, "verify", "win11-24h2")[:2] == (ExitCode.PASSED, "win11-24h2: as it was sealed\n")
    folder = store / "win11-24h2"
    folder.chmod(0o755)
    (folder / "nvram.fd").unlink()
    code, out, _ = run(capsys, "verify", "win11-24h2")
    assert code == ExitCode.MACHINE_ERROR
    assert "nvram.fd: No such file" in out

    (folder / "manifest.json").unlink()
    assert "win11-24h2  damaged: " in run(capsys, "list")[1]
    assert run(capsys, "remove", "win11-24h2")[:2] == (ExitCode.PASSED, "win11-24h2: removed\n")


@pytest.mark.parametrize("action", ["show", "verify", "remove"])
def test_an_image_that_is_not_there_is_a_mistake_of_the_user(store, capsys, action):
    code, _, err = run(capsys, action, "win11")

    assert code == ExitCode.USER_ERROR
    assert "there is no image 'win11'" in err


def test_an_unfinished_build_is_removed_when_asked(store, host, iso, package, capsys):
    host.behaviour = "fails"
    run(capsys, "build", "win11", "--iso", iso, "--openssh", package)

    assert run(capsys, "remove", "--build", "win11-24h2")[0] == ExitCode.PASSED
    assert run(capsys, "list", "--json")[1] == "[]\n"


def test_profiles_of_the_project_are_known(tmp_path, capsys, store):
    (tmp_path / "pyproject.toml").write_text(
        '[tool.ntproof.profiles.big]\nextends = "win11"\nhardware.memory_mib = 8192\n'
    )

    assert "big: Windows 11 Pro 24H2\n" in run(capsys, "profiles")[1]
    assert known_profiles(None, tmp_path).load("big").hardware.memory_mib == 8192


@pytest.mark.parametrize(
    ("text", "message"), [("[", "pyproject.toml: "), ("[tool.ntproof]\nprofiles = 3\n", "expected a table")]
)
def test_a_wrong_pyproject_is_named(tmp_path, capsys, store, text, message):
    (tmp_path / "pyproject.toml").write_text(text)
    code, _, err = run(capsys, "profiles")

    assert code == ExitCode.USER_ERROR
    assert message in err
