"""The default way back: a golden save is made once, kept, and restored whatever the guest did."""

from __future__ import annotations

import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fixtures import tiny_linux
from vm.errors import MachineBroken
from vm.windows.leased_domain import DomainState

pytestmark = pytest.mark.usefixtures("nothing_left")

_LOG = logging.getLogger(__name__)

CYCLES = 20


def shell(domain, line):
    return tiny_linux.ask(domain.address_of(22), line).strip()


def test_a_leased_domain_runs_and_is_reached_at_both_ports(lease):
    domain = lease()

    assert domain.state() is DomainState.RUNNING
    assert shell(domain, "echo over port 22") == "over port 22"
    assert tiny_linux.ask(domain.address_of(5986), "echo over port 5986").strip() == "over port 5986"
    assert domain.details["reset"].startswith("golden save")


def test_the_golden_state_is_made_once_and_kept_for_the_next_lease(lease):
    told, settled = [], []

    def settle(domain):
        settled.append(domain.name)
        tiny_linux.wait_until_reachable(domain.address_of)

    lease(progress=told.append, settle=settle, content_key="kept").close()
    assert len(settled) == 1
    assert len(told) == 2

    domain = lease(progress=told.append, settle=settle, content_key="kept")

    assert len(settled) == 1
    assert len(told) == 2, "what is quick is not told"
    assert shell(domain, "echo again") == "again"


def test_another_content_makes_the_golden_state_anew_and_removes_the_old_one(lease, environment):
    folder = Path(environment["NTPROOF_HYPERVISOR_DIR"])
    lease(content_key="one").close()
    (first,) = folder.glob("tiny-1.*.golden")

    lease(content_key="two").close()

    (second,) = folder.glob("tiny-1.*.golden")
    assert second != first
    assert not list(folder.glob(f"{first.stem}.*"))


def test_twenty_reverts_each_undo_what_the_guest_did(lease):
    domain = lease()
    took = []
    for number in range(CYCLES):
        assert shell(domain, f"cat /tmp/dirty 2>/dev/null; echo {number} > /tmp/dirty; cat /tmp/dirty") == str(number)
        start = time.monotonic()
        domain.revert()
        tiny_linux.wait_until_reachable(domain.address_of, seconds=10)
        took.append(time.monotonic() - start)

    assert shell(domain, "ls /tmp") == ""
    _LOG.info("revert to first answer: median %.2f s, worst %.2f s", sorted(took)[len(took) // 2], max(took))


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ("poweroff -f", DomainState.OFF),
        ("echo c > /proc/sysrq-trigger", DomainState.CRASHED),
    ],
)
def test_a_guest_that_is_off_or_crashed_is_reverted(lease, line, seen):
    domain = lease()
    tiny_linux.tell(domain.address_of(22), line)
    wait_for(lambda: domain.state() is seen)

    domain.revert()

    assert domain.state() is DomainState.RUNNING
    assert domain.panic() is None
    assert shell(domain, "echo back") == "back"


def test_four_clones_are_restored_at_once(lease):
    with ThreadPoolExecutor(4) as pool:
        domains = list(pool.map(lambda number: lease(worker=f"gw{number}"), range(4)))
        assert len({domain.name for domain in domains}) == 4

        def revert(domain):
            domain.revert()
            tiny_linux.wait_until_reachable(domain.address_of, seconds=30)

        start = time.monotonic()
        list(pool.map(revert, domains))
        took = time.monotonic() - start

        for number, domain in enumerate(domains):
            shell(domain, f"echo {number} > /tmp/mine")
        assert [shell(domain, "cat /tmp/mine") for domain in domains] == ["0", "1", "2", "3"]
    _LOG.info("four clones reachable after %.2f s", took)


def test_a_settling_that_fails_leaves_no_golden_set(lease, environment):
    def fail(domain):
        tiny_linux.wait_until_reachable(domain.address_of)
        raise MachineBroken("the guest is not as it should be")

    with pytest.raises(MachineBroken, match="not as it should be"):
        lease(content_key="fails", settle=fail)

    assert not list(Path(environment["NTPROOF_HYPERVISOR_DIR"]).glob("tiny-1.*"))


@pytest.mark.parametrize("damage", ["shorter", "gone", "no save"])
def test_a_damaged_golden_save_is_made_again(lease, environment, damage):
    folder = Path(environment["NTPROOF_HYPERVISOR_DIR"])
    lease(content_key=damage).close()
    (memory,) = folder.glob("tiny-1.*.save")
    content = memory.read_bytes()
    if damage == "gone":
        memory.unlink()
    else:
        memory.write_bytes(content[:4096] if damage == "shorter" else b"\0" * len(content))

    domain = lease(content_key=damage)

    assert shell(domain, "echo well") == "well"


def test_a_golden_disk_that_was_cut_short_is_made_again(lease, environment):
    folder = Path(environment["NTPROOF_HYPERVISOR_DIR"])
    lease(content_key="cut").close()
    (disk,) = folder.glob("tiny-1.*.qcow2")
    whole = disk.stat().st_size
    os.truncate(disk, whole // 2)

    domain = lease(content_key="cut")

    assert shell(domain, "echo well") == "well"
    assert disk.stat().st_size > whole // 2


def wait_for(condition, seconds=15.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
