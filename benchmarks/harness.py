# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Wall times, and the records that a run is stored as."""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from jaxinfer.testing.cases import AttentionCase


def measure(call: Callable[[int], Any], repeats: int = 20) -> dict[str, float]:
    """Wall time of call(i), in microseconds; i counts up, so that inputs may rotate."""
    for i in range(3):
        jax.block_until_ready(call(i))
    times = []
    for i in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(call(i))
        times.append(1e6 * (time.perf_counter() - begin))
    return {
        "us": round(statistics.median(times), 2),
        "us_min": round(min(times), 2),
        "us_max": round(max(times), 2),
    }


def record(
    benchmark: str,
    case: str,
    impl: str,
    times: dict[str, float],
    attention: AttentionCase | None = None,
    *,
    num_bytes: int | None = None,
    **extra: Any,
) -> dict[str, Any]:
    """One measurement. Rates come from the case, never from what ran it.

    Args:
      benchmark: what was timed.
      case: its name.
      impl: "jaxinfer", or whose implementation it was.
      times: us, us_min and us_max.
      attention: the case, for attention.
      num_bytes: that have to move, for other ops.
      **extra: further fields, such as max_err.
    """
    made: dict[str, Any] = {"benchmark": benchmark, "case": case, "impl": impl, **times}
    if attention is not None:
        num_bytes = attention.num_bytes()
        made["tflops"] = round(attention.num_flops() / times["us"] / 1e6, 5)
    if num_bytes is not None:
        made["tbps"] = round(num_bytes / times["us"] / 1e6, 5)
    return made | extra


def failure(benchmark: str, case: str, impl: str, error: BaseException) -> dict:
    """What stands for a measurement that could not be made."""
    lines = str(error).strip().splitlines() or [""]
    why = f"{type(error).__name__}: {lines[0]}"[:300]
    return {"benchmark": benchmark, "case": case, "impl": impl, "us": None, "why": why}


def write_run(path: Path, meta: dict[str, Any], records: list[dict[str, Any]]) -> None:
    """Stores a run; what was there is replaced at once, never left half written."""
    lines = ",\n".join("    " + json.dumps(record) for record in records)
    text = f'{{\n  "meta": {json.dumps(meta)},\n  "records": [\n{lines}\n  ]\n}}\n'
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(text)
    part.replace(path)
