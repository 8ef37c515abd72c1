"""The plugin's command line: each misuse is one usage error that names the option and the fix."""

from __future__ import annotations

import pytest

from harness.pytest_options import DEFAULT_PROFILE, PROFILES

pytest_plugins = ["pytester"]

PASSES = "def test_it(machine):\n    assert machine\n"
EXIT_USAGE = int(pytest.ExitCode.USAGE_ERROR)


def refuses(result, *lines: str) -> None:
    assert result.ret == EXIT_USAGE
    result.stderr.fnmatch_lines(lines)
    assert "Traceback" not in result.stderr.str() + result.stdout.str()


def test_an_unknown_machine_is_refused_with_the_known_ones(run):
    refuses(run(PASSES, vm="win95"), "ERROR: --vm win95: there is no such machine; known: *emulated*fake*")


@pytest.mark.parametrize("given", ["", "fake,", ",fake", "fake,,other"])
def test_an_empty_machine_name_is_refused(run, given):
    refuses(run(PASSES, vm=given), "ERROR: --vm *: a machine name is empty; known: *fake*")


def test_an_unknown_profile_is_refused_with_the_known_ones(run):
    result = run(PASSES, "--profile", "vista", vm="emulated")
    refuses(result, "ERROR: --profile vista: there is no such behaviour profile; known: documented, observed")


def test_a_profile_without_an_emulated_machine_is_refused(run):
    result = run(PASSES, "--profile", "documented")
    refuses(result, "ERROR: --profile documented: only the emulated machine follows*leave --profile out*")


def test_a_driver_that_is_not_there_is_refused(run):
    result = run(PASSES, "--driver", "absent.sys", driver=False)
    refuses(result, "ERROR: --driver absent.sys: there is no such file; give the path of a built procnotify.sys")


def test_a_driver_that_is_a_directory_is_refused(run, pytester):
    result = run(PASSES, "--driver", str(pytester.path), driver=False)
    refuses(result, "ERROR: --driver *: not a file; give the path of a built procnotify.sys")


@pytest.mark.parametrize("content", [b"", b"MZ", b"\x7fELF" + bytes(200), b"int main;"])
def test_a_driver_that_is_no_image_is_refused(run, pytester, content):
    (pytester.path / "bad.sys").write_bytes(content)
    result = run(PASSES, "--driver", "bad.sys", driver=False)
    refuses(result, "ERROR: --driver bad.sys: not an x64 driver image: *")


def test_a_driver_for_another_processor_is_refused(run, pytester):
    from tests.unit.plugin.conftest import smallest_image

    (pytester.path / "arm.sys").write_bytes(smallest_image(0xAA64))
    refuses(run(PASSES, "--driver", "arm.sys", driver=False), "ERROR: --driver arm.sys: not an x64 driver image: *")


def test_machines_are_repeated_and_listed_in_the_order_given(run):
    result = run(PASSES, "--vm", "other", "-v", vm="plain,fake")
    result.stdout.fnmatch_lines(["*test_it?plain? PASSED*", "*test_it?fake? PASSED*", "*test_it?other? PASSED*"])
    result.assert_outcomes(passed=3)


def test_a_machine_named_twice_is_used_once(run):
    run(PASSES, "--vm", "fake", vm="fake,fake").assert_outcomes(passed=1)


def test_the_default_machine_is_the_emulated_one(run):
    run(PASSES, "-v", vm=None).stdout.fnmatch_lines(["*test_it?emulated? PASSED*"])


@pytest.mark.parametrize("profile", [None, *PROFILES])
def test_the_profile_reaches_the_machine(run, profile):
    """The fake machine called `emulated` says which profile it was made for."""
    chosen = [] if profile is None else ["--profile", profile]
    source = f"def test_it(machine):\n    assert machine.facts.profile == {profile or DEFAULT_PROFILE!r}\n"
    run(source, *chosen, vm="emulated").assert_outcomes(passed=1)


def test_the_default_profile_is_what_shipping_builds_do():
    assert DEFAULT_PROFILE == "observed"


def test_the_options_are_in_the_help_with_their_defaults(run):
    result = run("", "--help", vm=None, driver=False)
    result.stdout.fnmatch_lines(["*--vm=NAME*", "*default: emulated*", "*--profile=NAME*", "*--driver=PATH*"])
