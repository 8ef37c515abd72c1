"""Whole runs of pytest on the stand-in: one that is killed, two at once, and what they leave behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from tests.integration.standin.base_system import ROOT

RUN_WITHIN = 1200
"""Seconds for a short run: on an emulated processor beside other work, with the first use of a slot."""
FEW = ("-k", "test_unload and not fifty and not many_times")


def command(*arguments):
    run = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "--vm", "standin"]
    return [*run, "--pyargs", "harness.conformance.test_unload", *arguments]


@contextmanager
def running(host, *arguments):
    """A run of pytest in a process group of its own, which is gone at the end."""
    process = subprocess.Popen(
        command(*arguments),
        cwd=ROOT,
        env=host.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def ended(process):
    output, _ = process.communicate(timeout=RUN_WITHIN)
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module", autouse=True)
def saved(host):
    """Both slots have their saved state, so that what a run leaves behind can be told from it."""
    with running(host, "-n", "2", *FEW) as process:
        ended(process)


def domains_running(host):
    return [line for line in host.daemon.processes().values() if "qemu-system" in line.split()[0]]


def test_two_workers_pass_and_leave_nothing_behind(host, nothing_left):
    with running(host, "-n", "2", *FEW) as process:
        assert " passed" in ended(process)


def test_two_runs_at_once_pass_each_on_a_slot_of_its_own(host, nothing_left):
    with running(host, *FEW) as one, running(host, *FEW) as other:
        assert " passed" in ended(one)
        assert " passed" in ended(other)


def test_after_a_run_that_was_killed_the_next_one_takes_its_slot_back_and_passes(host):
    before = host.remains()
    with running(host) as process:
        end = time.monotonic() + RUN_WITHIN
        # In mid-run: the guest is up, and tests were passed.
        line = ""
        while "." not in line.partition("[")[0].strip("\n") and time.monotonic() < end:
            line = process.stdout.read(1)
        assert domains_running(host)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    with running(host, *FEW) as process:
        assert " passed" in ended(process)
    assert host.settled(before) == before
