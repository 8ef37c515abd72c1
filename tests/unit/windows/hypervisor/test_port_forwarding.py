"""Forwarded ports are read from what QEMU's monitor answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vm.errors import MachineBroken
from vm.windows.hypervisor.port_forwarding import check_answer, forward_command, forwarded_ports

# As QEMU 7.2 answers, with a second network and connections added by hand.
ANSWER = """\
Hub -1 (hostua-net0):\r
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r
  TCP[HOST_FORWARD]   8       127.0.0.1 46103       10.0.2.15    22     0     0\r
  TCP[HOST_FORWARD]   3       127.0.0.1 42103       10.0.2.15  5986     0     0\r
  TCP[HOST_FORWARD]   4         0.0.0.0 42104       10.0.2.15  3389     0     0\r
  TCP[ESTABLISHED]   19       127.0.0.1 42103       10.0.2.15  5986     0     0\r
  UDP[236 sec]       24       10.0.2.15 50000      10.0.2.3     53     0     0\r
Hub -1 (hostua-net1):\r
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r
  TCP[HOST_FORWARD]   9       127.0.0.1 50000       10.0.2.15    80     0     0\r
"""


def test_the_ports_of_the_guest_s_own_network_are_found():
    assert forwarded_ports(ANSWER) == {22: 46103, 5986: 42103}


def test_a_guest_without_a_network_has_none():
    assert forwarded_ports("") == {}


@given(st.text())
def test_no_answer_breaks_the_parser(text):
    assert forwarded_ports(text) == {}


def test_the_host_s_port_is_left_to_qemu_and_only_the_host_reaches_it():
    assert forward_command(5986) == "hostfwd_add hostua-net0 tcp:127.0.0.1:0-:5986"


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_number_that_is_no_port_is_refused(port):
    with pytest.raises(ValueError, match="no TCP port"):
        forward_command(port)


def test_what_qemu_complains_of_is_an_error_of_the_machine():
    check_answer("\r\n", "d")
    with pytest.raises(MachineBroken, match=r"domain d: .*unrecognized netdev id 'nope'"):
        check_answer("unrecognized netdev id 'nope'\r\n", "d")
