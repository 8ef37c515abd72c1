"""Golden files for every test: compared, or written again with --regenerate. Generated input that no clock judges.

Tests of the stand-in come first and on one worker: they take longest, and share what one process may use at a time.
"""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A busy machine must fail no test: how long an example takes says nothing about the code.
settings.register_profile("ntproof", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ntproof")

STANDIN = "tests/integration/standin/"


def pytest_addoption(parser):
    parser.addoption(
        "--regenerate", action="store_true", help="write golden files again instead of comparing with them"
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: not item.nodeid.startswith(STANDIN))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    if config.getoption("dist") != "loadscope":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return STANDIN if nodeid.startswith(STANDIN) else super()._split_scope(nodeid)

    return Scheduling(config, log)


@pytest.fixture
def golden(request):
    """Compare a text with a golden file, or write the file with --regenerate."""

    def compare(path: Path, text: str) -> None:
        if request.config.getoption("--regenerate"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.is_file(), f"{path.name} is missing; make it with: pytest --regenerate {request.node.nodeid}"
        expected = path.read_text(encoding="utf-8")
        difference = difflib.unified_diff(expected.splitlines(), text.splitlines(), path.name, "now", lineterm="")
        assert text == expected, "\n".join([*difference, "if that is meant, run pytest with --regenerate"])

    return compare
