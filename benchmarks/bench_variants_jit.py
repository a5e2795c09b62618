# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Run-time compilation of variants: from Python functions to a kernel to be loaded.

Needs NVRTC and no GPU. In a process of its own, so that the cache folder is empty:

python -m benchmarks.bench_variants_jit    # prints one JSON record a line
"""

import argparse
import dataclasses
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import jaxinfer as ji
from benchmarks.harness import failure, record
from jaxinfer import jit, variants

COMPILE = "variants_compile"


def records(repeats: int = 3) -> Iterator[dict[str, Any]]:
    """Times it in a child process, with an empty cache of its own."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            "JAXINFER_CACHE_DIR": folder,
            "JAXINFER_PLAN_TARGET": "sm_90a:132",
            "JAX_PLATFORMS": "cpu",
        }
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "benchmarks.bench_variants_jit",
                f"--repeats={repeats}",
            ],
            capture_output=True,
            text=True,
            env=os.environ | environment,
            cwd=Path(__file__).parents[1],
            check=False,
            timeout=120,
        )
    yield from (json.loads(line) for line in done.stdout.splitlines())
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        yield failure(COMPILE, "", "jaxinfer", RuntimeError(last))


def _spec(variant: ji.Variant, num_tokens: int) -> jit.KernelSpec:
    """The kernel of four sequences of that many tokens, found by lowering for a GPU."""
    shapes = ((num_tokens, 32, 128), (64, 16, 8, 128), (64, 16, 8, 128))
    operands = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]
    operands += [jax.ShapeDtypeStruct(s, jnp.int32) for s in ((4, 16), (4,), (5,))]
    op = functools.partial(
        ji.ragged_paged_attention, variant=variant, implementation="cuda"
    )
    with jit.collect_specs() as specs:
        jax.jit(op).trace(*operands).lower(lowering_platforms=("cuda",))
    (spec,) = (spec for spec in specs if spec.kernel == "attention")
    return spec


def _prepare(make: Callable[[], ji.Variant], spec: jit.KernelSpec, folder: Path):
    """Microseconds from new functions to a kernel; no GPU, so nothing is put on it."""
    store = jit.KernelStore(disk=jit.DiskCache(folder), nvrtc=jit.DEFAULT.nvrtc)
    begin = time.perf_counter()
    hooks, arrays = make().trace(128, 128)
    assert hooks is not None
    jax.block_until_ready(arrays)
    store.load(dataclasses.replace(spec, code=hooks.code))
    return 1e6 * (time.perf_counter() - begin)


def main() -> None:
    """Prints the records of compilation, one a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    slopes = jnp.exp2(-jnp.arange(1.0, 33.0) / 4)
    makes = {
        "alibi": lambda: variants.alibi(slopes),
        "rope": lambda: variants.rope(128),
    }
    for (name, make), (tile, num_tokens) in (
        (made, tile)
        for made in makes.items()
        for tile in (("decode", 4), ("prefill", 1024))
    ):
        spec = _spec(make(), num_tokens)
        with tempfile.TemporaryDirectory() as root:
            folders = [Path(root, str(i)) for i in range(repeats)]
            for state in ("empty cache", "in the cache"):
                times = sorted(round(_prepare(make, spec, f), 1) for f in folders)
                stats = {"us": times[repeats // 2], "us_min": times[0]}
                stats["us_max"] = times[-1]
                case = f"{name}, {tile}, {state}"
                print(json.dumps(record(COMPILE, case, "jaxinfer", stats)), flush=True)


if __name__ == "__main__":
    main()
