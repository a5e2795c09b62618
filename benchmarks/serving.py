# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""What steps driven from Python cost the host: python -m benchmarks.serving.

A step of all layers' appends and attention, without the rest of a model, is launched
a thousand times, as a server does: new tokens, lengths and page tables every time.
Reported are the host's microseconds per step and how often XLA calls the CUDA handlers,
which is when it captures a graph anew because addresses have changed.

  fresh     numpy lengths and tables, a plan made on the host, all sent every step
  in graph  the plan is made inside the step; lengths and tables are sent
  carried   all of it lives in donated device arrays; a step changes them itself
"""

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxinfer as ji
from jaxinfer import _native

PAGE_SIZE = 16


def make_step(num_layers: int, heads: tuple[int, int], head_dim: int, max_pages: int):
    """The step of all layers: (cache, x, table, kv_lens, plan) -> (cache, x)."""
    num_q_heads, num_kv_heads = heads

    def plan_of(kv_lens: Any) -> ji.Plan:
        return ji.plan(
            None,
            kv_lens,
            num_tokens=kv_lens.shape[0],
            max_kv_len=max_pages * PAGE_SIZE,
            num_q_heads=num_q_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
        )

    def step(cache, x, table, kv_lens, plan=None):
        plan = plan or plan_of(kv_lens)
        for layer in range(num_layers):
            new = x[:, :num_kv_heads]
            i = jnp.int32(layer)
            cache = cache.append(i, new, new, page_table=table, kv_lens=kv_lens)
            x = ji.ragged_paged_attention(
                x, cache.k_pages, cache.v_pages, table, kv_lens, layer=i, plan=plan
            )
        return cache, x

    return step, plan_of


def drive(name: str, run: Callable[[], Any], num_steps: int) -> None:
    """Warms up, then prints what `num_steps` calls of `run` cost."""
    last = run()
    for _ in range(50):
        last = run()
    jax.block_until_ready(last)
    before, begin = _native.handler_calls(), time.perf_counter()
    for _ in range(num_steps):
        last = run()
    launched = time.perf_counter() - begin
    jax.block_until_ready(last)
    total = time.perf_counter() - begin
    after = _native.handler_calls()
    calls = {stage: (after[stage] - before[stage]) / num_steps for stage in after}
    print(
        f"{name:9} host {1e6 * launched / num_steps:8.1f} us a step, with the device "
        f"{1e6 * total / num_steps:8.1f}; handler calls a step: {calls}"
    )


def main() -> None:
    """Prints a line for each way to drive the steps."""
    parser = argparse.ArgumentParser(description="Steps driven from Python.")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--kv-len", type=int, default=1024)
    args = parser.parse_args()
    heads, head_dim = (32, 8), 128
    max_pages = (args.kv_len + args.steps + 100) // PAGE_SIZE + 1
    step, plan_of = make_step(args.layers, heads, head_dim, max_pages)
    launch = jax.jit(step, donate_argnums=0)
    pages = np.random.default_rng(0).permutation(args.batch * max_pages)
    table = pages.reshape(args.batch, max_pages).astype(np.int32)
    x = jnp.ones((args.batch, heads[0], head_dim), jnp.bfloat16)

    def make_cache():
        return ji.PagedKVCache.create(
            num_layers=args.layers,
            num_pages=args.batch * max_pages,
            page_size=PAGE_SIZE,
            num_kv_heads=heads[1],
            head_dim=head_dim,
            dtype=jnp.bfloat16,
        )

    kept: dict[str, Any] = {"cache": make_cache(), "count": 0}

    def lengths() -> np.ndarray:
        kept["count"] = kept["count"] % (args.steps + 50) + 1
        return np.full(args.batch, args.kv_len + kept["count"], np.int32)

    def fresh():
        kv_lens = lengths()
        plan = plan_of(kv_lens)
        kept["cache"], out = launch(kept["cache"], x, table.copy(), kv_lens, plan)
        return out

    def in_graph():
        kept["cache"], out = launch(kept["cache"], x, table.copy(), lengths())
        return out

    @functools.partial(jax.jit, donate_argnums=(0, 1, 2, 3))
    def carried_step(cache, x, table, kv_lens):
        cache, out = step(cache, x, table, kv_lens)
        return cache, x + 0 * out, table, kv_lens + 1

    state = None

    def carried():
        nonlocal state
        state = carried_step(*state)
        return state[1]

    drive("fresh", fresh, args.steps)
    drive("in graph", in_graph, args.steps)
    kept.clear()
    kv_lens = jnp.full(args.batch, args.kv_len, jnp.int32)
    state = make_cache(), x + 0, jnp.asarray(table), kv_lens
    drive("carried", carried, args.steps)


if __name__ == "__main__":
    main()
