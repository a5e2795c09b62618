# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The cache stays where it is: a step costs what it reads, not what the cache holds.

An equal pointer in the handler proves nothing, since XLA copies before the call. So the
compiled program is looked at: its temporary memory, its aliases and its instructions.
"""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import writes_of

import jaxinfer as ji

LAYERS, PAGE_SIZE, HEADS, KV_HEADS, HEAD_DIM = 3, 16, 4, 2, 64
BATCH, MAX_PAGES, STEPS = 4, 8, 3
LENGTHS = np.array([5, 33, 64, 100], np.int32)


def make_cache(num_pages: int) -> ji.PagedKVCache:
    return ji.PagedKVCache.create(
        num_layers=LAYERS,
        num_pages=num_pages,
        page_size=PAGE_SIZE,
        num_kv_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        dtype=jnp.float32,
    )


def make_table(num_pages: int) -> jax.Array:
    """Pages from all over the cache."""
    count = BATCH * MAX_PAGES
    pages = np.linspace(0, num_pages - 1, count).astype(np.int32)
    assert len(set(pages)) == count
    return jnp.asarray(np.random.default_rng(0).permutation(pages).reshape(BATCH, -1))


def append(cache, layer, x, table, lens):
    return cache.append(
        layer, x[:, :KV_HEADS], x[:, KV_HEADS:], page_table=table, kv_lens=lens
    )


def attend(cache, layer, x, table, lens, plan):
    return ji.ragged_paged_attention(
        x, cache.k_pages, cache.v_pages, table, lens, layer=layer, plan=plan
    )


def make_plan(lens):
    return ji.plan(
        None,
        lens,
        num_tokens=BATCH,
        max_kv_len=MAX_PAGES * PAGE_SIZE,
        num_q_heads=HEADS,
        num_kv_heads=KV_HEADS,
        head_dim=HEAD_DIM,
    )


def one_layer(cache, x, table, lens):
    cache = append(cache, jnp.int32(1), x, table, lens)
    return cache, attend(cache, jnp.int32(1), x, table, lens, None)


def one_layer_reads_old_cache(cache, x, table, lens):
    new = append(cache, jnp.int32(1), x, table, lens)
    return new, attend(cache, jnp.int32(1), x, table, lens, None)


def layers_as_carry(cache, x, table, lens, add=append):
    plan = make_plan(lens)

    def layer(carry, i):
        cache, x = carry
        cache = add(cache, i, x, table, lens)
        return (cache, x + attend(cache, i, x, table, lens, plan)), None

    return jax.lax.scan(layer, (cache, x), jnp.arange(LAYERS, dtype=jnp.int32))[0]


def layers_as_xs(cache, x, table, lens):
    def layer(x, pages):
        one = ji.PagedKVCache(*(p[None] for p in pages))
        one = append(one, jnp.int32(0), x, table, lens)
        x = x + attend(one, jnp.int32(0), x, table, lens, None)
        return x, (one.k_pages[0], one.v_pages[0])

    x, pages = jax.lax.scan(layer, x, (cache.k_pages, cache.v_pages))
    return ji.PagedKVCache(*pages), x


def append_if_any(cache, layer, x, table, lens):
    def add(cache):
        return append(cache, layer, x, table, lens)

    return jax.lax.cond(lens.sum() > 0, add, lambda cache: cache, cache)


def append_one_of_two_ways(cache, layer, x, table, lens):
    def by_slots(cache):
        slots = ji.token_slots(
            table,
            lens,
            num_tokens=BATCH,
            num_pages=cache.num_pages,
            page_size=PAGE_SIZE,
        )
        return cache.append(layer, x[:, :KV_HEADS], x[:, KV_HEADS:], slot_mapping=slots)

    def by_table(cache):
        return append(cache, layer, x, table, lens)

    return jax.lax.cond(x[0, 0, 0] > 0, by_slots, by_table, cache)


def while_loop(cache, x, table, lens, add=append):
    def step(carry):
        i, cache, x, lens = carry
        cache, x = layers_as_carry(cache, x, table, lens, add)
        return i + 1, cache, jnp.tanh(x), lens + 1

    def is_unfinished(carry):
        return (carry[0] < STEPS) & (carry[2] < 100).all()

    _, cache, x, _ = jax.lax.while_loop(is_unfinished, step, (0, cache, x, lens))
    return cache, x


def scan_of_steps(cache, x, table, lens):
    def step(carry, _):
        cache, x, lens = carry
        cache, x = layers_as_carry(cache, x, table, lens)
        return (cache, jnp.tanh(x), lens + 1), x

    (cache, _, _), xs = jax.lax.scan(step, (cache, x, lens), length=STEPS)
    return cache, xs[-1]


def one_array_per_layer(caches, x, table, lens):
    """A list of caches without a layer axis."""
    for i, cache in enumerate(caches):
        caches[i] = append(cache, None, x, table, lens)
        assert caches[i].k_pages.shape == cache.k_pages.shape
        x = x + attend(caches[i], None, x, table, lens, None)
    return caches, x


def one_cache_per_entry(cache, x, table, lens):
    """Not layers, but the caches of LAYERS batches."""

    def one(cache):
        cache = append(cache, None, x, table, lens)
        return cache, attend(cache, None, x, table, lens, None)

    return jax.vmap(one)(cache)


IN_PLACE = {
    "one_layer": one_layer,
    "list": one_array_per_layer,
    "vmap": one_cache_per_entry,
    "layers": layers_as_carry,
    "layers_cond": functools.partial(layers_as_carry, add=append_if_any),
    "layers_either": functools.partial(layers_as_carry, add=append_one_of_two_ways),
    "scan": scan_of_steps,
    "while_loop": while_loop,
    "while_loop_cond": functools.partial(while_loop, add=append_if_any),
    "while_loop_either": functools.partial(while_loop, add=append_one_of_two_ways),
}


def arguments(num_pages: int):
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.standard_normal((BATCH, HEADS, HEAD_DIM)), jnp.float32)
    return make_cache(num_pages), x, make_table(num_pages), jnp.asarray(LENGTHS)


def compile_step(step, num_pages: int, *, donate: bool = True):
    cache, *others = arguments(num_pages)
    if step is one_array_per_layer:
        cache = [jax.tree.map(lambda x, i=i: x[i], cache) for i in range(LAYERS)]
    jitted = jax.jit(step, donate_argnums=0 if donate else ())
    return jitted.lower(cache, *others).compile()


def sizes_of(compiled) -> tuple[int, int]:
    """(temporary, aliased) bytes."""
    memory = compiled.memory_analysis()
    return memory.temp_size_in_bytes, memory.alias_size_in_bytes


def elements_of(num_pages: int) -> int:
    """Of K alone, in one layer."""
    return num_pages * PAGE_SIZE * KV_HEADS * HEAD_DIM


def cache_bytes(num_pages: int) -> int:
    return 2 * LAYERS * elements_of(num_pages) * 4


@pytest.mark.parametrize("name", IN_PLACE)
def test_nothing_of_the_size_of_the_cache_is_written(name):
    few, many = 64, 1024
    temp_of_few, aliased = sizes_of(compile_step(IN_PLACE[name], few))
    assert aliased >= cache_bytes(few)
    compiled = compile_step(IN_PLACE[name], many)
    temp_of_many, aliased = sizes_of(compiled)
    assert aliased >= cache_bytes(many)
    assert temp_of_many == temp_of_few
    # Where both branches append, XLA copies a buffer onto itself, which costs nothing.
    if not name.endswith("either"):
        assert writes_of(compiled, elements_of(many)) == []


NOT_IN_PLACE = {
    "not_donated": (one_layer, False),
    "scan_not_donated": (layers_as_carry, False),
    "old_cache_read": (one_layer_reads_old_cache, True),
    "layers_as_xs": (layers_as_xs, True),
}


@pytest.mark.parametrize("name", NOT_IN_PLACE)
def test_the_check_sees_a_copy(name):
    step, donate = NOT_IN_PLACE[name]
    few, many = 64, 1024
    temp_of_few, _ = sizes_of(compile_step(step, few, donate=donate))
    compiled = compile_step(step, many, donate=donate)
    temp, aliased = sizes_of(compiled)
    copies = writes_of(compiled, elements_of(many))
    assert copies
    assert aliased < cache_bytes(many) or temp >= temp_of_few + elements_of(many) * 4


def seconds_of_a_step(step, num_pages: int, *, donate: bool = True) -> float:
    """The fastest of many."""
    compiled = compile_step(step, num_pages, donate=donate)
    cache, x, table, lens = arguments(num_pages)
    times = []
    for _ in range(30):
        begin = time.perf_counter()
        cache, _ = jax.block_until_ready(compiled(cache, x, table, lens))
        times.append(time.perf_counter() - begin)
    return min(times)


@pytest.mark.parametrize("name", ["layers", "layers_either", "while_loop_cond"])
def test_time_does_not_grow_with_the_number_of_pages(name):
    few, many = 32, 64 * 32  # 1.5 MiB and 100 MiB
    step = IN_PLACE[name]
    assert seconds_of_a_step(step, many) < 3 * seconds_of_a_step(step, few)


def test_the_time_of_a_copy_is_seen():
    copying = seconds_of_a_step(layers_as_carry, 16 * 32, donate=False)
    assert copying > 3 * seconds_of_a_step(layers_as_carry, 16 * 32)


def test_a_donated_cache_is_gone():
    cache, *others = arguments(64)
    new, _ = jax.jit(layers_as_carry, donate_argnums=0)(cache, *others)
    assert cache.k_pages.is_deleted()
    assert cache.v_pages.is_deleted()
    assert new.k_pages.shape == (LAYERS, 64, PAGE_SIZE, KV_HEADS, HEAD_DIM)


def test_in_place_writes_what_copying_writes():
    kept = [np.asarray(x) for x in jax.tree.leaves(jax.jit(while_loop)(*arguments(64)))]
    donated = jax.jit(while_loop, donate_argnums=0)(*arguments(64))
    for got, want in zip(jax.tree.leaves(donated), kept, strict=True):
        np.testing.assert_array_equal(got, want)
    assert np.any(kept[0])
