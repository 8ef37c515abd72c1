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


def test_a_profile_without_an_image_is_told_with_the_command_that_makes_one(run):
    refuses(run(PASSES, vm="win11"), "ERROR: --vm win11: there is no image of it yet; * ntproof image build win11 *")


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


class TestWindowsMachines:
    """Where the options of Windows machines come from: the command line, else [tool.ntproof], else the defaults."""

    SHOWS = "def test_it(machine):\n    options = machine.options\n    assert ({}) == {!r}\n"
    TABLE = '[tool.ntproof]\nconnect = "qemu+ssh://lab/system"\nslots = 8\nartefacts = "evidence"\n'

    def asks(self, run, what: str, value: object, *arguments: str, **keywords):
        return run(self.SHOWS.format(what, value), *arguments, vm="keeping", **keywords)

    def test_the_defaults_are_libvirts_own_hypervisor_and_four_slots(self, run):
        self.asks(run, "options.connect, options.slots, options.worker", (None, 4, "main")).assert_outcomes(passed=1)

    def test_the_command_line_reaches_the_machine(self, run):
        result = self.asks(run, "options.connect, options.slots", ("test:///x", 9), "--connect=test:///x", "--slots=9")
        result.assert_outcomes(passed=1)

    def test_the_project_gives_defaults(self, run, pytester):
        (pytester.path / "pyproject.toml").write_text(self.TABLE)
        what = "options.connect, options.slots, options.artefacts.name"
        self.asks(run, what, ("qemu+ssh://lab/system", 8, "evidence"), artefacts=False).assert_outcomes(passed=1)

    def test_a_folder_of_the_project_may_begin_at_the_users_home(self, run, pytester, monkeypatch):
        monkeypatch.setenv("HOME", str(pytester.path / "home"))
        (pytester.path / "pyproject.toml").write_text('[tool.ntproof]\nartefacts = "~/evidence"\n')
        what = "options.artefacts.parts[-2:]"
        self.asks(run, what, ("home", "evidence"), artefacts=False).assert_outcomes(passed=1)

    def test_the_table_of_who_signs_is_none_of_these_options(self, run, pytester):
        signing = '[tool.ntproof.signing]\nsource = "pkcs12"\nfile = "team.pfx"\n'
        (pytester.path / "pyproject.toml").write_text(self.TABLE + signing)
        self.asks(run, "options.slots", 8).assert_outcomes(passed=1)

    def test_the_command_line_wins_over_the_project(self, run, pytester):
        (pytester.path / "pyproject.toml").write_text(self.TABLE)
        what, value = "options.connect, options.slots, options.artefacts.name", ("test:///x", 2, "kept")
        self.asks(run, what, value, "--connect=test:///x", "--slots=2").assert_outcomes(passed=1)

    def test_a_project_that_says_nothing_of_it_gives_none(self, run, pytester):
        (pytester.path / "pyproject.toml").write_text('[project]\nname = "ntproof-user"\n')
        self.asks(run, "options.slots", 4).assert_outcomes(passed=1)

    @pytest.mark.parametrize(
        ("table", "message"),
        [
            ("[tool.ntproof]\nslot = 3\n", "*pyproject.toml: tool.ntproof: unknown key 'slot'; known here: connect,*"),
            ("[tool.ntproof]\nslots = 0\n", "*tool.ntproof: slots: 0 is out of range; expected 1 to 64 *"),
            ("[tool.ntproof]\nslots = '4'\n", "*tool.ntproof: slots: expected an integer *, found a text"),
            (
                "[tool.ntproof]\nconnect = 'lab'\n",
                "*tool.ntproof: connect: 'lab' does not fit; expected a libvirt URI*",
            ),
            ("[tool]\nntproof = 4\n", "*tool.ntproof: expected a table"),
            ("[tool.ntproof\n", "*pyproject.toml: *"),
            (
                "[tool.ntproof]\nartefacts = '~no-such-user/x'\n",
                "*: ~no-such-user/x: no home folder of such a user*",
            ),
            ("[tool.ntproof.signin]\n", "*pyproject.toml: tool.ntproof: unknown key 'signin'*"),
        ],
    )
    def test_a_mistake_in_the_project_is_one_usage_error(self, run, pytester, table, message):
        # pytest itself reads the file of its own configuration, so that a broken one ends there.
        (pytester.path / "pyproject.toml").write_text(table)
        refuses(run(PASSES, artefacts=False), f"ERROR: {message}")

    @pytest.mark.parametrize("given", ["0", "65", "-1", "four", "", "\u0664"])
    def test_a_number_of_slots_that_cannot_be_is_refused(self, run, given):
        refuses(run(PASSES, f"--slots={given}"), "ERROR: --slots *: not a number of machines; give 1 to 64")

    def test_a_file_as_folder_for_artefacts_is_refused(self, run, image):
        result = run(PASSES, "--artefacts", str(image), artefacts=False)
        refuses(result, "ERROR: --artefacts *: not a folder; give the path of a folder, which need not exist")

    def test_the_verifier_is_set_by_name(self, run, pytester):
        what = "str(options.verifier)"
        self.asks(run, what, "special-pool,io", "--verifier=io,special-pool").assert_outcomes(passed=1)
        self.asks(run, what, "None").assert_outcomes(passed=1)
        (pytester.path / "pyproject.toml").write_text('[tool.ntproof]\nverifier = "ddi"\n')
        self.asks(run, what, "ddi").assert_outcomes(passed=1)
        self.asks(run, what, "None", "--verifier=none").assert_outcomes(passed=1)

    def test_a_name_that_the_verifier_does_not_have_is_refused(self, run, pytester):
        refuses(run(PASSES, "--verifier=speciel-pool"), "ERROR: --verifier speciel-pool: *did you mean special-pool?*")
        (pytester.path / "pyproject.toml").write_text('[tool.ntproof]\nverifier = "ioo"\n')
        refuses(run(PASSES), "ERROR: pyproject.toml: tool.ntproof: verifier: *did you mean io?*")

    def test_a_worker_of_xdist_gives_its_name(self, run):
        result = self.asks(run, "options.worker[:2]", "gw", "-n", "1", "-p", "xdist.plugin")
        result.assert_outcomes(passed=1)

    def test_what_a_machine_says_of_its_progress_is_shown(self, run):
        run(PASSES, vm="slow").stdout.fnmatch_lines(["waiting for the guest", "ntproof: fake: build 19041"])

    @pytest.mark.parametrize("capture", ["fd", "sys", "no"])
    def test_so_is_that_of_one_that_is_made_while_a_test_is_set_up(self, run, capture):
        result = run(PASSES, f"--capture={capture}", vm="other,slow", subprocess=True)
        result.assert_outcomes(passed=2)
        result.stdout.fnmatch_lines(["waiting for the guest"])
