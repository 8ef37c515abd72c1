"""What a run prints, and on whose side each fault ends up."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from harness import cli
from harness.exit_codes import ExitCode

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


class TestArtefacts:
    CRASHES = failing('driver.read(), launch(machine, "C:\\\\crash.exe")', "machine, driver")

    def test_what_the_machine_kept_of_a_crash_is_listed_in_the_report(self, run):
        result = run(self.CRASHES, vm="keeping")
        result.stdout.fnmatch_lines(
            [
                "*- bugcheck -*",
                "  kept:  *kept/test_what_*.test_it-keeping.????????/crash/memory.dmp",
                "*- artefacts -*",
                "*/crash/memory.dmp",
                "*/report.txt",
            ]
        )

    def test_it_is_in_the_junit_file(self, run, pytester):
        run(self.CRASHES, "--junitxml=report.xml", vm="keeping")
        properties = junit_properties(pytester)
        assert properties["bugcheck"] == [
            "0xD5 DRIVER_PAGE_FAULT_IN_FREED_SPECIAL_POOL (0xFFFF8000, 0x0, 0xFFFFF800, 0x0)"
        ]
        assert [path.rpartition("/")[2] for path in properties["artefact"]] == ["memory.dmp", "report.txt"]
        assert properties["machine"] == ["fake"]
        assert properties["facts"] == ["build 19041"]

    def test_a_hang_is_told_likewise(self, run, pytester):
        source = self.CRASHES.replace("crash.exe", "hang.exe")
        result = run(source, "--junitxml=report.xml", vm="keeping")
        result.stdout.fnmatch_lines(["E   DriverHung: *", "*- artefacts -*", "*/hang/screen.png", "*/report.txt"])
        properties = junit_properties(pytester)
        assert properties["hang"] == ["PnRead did not return within 100,000,000 instructions"]
        assert any(path.endswith("screen.png") for path in properties["artefact"])

    def test_the_folder_is_named_at_the_end_and_holds_the_report(self, run, pytester):
        result = run(self.CRASHES)
        result.stdout.fnmatch_lines([f"ntproof: kept of 1 test: {pytester.path}/kept"])
        (report,) = (pytester.path / "kept").glob("*/report.txt")
        assert "bugcheck 0xD5" in report.read_text()
        assert "while: create callback for pid 4242" in report.read_text()

    def test_each_test_has_its_folder(self, run, pytester):
        run(self.CRASHES + self.CRASHES.replace("test_it", "test_other"))
        assert len(list((pytester.path / "kept").iterdir())) == 2

    def test_what_an_earlier_run_kept_stays(self, run, pytester):
        run(self.CRASHES)
        run(self.CRASHES)
        first, second = sorted(path.name for path in (pytester.path / "kept").iterdir())
        assert second == f"{first}.2"

    def test_the_last_notifications_and_scenarios_are_kept_as_captures(self, run, pytester):
        from harness.capture_json import open_lines, read_capture

        launches = failing(
            'launch(machine, "C:\\\\a.exe"), driver.read(), launch(machine, "C:\\\\crash.exe")', "machine, driver"
        )
        run(launches)
        (path,) = (pytester.path / "kept").glob("*/read.jsonl")
        (created,) = read_capture(open_lines(path), str(path)).items
        assert created.image_name == "\\??\\C:\\a.exe"

    def test_a_crash_in_a_scenario_fails_by_its_bugcheck_and_keeps_the_capture(self, run, pytester):
        source = TestVerdicts.SCENARIO.replace("a.exe", "crash.exe")
        result = run(source, "--junitxml=report.xml", vm="keeping")
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["*bugcheck 0xD5 *", "*/crash/memory.dmp", "*/scenario-1.jsonl"])
        assert "bugcheck" in junit_properties(pytester)

    def test_a_hang_in_a_scenario_is_told_likewise(self, run, pytester):
        source = TestVerdicts.SCENARIO.replace("a.exe", "hang.exe")
        result = run(source, "--junitxml=report.xml", vm="keeping")
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["*PnRead did not return*", "*kept:  */hang/screen.png", "*- artefacts -*"])
        properties = junit_properties(pytester)
        assert properties["hang"] == ["PnRead did not return within 100,000,000 instructions"]
        assert [path.rpartition("/")[2] for path in properties["artefact"]] == [
            "screen.png",
            "report.txt",
            "scenario-1.jsonl",
        ]

    def test_what_a_test_saw_before_it_failed_is_kept_without_any_crash(self, run, pytester):
        result = run(failing("launch(machine, 'C:\\\\a.exe'), driver.read(); assert 0", "machine, driver"))
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["*- artefacts -*", "*/report.txt", "*/read.jsonl", "ntproof: kept of 1 test: *"])
        (report,) = (pytester.path / "kept").glob("*/report.txt")
        assert "AssertionError" in report.read_text()

    def test_so_is_the_capture_of_a_scenario_that_the_model_finds_wrong(self, run, pytester):
        run(TestVerdicts.SCENARIO, vm="skipping").assert_outcomes(failed=1)
        (capture,) = (pytester.path / "kept").glob("*/scenario-1.jsonl")
        assert cli.main(["check", str(capture)]) == ExitCode.DRIVER_FAILED

    def test_a_failed_assertion_of_a_test_that_saw_nothing_keeps_nothing(self, run, pytester):
        result = run("def test_it(machine): assert 0")
        assert not (pytester.path / "kept").exists()
        assert "ntproof: kept" not in result.stdout.str()

    def test_a_folder_that_cannot_be_written_does_not_hide_the_fault(self, run, pytester):
        (pytester.path / "kept").mkdir()
        result = run(
            "import pathlib\n"
            + self.CRASHES.replace(
                "    driver.read()",
                '    pathlib.Path("kept").rmdir(); pathlib.Path("kept").write_text(""); driver.read()',
            )
        )
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["E   MachineCrashed: *", "not all could be kept: *Not a directory*"])

    def test_by_default_a_run_has_a_folder_of_its_own_below_the_build_folder(self, run, pytester, monkeypatch):
        monkeypatch.setenv("NTPROOF_BUILD_DIR", str(pytester.path / "build"))
        for number in range(7):
            (pytester.path / f"build/artefacts/run-20200101-00000{number}-1").mkdir(parents=True)
        result = run(self.CRASHES, artefacts=False)
        result.stdout.fnmatch_lines(["ntproof: kept of 1 test: *build/artefacts/run-*"])
        left = sorted(path.name for path in (pytester.path / "build/artefacts").iterdir())
        assert left[:4] == [f"run-20200101-00000{number}-1" for number in (3, 4, 5, 6)]
        assert len(left) == 5

    def test_with_xdist_a_lone_surrogate_reaches_the_report_as_an_escape_sequence(self, run):
        result = run('def test_it(machine): raise AssertionError("\\udc00")', "-n", "1", "-p", "xdist.plugin")

        result.assert_outcomes(failed=1)
        assert "INTERNALERROR" not in result.stdout.str()

    def test_with_xdist_all_workers_share_the_folder(self, run, pytester, monkeypatch):
        monkeypatch.setenv("NTPROOF_BUILD_DIR", str(pytester.path / "build"))
        source = self.CRASHES + self.CRASHES.replace("test_it", "test_other")
        result = run(source, "-n", "2", "-p", "xdist.plugin", artefacts=False)
        result.stdout.fnmatch_lines(["ntproof: kept of 2 tests: *build/artefacts/run-*"])
        assert len(list((pytester.path / "build/artefacts").iterdir())) == 1


def junit_properties(pytester) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in ElementTree.parse(pytester.path / "report.xml").iter("property"):
        found.setdefault(one.get("name"), []).append(one.get("value"))
    return found


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


class TestResets:
    """Machines without checkpoints: each test begins with a reset, and there is no other way back."""

    TESTS = """
    import pytest
    def test_one(machine): assert machine.resets == []
    def test_two(machine): assert machine.resets == [False]
    @pytest.mark.fresh
    def test_three(bare_machine): assert bare_machine.resets == [False, True]
    def test_four(clean_machine): assert clean_machine.resets == [False, True, False]
    """

    def test_each_test_but_the_first_begins_with_one_and_a_marker_asks_for_a_fresh_machine(self, run):
        run(self.TESTS, vm="plain").assert_outcomes(passed=4)

    def test_the_test_after_a_failed_one_has_a_fresh_machine(self, run):
        source = """
        def test_one(machine): assert 0
        def test_two(machine): assert machine.resets == [True]
        def test_three(machine): assert machine.resets == [True, False]
        """
        run(source, vm="plain").assert_outcomes(failed=1, passed=2)

    def test_a_machine_with_checkpoints_is_restored_instead(self, run):
        tests = self.TESTS.replace("[False, True, False]", "[]").replace("[False, True]", "[]").replace("[False]", "[]")
        run(tests).assert_outcomes(passed=4)


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
        result.stdout.fnmatch_lines(["*driver_parameters(*", "*fresh: *", "*crash_expected*"])

    @pytest.mark.parametrize("fixture", ["machine", "driver", "run_scenario"])
    def test_a_driver_that_does_not_build_is_told_once(self, run, monkeypatch, fixture):
        from harness.errors import BuildError

        def fail(name: str, **_options: object) -> None:
            raise BuildError("procnotify/entry.c:12: error: expected ';'\n   12 | return 0")

        monkeypatch.setattr("harness.build.build_driver", fail)
        tests = f"def test_one({fixture}): pass\ndef test_two({fixture}): pass\n"
        result = run(tests, driver=False)
        result.assert_outcomes(errors=1, skipped=1)
        result.stdout.fnmatch_lines(["E   BuildError: procnotify/entry.c:12: error: expected ';'"])
        # Once in the error's report, and never in a reason to skip; the summary is longer on a build server.
        reports, _, summary = result.stdout.str().partition("short test summary info")
        assert reports.count("12 | return 0") == 1
        skipped, _, _ = summary.partition("\nERROR ")
        assert "12 | return 0" not in skipped
