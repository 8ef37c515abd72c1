"""What a run keeps of a failure, and where."""

from __future__ import annotations

from harness import cli
from harness.exit_codes import ExitCode
from tests.unit.plugin.sources import SCENARIO, failing, junit_properties

pytest_plugins = ["pytester"]


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
        source = SCENARIO.replace("a.exe", "crash.exe")
        result = run(source, "--junitxml=report.xml", vm="keeping")
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["*bugcheck 0xD5 *", "*/crash/memory.dmp", "*/scenario-1.jsonl"])
        assert "bugcheck" in junit_properties(pytester)

    def test_a_hang_in_a_scenario_is_told_likewise(self, run, pytester):
        source = SCENARIO.replace("a.exe", "hang.exe")
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
        run(SCENARIO, vm="skipping").assert_outcomes(failed=1)
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
