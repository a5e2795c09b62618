# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""merge_partials: against float64 numpy, and as the operator that attention needs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxinfer as ji
from jaxinfer.testing.cases import AttentionCase, make_operands
from jaxinfer.testing.numerics import (
    assert_attention_close,
    assert_close,
    attention_float64,
    ulp,
)

IMPLEMENTATIONS = ("cpu", "xla")
EPS = float(np.finfo(np.float32).eps)


def parts(splits=5, tokens=7, heads=3, head_dim=64, dtype="float32", seed=0):
    """Partial results, some of them without keys and then full of garbage."""
    rng = np.random.default_rng(seed)
    outs = rng.standard_normal((splits, tokens, heads, head_dim)).astype(dtype)
    lses = rng.normal(0, 5, (splits, tokens, heads)).astype(np.float32)
    no_keys = rng.random(lses.shape) < 0.3
    no_keys[:, 1] = True  # one token has none at all
    lses[no_keys] = -np.inf
    outs[no_keys] = rng.choice([np.nan, np.inf, -np.inf, 7], (no_keys.sum(), head_dim))
    return outs, lses


def merge_float64(outs, lses, sink=None):
    """(out, lse, what float32 may add to the error of out)."""
    seen = lses > -np.inf
    outs = np.where(seen[..., None], outs, 0).astype(np.float64)
    lses = lses.astype(np.float64)
    m = np.where(seen.any(0), lses.max(0), 0)
    weights = np.exp(lses - m)
    total = weights.sum(0)
    with np.errstate(divide="ignore"):
        lse = m + np.log(total)
    if sink is not None:
        total = total + np.exp(sink - m)
    shares = weights / np.where(total == 0, 1, total)
    # The difference of two log-sum-exps is rounded, so are weights and sums.
    largest = 4 + np.abs(np.where(seen, lses, 0)).max(0)
    if sink is not None:
        largest = largest + np.where(np.isfinite(sink), np.abs(sink), 0)
    out = (shares[..., None] * outs).sum(0)
    error = (shares[..., None] * np.abs(outs)).sum(0) * largest[..., None] * 2 * EPS
    return out, lse, error


def merge(outs, lses, implementation, **options):
    options = {"implementation": implementation} | options
    sink = options.pop("attention_sink", None)
    call = jax.jit(functools.partial(ji.merge_partials, **options))
    return call(outs, lses, attention_sink=sink)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    ("splits", "head_dim", "has_sink"),
    [(1, 64, False), (2, 96, True), (5, 256, True), (64, 128, False)],
)
def test_against_float64(splits, head_dim, has_sink, dtype, implementation):
    outs, lses = parts(splits, head_dim=head_dim, dtype=jnp.dtype(dtype))
    sink = np.array([0.5, -np.inf, 20], np.float32) if has_sink else None
    out, lse = merge(outs, lses, implementation, attention_sink=sink)
    want_out, want_lse, error = merge_float64(outs, lses, sink)
    assert (out.dtype, lse.dtype) == (outs.dtype, jnp.float32)
    assert_close("out", out, want_out, error + ulp(want_out, out.dtype))
    assert_close("lse", lse, want_lse, 4 * EPS + ulp(want_lse, lse.dtype))
    assert not np.asarray(out)[1].any()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_part_without_keys_changes_no_bit(implementation):
    outs, lses = parts()
    garbage = np.full_like(outs[:1], np.nan), np.full_like(lses[:1], -np.inf)
    more = np.concatenate([outs, garbage[0]]), np.concatenate([lses, garbage[1]])
    for got, want in zip(
        merge(*more, implementation), merge(outs, lses, implementation), strict=True
    ):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_it_is_associative_and_commutative(implementation):
    """However the parts are grouped: to a few roundings of float32."""
    outs, lses = parts(6)
    want_out, want_lse, error = merge_float64(outs, lses)
    for groups in (
        [[0, 1], [2, 3], [4, 5]],
        [[0], [5, 1, 3], [2, 4]],
        [[3, 2, 1, 0, 4, 5]],
    ):
        merged = [merge(outs[g], lses[g], implementation) for g in groups]
        out, lse = merge(
            jnp.stack([out for out, _ in merged]),
            jnp.stack([lse for _, lse in merged]),
            implementation,
        )
        assert_close("out", out, want_out, 3 * error + EPS)
        assert_close("lse", lse, want_lse, 8 * EPS + 2 * ulp(want_lse, lse.dtype))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_sums_without_softmax(implementation):
    """use_softmax=False: parts are added up, and every part counts."""
    rng = np.random.default_rng(0)
    outs = rng.standard_normal((3, 4, 2, 64), np.float32)
    lses = np.zeros((3, 4, 2), np.float32)
    out, lse = merge(outs, lses, implementation, use_softmax=False)
    assert_close("out", out, outs.astype(np.float64).sum(0), 4 * EPS)
    assert not np.asarray(lse).any()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("use_softmax", [True, False])
def test_attention_over_split_keys_is_attention(use_softmax, implementation):
    """Pages 0 .. 2 and the rest as two calls; the sink enters in the merge alone."""
    case = AttentionCase(q_lens=(1, 1), kv_lens=(70, 48), has_sink=use_softmax)
    operands = make_operands(case)
    sink = operands.pop("attention_sink", None)
    options = {"use_softmax": use_softmax, "implementation": implementation}
    results = []
    for begin, end in ((0, 3), (3, operands["page_table"].shape[1])):
        kv_lens = np.clip(operands["kv_lens"] - begin * 16, 0, (end - begin) * 16)
        part = operands | {
            "page_table": operands["page_table"][:, begin:end],
            "kv_lens": kv_lens,
        }
        result = ji.ragged_paged_attention(**part, **options, return_lse=use_softmax)
        results.append(result if use_softmax else (result, jnp.zeros((2, 4))))
    outs, lses = (jnp.stack(x) for x in zip(*results, strict=True))
    out, lse = merge(outs, lses, attention_sink=sink, **options)
    if sink is not None:
        operands["attention_sink"] = sink
    expected = attention_float64(operands, use_softmax=use_softmax)
    assert_attention_close(out, lse if use_softmax else None, expected)
