# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Run-time compilation: seconds until a kernel is ready, per kernel.

Needs NVRTC and no GPU. In a process of its own, so that the cache folder is empty:

python -m benchmarks.bench_jit    # prints one JSON record a line
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import failure, record

REPEATS = 3


def records() -> Iterator[dict[str, Any]]:
    """Compiles in a child process, with an empty cache of its own."""
    return records_of_child("compile", "benchmarks.bench_jit")


def records_of_child(benchmark: str, *command: str) -> Iterator[dict[str, Any]]:
    """What a module prints that compiles for a GPU, with an empty cache of its own.

    Args:
      benchmark: its name in the record that says why there is no other.
      *command: the module and its arguments.
    """
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            "JAXINFER_CACHE_DIR": folder,
            "JAXINFER_PLAN_TARGET": "sm_90a:132",
            "JAX_PLATFORMS": "cpu",
        }
        done = subprocess.run(
            [sys.executable, "-m", *command],
            capture_output=True,
            text=True,
            env=os.environ | environment,
            cwd=Path(__file__).parents[1],
            check=False,
            timeout=120,
        )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        yield failure(benchmark, "", "jaxinfer", RuntimeError(last))
    yield from (json.loads(line) for line in done.stdout.splitlines())


def print_record(benchmark: str, case: str, times: Sequence[float]) -> None:
    """One line, of microseconds in any order."""
    ordered = [round(time, 1) for time in sorted(times)]
    stats = {"us": ordered[len(ordered) // 2], "us_min": ordered[0]}
    stats["us_max"] = ordered[-1]
    print(json.dumps(record(benchmark, case, "jaxinfer", stats)), flush=True)


def _specs() -> list[Any]:
    """The kernels of a decode step, found by lowering one for a GPU."""
    import jax
    import jax.numpy as jnp

    import jaxinfer as ji
    from jaxinfer import jit

    def program(q, k_pages, v_pages, table, lens):
        return ji.ragged_paged_attention(
            q, k_pages, v_pages, table, lens, implementation="cuda"
        )

    pages = jax.ShapeDtypeStruct((64, 16, 8, 128), jnp.bfloat16)
    jax.jit(program).trace(
        jax.ShapeDtypeStruct((4, 32, 128), jnp.bfloat16),
        pages,
        pages,
        jax.ShapeDtypeStruct((4, 16), jnp.int32),
        jax.ShapeDtypeStruct((4,), jnp.int32),
    ).lower(lowering_platforms=("cuda",))
    described = [entry.description or {} for entry in jit.DEFAULT.disk.entries()]
    names = ("kernel", "arch", "constants", "code")
    return [
        jit.KernelSpec.from_json({n: d[n] for n in names if n in d}) for d in described
    ]


def _time(spec: Any, folder: Path) -> float:
    from jaxinfer import jit

    store = jit.KernelStore(disk=jit.DiskCache(folder), nvrtc=jit.DEFAULT.nvrtc)
    begin = time.perf_counter()
    store.prepare(spec)
    return 1e6 * (time.perf_counter() - begin)


def main() -> None:
    """Prints the records of all kernels."""
    for spec in _specs():
        with tempfile.TemporaryDirectory() as name:
            folders = [Path(name, str(i)) for i in range(REPEATS)]
            cold = [_time(spec, folder) for folder in folders]
            warm = [_time(spec, folder) for folder in folders]
        for state, times in (("empty cache", cold), ("in the cache", warm)):
            print_record("compile", f"{spec.kernel}, {state}", times)


if __name__ == "__main__":
    main()
