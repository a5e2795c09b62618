# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Runs the Python of README.md and docs/, in order, one namespace a file.

Where a block of text follows a block of Python, it is what that prints.
"""

import re
from pathlib import Path

import pytest

import jaxinfer

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def blocks(page: Path) -> list[tuple[str, str, int]]:
    """(language, contents, line of the first) of every fenced block."""
    text = page.read_text()
    return [
        (match[1], match[2], text.count("\n", 0, match.start(2)))
        for match in BLOCK.finditer(text)
    ]


def pages_with_python() -> list[Path]:
    return [page for page in PAGES if any(b[0] == "python" for b in blocks(page))]


@pytest.mark.parametrize("page", pages_with_python(), ids=lambda page: page.name)
def test_blocks_run_and_print_what_they_say(page, capsys):
    namespace: dict = {"__name__": page.stem}
    after = "", ""
    for language, text, line in blocks(page):
        if language == "python":
            # Blank lines in front make line numbers in tracebacks those of the page.
            exec(compile("\n" * line + text, str(page), "exec"), namespace)
            after = "python", capsys.readouterr().out
        elif language == "text" and after[0] == "python":
            assert after[1] == text
            after = "", ""


def test_the_blocks_of_the_readme_are_found():
    languages = [language for language, _, _ in blocks(ROOT / "README.md")]
    assert languages.count("python") == 1
    assert "plan.md" in [page.name for page in pages_with_python()]


def test_the_api_page_has_every_public_name():
    named = re.findall(
        r"^::: jaxinfer\.(\w+)$", (ROOT / "docs/api.md").read_text(), re.M
    )
    assert sorted(named) == sorted(jaxinfer.__all__)


def test_the_design_names_every_field_of_a_work_item():
    struct = re.search(
        r"struct WorkItem \{(.*?)\};", (ROOT / "csrc/work_item.h").read_text(), re.S
    )
    assert struct
    fields = re.findall(r"^  int (\w+)(?:\[\d\])?;", struct[1], re.M)
    assert len(fields) == 16
    rows = (ROOT / "docs/design.md").read_text().partition("`csrc/work_item.h`:")[2]
    assert [f for f in fields if f"`{f}`" not in rows.partition("###")[0]] == []


LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name
)
def test_links_lead_somewhere(page):
    for target, anchor in LINK.findall(page.read_text()):
        file = page.parent / target if target else page
        assert file.exists(), f"{page.name} links to {target}"
        headings = re.findall(r"^#+ (.*)$", file.read_text(), re.M) if anchor else []
        slugs = [re.sub(r"\W+", "-", heading.lower()) for heading in headings]
        assert not anchor or anchor in slugs, f"{page.name} links to #{anchor}"


def test_paths_in_the_text_exist():
    path = re.compile(
        r"`((?:jaxinfer|csrc|xla_ffi|tests|examples|benchmarks|docs)/[\w/.]*)`"
    )
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        for name in path.findall(page.read_text()):
            planned = name.endswith("variants/")
            assert planned or (ROOT / name).exists(), f"{page.name} names {name}"
