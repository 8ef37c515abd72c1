"""Sets of rules as a whole: every rule of a large one counts, and none may claim what the set does not hold."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from harness.abi import Match, Rule, load_abi
from harness.conformance.acts import attempt, nt_name, refused
from harness.notification import Create
from vm.ntstatus import STATUS_INVALID_PARAMETER

if TYPE_CHECKING:
    from harness.driver import ProcNotify
    from vm.machine import Machine

SET_RULES = load_abi().integer("IOCTL_PROCNOTIFY_SET_RULES")


def image(index: int) -> str:
    """The executable that the rule with this number denies, and no other rule."""
    return f"C:\\ntproof\\{index}\\tool{index}.exe"


def rule(index: int) -> Rule:
    """A rule of each kind in turn, with a status of its own."""
    patterns = {
        Match.EXACT: nt_name(image(index)),
        Match.SUBTREE: nt_name(f"C:\\ntproof\\{index}"),
        Match.SUFFIX: f"tool{index}.exe",
    }
    kind = list(Match)[index % 3]
    return Rule(kind, patterns[kind], 0xC0010000 + index)


@pytest.mark.parametrize("count", [2, 17, 300])
def test_every_rule_of_a_set_is_found(machine: Machine, driver: ProcNotify, count: int) -> None:
    driver.set_rules(rule(index) for index in range(count))
    for index in range(count):
        attempt(machine, image(index))
    seen = [one.status for one in driver.read_available() if isinstance(one, Create)]
    assert seen == [0xC0010000 + index for index in range(count)]
    assert attempt(machine, image(count)).succeeded


@pytest.mark.parametrize("length", [2, 8, 1000, 4096, 65_534])
@pytest.mark.parametrize("before", [0, 1, 40])
def test_a_rule_that_is_consistent_and_longer_than_its_set_is_refused(
    driver: ProcNotify, length: int, before: int
) -> None:
    """All sizes agree with each other, and not with the buffer: nothing behind it may be read."""
    good = rule(0)
    driver.set_rules([good])
    whole = driver.abi.encode_rules([good])[16:]
    claim = struct.pack("<IHHII", (16 + length + 7) // 8 * 8, int(Match.SUFFIX), 0, 0xC0000022, length)
    body = whole * before + claim
    header = struct.pack("<IIII", driver.abi.integer("ABI_VERSION"), before + 1, 16 + len(body), 0)
    with refused(STATUS_INVALID_PARAMETER):
        driver.handle.control(SET_RULES, header + body)
    assert driver.get_rules() == (good,)
