# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Decode loops on an NVIDIA GPU: captured, in place, and the same on every replay."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import work_item

import jaxinfer as ji
from jaxinfer import _native

pytestmark = pytest.mark.gpu

L, N, K, H, PAGE_SIZE, MAX_PAGES = 4, 8, 2, 128, 16, 24
BF16 = jnp.bfloat16


def make_cache(batch, num_layers=L, num_pages=None):
    return ji.PagedKVCache.create(
        num_layers=num_layers,
        num_pages=num_pages or batch * MAX_PAGES,
        page_size=PAGE_SIZE,
        num_kv_heads=K,
        head_dim=H,
        dtype=BF16,
    )


def make_table(batch, seed=0):
    pages = np.random.default_rng(seed).permutation(batch * MAX_PAGES)
    return jnp.asarray(pages.reshape(batch, MAX_PAGES), jnp.int32)


def decode_plan(kv_lens, config=None):
    return ji.plan(
        None,
        kv_lens,
        num_tokens=len(kv_lens),
        max_kv_len=MAX_PAGES * PAGE_SIZE,
        num_q_heads=N,
        num_kv_heads=K,
        head_dim=H,
        config=config,
    )


def one_step(cache, x, table, kv_lens, implementation=None):
    """All layers for one new token of each sequence; x [B, N, H] -> [B, N, H]."""
    plan = decode_plan(kv_lens)
    for layer in range(cache.k_pages.shape[0]):
        i = jnp.int32(layer)
        k, v = x[:, :K] * 0.5, jnp.sin(x[:, K : 2 * K].astype(jnp.float32)).astype(BF16)
        k_pages, v_pages = ji.update_kv_pages(
            cache.k_pages,
            cache.v_pages,
            k,
            v,
            table,
            kv_lens,
            layer=i,
            implementation=implementation,
        )
        cache = dataclasses.replace(cache, k_pages=k_pages, v_pages=v_pages)
        out = ji.ragged_paged_attention(
            x,
            cache.k_pages,
            cache.v_pages,
            table,
            kv_lens,
            layer=i,
            plan=plan,
            implementation=implementation,
        )
        x = (x.astype(jnp.float32) * 0.5 + out.astype(jnp.float32)).astype(BF16)
    return cache, x


@functools.partial(
    jax.jit, donate_argnums=0, static_argnames=("num_steps", "implementation")
)
def scan_loop(cache, x, table, kv_lens, *, num_steps, implementation=None):
    def body(carry, _):
        cache, x, kv_lens = carry
        cache, x = one_step(cache, x, table, kv_lens, implementation)
        return (cache, x, kv_lens + 1), x

    carry, xs = jax.lax.scan(body, (cache, x, kv_lens), None, length=num_steps)
    return carry[0], xs


@functools.partial(jax.jit, donate_argnums=0)
def while_loop(cache, x, table, kv_lens, last):
    def body(carry):
        cache, x, kv_lens = carry
        cache, x = one_step(cache, x, table, kv_lens)
        return cache, x, kv_lens + 1

    carry = jax.lax.while_loop(
        lambda carry: carry[2][0] < last, body, (cache, x, kv_lens)
    )
    # Not the carry itself: a result's buffer is a new one on every run.
    return carry[0], carry[1].astype(jnp.float32)


def queries(batch, seed=0):
    return jax.random.normal(jax.random.key(seed), (batch, N, H), BF16)


def lengths(batch):
    return jnp.arange(1, batch + 1, dtype=jnp.int32)


@pytest.mark.parametrize("loop", ["scan", "while_loop"])
def test_replays_call_no_handler(loop):
    batch = 5
    table, x, kv_lens = make_table(batch), queries(batch), lengths(batch)

    def run(cache):
        if loop == "scan":
            return scan_loop(cache, x, table, kv_lens, num_steps=20)
        return while_loop(cache, x, table, kv_lens, 21)

    cache, first = run(make_cache(batch))
    # Results get the addresses of earlier ones; until they come round, XLA captures the
    # loop for each. How soon they do is up to the allocator.
    calls = []
    while not calls or (calls[-1] > 0 and len(calls) < 8):
        before = _native.handler_calls()["execute"]
        for _ in range(10):
            cache, again = run(cache)
        jax.block_until_ready(again)
        calls.append(_native.handler_calls()["execute"] - before)
    assert calls[-1] == 0, calls
    np.testing.assert_array_equal(
        *(np.asarray(a.astype(jnp.float32)) for a in (first, again))
    )


def test_the_loop_agrees_with_the_reference():
    batch = 5
    table, x = make_table(batch), queries(batch)
    got, want = (
        scan_loop(
            make_cache(batch),
            x,
            table,
            lengths(batch),
            num_steps=30,
            implementation=implementation,
        )[1]
        for implementation in ("cuda", "xla")
    )
    got, want = (np.asarray(a).astype(np.float32) for a in (got, want))
    # The steps feed on their own roundings: bfloat16 is all that they share.
    np.testing.assert_allclose(got[0], want[0], atol=0.03)
    np.testing.assert_allclose(got, want, atol=0.15)


def test_new_addresses_are_captured_again():
    batch = 4
    step = jax.jit(one_step, static_argnames="implementation")
    held = []
    for i in range(40):  # more than the traces that XLA keeps
        cache, table, x = make_cache(batch), make_table(batch, i), queries(batch, i)
        held += [cache, table, x]  # so that no address comes back
        _, got = step(cache, x, table, lengths(batch), implementation="cuda")
        _, want = step(cache, x, table, lengths(batch), implementation="xla")
        got, want = (np.asarray(a).astype(np.float32) for a in (got, want))
        np.testing.assert_allclose(got, want, atol=0.05)


def test_a_large_cache_is_never_copied():
    batch, args = 4, {}
    for num_pages in (batch * MAX_PAGES, 40 * batch * MAX_PAGES):
        cache = make_cache(batch, num_pages=num_pages)
        args[num_pages] = (
            scan_loop.lower(
                cache, queries(batch), make_table(batch), lengths(batch), num_steps=8
            )
            .compile()
            .memory_analysis()
        )
        assert args[num_pages].alias_size_in_bytes >= 2 * cache.k_pages.nbytes
    small, large = args.values()
    assert abs(small.temp_size_in_bytes - large.temp_size_in_bytes) < 1 << 20


def test_one_plan_for_32_layers_and_two_ops_1000_replays():
    batch, num_layers = 6, 32
    kv_lens = jnp.array([300, 1, 77, 384, 16, 200], jnp.int32)
    shape = (num_layers, batch * MAX_PAGES, PAGE_SIZE, K, H)
    k_pages, v_pages = (
        jax.random.normal(jax.random.key(i), shape, BF16) for i in range(2)
    )
    table = make_table(batch)

    @jax.jit
    def run(x, k_pages, v_pages, kv_lens):
        plan = decode_plan(kv_lens)
        attend = functools.partial(
            ji.ragged_paged_attention, kv_lens=kv_lens, page_table=table, plan=plan
        )
        ys = []
        for layer in range(num_layers):
            i = jnp.int32(layer)
            # Neither depends on the other: they may run side by side.
            a = attend(x, k_pages, v_pages, layer=i)
            b = attend(-x, v_pages, k_pages, layer=i)
            ys.append(a + b)
            x = ys[-1]
        return jnp.stack(ys)

    x = queries(batch)
    first = np.asarray(run(x, k_pages, v_pages, kv_lens)).view(np.uint16)
    for replay in range(1000):
        again = run(x, k_pages, v_pages, kv_lens)
        if replay % 50 == 0:
            np.testing.assert_array_equal(np.asarray(again).view(np.uint16), first)
    np.testing.assert_array_equal(np.asarray(again).view(np.uint16), first)


@pytest.mark.parametrize("batch", [1, 7])
def test_batch_invariant_mode_is_bitwise_the_same_alone(batch):
    config = dataclasses.replace(
        ji.PlanConfig.gpu(), batch_invariant=True, split_keys=64
    )
    rng = np.random.default_rng(batch)
    shape = (8 * MAX_PAGES, PAGE_SIZE, K, H)
    k_pages, v_pages = (
        jax.random.normal(jax.random.key(i), shape, BF16) for i in range(2)
    )

    @functools.partial(jax.jit, static_argnames="config")
    def attend(x, table, kv_lens, config):
        plan = decode_plan(kv_lens, config)
        return ji.ragged_paged_attention(x, k_pages, v_pages, table, kv_lens, plan=plan)

    table, x = make_table(8), queries(8)
    kv_lens = jnp.asarray(rng.integers(1, 384, 8), jnp.int32)
    rows = rng.permutation(8)[:batch]
    for _ in range(3):
        whole = np.asarray(attend(x, table, kv_lens, config)).view(np.uint16)
        part = attend(x[rows], table[rows], kv_lens[rows], config)
        np.testing.assert_array_equal(np.asarray(part).view(np.uint16), whole[rows])


def test_a_damaged_plan_spoils_no_later_call():
    batch = 3
    shape = (batch * MAX_PAGES, PAGE_SIZE, K, H)
    k_pages, v_pages = (
        jax.random.normal(jax.random.key(i), shape, BF16) for i in range(2)
    )
    table, x = make_table(batch), queries(batch)
    kv_lens = np.full(batch, MAX_PAGES * PAGE_SIZE, np.int32)
    plan = decode_plan(kv_lens)
    items, num_items = plan.items, plan.header[work_item.NUM_ITEMS]
    is_part = items[:num_items, work_item.PARTIAL] != work_item.WRITE_THROUGH
    assert is_part.sum() > 2 * batch * K

    @jax.jit
    def attend(plan):
        return ji.ragged_paged_attention(x, k_pages, v_pages, table, kv_lens, plan=plan)

    good = np.asarray(attend(plan)).view(np.uint16)
    rng = np.random.default_rng(0)
    for field, value in (
        ("NUM_ROWS", 0),
        ("MERGE", 1),
        ("PARTIAL", 10**6),
        ("KEY_BEGIN", 2**31 - 1),
    ):
        damaged = plan.buffer.copy()
        of_items = dataclasses.replace(plan, buffer=damaged).items
        lost = rng.choice(np.flatnonzero(is_part), 5, replace=False)
        of_items[lost, getattr(work_item, field)] = value
        for _ in range(3):
            attend(dataclasses.replace(plan, buffer=damaged)).block_until_ready()
            again = np.asarray(attend(plan)).view(np.uint16)
            np.testing.assert_array_equal(again, good)
