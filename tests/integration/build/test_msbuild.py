"""A driver is built on a Windows machine over the real remoting: sent by hash, told by findings, fetched and signed."""

from __future__ import annotations

import contextlib
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.standin.requirements import require_remoting

require_remoting()

from harness.build import find_driver  # noqa: E402 - see require_remoting
from harness.build.driver_build import build_unsigned  # noqa: E402
from harness.build.layout import driver_source_root  # noqa: E402
from harness.build.llvm_mingw import LlvmMingw  # noqa: E402
from harness.build.msbuild import BuildMachine, build_remotely  # noqa: E402
from harness.build.msbuild.settings import PASSWORD_VARIABLE, build_machine  # noqa: E402
from harness.build.msbuild.sources import remote_tree  # noqa: E402
from harness.build.signing.generated import ensure_identity  # noqa: E402
from harness.build.signing.signature import verify  # noqa: E402
from harness.build.signing.signer import KeySigner  # noqa: E402
from harness.cli import main  # noqa: E402
from harness.errors import BuildError, ConfigurationError  # noqa: E402
from harness.exit_codes import ExitCode  # noqa: E402
from tests.standin.msbuild import MSBUILD, SETUP, Told, install  # noqa: E402
from tests.standin.winrm import StandIn  # noqa: E402
from vm.errors import MachineConfigurationError  # noqa: E402

REMOTE = r"C:\ntproof\build"
PROJECT = r"[C:\ntproof\build\procnotify-00000000\procnotify\procnotify.vcxproj]"
WARNING = (
    r"C:\ntproof\build\procnotify-00000000\procnotify\rules.c(12,5): warning C28167: The function 'PnRulesMatch' "
    rf"changes the IRQL and does not restore the IRQL before it exits. {PROJECT}"
)


@pytest.fixture(scope="module")
def unsigned(tmp_path_factory):
    """What a real build leaves: an image and its PDB."""
    return build_unsigned(find_driver("procnotify"), LlvmMingw(), tmp_path_factory.mktemp("unsigned"))


@pytest.fixture(scope="module")
def identity(tmp_path_factory):
    return KeySigner(ensure_identity(tmp_path_factory.mktemp("keys") / "signing"))


@pytest.fixture
def standin(monkeypatch):
    with StandIn() as made:
        monkeypatch.setenv("NTLM_USER_FILE", str(made.users_file))
        monkeypatch.setenv(PASSWORD_VARIABLE, made.password)
        yield made


@pytest.fixture
def told(standin, unsigned):
    leaves = {
        "procnotify.sys": unsigned.image.read_bytes(),
        "procnotify.pdb": unsigned.pdb.read_bytes(),
        "procnotify\\procnotify.inf": b"[Version]\r\n",
        "procnotify\\procnotify.cat": b"a catalog",
        "build.binlog": b"a binary log",
    }
    return install(standin.windows, Told(leaves=leaves))


@pytest.fixture
def machine(standin):
    return BuildMachine(
        host="127.0.0.1",
        fingerprint=standin.certificate.fingerprint,
        user=standin.username,
        port=standin.port,
    )


@pytest.fixture
def build(machine, identity, tmp_path):
    def run(driver=None, **options):
        options = {"out": tmp_path / "out", **options}
        return build_remotely(driver or find_driver("procnotify"), options.pop("machine", machine), identity, **options)

    return run


def located(line: str, told: Told) -> str:
    """A line as MSBuild prints it for the folder that the sources are in."""
    return line.replace("procnotify-00000000", Path(told.runs[-1][0].strip('"').replace("\\", "/")).parts[3])


def test_what_msbuild_makes_is_fetched_and_the_image_signed(build, told, unsigned, identity):
    report = build()

    assert {path.name: path.read_bytes() for path in report.files} == {
        "procnotify.inf": b"[Version]\r\n",
        "procnotify.cat": b"a catalog",
        "build.binlog": b"a binary log",
        "procnotify.cer": identity.source.certificate,
    }
    assert report.pdb.read_bytes() == unsigned.pdb.read_bytes()
    assert verify(report.image).page_hashes > 0
    assert report.image_findings == report.source_findings == ()
    assert report.toolchain == "msbuild on 127.0.0.1"


def test_sources_are_sent_as_the_project_needs_them_and_only_what_changed_is_sent_again(build, told, standin, tmp_path):
    tree = tmp_path / "driver"
    shutil.copytree(driver_source_root(), tree)
    driver = find_driver("procnotify").at(tree)
    build(driver)
    sent = {file.path for file in standin.windows.files.within(REMOTE)}
    written = {file.path: file.written for file in standin.windows.files.within(REMOTE)}
    first_outputs = told.runs[0][5]
    (tree / "procnotify" / "rules.c").write_text((tree / "procnotify" / "rules.c").read_text() + "\n")

    build(driver)

    names = {path.rpartition("\\")[2] for path in sent}
    assert {"procnotify.vcxproj", "procnotify.inf", "procnotify.rc", "rules.c", "service_parameters.c"} <= names
    assert {"procnotify.h", "ntproof_compat.h", "rules.h", "service_parameters.h"} <= names
    again = {
        file.path.rpartition("\\")[2]
        for file in standin.windows.files.within(REMOTE)
        if file.path in written and file.written != written[file.path]
    }
    assert again == {"rules.c", "build.rsp"}
    # Other sources have another output folder: nothing that an earlier build left is taken for this one's.
    assert told.runs[1][5] != first_outputs


def test_msbuild_is_asked_for_what_the_options_say(build, told, machine):
    build(machine=replace(machine, kit="10.0.26100.0"), analyse=True)

    (arguments,) = told.runs
    assert arguments[0].endswith('\\procnotify\\procnotify.vcxproj"')
    assert "/target:Rebuild" in arguments
    assert "/property:Platform=x64" in arguments
    assert "/property:WindowsTargetPlatformVersion=10.0.26100.0" in arguments
    assert "/property:RunCodeAnalysis=true" in arguments
    assert any(argument.startswith("/binaryLogger:") for argument in arguments)


def test_an_enterprise_wdk_is_set_up_before_it_builds(standin, told, build, machine):
    standin.windows.programs.pop(MSBUILD.lower())

    build(machine=replace(machine, ewdk="E:\\"))

    assert len(told.runs) == 1


def test_an_enterprise_wdk_that_is_not_there_is_told_with_what_windows_said(told, build, machine):
    with pytest.raises(BuildError) as caught:
        build(machine=replace(machine, ewdk="F:\\kit"))

    assert "it ended with status 1 and named no error:" in str(caught.value)
    assert rf"'F:\kit\BuildEnv\{SETUP.rpartition(chr(92))[2]}' is not recognized" in str(caught.value)


def test_errors_are_shown_as_the_other_toolchains_show_them(told, build):
    told.prints = [
        "  rules.c",
        rf"..\common\service_parameters.c(9,11): error C2065: 'PWCHARX': undeclared identifier {PROJECT}",
        r"procnotify.inf(12): error 1205: Section [X] referenced from DelFiles not defined. [C:\x\procnotify.vcxproj]",
        r"LINK : fatal error LNK1181: cannot open input file 'ntoskrnl.lib' [C:\x\procnotify.vcxproj]",
    ]
    told.status = 1

    with pytest.raises(BuildError) as caught:
        build()

    assert str(caught.value).splitlines() == [
        "driver/common/service_parameters.c:9:11: error: 'PWCHARX': undeclared identifier [C2065]",
        "driver/procnotify/procnotify.inf:12: error: Section [X] referenced from DelFiles not defined. [infverif 1205]",
        "LINK: error: cannot open input file 'ntoskrnl.lib' [LNK1181]",
        "while building procnotify on 127.0.0.1",
    ]


def test_an_error_that_msbuild_hides_behind_success_fails_the_build(told, build):
    told.prints = [r"ERROR(1233) in C:\x\procnotify.inf, line 3: Missing directive CatalogFile required for signature."]

    with pytest.raises(
        BuildError, match=r"procnotify\.inf:3: error: Missing directive CatalogFile .* \[infverif 1233\]"
    ):
        build()


def test_warnings_of_code_analysis_and_of_infverif_are_in_the_report_once(told, build):
    build()
    told.prints = [
        located(WARNING, told),
        located(WARNING, told),
        "procnotify.inf(7): warning 2083: Section [Y] not referenced.",
    ]

    report = build(analyse=True)

    analysed, verified = report.source_findings
    assert (analysed.path, analysed.line, analysed.column, analysed.check) == (
        "driver/procnotify/rules.c",
        12,
        5,
        "C28167",
    )
    assert analysed.message.endswith("does not restore the IRQL before it exits.")
    assert str(verified) == ("driver/procnotify/procnotify.inf:7: warning: Section [Y] not referenced. [infverif 2083]")
    assert not report.clean
    assert "  code analysis: 2 findings" in list(report.lines())


def test_infverif_is_run_where_the_kit_is_known_and_names_the_projects_own_file(told, build, machine):
    told.verifies = ["WARNING(2084) in {inf}, line 9: Unused section.", "INF is VALID"]

    report = build(machine=replace(machine, kit="10.0.26100.0"))

    assert [str(finding) for finding in report.source_findings] == [
        "driver/procnotify/procnotify.inf:9: warning: Unused section. [infverif 2084]"
    ]


def test_an_inf_that_infverif_refuses_fails_the_build(told, build, machine):
    told.verifies = ["ERROR(1305) in {inf}, line 12: Invalid architecture.", "INF is NOT VALID"]
    told.verified = 87

    with pytest.raises(BuildError, match=r"^driver/procnotify/procnotify\.inf:12: error: Invalid architecture\."):
        build(machine=replace(machine, kit="10.0.26100.0"))


def test_an_infverif_that_is_not_there_names_the_key(told, build, machine):
    with pytest.raises(BuildError, match=r"D:\\infverif\.exe cannot be run: .* ewdk, msbuild, infverif or kit in"):
        build(machine=replace(machine, infverif="D:\\infverif.exe"))


def test_an_enterprise_wdk_has_an_infverif_of_its_own(machine):
    there = replace(machine, ewdk="E:\\", kit="10.0.26100.0").inf_verifier

    assert there == r"E:\Program Files\Windows Kits\10\Tools\10.0.26100.0\x64\infverif.exe"


def test_lines_that_only_mention_errors_are_none(told, build):
    told.prints = ["Build succeeded.", "    0 Warning(s)", "    0 Error(s)", "Inf2Cat: errors: none", "error.c"]

    assert build().source_findings == ()


@pytest.mark.parametrize("missing", ["procnotify.sys", "procnotify.pdb", "procnotify\\procnotify.cat"])
def test_a_file_that_msbuild_did_not_leave_is_named(told, build, missing):
    del told.leaves[missing]

    with pytest.raises(BuildError) as caught:
        build()

    assert f"\\{missing}: " in str(caught.value)
    assert "MSBuild ended well and left no" in str(caught.value)


def test_an_image_that_is_none_is_told_with_who_made_it(told, build):
    told.leaves["procnotify.sys"] = b"MZ and nothing else"

    with pytest.raises(BuildError, match=r"^procnotify\.sys, as 127\.0\.0\.1 built it: not a PE image"):
        build()


def test_msbuild_that_hangs_is_ended(standin, told, build):
    def hang(_arguments, lines):
        yield "  still compiling"
        yield from lines
        import threading

        threading.Event().wait(20)
        return 0

    standin.windows.programs[MSBUILD.lower()] = hang

    with pytest.raises(
        BuildError, match=r"127\.0\.0\.1: MSBuild\.exe did not end within 1 s and was ended\n  still compiling"
    ):
        build(deadline=1.0)


def test_a_machine_without_visual_studio_says_what_to_install_or_name(standin, build):
    install(standin.windows, Told(), visual_studio=False)

    with pytest.raises(ConfigurationError, match=r"has no Visual Studio: .*name ewdk or msbuild"):
        build()


def test_an_msbuild_that_is_not_there_is_named(told, build, machine):
    with pytest.raises(BuildError, match=r"C:\\nowhere\\MSBuild\.exe cannot be run"):
        build(machine=replace(machine, msbuild=r"C:\nowhere\MSBuild.exe"))


def test_a_driver_without_a_project_is_told_which_key_is_missing(build):
    with pytest.raises(ConfigurationError, match=r'companion has no Visual Studio project; .*project = "companion/'):
        build(find_driver("companion"))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (None, r"no build machine is known; describe one in \[tool.ntproof.build-machine\]"),
        ({"host": "x", "user": "u", "fingerprint": "00"}, "expected a SHA-256 fingerprint"),
        ({"host": "x", "user": "u", "fingerprint": "0" * 64, "pasword": "p"}, "pasword"),
        ({"host": "x", "user": "u", "fingerprint": "0" * 64, "ewdk": "E:\\ & del"}, "expected the folder of an"),
        ({"host": "x", "user": "u", "fingerprint": "0" * 64, "ewdk": "E:\\", "msbuild": "C:\\m.exe"}, "exclude each"),
    ],
)
def test_a_build_machine_that_is_described_wrongly_names_the_key(table, said):
    with pytest.raises((ConfigurationError, MachineConfigurationError), match=said):
        build_machine(table)


def test_a_password_that_is_not_in_the_environment_names_the_variable(machine):
    with pytest.raises(ConfigurationError, match=PASSWORD_VARIABLE):
        machine.credentials({})


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_built(build, told, tmp_path):
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(ConfigurationError, match="file: the finished files cannot be put there"):
        build(out=tmp_path / "file")

    assert told.runs == []


def test_builds_at_once_do_not_mix_their_sources(build, told, standin, tmp_path, monkeypatch):
    monkeypatch.setenv("NTPROOF_BUILD_DIR", str(tmp_path / "build"))
    drivers = []
    for name in ("one", "two"):
        shutil.copytree(driver_source_root(), tmp_path / name)
        rules = tmp_path / name / "procnotify" / "rules.c"
        rules.write_text(f"{rules.read_text()}/* {name} */\n")
        drivers.append(find_driver("procnotify").at(tmp_path / name))
    both, built = threading.Barrier(2), {}
    msbuild = standin.windows.programs[MSBUILD.lower()]

    def slow(arguments, lines):
        # Time for the other one to send its sources, if it does not wait.
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(3)
        folder = arguments[0][1:].rpartition("\\")[0]
        status = yield from msbuild(arguments, lines)
        built[told.runs[-1][5]] = standin.windows.files.read(f"{folder}\\procnotify\\rules.c")
        return status

    standin.windows.programs[MSBUILD.lower()] = slow
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(build, driver, out=tmp_path / f"out-{driver.root.name}") for driver in drivers]:
            done.result()

    for driver in drivers:
        outputs = remote_tree(driver).outputs / "x64"
        content = (driver.root / "procnotify" / "rules.c").read_bytes()
        assert built[f'/property:OutDir="{outputs}\\\\"'] == content


def test_the_command_builds_where_the_project_says(told, standin, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NTPROOF_BUILD_DIR", str(tmp_path / "build"))
    (tmp_path / "pyproject.toml").write_text(
        '[tool.ntproof]\ntoolchain = "msbuild"\n[tool.ntproof.build-machine]\nhost = "127.0.0.1"\n'
        f"port = {standin.port}\n"
        f"fingerprint = \"{standin.certificate.fingerprint}\"\nuser = '{standin.username}'\n"
    )

    code = main(["build", "--out", str(tmp_path / "made")])

    output = capsys.readouterr().out
    assert code == ExitCode.PASSED
    assert output.startswith(f"{tmp_path / 'made' / 'procnotify.sys'}\n  built by msbuild on 127.0.0.1 for x64 in ")
    assert standin.password not in output
    assert all(standin.password.encode() not in path.read_bytes() for path in (tmp_path / "made").iterdir())
    assert (tmp_path / "made" / "report.json").is_file()
