# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Writes the tables of docs/performance.md, and its plots, from the stored runs.

python -m benchmarks.report              # tables
python -m benchmarks.report --plots      # and plots, which need matplotlib
python -m benchmarks.report --run FILE   # prints a run on a GPU, writes nothing
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks import report_gpu

ROOT = Path(__file__).parent
PAGE = ROOT.parent / "docs" / "performance.md"
PLOTS = PAGE.parent / "performance"
BEGIN, END = "<!-- tables: python -m benchmarks.report -->", "<!-- end of tables -->"


def runs() -> Iterable[tuple[str, dict[str, Any]]]:
    """(name, run) of all stored runs."""
    for path in sorted((ROOT / "results").glob("*.json")):
        yield path.stem, json.loads(path.read_text())


def tables() -> str:
    """All stored runs as Markdown."""
    return "\n\n".join(section(name, run) for name, run in runs())


def section(name: str, run: dict[str, Any]) -> str:
    """One run as Markdown."""
    if "driver" in run["meta"]:
        return report_gpu.section(name, run)
    meta = run["meta"]
    head = (
        f"### {meta['device']}, {meta['cores']} cores",
        "",
        f"{meta['date']}, jax {meta['jax']}, Python {meta['python']}, instruction set "
        f"{meta['isa']}, commit {meta['commit'][:12]}. This machine reads memory at "
        f"{1e3 * meta['read_tbps']:.1f} GB/s.",
        "",
    )
    rows = report_gpu.plain_table(run["records"], meta["read_tbps"])
    return "\n".join([*head, *rows])


def page(text: str) -> str:
    """The page with its tables made anew."""
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n\n{tables()}\n\n{END}{rest.split(END)[1]}"


def main() -> None:
    """Writes the page, and the plots if they are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plots", action="store_true")
    parser.add_argument("--run", type=Path, help="prints this one and nothing else")
    arguments = parser.parse_args()
    if arguments.run:
        run = json.loads(arguments.run.read_text())
        print(section(arguments.run.stem, run), end="\n\n")
        print(*report_gpu.beside_best(run["records"]), sep="\n")
        return
    if arguments.plots:
        from benchmarks import plots

        for name, run in runs():
            for path in plots.write(name, run, PLOTS):
                print(f"wrote {path}")
    PAGE.write_text(page(PAGE.read_text()))
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
