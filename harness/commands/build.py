"""Build and sign a driver, check its image and, when asked to, analyse its sources."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.build.settings import BuildSettings, read_build_settings
from harness.build.wdk.kit import ARCHITECTURES
from harness.errors import ConfigurationError
from harness.exit_codes import ExitCode
from harness.project import nearest_project
from harness.settings import read_project

if TYPE_CHECKING:
    from harness.build.report import BuildReport

MSBUILD = "msbuild"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "driver",
        nargs="?",
        default="procnotify",
        help="a bundled driver, or the path of a drivers.toml (PATH:NAME to choose) (default: %(default)s)",
    )
    parser.add_argument("--toolchain", metavar="NAME", help="llvm-mingw, wdk or msbuild (default: the project's)")
    parser.add_argument(
        "--architecture", choices=ARCHITECTURES, default="x64", help="what the driver runs on (default: %(default)s)"
    )
    parser.add_argument(
        "--control-flow-guard", action="store_true", help="have calls through pointers checked (toolchain wdk)"
    )
    parser.add_argument("--analyse", action="store_true", help="analyse the sources as well (toolchain wdk or msbuild)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="copy the finished files to this folder")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(arguments: argparse.Namespace) -> ExitCode:
    """Build and report. What is found is the driver's fault."""
    if (project := nearest_project(Path.cwd())) is not None:
        # For its strictness: a misspelt key must not build something else in silence.
        read_project(project.parent)
    settings = read_build_settings(Path.cwd())
    if arguments.control_flow_guard:
        settings = replace(settings, control_flow_guard=True)
    chosen = arguments.toolchain or settings.toolchain
    report = _build_remotely(arguments, settings) if chosen == MSBUILD else _build(arguments, settings)
    if arguments.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        print("\n".join(report.lines()))
    return ExitCode.PASSED if report.clean else ExitCode.DRIVER_FAILED


def _build_remotely(arguments: argparse.Namespace, settings: BuildSettings) -> BuildReport:
    from harness.build.description import find_driver
    from harness.build.layout import build_directory
    from harness.build.msbuild import build_remotely
    from harness.build.msbuild.settings import build_machine
    from harness.build.signing.configured import configured_signer

    if arguments.control_flow_guard:
        raise ConfigurationError(
            "--control-flow-guard: the toolchain msbuild takes it from the driver's project; set it there"
        )
    machine = build_machine(settings.build_machine)
    return build_remotely(
        find_driver(arguments.driver),
        machine,
        configured_signer(build_directory() / "signing"),
        architecture=arguments.architecture,
        analyse=arguments.analyse,
        out=arguments.out,
    )


def _build(arguments: argparse.Namespace, settings: BuildSettings) -> BuildReport:
    from harness.build.description import find_driver
    from harness.build.driver_build import build_driver
    from harness.build.report import BuildReport, image_findings
    from harness.build.toolchains import toolchain_named
    from harness.build.wdk import Wdk
    from harness.build.wdk.analysis import analyse

    toolchain = toolchain_named(arguments.toolchain, settings, architecture=arguments.architecture)
    if not isinstance(toolchain, Wdk):
        for option in ("analyse", "control_flow_guard"):
            if getattr(arguments, option):
                name = f"--{option.replace('_', '-')}"
                raise ConfigurationError(f"{name}: the toolchain {toolchain.name} cannot do that; add --toolchain wdk")
    driver = find_driver(arguments.driver)
    findings = analyse(driver, toolchain) if arguments.analyse and isinstance(toolchain, Wdk) else []
    built = build_driver(driver, toolchain=toolchain, out=arguments.out)
    return BuildReport(
        driver=built.name,
        toolchain=toolchain.name,
        architecture=arguments.architecture,
        image=built.image,
        pdb=built.pdb,
        sha256=built.sha256,
        signed=True,
        duration=built.duration,
        source_findings=tuple(findings),
        image_findings=tuple(image_findings(built.image)),
        analysed=arguments.analyse,
    )
