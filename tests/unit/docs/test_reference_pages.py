"""Tests of docs/: the generated pages are what the code says, and no link leads nowhere."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(?:#[^)]*)?\)")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.fixture(scope="module")
def generate():
    specification = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    yield module
    del sys.modules[specification.name]


def test_the_committed_reference_is_what_the_code_says(generate):
    assert generate.outdated() == [], "run: python docs/generate.py"


def test_a_page_that_differs_from_the_code_is_found(generate, tmp_path):
    for name, text in generate.pages().items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "cli.md").write_text("old\n", encoding="utf-8")
    (tmp_path / "pytest.md").unlink()

    assert sorted(generate.outdated(tmp_path)) == ["cli.md", "pytest.md"]


def test_every_exit_code_is_explained(generate):
    rows = [line for line in generate.pages()["exit-codes.md"].splitlines() if re.match(r"\| \d", line)]

    assert len(rows) >= 5
    assert all(row.split("|")[3].strip() for row in rows)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    targets = LINK.findall(page.read_text(encoding="utf-8"))

    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_is_left_to_be_written(page):
    assert not re.search(r"\b(?:TODO|TBD|FIXME|XXX)\b", page.read_text(encoding="utf-8"))


def test_every_page_is_reachable_from_the_index():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    linked = {(ROOT / "docs" / target).resolve() for target in LINK.findall(index)}
    pages = {page for page in PAGES if page.parent != ROOT and page.name != "README.md"}

    assert pages - linked == set()
