# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Run-time compilation of variants: from Python functions to a kernel to be loaded.

Needs NVRTC and no GPU. In a process of its own, so that the cache folder is empty:

python -m benchmarks.bench_variants_jit    # prints one JSON record a line
"""

import argparse
import dataclasses
import functools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import jaxinfer as ji
from benchmarks.bench_jit import print_record, records_of_child
from jaxinfer import jit, variants

COMPILE = "variants_compile"


def records(repeats: int = 3) -> Iterator[dict[str, Any]]:
    """Times it in a child process, with an empty cache of its own."""
    module = "benchmarks.bench_variants_jit"
    return records_of_child(COMPILE, module, f"--repeats={repeats}")


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
    *_, spec = (spec for spec in specs if spec.kernel.startswith("attention"))
    return spec


def _prepare(make: Callable[[], ji.Variant], spec: jit.KernelSpec, folder: Path):
    """Microseconds from new functions to a kernel; no GPU, so nothing is put on it."""
    store = jit.KernelStore(disk=jit.DiskCache(folder), nvrtc=jit.DEFAULT.nvrtc)
    begin = time.perf_counter()
    hooks, arrays = make().trace(128, 128)
    assert hooks is not None
    jax.block_until_ready(arrays)
    # A text of its own for each folder: NVRTC has a cache too, beside a driver, and
    # looks behind comments.
    unique = f"constexpr int k_{folder.parent.name}_{folder.name} = 0;\n"
    store.load(dataclasses.replace(spec, code=hooks.code + unique))
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
                times = [_prepare(make, spec, folder) for folder in folders]
                print_record(COMPILE, f"{name}, {tile}, {state}", times)


if __name__ == "__main__":
    main()
