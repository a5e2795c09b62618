# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Runs all benchmarks and stores them: python -m benchmarks [--out FILE]."""

import argparse
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import jobs, report_gpu
from benchmarks.harness import failure, write_run
from benchmarks.machine import is_gpu, machine

RESULTS = Path(__file__).parent / "results"


def run(named_jobs: list[jobs.Job], seconds: float) -> Iterator[dict[str, Any]]:
    """Records of all jobs in order, until the time is up; what fails says why."""
    end = time.monotonic() + seconds
    for name, make in named_jobs:
        left = end - time.monotonic()
        if left <= 0:
            stopped = TimeoutError(f"not begun within {seconds:.0f} s")
            yield failure(name, "", "", stopped)
            continue
        begin, records = time.monotonic(), make(left)
        try:
            for record in records:
                yield record
                if time.monotonic() > end:
                    stopped = TimeoutError(f"stopped after {seconds:.0f} s")
                    yield failure(name, "", "", stopped)
                    break
        except Exception as error:
            yield failure(name, "", "", error)
        print(f"# {name}: {time.monotonic() - begin:.0f} s", flush=True)


def main() -> None:
    """One run, one file: records of several runs are never merged."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, help="default: benchmarks/results/DEVICE.json"
    )
    parser.add_argument("--time-limit", type=float, default=3600.0, help="seconds")
    parser.add_argument("--commit", help="of the sources, where git does not know it")
    parser.add_argument("--only", help="jobs, comma separated; default: all")
    parser.add_argument("--quick", action="store_true", help="does it run at all?")
    parser.add_argument(
        "--flashinfer-backends",
        default="fa2",
        help="of fa2, xqa and cudnn, comma separated; each compiles for a while",
    )
    arguments = parser.parse_args()
    begin = time.monotonic()
    meta = machine(arguments.commit)
    print(json.dumps(meta), flush=True)
    backends = arguments.flashinfer_backends.split(",")
    todo = jobs.gpu(backends, arguments.quick) if is_gpu() else jobs.cpu()
    if arguments.only:
        names = arguments.only.split(",")
        todo = [job for name in names for job in todo if job[0] == name]
    slug = re.sub(r"[^a-z0-9]+", "-", meta["device"].lower()).strip("-")
    out = arguments.out or RESULTS / f"{slug}.json"
    records: list[dict[str, Any]] = []
    for record in run(todo, arguments.time_limit - (time.monotonic() - begin)):
        print(json.dumps(record), flush=True)
        records.append(record)
        write_run(out, meta, records)
    if is_gpu():
        print(*report_gpu.beside_best(records), sep="\n")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
