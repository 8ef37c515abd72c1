"""Objects, names and handles of the emulated kernel."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as some
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vm.emulated import ntstatus as st
from vm.emulated.faults import Bugcheck
from vm.emulated.kernel import Kernel
from vm.emulated.ob.handles import CURRENT_PROCESS


@pytest.fixture
def kernel():
    built = Kernel()
    yield built
    built.close()


def refused(call, *arguments, **options):
    with pytest.raises(st.NtStatusError) as caught:
        call(*arguments, **options)
    return caught.value.status


def test_names_are_found_without_case_and_through_links(kernel):
    body = kernel.ob.create("Event", 24, "\\BaseNamedObjects\\MyÄvent")
    kernel.ob.create("SymbolicLink", 16, "\\??\\Short", target="\\BaseNamedObjects\\MyÄvent")
    assert kernel.ob.lookup("\\basenamedobjects\\myÄVENT").body == body
    assert kernel.ob.lookup("\\DosDevices\\SHORT").body == body
    assert kernel.ob.lookup("\\??\\Global\\Short").body == body
    assert kernel.ob.lookup("\\GLOBAL??\\GLOBALROOT\\BaseNamedObjects\\myävent").body == body
    assert kernel.ob.lookup("\\??\\Short", follow=False).type == "SymbolicLink"
    assert kernel.ob.full_name(kernel.ob.record(body)) == "\\BaseNamedObjects\\MyÄvent"


def test_a_name_in_use_is_a_collision_whatever_its_case(kernel):
    kernel.ob.create("Event", 24, "\\BaseNamedObjects\\one")
    assert refused(kernel.ob.create, "Event", 24, "\\BaseNamedObjects\\ONE") == st.STATUS_OBJECT_NAME_COLLISION
    assert refused(kernel.ob.create, "Event", 24, "\\Nowhere\\one") == st.STATUS_OBJECT_PATH_NOT_FOUND
    assert refused(kernel.ob.create, "Event", 24, "one") == st.STATUS_OBJECT_PATH_SYNTAX_BAD
    assert refused(kernel.ob.create, "Event", 24, "\\Device\\") == st.STATUS_OBJECT_NAME_INVALID


def test_links_in_a_circle_end_in_a_status(kernel):
    kernel.ob.create("SymbolicLink", 16, "\\??\\a", target="\\??\\b")
    kernel.ob.create("SymbolicLink", 16, "\\??\\b", target="\\??\\a")
    assert refused(kernel.ob.lookup, "\\??\\a") == st.STATUS_OBJECT_NAME_INVALID


def test_an_object_goes_with_its_last_reference(kernel):
    gone = []
    kernel.ob.on_delete("Event", lambda record: gone.append(record.body))
    body = kernel.ob.create("Event", 24)
    kernel.ob.reference(body)
    kernel.ob.dereference(body)
    assert gone == []
    assert kernel.ob.dereference(body) == 0
    assert gone == [body]
    assert kernel.ob.find(body) is None
    with pytest.raises(Bugcheck, match="deleted Event") as caught:
        kernel.ob.reference(body)
    assert caught.value.code == 0x18


def test_a_driver_cannot_drop_references_that_are_not_its_own(kernel):
    body = kernel.ob.create("Event", 24)
    kernel.ob.handles.create(body, 0)
    kernel.ob.reference(body)
    assert kernel.ob.dereference_by_driver(body) == 2
    with pytest.raises(Bugcheck) as caught:
        kernel.ob.dereference_by_driver(body)
    assert caught.value.code == 0x18
    assert caught.value.parameters[:2] == (kernel.ob.type_object("Event"), body)


def test_a_temporary_name_goes_with_the_last_handle(kernel):
    body = kernel.ob.create("Event", 24, "\\BaseNamedObjects\\t", permanent=False)
    first, second = (kernel.ob.handles.create(body, 0) for _ in range(2))
    kernel.ob.handles.close(first)
    assert kernel.ob.lookup("\\BaseNamedObjects\\t").body == body
    kernel.ob.handles.close(second)
    assert refused(kernel.ob.lookup, "\\BaseNamedObjects\\t") == st.STATUS_OBJECT_NAME_NOT_FOUND


def test_handles_are_multiples_of_four_and_kernel_handles_have_the_high_bit(kernel):
    body = kernel.ob.create("Event", 24)
    mine = kernel.ob.handles.create(body, 0, process=4)
    assert mine % 4 == 0
    assert mine < 1 << 31
    assert kernel.ob.handles.create(body, 0) & 0xFFFFFFFF80000000 == 0xFFFFFFFF80000000


def test_a_handle_is_refused_for_the_wrong_kind_mode_or_access(kernel):
    body = kernel.ob.create("Event", 24)
    resolve = kernel.ob.handles.resolve
    mine = kernel.ob.handles.create(body, 0x80000000, process=4)
    secret = kernel.ob.handles.create(body, 0x80000000)
    assert resolve(mine, "Event", access=1, user=True, process=4).body == body
    assert resolve(mine | 3, "Event", process=4).body == body
    assert resolve(secret, process=1234).body == body
    assert refused(resolve, mine, "File", process=4) == st.STATUS_OBJECT_TYPE_MISMATCH
    assert refused(resolve, mine, access=2, user=True, process=4) == st.STATUS_ACCESS_DENIED
    assert refused(resolve, secret, user=True) == st.STATUS_INVALID_HANDLE
    assert refused(resolve, mine, process=1234) == st.STATUS_INVALID_HANDLE
    assert resolve(CURRENT_PROCESS, "Process").body == kernel.current_process.object


def test_closing_a_handle_twice_is_a_status_for_users_and_a_bugcheck_for_the_kernel(kernel):
    body = kernel.ob.create("Event", 24)
    mine, secret = kernel.ob.handles.create(body, 0, process=4), kernel.ob.handles.create(body, 0)
    kernel.ob.handles.close(mine, process=4)
    assert refused(kernel.ob.handles.close, mine, process=4) == st.STATUS_INVALID_HANDLE
    kernel.ob.handles.close(secret)
    with pytest.raises(Bugcheck) as caught:
        kernel.ob.handles.close(secret)
    assert caught.value.code == 0x93
    assert caught.value.parameters[:2] == (secret, 1)


def test_a_process_that_ends_closes_what_it_had_open(kernel):
    body = kernel.ob.create("Event", 24)
    for _ in range(3):
        kernel.ob.handles.create(body, 0, process=40)
    kernel.ob.handles.close_all(40)
    record = kernel.ob.record(body)
    assert (record.handles, record.references) == (0, 1)


class Counting(RuleBasedStateMachine):
    """References and handles of one object, against plain counters."""

    def __init__(self):
        super().__init__()
        self.kernel = Kernel()
        self.body = self.kernel.ob.create("Event", 24)
        self.references = 0
        self.handles = []

    def teardown(self):
        self.kernel.close()

    @rule()
    def take_reference(self):
        self.kernel.ob.reference(self.body)
        self.references += 1

    @precondition(lambda self: self.references)
    @rule()
    def drop_reference(self):
        self.kernel.ob.dereference_by_driver(self.body)
        self.references -= 1

    @precondition(lambda self: not self.references)
    @rule()
    def drop_what_is_not_there(self):
        with pytest.raises(Bugcheck):
            self.kernel.ob.dereference_by_driver(self.body)
        self.kernel.ob.reference(self.body)

    @rule(process=some.sampled_from([None, 4, 8]))
    def open(self, process):
        self.handles.append((self.kernel.ob.handles.create(self.body, 0, process=process), process))
        assert len(set(self.handles)) == len(self.handles)

    @precondition(lambda self: self.handles)
    @rule(data=some.data())
    def close(self, data):
        handle, process = self.handles.pop(data.draw(some.integers(0, len(self.handles) - 1)))
        self.kernel.ob.handles.close(handle, process=process)

    @invariant()
    def counts_agree(self):
        record = self.kernel.ob.record(self.body)
        assert (record.handles, record.references) == (len(self.handles), 1 + self.references + len(self.handles))
        assert record.pins == 1


TestCounting = Counting.TestCase
TestCounting.settings = settings(max_examples=15, stateful_step_count=30, deadline=None)
