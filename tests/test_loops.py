# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Loops and retracing: lengths are data, plans are values, a loop is its unrolling."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxinfer as ji

LAYERS, PAGE_SIZE, HEADS, KV_HEADS, HEAD_DIM = 2, 4, 6, 2, 64
BATCH, MAX_PAGES, NUM_PAGES, STEPS = 3, 12, 40, 9
MAX_KV_LEN = MAX_PAGES * PAGE_SIZE
FIRST_LENGTHS = np.array([1, 15, 37], np.int32)


def make_cache() -> ji.PagedKVCache:
    rng = np.random.default_rng(0)
    shape = (2, LAYERS, NUM_PAGES, PAGE_SIZE, KV_HEADS, HEAD_DIM)
    return ji.PagedKVCache(*jnp.asarray(rng.standard_normal(shape), jnp.float32))


def make_table(seed: int = 1) -> jax.Array:
    pages = np.random.default_rng(seed).permutation(NUM_PAGES)[: BATCH * MAX_PAGES]
    return jnp.asarray(pages.reshape(BATCH, MAX_PAGES), jnp.int32)


def make_tokens(seed: int = 2) -> jax.Array:
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.standard_normal((BATCH, HEADS, HEAD_DIM)), jnp.float32)


def make_plan(lens, **facts):
    """Several chunks a sequence, so that partial results are merged."""
    config = ji.PlanConfig(
        "cpu", 16, (ji.TileClass(16, 4, 1),), kv_heads_per_item=1, min_keys_per_row=1
    )
    return ji.plan(
        None,
        lens,
        num_tokens=BATCH,
        max_kv_len=MAX_KV_LEN,
        num_q_heads=HEADS,
        num_kv_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        config=config,
        **facts,
    )


def attend(cache, layer, x, table, lens, plan=None, **options):
    return ji.ragged_paged_attention(
        x, cache.k_pages, cache.v_pages, table, lens, layer=layer, plan=plan, **options
    )


def decode_layer(plan, table, lens, carry, layer):
    cache, x = carry
    key, value = x[:, :KV_HEADS], x[:, -KV_HEADS:]
    cache = cache.append(layer, key, value, page_table=table, kv_lens=lens)
    return (cache, x + attend(cache, layer, x, table, lens, plan)), None


def decode_step(table, carry):
    """One token more for every sequence."""
    cache, x, lens = carry
    layer = functools.partial(decode_layer, make_plan(lens), table, lens)
    (cache, x), _ = jax.lax.scan(layer, (cache, x), jnp.arange(LAYERS, dtype=jnp.int32))
    return cache, x, lens + 1


def decode_eager(cache, x, table, lens):
    for _ in range(STEPS):
        plan = make_plan(lens)
        for i in range(LAYERS):
            layer = jnp.int32(i)
            (cache, x), _ = decode_layer(plan, table, lens, (cache, x), layer)
        lens = lens + 1
    return cache, x, lens


def decode_unrolled(cache, x, table, lens):
    carry = cache, x, lens
    for _ in range(STEPS):
        carry = decode_step(table, carry)
    return carry


def decode_scan(cache, x, table, lens):
    def step(carry, _):
        return decode_step(table, carry), None

    return jax.lax.scan(step, (cache, x, lens), length=STEPS)[0]


def decode_while(cache, x, table, lens):
    last = lens + STEPS
    return jax.lax.while_loop(
        lambda carry: (carry[2] < last).all(),
        functools.partial(decode_step, table),
        (cache, x, lens),
    )


def decode_fori(cache, x, table, lens):
    return jax.lax.fori_loop(
        0, STEPS, lambda _, carry: decode_step(table, carry), (cache, x, lens)
    )


def assert_equal_bits(got, want):
    got, want = jax.tree.leaves(got), jax.tree.leaves(want)
    for g, w in zip(got, want, strict=True):
        np.testing.assert_array_equal(np.asarray(g), np.asarray(w))


LOOPS = [decode_unrolled, decode_scan, decode_while, decode_fori]


@pytest.mark.parametrize("loop", LOOPS, ids=lambda f: f.__name__)
def test_a_loop_gives_the_bits_of_eager_steps(loop):
    args = make_tokens(), make_table(), jnp.asarray(FIRST_LENGTHS)
    want = decode_eager(make_cache(), *args)
    got = jax.jit(loop, donate_argnums=0)(make_cache(), *args)
    assert_equal_bits(got, want)


def test_eager_steps_agree_with_full_attention():
    """The oracle of the loops: every step over again, by plain softmax attention."""
    args = make_tokens(), make_table(), jnp.asarray(FIRST_LENGTHS)
    cache, x, lens = make_cache(), args[0], args[2]
    pages = [np.asarray(p).copy() for p in (cache.k_pages, cache.v_pages)]
    table, x = np.asarray(args[1]), np.asarray(x)
    for step in range(STEPS):
        for layer in range(LAYERS):
            out = np.zeros_like(x)
            for b, kv_len in enumerate(FIRST_LENGTHS + step):
                where = table[b, (kv_len - 1) // PAGE_SIZE], (kv_len - 1) % PAGE_SIZE
                pages[0][layer][where] = x[b, :KV_HEADS]
                pages[1][layer][where] = x[b, -KV_HEADS:]
                k, v = (
                    p[layer, table[b]].reshape(-1, KV_HEADS, HEAD_DIM)[:kv_len]
                    for p in pages
                )
                for h in range(HEADS):
                    g = h // (HEADS // KV_HEADS)
                    scores = k[:, g] @ x[b, h] * HEAD_DIM**-0.5
                    p = np.exp(scores - scores.max())
                    out[b, h] = p @ v[:, g] / p.sum()
            x = x + out
    cache, got, lens = decode_eager(cache, *args)
    np.testing.assert_allclose(got, x, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(cache.k_pages, pages[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(lens, FIRST_LENGTHS + STEPS)


def test_new_lengths_and_tables_do_not_retrace():
    traces = []

    @jax.jit
    def step(cache, x, table, lens, cu_q_lens):
        traces.append(1)
        plan = make_plan(lens)
        out = attend(cache, jnp.int32(0), x, table, lens, plan)
        return out + attend(cache, jnp.int32(1), x, table, lens, cu_q_lens=cu_q_lens)

    for seed in range(4):
        rng = np.random.default_rng(seed)
        lens = rng.integers(0, MAX_KV_LEN, BATCH).astype(np.int32)
        cu_q_lens = np.sort(rng.integers(0, BATCH + 1, BATCH + 1)).astype(np.int32)
        x, table = make_tokens(seed), make_table(seed)
        got = step(make_cache(), x, table, lens, cu_q_lens)
        assert got.shape == x.shape
    assert len(traces) == 1


def test_a_host_plan_is_an_operand():
    traces = []

    @jax.jit
    def step(x, table, lens, plan):
        traces.append(1)
        return attend(make_cache(), jnp.int32(1), x, table, lens, plan)

    for lens in ([1, 15, 37], [48, 1, 2], [0, 9, 9]):
        lens = np.array(lens, np.int32)
        plan = make_plan(lens)
        assert isinstance(plan.buffer, np.ndarray)
        got = step(make_tokens(), make_table(), lens, plan)
        in_graph = jax.jit(make_plan)(jnp.asarray(lens))
        np.testing.assert_array_equal(plan.buffer, in_graph.buffer)
        assert plan.facts == in_graph.facts
        want = attend(
            make_cache(),
            jnp.int32(1),
            make_tokens(),
            make_table(),
            lens,
            implementation="xla",
        )
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    assert len(traces) == 1


def test_a_plan_of_other_facts_retraces_and_is_checked():
    traces = []

    @jax.jit
    def step(x, table, lens, plan):
        traces.append(1)
        return attend(make_cache(), jnp.int32(1), x, table, lens, plan)

    args = make_tokens(), make_table(), FIRST_LENGTHS
    step(*args, make_plan(FIRST_LENGTHS))
    windowed = make_plan(FIRST_LENGTHS, local_window_size=(4, 0))
    with pytest.raises(ValueError, match=r"local_window_size=\(4, 0\), but this call"):
        step(*args, windowed)
    assert len(traces) == 2


def test_one_plan_serves_layers_and_independent_ops():
    table, lens, x = make_table(), jnp.asarray(FIRST_LENGTHS), make_tokens()
    num_layers = 32
    options = [{}, {"logits_soft_cap": 3.0}]

    def layers(cache, plan_of_call):
        def layer(x, i):
            a, b = (
                attend(cache, i % LAYERS, x, table, lens, plan_of_call(), **o)
                for o in options
            )
            return a - b + x, (a, b)

        return jax.lax.scan(layer, x, jnp.arange(num_layers, dtype=jnp.int32))

    @jax.jit
    def shared(cache):
        plan = make_plan(lens)
        return *layers(cache, lambda: plan), plan.buffer

    @jax.jit
    def of_its_own(cache):
        return layers(cache, lambda: make_plan(lens))

    *got, plan_after = shared(make_cache())
    assert_equal_bits(got, of_its_own(make_cache()))
    np.testing.assert_array_equal(plan_after, make_plan(FIRST_LENGTHS).buffer)
    assert np.asarray(make_plan(FIRST_LENGTHS).header)[1] > 0  # partials were merged


def test_a_plan_stays_valid_while_sequences_grow():
    """Its last chunks are open-ended; only the balance suffers."""
    plan = make_plan(FIRST_LENGTHS)
    for more in (1, 5, 11):
        lens = jnp.asarray(FIRST_LENGTHS + more)
        args = make_cache(), jnp.int32(0), make_tokens(), make_table(), lens
        want = attend(*args, implementation="xla")
        np.testing.assert_allclose(attend(*args, plan), want, rtol=1e-5, atol=1e-5)


def test_repeated_calls_give_the_same_bits():
    step = jax.jit(decode_scan)
    args = make_cache(), make_tokens(), make_table(), jnp.asarray(FIRST_LENGTHS)
    first = step(*args)
    for _ in range(5):
        assert_equal_bits(step(*args), first)
