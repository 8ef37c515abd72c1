"""What a run prints, and on whose side each fault ends up."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from tests.unit.plugin.sources import LAUNCH, SCENARIO, failing

pytest_plugins = ["pytester"]


class TestHeader:
    def test_a_run_that_uses_a_machine_says_which_driver_runs_on_what(self, run):
        result = run("def test_it(machine): pass")
        result.stdout.fnmatch_lines(["ntproof: machine fake, driver procnotify.sys sha256 ???????????????? (*.sys)"])

    def test_the_machine_tells_what_it_is_before_a_driver_is_started(self, run):
        result = run("def test_it(machine): pass", "-s", vm="telling")
        result.stdout.fnmatch_lines(
            [
                "ntproof: telling: build 26100; hypervisor: QEMU 7.2; test signing: on; secure boot: off",
                "*driver starts*",
            ]
        )

    def test_a_second_machine_tells_it_when_it_is_made(self, run):
        result = run("def test_it(machine): pass", vm="fake,telling")
        result.stdout.fnmatch_lines(["ntproof: fake: build 19041", "ntproof: telling: build 26100; *"])

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

    @pytest.mark.parametrize("xdist", [(), ("-n", "1", "-p", "xdist.plugin")], ids=["alone", "xdist"])
    def test_a_run_whose_tests_bring_their_own_drivers_builds_and_names_none(self, run, monkeypatch, xdist):
        monkeypatch.setattr("harness.build.build_driver", None)
        result = run("def test_it(clean_machine): pass", *xdist, driver=False)
        result.assert_outcomes(passed=1)
        result.stdout.fnmatch_lines(["ntproof: machine fake", "ntproof: fake: build 19041"])

    def test_collecting_alone_says_nothing(self, run):
        assert "ntproof: machine" not in run("def test_it(machine): pass", "--collect-only").stdout.str()

    def test_with_xdist_the_description_comes_at_the_end(self, run):
        result = run("def test_it(machine): pass\ndef test_other(machine): pass\n", "-n", "1", "-p", "xdist.plugin")
        result.assert_outcomes(passed=2)
        result.stdout.fnmatch_lines(["ntproof: machine fake, driver procnotify.sys sha256 *", "ntproof: fake: build *"])

    def test_with_xdist_workers_that_have_the_same_machine_say_it_once(self, run):
        tests = "\n".join(f"def test_{number}(machine): pass" for number in range(4))
        printed = run(tests, "-n", "2", "-p", "xdist.plugin").stdout.str()
        assert printed.count("ntproof: fake: build 19041") == 1

    def test_a_machine_that_cannot_be_made_is_said_there_and_tried_once_more(self, run):
        result = run("def test_it(machine): pass", vm="relapsing")
        result.assert_outcomes(passed=1)
        result.stdout.fnmatch_lines(["ntproof: relapsing: no disk space for an overlay; it is tried once more"])


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

    @pytest.mark.parametrize("xdist", [(), ("-n", "1", "-p", "xdist.plugin")], ids=["alone", "xdist"])
    def test_the_summary_and_the_junit_file_begin_with_the_fault(self, run, pytester, monkeypatch, xdist):
        monkeypatch.setenv("COLUMNS", "200")
        result = run(failing('launch(machine, "C:\\\\crash.exe")'), "--junitxml=report.xml", *xdist)
        result.stdout.fnmatch_lines(["FAILED *::test_it?fake? - MachineCrashed: bugcheck 0xD5 *"])
        (failure,) = ElementTree.parse(pytester.path / "report.xml").iter("failure")
        assert failure.get("message").startswith("MachineCrashed: bugcheck 0xD5 ")
        assert "launch(machine," in failure.text

    def test_one_line_for_each_failure_names_the_line_of_the_test(self, run):
        result = run(failing('launch(machine, "C:\\\\crash.exe")'), "--tb=line")
        result.stdout.fnmatch_lines(["*/test_*.py:5: MachineCrashed: bugcheck 0xD5 *"])

    def test_an_error_that_is_its_own_cause_is_reported_like_any(self, run):
        source = """
        from vm.errors import DriverHung
        def test_it(machine):
            error = DriverHung("it did not come back")
            raise error from error
        """
        result = run(source)
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["E   DriverHung: it did not come back"])

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
    BREAKS = failing('launch(machine, "C:\\\\break.exe")')

    def test_a_machine_that_breaks_is_an_error_and_the_next_test_has_a_new_one(self, run):
        source = self.BREAKS + "\ndef test_next(machine):\n    launch(machine, 'C:\\\\ok.exe')\n"
        result = run(source)
        result.assert_outcomes(errors=1, passed=1)
        result.stdout.fnmatch_lines(["E   MachineBroken: the hypervisor is gone"])

    def test_a_machine_that_breaks_again_makes_later_tests_skip_with_the_first_cause(self, run):
        again = self.BREAKS.replace("test_it", "test_again")
        source = self.BREAKS + again + "\ndef test_next(machine): pass\ndef test_last(bare_machine): pass\n"
        result = run(source)
        result.assert_outcomes(errors=2, skipped=2)
        result.stdout.fnmatch_lines(["*SKIPPED*not run after an earlier error: the hypervisor is gone"])

    def test_a_new_machine_that_cannot_be_made_is_told_with_the_first_cause(self, run):
        source = self.BREAKS + "\ndef test_next(machine): pass\ndef test_last(bare_machine): pass\n"
        result = run(source, vm="passing-away")
        result.assert_outcomes(errors=2, skipped=1)
        result.stdout.fnmatch_lines(
            ["*SKIPPED*: the hypervisor is gone (made anew once, then: no disk space for an overlay)"]
        )

    def test_a_machine_that_cannot_be_reset_is_made_anew_for_the_same_test(self, run):
        source = "def test_one(machine): pass\ndef test_two(machine): pass\ndef test_three(machine): pass\n"
        source += "def test_four(machine): pass\n"
        result = run(source, vm="irresettable")
        result.assert_outcomes(passed=2, errors=1, skipped=1)
        result.stdout.fnmatch_lines(["E   MachineBroken: the restore failed", "*SKIPPED*: the restore failed"])

    def test_faults_of_the_driver_do_not_use_the_recovery_up(self, run):
        crash = self.BREAKS.replace("break.exe", "crash.exe")
        source = "\n".join(crash.replace("test_it", f"test_{number}") for number in range(3))
        source += self.BREAKS + "\ndef test_next(machine): pass\n"
        run(source).assert_outcomes(failed=3, errors=1, passed=1)
        run(source, vm="plain").assert_outcomes(failed=3, errors=1, passed=1)

    def test_other_machines_go_on(self, run):
        source = (
            LAUNCH + "def test_it(vm_name, machine):\n    launch(machine, 'break' if vm_name == 'fake' else 'ok')\n"
        )
        source += source.replace("test_it", "test_again") + "def test_next(machine): pass\n"
        run(source, vm="fake,other").assert_outcomes(errors=2, skipped=1, passed=3)

    def test_with_xdist_each_worker_has_its_own_recovery(self, run):
        tests = [self.BREAKS.replace("test_it", f"test_{number}") for number in range(4)]
        result = run("\n".join(tests), "-n", "2", "-p", "xdist.plugin")
        assert result.parseoutcomes()["errors"] >= 3

    def test_a_machine_that_cannot_be_made_is_an_error_once(self, run):
        result = run("def test_one(machine): pass\ndef test_two(machine): pass\n", vm="unmakable")
        result.assert_outcomes(errors=1, skipped=1)
        result.stdout.fnmatch_lines(["E   MachineBroken: no disk space for an overlay"])

    def test_a_machine_that_is_not_set_up_is_an_error_once(self, run):
        result = run("def test_one(machine): pass\ndef test_two(machine): pass\n", vm="unconfigured")
        result.assert_outcomes(errors=1, skipped=1)
        result.stdout.fnmatch_lines(["E   MachineConfigurationError: image win11 is not built; run ntproof image *"])

    @pytest.mark.parametrize("error", ["MachineConfigurationError", "MissingExport"])
    def test_what_one_test_asks_for_in_vain_stops_no_other(self, run, error):
        source = f"import vm.errors\ndef test_one(machine): raise vm.errors.{error}('no such file')\n"
        source += source.replace("test_one", "test_two") + "def test_next(machine): pass\n"
        result = run(source)
        result.assert_outcomes(errors=2, passed=1)
        result.stdout.fnmatch_lines([f"E   {error}: no such file"])

    def test_junit_calls_it_an_error(self, run, pytester):
        run(failing('launch(machine, "C:\\\\break.exe")'), "--junitxml=report.xml")
        suite = ElementTree.parse(pytester.path / "report.xml").getroot()[0]
        assert (suite.get("failures"), suite.get("errors")) == ("0", "1")

    def test_what_the_machine_cannot_do_is_a_skip_with_its_reason(self, run):
        result = run(failing('launch(machine, "C:\\\\unsupported.exe")'))
        result.assert_outcomes(skipped=1)
        result.stdout.fnmatch_lines(["*SKIPPED*the machine cannot do this: no images of this kind here"])


class TestVerdicts:
    def test_a_scenario_that_the_model_accepts_passes(self, run):
        run(SCENARIO).assert_outcomes(passed=1)

    def test_a_scenario_that_it_does_not_accept_prints_the_verdict(self, run):
        result = run(SCENARIO, vm="skipping")
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["*come and go: failed with * discrepanc*", "*sequence*"])

    def test_a_test_that_fails_for_another_reason_prints_the_verdict_too(self, run):
        result = run(SCENARIO + "    assert 0\n")
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
