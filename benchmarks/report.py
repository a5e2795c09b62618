# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Writes the tables of docs/performance.md from the stored runs.

python -m benchmarks.report
"""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent
PAGE = ROOT.parent / "docs" / "performance.md"
BEGIN, END = "<!-- tables: python -m benchmarks.report -->", "<!-- end of tables -->"


def tables() -> str:
    """All stored runs as Markdown."""
    runs = sorted((ROOT / "results").glob("*.json"))
    return "\n\n".join(_run(json.loads(path.read_text())) for path in runs)


def _run(run: dict[str, Any]) -> str:
    meta = run["meta"]
    lines = [
        f"### {meta['device']}, {meta['cores']} cores",
        "",
        f"{meta['date']}, jax {meta['jax']}, Python {meta['python']}, instruction set "
        f"{meta['isa']}, commit {meta['commit'][:12]}. This machine reads memory at "
        f"{1e3 * meta['read_tbps']:.1f} GB/s.",
        "",
        "| benchmark | case | implementation | us (min .. max) | GB/s | of reading |",
        "|---|---|---|---|---|---|",
    ]
    for record in run["records"]:
        tbps = record.get("tbps")
        rate, share = "", ""
        if tbps is not None:
            rate, share = f"{1e3 * tbps:.1f}", f"{tbps / meta['read_tbps']:.0%}"
        lines.append(
            f"| {record['benchmark']} | {record['case']} | {record['impl']} "
            f"| {record['us']:.1f} ({record['us_min']:.1f} .. {record['us_max']:.1f}) "
            f"| {rate} | {share} |"
        )
    return "\n".join(lines)


def page(text: str) -> str:
    """The page with its tables made anew."""
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n\n{tables()}\n\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
    print(f"wrote {PAGE}")
