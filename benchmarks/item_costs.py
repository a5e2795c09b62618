# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Decode with plans of several item costs, in turn: python -m benchmarks.item_costs.

One program a cell, whose plan is an operand, so that nothing but the plan differs. The
values are timed in turn, forwards and backwards, so that drift meets all of them.
"""

import argparse
import dataclasses
import statistics
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp

import jaxinfer as ji
from benchmarks import bench_decode, decode_cells
from benchmarks.decode_pool import Pool
from benchmarks.decode_step_cells import LENGTHS, Cell
from benchmarks.gpu_timing import QUICK, Chain, Settings
from benchmarks.llama_8b import Sizes
from jaxinfer.testing.cases import AttentionCase

VALUES = (0, 1, 2, 3, 4, 5, 6, 8)
TURNS = 4


def cells() -> list[AttentionCase]:
    """The targets, and the lengths of the decode step at 16 sequences."""
    targets = decode_cells.cells("targets")
    lens = tuple(map(int, Cell(16, *LENGTHS[0], Sizes()).kv_lens))
    return [*targets, dataclasses.replace(targets[0], batch=len(lens), kv_lens=lens)]


def plan(case: AttentionCase, item_cost: int, like: ji.Plan) -> ji.Plan:
    """The plan of a cell with tiles of this item cost, for programs of `like`."""
    facts = like.facts
    tiles = (dataclasses.replace(t, item_cost=item_cost) for t in facts.tile_classes)
    made = ji.plan(
        *case.make_lengths(),
        num_tokens=facts.num_tokens,
        max_kv_len=facts.max_kv_len,
        num_q_heads=facts.num_q_heads,
        num_kv_heads=facts.num_kv_heads,
        head_dim=facts.head_dim,
        config=dataclasses.replace(facts.config, tile_classes=tuple(tiles)),
    )
    return ji.Plan(made.buffer, facts)


def times(case: AttentionCase, settings: Settings) -> dict[int, float]:
    """Microseconds with repeated buffers, by item cost."""
    pool = Pool.create(case, settings.calls)
    prepared = bench_decode.jaxinfer(pool)
    query, buffers = pool.query, prepared.buffers
    chain = Chain(prepared.call, jnp.copy(query), prepared.shared, buffers, settings)
    *shared, like = prepared.shared
    plans = {value: jax.device_put(plan(case, value, like)) for value in VALUES}
    found: dict[int, list[float]] = {value: [] for value in VALUES}
    for turn in range(TURNS):
        for value in VALUES[:: -1 if turn % 2 else 1]:
            chain.shared = (*shared, plans[value])
            measured = chain.measure(jnp.copy(query), buffers[:1])
            found[value].append(measured["us"])
    return {value: statistics.median(us) for value, us in found.items()}


def rows(cases: Sequence[AttentionCase], settings: Settings) -> Iterator[str]:
    """A table in Markdown."""
    yield f"| item cost | {' | '.join(map(str, VALUES))} |"
    yield "|---" * (len(VALUES) + 1) + "|"
    for case in cases:
        measured = times(case, settings)
        yield f"| {case.name} | {' | '.join(f'{us:.1f}' for us in measured.values())} |"


def main() -> None:
    """Prints the rows as they are measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="does it run at all?")
    quick = parser.parse_args().quick
    cases = decode_cells.cells("tiny") if quick else cells()
    for row in rows(cases, QUICK if quick else Settings(repeats=3)):
        print(row, flush=True)


if __name__ == "__main__":
    main()
