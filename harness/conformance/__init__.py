"""The conformance suite: what a driver that watches and vetoes process creation must do, as ordinary pytest tests.

Run it with ``pytest --pyargs harness.conformance --vm NAME``. It drives the real binary through the Machine protocol
only, so it is the same on an emulated kernel and on Windows. Where a behaviour is a sequence of launches and exits, the
test is a `Scenario` and the reference model judges it; where it is the device interface, the test asserts directly and
what it read is held against the invariants of every Windows history.
"""
