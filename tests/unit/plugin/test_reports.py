"""What a run prints, and on whose side each fault ends up."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

pytest_plugins = ["pytester"]

LAUNCH = """
from vm.machine import LaunchRequest

def launch(machine, image):
    machine.provide_image(image)
    return machine.launch(LaunchRequest(image, "x"))
"""


def failing(body: str, fixtures: str = "machine") -> str:
    return f"{LAUNCH}\ndef test_it({fixtures}):\n    {body}\n"


class TestHeader:
    def test_a_run_that_uses_a_machine_says_which_driver_runs_on_what(self, run):
        result = run("def test_it(machine): pass")
        result.stdout.fnmatch_lines(["ntproof: machine fake, driver procnotify.sys sha256 ???????????????? (*.sys)"])

    def test_each_machine_has_its_line_and_the_emulated_one_its_profile(self, run):
        result = run("def test_it(machine): pass", "--profile", "documented", vm="emulated,fake")
        result.stdout.fnmatch_lines(
            ["ntproof: machine emulated, profile documented, driver *", "ntproof: machine fake, driver *"]
        )

    def test_a_run_that_uses_none_is_silent_and_loads_nothing(self, run, pytester):
        pytester.makeconftest("")
        source = """
        import sys
        def test_it():
            loaded = [name for name in sys.modules if name.split(".")[0] in ("harness", "vm", "unicorn")]
            assert sorted(loaded) == ["harness", "harness.plugin", "harness.pytest_hooks", "harness.pytest_options"]
        """
        result = run(source, vm=None, driver=False, subprocess=True)
        result.assert_outcomes(passed=1)
        assert "ntproof" not in re.sub(r"(?m)^plugins:.*$", "", result.stdout.str())

    def test_collecting_alone_says_nothing(self, run):
        assert "ntproof: machine" not in run("def test_it(machine): pass", "--collect-only").stdout.str()

    def test_with_xdist_the_description_comes_at_the_end(self, run):
        result = run("def test_it(machine): pass\ndef test_other(machine): pass\n", "-n", "1", "-p", "xdist.plugin")
        result.assert_outcomes(passed=2)
        result.stdout.fnmatch_lines(["ntproof: machine fake, driver procnotify.sys sha256 *"])


class TestDriverFaults:
    def test_a_crash_is_a_failure_with_its_report_and_no_traceback(self, run):
        result = run(failing('launch(machine, "C:\\\\crash.exe")'))
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(
            [
                "*in test_it*",
                "*launch(machine, *crash.exe*",
                "E   MachineCrashed: bugcheck 0xD5 DRIVER_PAGE_FAULT_IN_FREED_SPECIAL_POOL*",
                "*bugcheck*",
                "bugcheck 0xD5 * at procnotify.sys!PnRulesMatch (procnotify/rules.c:314)",
                "  while: create callback for pid 4242",
            ]
        )
        assert "fake_stations.py" not in result.stdout.str()

    def test_a_hang_is_a_failure(self, run):
        result = run(failing('launch(machine, "C:\\\\hang.exe")'))
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["E   DriverHung: PnRead did not return within *"])

    def test_the_test_after_a_crash_has_a_fresh_machine(self, run):
        source = failing('launch(machine, "C:\\\\crash.exe")') + (
            "\ndef test_next(machine):\n    assert machine.crash is None\n    launch(machine, 'C:\\\\ok.exe')\n"
        )
        run(source).assert_outcomes(failed=1, passed=1)

    def test_a_machine_without_checkpoints_is_made_anew_after_a_crash(self, run):
        source = failing('launch(machine, "C:\\\\crash.exe")') + (
            "\ndef test_next(machine):\n    assert machine.crash is None\n    launch(machine, 'C:\\\\ok.exe')\n"
        )
        run(source, vm="plain").assert_outcomes(failed=1, passed=1)

    def test_a_crash_at_start_is_a_failure_of_every_test_that_needs_the_driver(self, run):
        source = "def test_one(machine): pass\ndef test_two(driver): pass\ndef test_bare(bare_machine): pass\n"
        result = run(source, vm="failing")
        result.assert_outcomes(failed=2, passed=1)
        result.stdout.fnmatch_lines(["E   DriverUnusable: the driver does not start: bugcheck 0xD5 *", "  while: *"])

    def test_a_driver_that_refuses_to_start_is_a_failure(self, run):
        result = run("def test_one(machine): pass\ndef test_two(machine): pass\n", vm="refusing")
        result.assert_outcomes(failed=2)
        result.stdout.fnmatch_lines(["E   DriverUnusable: the driver does not start: StartService: *127*"])

    def test_a_driver_without_its_device_is_a_failure(self, run):
        result = run("def test_it(driver): pass", vm="deviceless")
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["E   DriverUnusable: the driver runs, but its device cannot be opened: *"])

    def test_a_leak_at_unload_fails_the_test_that_left_it(self, run):
        result = run("def test_it(machine): pass", vm="leaking")
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(
            ["E   UncleanUnload: the test came to its end, but not the unload of the driver after it: bugcheck 0xD5 *"]
        )
        result.stdout.fnmatch_lines(["*- bugcheck -*", "  while: create callback for pid 4242"])

    def test_a_routine_that_is_still_called_after_unload_fails_the_test(self, run):
        run("def test_it(machine): pass", vm="dangling").assert_outcomes(failed=1)

    def test_a_test_that_expects_the_crash_passes(self, run):
        source = failing(
            'with pytest.raises(MachineCrashed):\n        launch(machine, "C:\\\\crash.exe")', "machine"
        ).replace("def test_it", "@pytest.mark.crash_expected\ndef test_it")
        run("import pytest\nfrom vm.errors import MachineCrashed\n" + source).assert_outcomes(passed=1)

    def test_a_crash_that_the_test_swallows_fails_it(self, run):
        source = failing('with pytest.raises(MachineCrashed):\n        launch(machine, "C:\\\\crash.exe")')
        run("import pytest\nfrom vm.errors import MachineCrashed\n" + source).assert_outcomes(failed=1)

    def test_junit_calls_a_crash_at_start_a_failure(self, run, pytester):
        run("def test_it(machine): pass", "--junitxml=report.xml", vm="failing")
        suite = ElementTree.parse(pytester.path / "report.xml").getroot()[0]
        assert (suite.get("failures"), suite.get("errors")) == ("1", "0")


class TestInfrastructure:
    def test_a_machine_that_breaks_is_an_error_and_later_tests_skip_with_the_first_cause(self, run):
        source = failing('launch(machine, "C:\\\\break.exe")') + (
            "\ndef test_next(machine): pass\ndef test_last(bare_machine): pass\n"
        )
        result = run(source)
        result.assert_outcomes(errors=1, skipped=2)
        result.stdout.fnmatch_lines(
            [
                "E   MachineBroken: the hypervisor is gone",
                "*SKIPPED*not run after an earlier error: the hypervisor is gone",
            ]
        )

    def test_other_machines_go_on(self, run):
        source = (
            LAUNCH + "def test_it(vm_name, machine):\n    launch(machine, 'break' if vm_name == 'fake' else 'ok')\n"
        )
        run(source + "def test_next(machine): pass\n", vm="fake,other").assert_outcomes(errors=1, skipped=1, passed=2)

    def test_a_machine_that_cannot_be_made_is_an_error_once(self, run):
        result = run("def test_one(machine): pass\ndef test_two(machine): pass\n", vm="unmakable")
        result.assert_outcomes(errors=1, skipped=1)
        result.stdout.fnmatch_lines(["E   MachineBroken: no disk space for an overlay"])

    def test_a_machine_that_is_not_set_up_is_an_error_once(self, run):
        result = run("def test_one(machine): pass\ndef test_two(machine): pass\n", vm="unconfigured")
        result.assert_outcomes(errors=1, skipped=1)
        result.stdout.fnmatch_lines(["E   MachineConfigurationError: image win11 is not built; run ntproof image *"])

    def test_junit_calls_it_an_error(self, run, pytester):
        run(failing('launch(machine, "C:\\\\break.exe")'), "--junitxml=report.xml")
        suite = ElementTree.parse(pytester.path / "report.xml").getroot()[0]
        assert (suite.get("failures"), suite.get("errors")) == ("0", "1")

    def test_what_the_machine_cannot_do_is_a_skip_with_its_reason(self, run):
        result = run(failing('launch(machine, "C:\\\\unsupported.exe")'))
        result.assert_outcomes(skipped=1)
        result.stdout.fnmatch_lines(["*SKIPPED*the machine cannot do this: no images of this kind here"])


class TestVerdicts:
    SCENARIO = """
from harness.scenario import ExitProcess, Launch, ProvideImage, Scenario

STEPS = (ProvideImage("C:\\\\a.exe"), Launch("a", "C:\\\\a.exe", "a"), ExitProcess("a"))

def test_it(run_scenario):
    run_scenario(Scenario("come and go", STEPS))
"""

    def test_a_scenario_that_the_model_accepts_passes(self, run):
        run(self.SCENARIO).assert_outcomes(passed=1)

    def test_a_scenario_that_it_does_not_accept_prints_the_verdict(self, run):
        result = run(self.SCENARIO, vm="skipping")
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["*come and go: failed with * discrepanc*", "*sequence*"])

    def test_a_test_that_fails_for_another_reason_prints_the_verdict_too(self, run):
        result = run(self.SCENARIO + "    assert 0\n")
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["*- verdict -*", "come and go: passed (*"])

    def test_what_is_read_directly_is_judged_as_a_history(self, run):
        source = failing(
            'launch(machine, "C:\\\\a.exe"), launch(machine, "C:\\\\a.exe"), driver.read()', "machine, driver"
        )
        run(source).assert_outcomes(passed=1)
        result = run(source, vm="skipping")
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["E   HistoryDiscrepancy: what the test read: failed with 1 discrepancy*"])


class TestFixtures:
    def test_each_test_starts_from_a_freshly_loaded_driver(self, run):
        source = (
            failing('launch(machine, "C:\\\\a.exe"), driver.set_rules([]), driver.read()', "machine, driver")
            + "\ndef test_next(machine, driver):\n    assert driver.statistics().next_sequence == 1\n"
            + "    assert not machine.running_processes()\n"
        )
        run(source).assert_outcomes(passed=2)
        run(source, vm="plain").assert_outcomes(passed=2)

    @pytest.mark.parametrize(
        ("fixture", "state"), [("clean_machine", None), ("bare_machine", "STOPPED"), ("machine", "RUNNING")]
    )
    @pytest.mark.parametrize("vm", ["fake", "plain"])
    def test_each_stage_is_what_it_is_called(self, run, fixture, state, vm):
        source = f"""
        import pytest
        from vm.errors import Win32Error
        from vm.machine import ServiceState
        STATE = {state!r}

        def check(machine):
            if STATE is None:
                with pytest.raises(Win32Error):
                    machine.driver_state("procnotify")
            else:
                assert machine.driver_state("procnotify") is ServiceState[STATE]

        def test_one({fixture}): check({fixture})
        def test_running(machine): pass
        def test_two({fixture}): check({fixture})
        """
        run(source, vm=vm).assert_outcomes(passed=3)

    def test_two_stages_in_one_test_are_refused(self, run):
        result = run("def test_it(machine, bare_machine): pass")
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(["E   ConfigurationError: a test has one machine: ask for one fixture of *"])

    def test_parameters_of_the_driver_are_given_by_a_marker(self, run):
        source = """
        import pytest
        @pytest.mark.driver_parameters(QueueBytes=4711)
        def test_with(machine): assert machine.parameters == {"QueueBytes": 4711}
        def test_without(machine): assert machine.parameters == {}
        """
        run(source).assert_outcomes(passed=2)
        run(source, vm="plain").assert_outcomes(passed=2)

    def test_the_fixtures_are_documented(self, run):
        result = run("", "--fixtures")
        for fixture in ("machine", "bare_machine", "clean_machine", "driver", "open_driver", "run_scenario", "station"):
            result.stdout.re_match_lines([rf"^{fixture}( \[session scope\])? -- .*plugin.py"])

    def test_the_markers_are_documented(self, run):
        result = run("", "--markers")
        result.stdout.fnmatch_lines(["*driver_parameters(*", "*crash_expected*"])

    @pytest.mark.parametrize("fixture", ["machine", "driver", "run_scenario"])
    def test_a_driver_that_does_not_build_is_told_once(self, run, monkeypatch, fixture):
        from harness.errors import BuildError

        def fail(name: str, **_options: object) -> None:
            raise BuildError("procnotify/entry.c:12: error: expected ';'")

        monkeypatch.setattr("harness.build.build_driver", fail)
        tests = f"def test_one({fixture}): pass\ndef test_two({fixture}): pass\n"
        result = run(tests, driver=False)
        result.assert_outcomes(errors=1, skipped=1)
        result.stdout.fnmatch_lines(["E   BuildError: procnotify/entry.c:12: error: expected ';'"])
