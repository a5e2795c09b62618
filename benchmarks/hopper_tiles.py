# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Prefill on sm_90a with other tiles, and without parts of it, in TFLOP/s.

    python -m benchmarks.hopper_tiles [--parts] [--quick]

The first is what csrc/hopper_tiles.h chooses from: keys of a step and stages, for every
head size. The second leaves parts of the kernel out, to see what they cost; results are
wrong then, and are not looked at. Neither is part of a run of all benchmarks.
"""

import argparse
import contextlib
import dataclasses
import functools
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import jax

import jaxinfer as ji
from benchmarks import bench_prefill
from benchmarks.bench_decode import host_plan
from benchmarks.gpu_timing import QUICK, Settings, measure_apart
from benchmarks.machine import machine
from benchmarks.prefill_cells import square
from jaxinfer import _attention, _native, jit

Shape = tuple[int, int]  # sequences, tokens of each
Tiles = tuple[int, int]  # keys of a step, stages
HEAD_DIMS = (64, 96, 128, 192, 256)
KEYS, STAGES = (64, 96, 128, 192), (1, 2, 3, 4)
SHAPES: Sequence[Shape] = ((16, 1024), (2, 8192))

# (file, what stands there, what is to stand there)
Edit = tuple[str, str, str]
CONSUMER, LOADER = "csrc/hopper_consumer.cuh", "csrc/hopper_loader.cuh"
_TURNS: tuple[Edit, ...] = (
    (CONSUMER, "sync_named(kTurnBarrier + consumer, 128 * kConsumers);", ""),
    (
        CONSUMER,
        "arrive_named(kTurnBarrier + (consumer + 1) % kConsumers, 128 * kConsumers);",
        "",
    ),
    (CONSUMER, "arrive_named(kTurnBarrier, 128 * kConsumers);", ";"),
)
PARTS: Mapping[str, tuple[Edit, ...]] = {
    "all": (),
    "no exponentials": (
        (
            CONSUMER,
            "{exp2_approx(exponent_of(n)), exp2_approx(exponent_of(n + 1))}",
            "{exponent_of(n), exponent_of(n + 1)}",
        ),
    ),
    "no copies of keys and values": (
        (
            LOADER,
            "if (lane == 0) full.arrive_expecting(kHopperKeys * kPanelsOfRow * 128);",
            "if (lane == 0) full.arrive();\n  return;",
        ),
    ),
    "no turns": _TURNS,
    "one consumer": (
        *_TURNS,
        ("csrc/hopper_shared.cuh", "kConsumers = kHopperRows / 64", "kConsumers = 1"),
        (
            "csrc/attention_hopper.cuh",
            "run_consumer(params, s, warpgroup - 1);",
            "if (warpgroup == 1) run_consumer(params, s, 0);",
        ),
    ),
}


@contextlib.contextmanager
def edited(edits: Sequence[Edit]) -> Iterator[None]:
    """Kernels are made from other sources meanwhile."""
    sources = dict(jit.device_sources())
    for name, old, new in edits:
        if sources[name].count(old) != 1:
            raise ValueError(f"{name} must have this once: {old}")
        sources[name] = sources[name].replace(old, new)
    with mock.patch.object(jit, "DEFAULT", jit.KernelStore(sources=sources)):
        yield


def with_tiles(tiles: Tiles) -> Any:
    """A context in which the kernel has these."""
    return mock.patch.object(_attention, "_hopper_tiles", return_value=tiles)


def fitting(head_dim: int) -> list[Tiles]:
    """Tiles that a kernel could have."""
    fits = functools.partial(_native.fits_hopper, head_dim, head_dim)
    return [t for t in itertools.product(KEYS, STAGES) if fits(*t)]


class Cell:
    """One shape and its operands."""

    def __init__(self, shape: Shape, head_dim: int):
        """Draws everything; 32 query heads, 8 KV heads, no pages."""
        self.case = square(*shape, head_dim=head_dim)
        self.operands = bench_prefill.Operands.create(self.case)
        self.call, self.shared = bench_prefill.jaxinfer(self.operands)

    def specs(self) -> list[jit.KernelSpec]:
        """What its call would compile."""
        jax.clear_caches()
        with jit.collect_specs() as specs:
            jax.jit(self.call).lower(self.shared, self.operands.query)
        return list(specs)

    def tflops(self, settings: Settings, plan: ji.Plan | None = None) -> str:
        """Of the kernel as it is now; or why there is none."""
        jax.clear_caches()
        shared = self.shared if plan is None else (*self.shared[:-1], plan)
        flops = self.case.num_flops()
        settings = settings.for_flops(flops)
        try:
            times = measure_apart(self.call, shared, [self.operands.query], settings)
        except Exception as error:
            return type(error).__name__
        return f"{flops / times['us'] / 1e6:.0f}"


def tile_rows(settings: Settings, shapes: Sequence[Shape]) -> Iterator[str]:
    """A table in Markdown: tiles that fit, the chosen ones in bold."""
    titles = [f"{b} x {s}" for b, s in shapes]
    yield f"| head_dim | keys | stages | {' | '.join(titles)} |"
    yield "|---" * (len(titles) + 3) + "|"
    for head_dim in HEAD_DIMS:
        cells = [Cell(shape, head_dim) for shape in shapes]
        specs: list[jit.KernelSpec] = []
        for tiles in fitting(head_dim):
            with with_tiles(tiles):
                specs += [spec for cell in cells for spec in cell.specs()]
        jit.warmup(specs)  # beside each other
        for tiles in fitting(head_dim):
            with with_tiles(tiles):
                rates = [cell.tflops(settings) for cell in cells]
            chosen = tiles == _native.hopper_tiles(head_dim)
            numbers = [f"**{n}**" if chosen else f"{n}" for n in tiles]
            yield f"| {' | '.join([str(head_dim), *numbers, *rates])} |"


def half_tiles() -> ji.PlanConfig:
    """Tiles of 64 rows, all that one consumer has."""
    tiles = (ji.TileClass(64, 64, 13),)
    return dataclasses.replace(ji.PlanConfig.gpu(), tile_classes=tiles)


def part_rows(settings: Settings, shapes: Sequence[Shape]) -> Iterator[str]:
    """A table in Markdown: the kernel without parts of it."""
    yield f"| | {' | '.join(f'{b} x {s}' for b, s in shapes)} |"
    yield "|---" * (len(shapes) + 1) + "|"
    cells = [Cell(shape, 128) for shape in shapes]
    for name, edits in PARTS.items():
        with edited(edits):
            config = half_tiles() if name == "one consumer" else None
            rates = [
                cell.tflops(settings, host_plan(cell.case, config)) for cell in cells
            ]
        yield f"| {' | '.join([name, *rates])} |"


def main() -> None:
    """Prints the rows as they are measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", action="store_true", help="leave parts out instead")
    parser.add_argument("--quick", action="store_true", help="does it run at all?")
    parser.add_argument("--commit", help="of the sources, where git does not know it")
    arguments = parser.parse_args()
    settings = QUICK if arguments.quick else Settings(repeats=3)
    shapes = ((2, 150),) if arguments.quick else SHAPES
    print(json.dumps(machine(arguments.commit)))
    for row in (part_rows if arguments.parts else tile_rows)(settings, shapes):
        print(row, flush=True)


if __name__ == "__main__":
    main()
