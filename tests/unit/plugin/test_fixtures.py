"""What state the fixtures hand a machine and its driver over in."""

from __future__ import annotations

import pytest

from tests.unit.plugin.sources import failing

pytest_plugins = ["pytester"]


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
