# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Runs the paged engine on eight virtual CPU devices; test_sharding.py starts it.

Every check decodes with a donated, sharded cache inside shard_map and compares with the
same program on one device. Prints one JSON object: the facts of each check by its name.
"""

import dataclasses
import functools
import json
import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
from compiled import collectives, writes_of
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxinfer as ji

L, PAGE_SIZE, H, MAX_PAGES, STEPS = 2, 4, 64, 6, 3
QUICK = {"xla_backend_optimization_level": 0}


@dataclasses.dataclass(frozen=True)
class Setup:
    """Sizes of the whole program, and how many shards each axis has."""

    num_q_heads: int
    num_kv_heads: int
    num_seqs: int = 2
    head_shards: int = 1
    batch_shards: int = 1
    num_pages: int = 512


SETUPS = {
    "heads_8_over_8": Setup(16, 8, head_shards=8),
    "heads_16_over_8": Setup(16, 16, head_shards=8),
    "heads_2_over_8": Setup(16, 2, head_shards=8),
    "batch_over_8": Setup(4, 2, num_seqs=16, batch_shards=8),
    "batch_over_2_heads_over_4": Setup(8, 4, 4, head_shards=4, batch_shards=2),
}
# Chunks at fixed positions: a sequence's bits do not depend on who shares its batch.
CONFIG = ji.PlanConfig(
    "cpu", 4, (ji.TileClass(16, 8, 1),), batch_invariant=True, split_keys=8
)


def make_arguments(setup: Setup):
    """Prompts and tokens to decode: [T, heads, H] and [STEPS, B, heads, H] each."""
    rng = np.random.default_rng(0)
    q_lens = np.tile([5, 9], setup.num_seqs // 2)
    num_tokens = int(q_lens.sum())
    heads = setup.num_q_heads, setup.num_kv_heads, setup.num_kv_heads

    def tokens(*lead):
        return tuple(
            rng.standard_normal((L, *lead, n, H)).astype(np.float32) for n in heads
        )

    prompt = tokens(num_tokens)
    decoded = tuple(
        np.moveaxis(x.reshape(L, STEPS, setup.num_seqs, -1, H), 0, 1)
        for x in tokens(STEPS * setup.num_seqs)
    )
    # Each shard of the batch has a pool of its own, and its own page numbers.
    in_shard = setup.num_seqs // setup.batch_shards
    pool = setup.num_pages // setup.batch_shards
    tables = [
        rng.permutation(pool)[: in_shard * MAX_PAGES].reshape(in_shard, MAX_PAGES)
        for _ in range(setup.batch_shards)
    ]
    return prompt, decoded, np.stack(tables).astype(np.int32), q_lens


def run(cache, prompt, decoded, table, cu_q_lens):
    """Prefill, then a scan of decode steps over a scan of layers; on local heads."""
    table, cu_q_lens = table[0], cu_q_lens[0]

    def step(cache, qkv, lens, cu_q_lens=None):
        plan = ji.plan(
            cu_q_lens,
            lens,
            num_tokens=qkv[0].shape[1],
            max_kv_len=MAX_PAGES * PAGE_SIZE,
            num_q_heads=qkv[0].shape[2],
            num_kv_heads=qkv[1].shape[2],
            head_dim=H,
            config=CONFIG,
        )

        def layer(cache, x):
            i, (q, k, v) = x
            where = {"page_table": table, "kv_lens": lens, "cu_q_lens": cu_q_lens}
            cache = cache.append(i, k, v, **where)
            pages = cache.k_pages, cache.v_pages
            return cache, ji.ragged_paged_attention(
                q, *pages, **where, layer=i, plan=plan
            )

        return jax.lax.scan(layer, cache, (jnp.arange(L, dtype=jnp.int32), qkv))

    def decode(carry, qkv):
        cache, lens = carry
        cache, out = step(cache, qkv, lens + 1)
        return (cache, lens + 1), out

    lens = cu_q_lens[1:] - cu_q_lens[:-1]
    cache, first = step(cache, prompt, lens, cu_q_lens)
    (cache, _), outs = jax.lax.scan(decode, (cache, lens), decoded)
    return cache, first, outs


def make_cache(setup: Setup, num_shards=1, sharding=None):
    return ji.PagedKVCache.create(
        num_layers=L,
        num_pages=setup.num_pages,
        page_size=PAGE_SIZE,
        num_kv_heads=setup.num_kv_heads,
        head_dim=H,
        dtype=jnp.float32,
        num_shards=num_shards,
        sharding=sharding,
    )


def offsets(q_lens, batch_shards: int) -> np.ndarray:
    """cu_q_lens of each shard: i32[batch_shards, B + 1]."""
    q_lens = q_lens.reshape(batch_shards, -1)
    return np.pad(np.cumsum(q_lens, axis=1), ((0, 0), (1, 0))).astype(np.int32)


def on_one_device(setup: Setup):
    prompt, decoded, tables, q_lens = make_arguments(setup)
    pool = setup.num_pages // setup.batch_shards
    table = np.concatenate([t + s * pool for s, t in enumerate(tables)])
    fn = jax.jit(run, compiler_options=QUICK)
    args = make_cache(setup), prompt, decoded, table[None], offsets(q_lens, 1)
    return jax.tree.map(np.asarray, fn(*args))


def sharded(setup: Setup, axis_type: AxisType, check_vma: bool):
    """(jitted program, its arguments)."""
    shape = setup.batch_shards, setup.head_shards
    mesh = jax.make_mesh(shape, ("b", "h"), axis_types=(axis_type,) * 2)
    cache_spec = P(None, "b", None, "h")
    is_shared = (
        setup.head_shards > setup.num_kv_heads
    )  # every shard is given all of K, V
    kv_axis = None if is_shared else "h"
    prompt_specs, decoded_specs = (
        (P(*lead, "b", "h"), P(*lead, "b", kv_axis), P(*lead, "b", kv_axis))
        for lead in ([None], [None, None])
    )
    specs = cache_spec, prompt_specs, decoded_specs, P("b"), P("b")

    def local(cache, prompt, decoded, tables, cu_q_lens):
        if is_shared:
            prompt, decoded = (
                (q, ji.own_kv_heads(k, "h"), ji.own_kv_heads(v, "h"))
                for q, k, v in (prompt, decoded)
            )
        return run(cache, prompt, decoded, tables, cu_q_lens)

    program = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=specs,
        out_specs=(cache_spec, prompt_specs[0], decoded_specs[0]),
        check_vma=check_vma,
    )
    prompt, decoded, tables, q_lens = make_arguments(setup)
    cu_q_lens = offsets(q_lens, setup.batch_shards)
    args = jax.tree.map(
        lambda spec, x: jax.device_put(x, NamedSharding(mesh, spec)),
        specs[1:],
        (prompt, decoded, tables, cu_q_lens),
    )
    cache = make_cache(setup, setup.head_shards, NamedSharding(mesh, cache_spec))
    return jax.jit(program, donate_argnums=0, compiler_options=QUICK), (cache, *args)


def check(setup: Setup, want, axis_type: AxisType, check_vma: bool) -> dict:
    fn, args = sharded(setup, axis_type, check_vma)
    traced = fn.trace(*args)
    (mapped,) = traced.jaxpr.eqns
    compiled = traced.lower().compile()
    cache, *outs = compiled(*args)
    stored = max(setup.num_kv_heads, setup.head_shards)
    kept_head = np.arange(stored) * setup.num_kv_heads // stored
    want_cache = jax.tree.map(lambda x: x[..., kept_head, :], want[0])
    of_a_shard = cache.k_pages.size // 8
    memory = compiled.memory_analysis()
    return {
        "outputs_equal": all(
            np.array_equal(g, w) for g, w in zip(outs, want[1:], strict=True)
        ),
        "k_equal": np.array_equal(cache.k_pages, want_cache.k_pages),
        "v_equal": np.array_equal(cache.v_pages, want_cache.v_pages),
        "cache_is_sharded": cache.k_pages.addressable_shards[0].data.size == of_a_shard,
        "collectives": collectives(compiled),
        "writes_of_the_cache": writes_of(compiled, of_a_shard // L),
        "bytes_not_aliased": of_a_shard * 8 - memory.alias_size_in_bytes,
        "bytes_of_cache": of_a_shard * 8,
        "temporary_bytes": memory.temp_size_in_bytes,
        "donated": args[0].k_pages.is_deleted(),
        "smallest_operand": min(x.aval.size for x in mapped.invars),
    }


def other_ops(axis_type: AxisType, check_vma: bool) -> dict:
    """Largest differences of the ops without a cache, and of derivatives."""
    mesh = jax.make_mesh((8,), ("h",), axis_types=(axis_type,))
    rng = np.random.default_rng(1)
    qkv = [rng.standard_normal((16, n, H)).astype(np.float32) for n in (16, 8, 8)]
    cu = np.array([0, 5, 16], np.int32)
    heads, rows = P(None, "h"), P("h")

    on_mesh = functools.partial(jax.shard_map, mesh=mesh, check_vma=check_vma)

    def mapped(fn, in_specs, out_specs):
        # Under jit: an eager shard_map makes an operand of each array without elements,
        # and jaxlib 0.11.2 crashes on those.
        fn = jax.jit(on_mesh(fn, in_specs=in_specs, out_specs=out_specs))
        shardings = [NamedSharding(mesh, spec) for spec in in_specs]
        return lambda *args: fn(*jax.device_put(args, tuple(shardings)))

    ragged = functools.partial(ji.ragged_attention, return_lse=True)
    dense = ji.dot_product_attention

    def of_own_keys(q, k, v):  # and then of all, by merging what the devices found
        cu_q, cu_kv = (jnp.array([0, x.shape[0]], jnp.int32) for x in (q, k))
        partial = ragged(q, k, v, cu_q, cu_kv, is_causal=False)
        return ji.merge_partials(*jax.lax.all_gather(partial, "h"))[0][None]

    def of_all_keys(q, k, v):  # the same eight times
        whole = np.array([0, 16], np.int32)
        return jnp.stack([ragged(q, k, v, whole, is_causal=False)[0]] * 8)

    sharded_ragged = mapped(ragged, (heads, heads, heads, P()), (heads, heads))
    sharded_dense = mapped(dense, (heads,) * 3, heads)
    merged = mapped(of_own_keys, (P(), rows, rows), rows)

    def gradient(fn):
        return jax.jit(jax.grad(lambda x: jnp.sin(fn(*x)).sum()))(qkv)

    def out_of(fn):
        return lambda *x: fn(*x, cu)[0]

    pairs = {
        "ragged_attention": (sharded_ragged(*qkv, cu), ragged(*qkv, cu)),
        "dot_product_attention": (sharded_dense(*qkv), dense(*qkv)),
        "merge_partials": (merged(*qkv), of_all_keys(*qkv)),
        "gradients": (gradient(out_of(sharded_ragged)), gradient(out_of(ragged))),
        "gradients_of_parts": (gradient(merged), gradient(of_all_keys)),
    }

    def difference(got, want):
        return float(np.abs(np.asarray(got) - np.asarray(want)).max())

    found = {name: jax.tree.map(difference, *pair) for name, pair in pairs.items()}
    return {name: max(jax.tree.leaves(x)) for name, x in found.items()}


def without_shard_map() -> dict:
    """A call on sharded arrays: right, but the cache is gathered."""
    mesh = jax.make_mesh((8,), ("h",), axis_types=(AxisType.Auto,))
    heads = NamedSharding(mesh, P(None, None, "h"))
    pages = jnp.ones((16, PAGE_SIZE, 8, H))
    args = jnp.ones((2, 8, H)), pages, pages, np.zeros((2, 4), np.int32)
    want = ji.ragged_paged_attention(*args, np.array([3, 16], np.int32))
    args = args[0], *(jax.device_put(x, heads) for x in args[1:3]), *args[3:]
    fn, lens = jax.jit(ji.ragged_paged_attention), jnp.array([3, 16], jnp.int32)
    return {
        "equal": bool(np.array_equal(fn(*args, lens), want)),
        "collectives": collectives(fn.lower(*args, lens).compile()),
    }


if __name__ == "__main__":
    kinds = {
        f"{axis_type.name}-{word}": (axis_type, word == "checked")
        for axis_type in (AxisType.Auto, AxisType.Explicit)
        for word in ("checked", "unchecked")
    }
    facts = {"without_shard_map": without_shard_map()}
    for kind in ("Auto-unchecked", "Explicit-checked"):
        facts[f"other_ops-{kind}"] = other_ops(*kinds[kind])
    for name, setup in SETUPS.items():
        one = on_one_device(setup)
        for kind, given in kinds.items():
            facts[f"{name}-{kind}"] = check(setup, one, *given)
    print(json.dumps(facts))
