# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Runs all benchmarks and stores them: python -m benchmarks [--out FILE]."""

import argparse
import json
import re
from pathlib import Path

from benchmarks import bench_plan, bench_ragged_paged_attention
from benchmarks.harness import machine


def main() -> None:
    """One run, one file: records of several runs are never merged."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, help="default: benchmarks/results/DEVICE.json"
    )
    arguments = parser.parse_args()
    meta = machine()
    print(json.dumps(meta))
    records = []
    for bench in (bench_plan, bench_ragged_paged_attention):
        for record in bench.records():
            print(json.dumps(record), flush=True)
            records.append(record)
    slug = re.sub(r"[^a-z0-9]+", "-", meta["device"].lower()).strip("-")
    out = arguments.out or Path(__file__).parent / "results" / f"{slug}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join("    " + json.dumps(record) for record in records)
    out.write_text(
        f'{{\n  "meta": {json.dumps(meta)},\n  "records": [\n{lines}\n  ]\n}}\n'
    )
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
