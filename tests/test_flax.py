# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""PagedAttention against a float64 oracle in NumPy that knows no cache and no pages."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxinfer as ji
from jaxinfer.flax import PagedAttention, RaggedBatch
from jaxinfer.ops.rope import rope

D, N, K, H = 96, 6, 2, 64
PAGE_SIZE, MAX_PAGES, NUM_PAGES, NUM_LAYERS = 4, 8, 40, 3
LENGTHS = (21, 1, 13)


def oracle_rope(x, theta, rotary_dim, is_interleaved):
    """x [T, heads, H] float64, positions 0 .. T - 1: a pair is a complex number."""
    size = rotary_dim or x.shape[-1]
    pairs = np.arange(size).reshape((-1, 2) if is_interleaved else (2, -1))
    re, im = pairs.T if is_interleaved else pairs
    angle = np.outer(np.arange(len(x)), theta ** (-np.arange(0, size, 2) / size))
    turned = (x[..., re] + 1j * x[..., im]) * np.exp(1j * angle)[:, None]
    x = x.copy()
    x[..., re], x[..., im] = turned.real, turned.imag
    return x


def oracle(module, x, *, window=(None, None), soft_cap=None, theta=1e4, **rope_options):
    """Full causal attention of one sequence x [T, D]; returns [T, D]."""
    x = np.asarray(x, np.float64)

    def project(linear, x):
        bias = 0.0 if linear.bias is None else np.asarray(linear.bias[...], np.float64)
        return x @ np.asarray(linear.kernel[...], np.float64) + bias

    q = project(module.query, x).reshape(len(x), N, H)
    k = project(module.key, x).reshape(len(x), K, H)
    v = project(module.value, x).reshape(len(x), K, H)
    if theta is not None:
        q, k = (oracle_rope(a, theta, **rope_options) for a in (q, k))
    k, v = (a.repeat(N // K, axis=1) for a in (k, v))
    scores = np.einsum("tnh,snh->nts", q, k) / np.sqrt(H)
    if soft_cap is not None:
        scores = soft_cap * np.tanh(scores / soft_cap)
    row, col = np.indices(scores.shape[1:])
    visible = col <= row
    if window[0] is not None:
        visible &= row - col <= window[0]
    weights = np.exp(np.where(visible, scores, -np.inf))
    total = weights.sum(-1)
    if module.attention_sink is not None:
        total += np.exp(np.asarray(module.attention_sink[...], np.float64))[:, None]
    out = np.einsum("nts,snh->tnh", weights / total[..., None], v)
    return project(module.out, out.reshape(len(x), N * H))


def make_module(seed=0, **options):
    return PagedAttention(D, N, K, H, rngs=nnx.Rngs(seed), **options)


def make_cache(num_pages=NUM_PAGES):
    cache = ji.PagedKVCache.create(
        num_layers=NUM_LAYERS,
        num_pages=num_pages,
        page_size=PAGE_SIZE,
        num_kv_heads=K,
        head_dim=H,
        dtype=jnp.float32,
    )
    # What no token was written to must never matter.
    return jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), cache)


def make_inputs(seed=1):
    rng = np.random.default_rng(seed)
    table = rng.permutation(NUM_PAGES)[: len(LENGTHS) * MAX_PAGES]
    table = jnp.asarray(table.reshape(len(LENGTHS), MAX_PAGES), jnp.int32)
    return table, [rng.normal(size=(n, D)).astype(np.float32) for n in LENGTHS]


@functools.partial(jax.jit, static_argnames="window", donate_argnames="cache")
def run_step(call, x, cache, table, kv_lens, cu_q_lens, window):
    batch = RaggedBatch.create(
        cache,
        table,
        kv_lens,
        cu_q_lens,
        num_tokens=x.shape[0],
        num_q_heads=N,
        local_window_size=window,
    )
    return call(x, cache, batch)


def run_in_steps(call, steps, window=None):
    """Feeds pieces of the sequences; returns what comes out, put together again.

    `steps` holds the q_lens of each step. All are padded to one size, with NaN.
    """
    num_tokens = max(map(sum, steps)) + 3
    table, inputs = make_inputs()
    cache = make_cache()
    done = np.zeros(len(LENGTHS), int)
    outputs = [np.zeros((n, D), np.float32) for n in LENGTHS]
    for q_lens in steps:
        spans = [slice(d, d + q) for d, q in zip(done, q_lens, strict=True)]
        x = np.concatenate([a[span] for a, span in zip(inputs, spans, strict=True)])
        padding = num_tokens - len(x)
        x = np.pad(x, ((0, padding), (0, 0)), constant_values=np.nan)
        cu_q_lens = np.concatenate([[0], np.cumsum(q_lens)]).astype(np.int32)
        done = done + q_lens
        y, cache = run_step(
            call, x, cache, table, done.astype(np.int32), cu_q_lens, window
        )
        y = np.asarray(y)
        assert not np.isnan(y[: cu_q_lens[-1]]).any()
        for i, span in enumerate(spans):
            outputs[i][span] = y[cu_q_lens[i] : cu_q_lens[i + 1]]
    assert tuple(done) == LENGTHS
    return outputs


ONE_SHOT = [LENGTHS]
# Chunks of several sequences, a sequence that joins late and one that only waits, then
# decoding, at last of one sequence beside empty ones.
IN_PIECES = [
    (8, 0, 5),
    (7, 1, 0),
    (0, 0, 3),
    *[(1, 0, 1)] * 5,
    (1, 0, 0),
]

VARIANTS = {
    "plain": ({}, {}),
    "interleaved": (
        {"rope_is_interleaved": True, "rope_theta": 1e5},
        {"is_interleaved": True, "theta": 1e5},
    ),
    "partial": ({"rope_dim": 32}, {"rotary_dim": 32}),
    "no rotation": ({"rope_theta": None}, {"theta": None}),
    "window": ({"local_window_size": (5, 0)}, {"window": (5, 0)}),
    "soft cap": ({"logits_soft_cap": 0.5}, {"soft_cap": 0.5}),
    "sink and bias": ({"use_attention_sink": True, "use_bias": True}, {}),
}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("steps", [ONE_SHOT, IN_PIECES], ids=["one shot", "in pieces"])
def test_equals_full_attention(name, steps):
    options, oracle_options = VARIANTS[name]
    module = make_module(**options)
    if module.attention_sink is not None:
        module.attention_sink[...] = jnp.linspace(-1.0, 2.0, N)
        module.query.bias[...] = jnp.linspace(-1.0, 1.0, N * H)
        module.out.bias[...] = jnp.linspace(-1.0, 1.0, D)
    defaults = {"rotary_dim": None, "is_interleaved": False}
    call = jax.tree_util.Partial(PagedAttention.__call__, module, layer=1)
    outputs = run_in_steps(call, steps, options.get("local_window_size"))
    for x, y in zip(make_inputs()[1], outputs, strict=True):
        expected = oracle(module, x, **defaults | oracle_options)
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)


class Stack(nnx.Module):
    """Three layers with residuals, scanned with the cache as the carry."""

    def __init__(self):
        @nnx.split_rngs(splits=NUM_LAYERS)
        @nnx.vmap
        def make(rngs):
            return PagedAttention(D, N, K, H, rngs=rngs)

        self.layers = make(nnx.Rngs(7))

    def __call__(self, x, cache, batch):
        def body(carry, xs):
            x, cache = carry
            layer, i = xs
            y, cache = layer(x, cache, batch, i)
            return (x + y, cache), None

        numbers = jnp.arange(NUM_LAYERS)
        return jax.lax.scan(body, (x, cache), (self.layers, numbers))[0]


def test_scan_over_layers_equals_a_loop_and_the_oracle():
    stack = Stack()
    layers = [
        jax.tree.map(lambda a, i=i: a[i], stack.layers) for i in range(NUM_LAYERS)
    ]

    def loop(layers, x, cache, batch):
        for i, layer in enumerate(layers):
            y, cache = layer(x, cache, batch, i)
            x = x + y
        return x, cache

    looped = run_in_steps(jax.tree_util.Partial(loop, layers), IN_PIECES)
    for x, y, z in zip(
        make_inputs()[1], run_in_steps(stack, IN_PIECES), looped, strict=True
    ):
        np.testing.assert_allclose(y, z, rtol=0, atol=1e-6)
        expected = np.asarray(x, np.float64)
        for layer in layers:
            expected = expected + oracle(
                layer, expected, rotary_dim=None, is_interleaved=False
            )
        np.testing.assert_allclose(y, expected, rtol=0, atol=3e-5)


def test_nnx_scan_gives_the_same():
    stack = Stack()

    @nnx.scan(in_axes=(nnx.Carry, 0, 0, None), out_axes=nnx.Carry)
    def body(carry, layer, i, batch):
        x, cache = carry
        y, cache = layer(x, cache, batch, i)
        return x + y, cache

    def scanned(stack, x, cache, batch):
        return body((x, cache), stack.layers, jnp.arange(NUM_LAYERS), batch)

    expected = run_in_steps(stack, IN_PIECES)
    outputs = run_in_steps(jax.tree_util.Partial(scanned, stack), IN_PIECES)
    for y, z in zip(outputs, expected, strict=True):
        np.testing.assert_array_equal(y, z)


def test_scan_copies_no_page():
    """Temporary memory of a donated step does not depend on the number of pages."""

    def temp_bytes(num_pages):
        cache = make_cache(num_pages)
        table, _ = make_inputs()
        kv_lens = jnp.array(LENGTHS, jnp.int32)
        cu_q_lens = jnp.arange(4, dtype=jnp.int32)
        x = jnp.zeros((3, D))
        memory = (
            run_step.lower(Stack(), x, cache, table, kv_lens, cu_q_lens, None)
            .compile()
            .memory_analysis()
        )
        assert memory.alias_size_in_bytes >= 2 * cache.k_pages.nbytes
        return memory.temp_size_in_bytes

    assert temp_bytes(40) == temp_bytes(4000)


def test_batch_positions_and_slots():
    cache = make_cache()
    table = jnp.arange(3 * MAX_PAGES, dtype=jnp.int32).reshape(3, MAX_PAGES)
    batch = RaggedBatch.create(
        cache,
        table,
        jnp.array([6, 9, 2], jnp.int32),
        jnp.array([0, 3, 3, 5], jnp.int32),
        num_tokens=7,
        num_q_heads=N,
        is_active=jnp.array([True, True, False]),
    )
    np.testing.assert_array_equal(batch.positions, [3, 4, 5, 0, 1, 0, 0])
    np.testing.assert_array_equal(batch.slots, [3, 4, 5, -1, -1, -1, -1])
    decode = RaggedBatch.create(
        cache, table, jnp.array([6, 9, 2], jnp.int32), num_tokens=3, num_q_heads=N
    )
    np.testing.assert_array_equal(decode.positions, [5, 8, 1])
    np.testing.assert_array_equal(decode.slots, [5, 32 + 8, 64 + 1])


def test_a_batch_planned_for_another_window_is_refused():
    table, _ = make_inputs()
    cache = make_cache()
    batch = RaggedBatch.create(
        cache, table, jnp.array([6, 9, 2], jnp.int32), num_tokens=3, num_q_heads=N
    )
    module = make_module(local_window_size=(5, 0))
    x = jnp.ones((3, D))
    with pytest.raises(ValueError, match=r"made for local_window_size=\(None, None\)"):
        module(x, cache, batch)
    y, _ = module(x, cache, batch.with_window((5, 0)))
    assert y.shape == (3, D)


def test_head_dim_must_follow_from_the_sizes():
    with pytest.raises(ValueError, match=r"num_heads=5, in_features=96"):
        PagedAttention(96, 5, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"rotary_dim": 7}, r"rotary_dim must be even .* head_dim = 64, got 7"),
        ({"rotary_dim": 66}, r"rotary_dim must be even .* head_dim = 64, got 66"),
        ({"positions": jnp.zeros(3)}, "positions must be int32, got float32"),
        ({"positions": jnp.zeros(4, jnp.int32)}, "positions must have shape"),
    ],
)
def test_rope_errors(options, text):
    arguments = {"x": jnp.zeros((3, 2, 64)), "positions": jnp.zeros(3, jnp.int32)}
    with pytest.raises(ValueError, match=text):
        rope(**arguments | options)


def test_the_engine_does_not_need_flax():
    """And jaxinfer.flax finds the library, not itself."""
    code = (
        "import sys, jaxinfer; assert 'flax' not in sys.modules; import jaxinfer.flax;"
        "assert sys.modules['flax'].nnx is jaxinfer.flax.nnx"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
