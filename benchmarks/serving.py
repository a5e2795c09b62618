# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""What steps driven from Python cost the host: python -m benchmarks.serving.

A step of all layers' appends and attention, without the rest of a model, is launched
again and again, as a server does: new tokens, lengths and page tables every time.

  fresh     numpy lengths and tables, a plan made on the host, all sent every step
  in graph  the plan is made inside the step; lengths and tables are sent
  carried   all of it lives in donated device arrays; a step changes them itself
  looped    the same, and a launch is a loop of 20 steps: next to nothing but the device

Of each a step costs

  us        in a row of steps, from the first launch to the end of the last: the host's
            time or the device's, whichever is longer
  host_us   the same until the last launch has returned
  alone_us  from a launch until it returns, while the device has nothing to do: the host
            alone, unless JAX launches on a thread of its own
  initialize, execute
            calls of the CUDA handlers; "execute" is called when XLA captures a graph
            anew, because addresses have changed

Where sequences are long, launches wait for the device, and us and host_us are its time.
Short ones leave the device idle: there they are the host's.
"""

import argparse
import dataclasses
import functools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxinfer as ji
from benchmarks.harness import failure, record, write_run
from benchmarks.machine import machine
from jaxinfer import _native

NUM_Q_HEADS, NUM_KV_HEADS, HEAD_DIM, PAGE_SIZE = 32, 8, 128, 16
SPAN = 16  # lengths grow by a token a step, and after so many begin again
LOOP = 20  # steps of a launch, where it is a loop
WARM_UP, REPEATS, ALONE = 50, 5, 100  # launches, rows of steps, launches one by one


@dataclasses.dataclass(frozen=True)
class Cell:
    """A step: `layers` of appends and attention, unrolled or in a scan."""

    batch: int
    kv_len: int
    layers: int
    is_scanned: bool = False

    @property
    def name(self) -> str:
        """b{B}_kv{kv_len}_l{layers}[_scanned]."""
        name = f"b{self.batch}_kv{self.kv_len}_l{self.layers}"
        return f"{name}_scanned" if self.is_scanned else name

    @property
    def max_pages(self) -> int:
        """Of a sequence."""
        return -(-(self.kv_len + SPAN) // PAGE_SIZE)

    def plan(self, kv_lens: Any) -> ji.Plan:
        """On the host for numpy lengths, else in the graph."""
        return ji.plan(
            None,
            kv_lens,
            num_tokens=self.batch,
            max_kv_len=self.max_pages * PAGE_SIZE,
            num_q_heads=NUM_Q_HEADS,
            num_kv_heads=NUM_KV_HEADS,
            head_dim=HEAD_DIM,
        )

    def step(self, cache, x, table, kv_lens, plan=None):
        """(cache, x) after all layers."""
        plan = plan or self.plan(kv_lens)

        def layer(carry, i):
            cache, x = carry
            new = x[:, :NUM_KV_HEADS]
            cache = cache.append(i, new, new, page_table=table, kv_lens=kv_lens)
            pages = cache.k_pages, cache.v_pages
            x = ji.ragged_paged_attention(x, *pages, table, kv_lens, layer=i, plan=plan)
            return (cache, x), None

        carry, indices = (cache, x), np.arange(self.layers, dtype=np.int32)
        if self.is_scanned:
            return jax.lax.scan(layer, carry, indices)[0]
        for i in indices:
            carry, _ = layer(carry, jnp.asarray(i))
        return carry

    def make_cache(self) -> ji.PagedKVCache:
        """Empty, in bfloat16."""
        return ji.PagedKVCache.create(
            num_layers=self.layers,
            num_pages=self.batch * self.max_pages,
            page_size=PAGE_SIZE,
            num_kv_heads=NUM_KV_HEADS,
            head_dim=HEAD_DIM,
        )


def ways(cell: Cell) -> Iterator[tuple[str, int, Callable[[], jax.Array]]]:
    """(name, steps of a launch, what launches), each to be used up before the next."""
    pages = np.random.default_rng(0).permutation(cell.batch * cell.max_pages)
    table = pages.reshape(cell.batch, cell.max_pages).astype(np.int32)
    x = jnp.ones((cell.batch, NUM_Q_HEADS, HEAD_DIM), jnp.bfloat16)
    launch = jax.jit(cell.step, donate_argnums=0)
    kept: dict[str, Any] = {"cache": cell.make_cache(), "count": 0}

    def lengths() -> np.ndarray:
        kept["count"] = kept["count"] % SPAN + 1
        return np.full(cell.batch, cell.kv_len + kept["count"], np.int32)

    def fresh():
        kv_lens = lengths()
        given = table.copy(), kv_lens, cell.plan(kv_lens)
        kept["cache"], out = launch(kept["cache"], x, *given)
        return out

    def in_graph():
        kept["cache"], out = launch(kept["cache"], x, table.copy(), lengths())
        return out

    def step(cache, x, table, kv_lens):
        cache, out = cell.step(cache, x, table, kv_lens)
        is_last = kv_lens == cell.kv_len + SPAN
        kv_lens = jnp.where(is_last, cell.kv_len + 1, kv_lens + 1)
        return cache, x + 0 * out, table, kv_lens

    def loop(*carry):
        return jax.lax.fori_loop(0, LOOP, lambda _, carry: step(*carry), carry)

    def carry_on(launch):
        kept["carry"] = launch(*kept["carry"])
        return kept["carry"][1]

    yield "fresh", 1, fresh
    yield "in graph", 1, in_graph
    kv_lens = jnp.full(cell.batch, cell.kv_len + 1, jnp.int32)
    kept["carry"] = kept.pop("cache"), x + 0, jnp.asarray(table), kv_lens
    for name, steps, program in (("carried", 1, step), ("looped", LOOP, loop)):
        jitted = jax.jit(program, donate_argnums=(0, 1, 2, 3))
        yield name, steps, functools.partial(carry_on, jitted)


def measure(run: Callable[[], jax.Array], launches: int) -> dict[str, float]:
    """The fields of a record, per launch."""
    last = None
    for _ in range(WARM_UP):
        last = run()
    jax.block_until_ready(last)
    before, walls, hosts, alone = _native.handler_calls(), [], [], []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        for _ in range(launches):
            last = run()
        hosts.append(1e6 * (time.perf_counter() - begin) / launches)
        jax.block_until_ready(last)
        walls.append(1e6 * (time.perf_counter() - begin) / launches)
    after = _native.handler_calls()
    for _ in range(ALONE):
        begin = time.perf_counter()
        last = run()
        alone.append(1e6 * (time.perf_counter() - begin))
        jax.block_until_ready(last)
    times = {
        "us": statistics.median(walls),
        "us_min": min(walls),
        "us_max": max(walls),
        "host_us": statistics.median(hosts),
        "alone_us": statistics.median(alone),
    }
    calls = {s: (after[s] - before[s]) / (REPEATS * launches) for s in after}
    return times | calls


def records(cells: list[Cell], num_steps: int) -> Iterator[dict[str, Any]]:
    """All ways of each cell."""
    for cell in cells:
        try:
            for name, steps, run in ways(cell):
                made = measure(run, -(-num_steps // steps))
                made = {field: round(x / steps, 2) for field, x in made.items()}
                yield record("serving", cell.name, f"jaxinfer, {name}", made)
        except Exception as error:
            yield failure("serving", cell.name, "jaxinfer", error)


def main() -> None:
    """Prints the records, and stores them if asked to."""
    parser = argparse.ArgumentParser(description="Steps driven from Python.")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--kv-len", type=int, nargs="+", default=[16, 1024])
    parser.add_argument("--scanned", action="store_true", help="layers in a scan")
    parser.add_argument("--steps", type=int, default=200, help="of each of 5 rows")
    parser.add_argument("--out", type=Path, help="a JSON file, as of all benchmarks")
    parser.add_argument("--commit", help="of the sources, where git does not know it")
    args = parser.parse_args()
    meta = machine(args.commit) if args.out else {}
    cells = [Cell(args.batch, n, args.layers, args.scanned) for n in args.kv_len]
    made = []
    for one in records(cells, args.steps):
        print(json.dumps(one), flush=True)
        made.append(one)
    if args.out:
        write_run(args.out, meta, made)
        print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
