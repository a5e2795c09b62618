# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Inter-token latency of a whole model: python -m benchmarks.decode_step --out FILE.

The step of `llama_8b.Model` by jaxinfer, and the same step with attention replaced: by
XLA's on the same pages, by cuDNN's on a padded cache, by nothing (the query is the
result), which tells the share of attention. Layers are unrolled or scanned. A step is
launched after the other without a wait, each on the token of the one before.
"""

import argparse
import dataclasses
import functools
import gc
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

import jaxinfer as ji
from benchmarks.decode_pool import normal
from benchmarks.decode_step_cells import LENGTHS, PAGE_SIZE, VARIANTS, Cell
from benchmarks.gpu_idle import idle_share
from benchmarks.gpu_timing import QUICK, Settings, measure
from benchmarks.harness import failure, record, write_run
from benchmarks.llama_8b import TINY, Model, Sizes
from benchmarks.machine import machine

CEILING = 4.3e12  # bytes per second that an H200 reads at best
TIMING = Settings(calls=1, repeats=5, seconds=0.15, most_launches=60)
MOST_PADDED_BYTES = 100e9


@dataclasses.dataclass(frozen=True)
class Bench:
    """What all cells of one kind of layers share.

    Attributes:
      model: the weights.
      layers: "unrolled" or "scanned".
      plans_in_graph: False passes a plan made on the host to every step.
      timing: how to time.
      steps: the jitted step of each variant.
      tokens: what the first step of jaxinfer gave in each cell.
    """

    model: Model
    layers: str
    plans_in_graph: bool
    timing: Settings
    steps: dict[str, Any] = dataclasses.field(default_factory=dict)
    tokens: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def weights(self) -> tuple[list[Any], Any]:
        """Leaves and their tree: flattening a model of modules takes milliseconds."""
        return jax.tree.flatten(self.model)

    def jitted(self, variant: str) -> Any:
        """The step of a variant, with the cache donated."""
        attend, _ = VARIANTS[variant]
        tree = self.weights[1]

        def step(leaves, cache, tokens, page_table, kv_lens, plan):
            model = jax.tree.unflatten(tree, leaves)
            if attend is None:
                return model.step(cache, tokens, page_table, kv_lens, plan)
            with mock.patch("jaxinfer.flax.ragged_paged_attention", attend):
                return model.step(cache, tokens, page_table, kv_lens, plan)

        if variant not in self.steps:
            self.steps[variant] = jax.jit(step, donate_argnums=1)
        return self.steps[variant]

    def operands(self, cell: Cell, variant: str, num_pages: int) -> tuple[Any, Any]:
        """(cache, (page_table, kv_lens, plan)) of a variant."""
        sizes, (_, is_padded) = cell.sizes, VARIANTS[variant]
        longest = -(-int(cell.kv_lens.max()) // PAGE_SIZE)
        if is_padded:  # one long page for each sequence, and an array for each layer
            if self.layers == "scanned":
                raise NotImplementedError("layers of a padded cache would be copied")
            page_size = longest * PAGE_SIZE
            size = cell.batch * page_size * sizes.kv_bytes_per_token
            if size > MOST_PADDED_BYTES:
                raise NotImplementedError(f"a padded cache of {size / 1e9:.0f} GB")
            one = dataclasses.replace(sizes, num_layers=1)
            layers = range(sizes.num_layers)
            cache: Any = [_cache(one, cell.batch, page_size) for _ in layers]
            table = np.arange(cell.batch, dtype=np.int32)[:, None]
        else:
            # XLA gathers whole tables, and gets one that is no wider than it must be.
            most = -(-LENGTHS[-1][1] // PAGE_SIZE)
            width = longest if variant == "xla" else max(most, longest)
            cache, table = _cache(sizes, num_pages, PAGE_SIZE), cell.page_table(width)
        plan = None
        if variant == "jaxinfer":
            plan = _plan(cell, table.shape[1] * PAGE_SIZE)
            if self.plans_in_graph:
                _check_plan(cell, plan)
                plan = None
        return cache, jax.device_put((table, cell.kv_lens, plan))

    def measure(
        self, cell: Cell, variant: str, num_pages: int, *, wants_idle: bool = False
    ) -> dict[str, Any]:
        """The record of a variant, whose pool has num_pages pages unless padded."""
        cache, rest = self.operands(cell, variant, num_pages)
        now = [cache, jnp.zeros(cell.batch, jnp.int32)]
        del cache
        run, leaves = self.jitted(variant), self.weights[0]

        def launch():
            now[:] = run(leaves, *now, *rest)

        def wait():
            jax.block_until_ready(now[1])

        begin = time.perf_counter()
        launch()
        wait()
        first = time.perf_counter() - begin
        tokens = np.asarray(now[1])
        expected = self.tokens.setdefault(cell.name, tokens)
        times = measure(launch, wait, self.timing)
        kv_bytes = int(cell.kv_lens.sum()) * cell.sizes.kv_bytes_per_token
        num_bytes = self.model.bytes_per_step + kv_bytes
        made = record(
            "decode_step",
            cell.name,
            f"{variant}, layers {self.layers}",
            times,
            num_bytes=num_bytes,
            floor_us=round(1e6 * num_bytes / CEILING, 1),
            kv_floor_us=round(1e6 * kv_bytes / CEILING, 1),
            first_call_s=round(first, 1),
        )
        if variant == "xla":  # on the same pages; rounding may change a token
            made["same_tokens"] = round(float(np.mean(tokens == expected)), 3)
        if wants_idle:
            steps = lambda: [launch() for _ in range(4)] and wait()  # noqa: E731
            made["idle"] = round(idle_share(steps), 4)
        return made


def _cache(sizes: Sizes, num_pages: int, page_size: int) -> ji.PagedKVCache:
    """Random pages, the same ones in all layers."""
    shape = (num_pages, page_size, sizes.num_kv_heads, sizes.head_dim)

    @jax.jit
    def repeat(x):
        return jnp.broadcast_to(x, (sizes.num_layers, *shape))

    k, v = (repeat(normal(jax.random.key(i), shape, 1.0, "bfloat16")) for i in range(2))
    return ji.PagedKVCache(k, v)


def _plan(cell: Cell, max_kv_len: int, kv_lens: Any = None) -> ji.Plan:
    return ji.plan(
        None,
        cell.kv_lens if kv_lens is None else kv_lens,
        num_tokens=cell.batch,
        max_kv_len=max_kv_len,
        num_q_heads=cell.sizes.num_q_heads,
        num_kv_heads=cell.sizes.num_kv_heads,
        head_dim=cell.sizes.head_dim,
    )


def _check_plan(cell: Cell, expected: ji.Plan) -> None:
    """Raises unless the plan of the graph is that of the host."""
    facts = expected.facts
    made = jax.jit(lambda kv_lens: _plan(cell, facts.max_kv_len, kv_lens).buffer)
    if not np.array_equal(made(jnp.asarray(cell.kv_lens)), expected.buffer):
        raise AssertionError("the plan of the graph is not that of the host")


def records(
    batches: list[int],
    sizes: Sizes,
    plans_in_graph: bool,
    timing: Settings,
    end: float,
) -> Iterator[dict[str, Any]]:
    """The first batch at the first lengths with scanned and with unrolled layers.

    All else with the layers that were faster, until time.monotonic() reaches `end`;
    then the idle share of the first cell, for which the profiler has to run.
    """

    def bench(layers):
        gc.collect()  # the weights of another kind of layers
        model = Model.create(sizes, layers == "scanned")
        return Bench(model, layers, plans_in_graph, timing)

    def cells(batch):
        return [Cell(batch, low, high, sizes) for low, high in LENGTHS]

    def measured(bench, cell, variants, **options):
        # One pool size for all lengths of a batch, so that a step is compiled once.
        num_pages = max(c.num_pages for c in cells(cell.batch))
        for variant in variants:
            if time.monotonic() > end and not options:
                return
            try:
                made = bench.measure(cell, variant, num_pages, **options)
            except Exception as error:
                impl = f"{variant}, layers {bench.layers}"
                made = failure("decode_step", cell.name, impl, error)
            gc.collect()
            yield made

    first = cells(batches[0])[0]
    fastest = {}
    using = None
    for layers in ("scanned", "unrolled"):
        using = None
        using = bench(layers)
        for made in measured(using, first, VARIANTS):
            if made["impl"].startswith("jaxinfer") and made["us"]:
                fastest[made["us"]] = layers
            yield made
    best = fastest[min(fastest)] if fastest else "unrolled"
    if using is None or using.layers != best:
        using = None
        using = bench(best)
    padded = [variant for variant, (_, is_padded) in VARIANTS.items() if is_padded]
    paged = [variant for variant in VARIANTS if variant not in padded]
    for variants in (paged, padded):  # padded ones compile for every length
        for batch in batches:
            for cell in cells(batch):
                if cell != first:
                    yield from measured(using, cell, variants)
    for made in measured(using, first, ("jaxinfer",), wants_idle=True):
        yield made | {"benchmark": "decode_step_profiled"}


def main() -> None:
    """One run, one file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--time-limit", type=float, default=3600.0, help="seconds")
    parser.add_argument("--commit", help="of the sources, where git does not know it")
    parser.add_argument("--batches", default="16,1,64")
    parser.add_argument("--host-plan", action="store_true", help="no plan in the graph")
    parser.add_argument("--quick", action="store_true", help="a tiny model")
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.time_limit
    meta, made = machine(arguments.commit), []
    print(json.dumps(meta), flush=True)
    batches = [int(batch) for batch in arguments.batches.split(",")]
    sizes, timing = (TINY, QUICK) if arguments.quick else (Sizes(), TIMING)
    timing = dataclasses.replace(timing, calls=1)
    for one in records(batches, sizes, not arguments.host_plan, timing, end):
        print(json.dumps(one), flush=True)
        made.append(one)
        write_run(arguments.out, meta, made)
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
