"""A whole run on the stand-in tells no password: not in process lists, output, reports, logs or artefacts."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.integration.standin.base_system import ROOT

RUN_WITHIN = 1200
TESTS = "test_unload and not fifty and not many_times"
SAMPLES_EVERY = 0.02


class ProcessList:
    """Every argument of every process that ran meanwhile, as any user of the computer can list them."""

    def __init__(self):
        self.seen = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _look(self):
        while not self._over.wait(SAMPLES_EVERY):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.seen.add(path.read_bytes())
                except OSError:
                    continue  # it has ended


@pytest.fixture(scope="module")
def run(host, tmp_path_factory):
    """What a run left, and what could be seen of it while it went on."""
    folder = tmp_path_factory.mktemp("secrets")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", "--vm", "standin", "--witness"]
    command += ["-o", "log_cli=true", "--log-level=DEBUG", f"--log-file={folder / 'run.log'}", "--log-file-level=DEBUG"]
    command += [f"--junit-xml={folder / 'report.xml'}", f"--artefacts={folder / 'artefacts'}"]
    command += ["--pyargs", "harness.conformance.test_unload", "-k", TESTS]
    with ProcessList() as processes:
        done = subprocess.run(
            command, cwd=ROOT, env=host.environment, capture_output=True, check=False, timeout=RUN_WITHIN
        )
    assert done.returncode == 0, done.stdout.decode(errors="replace")
    return folder, done.stdout + done.stderr, processes.seen


@pytest.fixture
def secrets(host):
    accounts = host.image.credentials()
    found = [one.password.reveal().encode() for one in (accounts.administrator, accounts.standard_user)]
    assert all(len(secret) > 8 for secret in found)
    return found


def test_no_password_is_in_the_output_or_in_a_file_of_the_run(run, secrets):
    folder, output, _ = run
    files = [path for path in folder.rglob("*") if path.is_file()]

    assert {path.name for path in files} >= {"run.log", "report.xml"}
    assert b"standin" in output
    assert [path for path in files if any(secret in path.read_bytes() for secret in secrets)] == []
    assert not any(secret in output for secret in secrets)


def test_no_password_is_in_what_libvirt_and_qemu_write_down(run, host, secrets):
    logs = [Path(folder) / name for folder, _, names in os.walk(host.daemon.folder) for name in names]
    logs = [path for path in logs if path.suffix in {".log", ".xml"} and path.is_file()]

    assert logs
    assert [path for path in logs if any(secret in path.read_bytes() for secret in secrets)] == []


def test_no_password_is_in_the_arguments_of_any_process(run, secrets):
    _, _, seen = run

    assert any(b"qemu-system" in arguments for arguments in seen), "the guest's own process was seen"
    assert [arguments for arguments in seen if any(secret in arguments for secret in secrets)] == []
