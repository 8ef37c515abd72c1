"""Owners: processes of this computer are told apart from others that took their pids."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from dataclasses import replace

import pytest

from vm.windows.hypervisor.owners import Liveness, LocalProcesses, current_owner


@pytest.fixture
def proc(tmp_path):
    """A /proc with one process whose name is as odd as names may be."""
    (tmp_path / "sys/kernel/random").mkdir(parents=True)
    (tmp_path / "sys/kernel/random/boot_id").write_text("boot-1\n")
    (tmp_path / "self/ns").mkdir(parents=True)
    (tmp_path / "self/ns/pid").symlink_to("pid:[1]")
    (tmp_path / "7").mkdir()
    (tmp_path / "7/stat").write_text("7 (a) R (b 1) S " + " ".join(["0"] * 18) + " 555 0 0\n")
    return tmp_path


@pytest.fixture
def owner(proc):
    return LocalProcesses(proc, "h").owner(7, "u", "gw0")


def test_the_start_time_is_found_behind_any_name(owner):
    assert owner.started == 555


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Liveness.ALIVE),
        ({"pid": 8}, Liveness.GONE),
        ({"started": 554}, Liveness.GONE),
        ({"host": "other"}, Liveness.UNKNOWN),
        ({"boot": "boot-2"}, Liveness.UNKNOWN),
        ({"pid_namespace": "pid:[2]"}, Liveness.UNKNOWN),
    ],
)
def test_only_what_can_be_seen_is_judged(proc, owner, changes, expected):
    assert LocalProcesses(proc, "h", lambda _pid: False).liveness(replace(owner, **changes)) is expected


def test_a_process_that_proc_hides_is_not_gone(proc, owner):
    hidden = LocalProcesses(proc, "h", lambda pid: pid == 8)

    assert hidden.liveness(replace(owner, pid=8)) is Liveness.UNKNOWN
    assert hidden.liveness(replace(owner, pid=9)) is Liveness.GONE


def test_the_kernel_knows_a_hidden_process_and_none_with_a_number_that_no_process_has(proc, owner):
    here = LocalProcesses(proc, "h")

    assert here.liveness(replace(owner, pid=os.getpid())) is Liveness.UNKNOWN
    assert here.liveness(replace(owner, pid=1 << 70)) is Liveness.GONE


def test_a_process_that_ended_and_was_not_reaped_is_gone(proc, owner):
    stat = proc / "7/stat"
    stat.write_text(stat.read_text().replace(" S ", " Z "))

    assert LocalProcesses(proc, "h").liveness(owner) is Liveness.GONE


def test_a_process_that_cannot_be_read_is_unknown(proc, owner):
    (proc / "7/stat").write_text("nonsense")

    assert LocalProcesses(proc, "h").liveness(owner) is Liveness.UNKNOWN


def test_an_owner_is_who_runs_and_not_whom_the_environment_names(monkeypatch):
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "somebody-else")

    assert current_owner("main").user == pwd.getpwuid(os.getuid()).pw_name


def test_nothing_is_said_where_there_is_no_proc(tmp_path, owner):
    assert LocalProcesses(tmp_path / "none", "h").liveness(owner) is Liveness.UNKNOWN


def test_this_process_is_alive_and_an_ended_one_is_gone():
    here = LocalProcesses()
    mine = current_owner("main")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        theirs = here.owner(child.pid, "u", "main")
        alive = here.liveness(theirs)
    assert mine.pid == os.getpid()
    assert (here.liveness(mine), alive) == (Liveness.ALIVE, Liveness.ALIVE)
    assert here.liveness(theirs) is Liveness.GONE
