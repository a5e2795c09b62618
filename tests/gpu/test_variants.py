# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Every variant on every tile of the CUDA kernels, against float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gpu_plans import CONFIGS, plan_of

import jaxinfer as ji
from jaxinfer import variants
from jaxinfer.testing.cases import make_operands
from jaxinfer.testing.numerics import assert_attention_close, attention_float64
from jaxinfer.testing.variant_cases import CASES, VARIANTS, in_dtype, options

pytestmark = pytest.mark.gpu


def run(case, variant, operands, config=None):
    """(out, lse or None) by the CUDA kernel."""
    op = ji.ragged_attention if case.page_size is None else ji.ragged_paged_attention
    has_lse = variant.use_softmax
    call = functools.partial(
        op, return_lse=has_lse, implementation="cuda", **options(case, variant)
    )
    plan = None if config is None else plan_of(case, config, variant.window)
    result = jax.jit(call)(**jax.device_put(operands), plan=plan)
    return result if has_lse else (result, None)


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("name", VARIANTS)
def test_equals_float64(name, kind):
    turn = list(VARIANTS).index(name) + list(CASES).index(kind)
    case = in_dtype(CASES[kind], ("bfloat16", "float16")[turn % 2])
    variant = VARIANTS[name]()
    if not variant.use_softmax and case.has_sink:
        pytest.skip("a sink needs a softmax")
    operands = make_operands(case)
    out, lse = run(case, variant, operands, CONFIGS[turn % len(CONFIGS)])
    expected = attention_float64(operands, **options(case, variant))
    assert_attention_close(out, lse, expected)


def test_two_variants_in_one_program_and_new_arrays():
    case = in_dtype(CASES["mixed"], "bfloat16")
    operands = make_operands(case)
    traces = []

    @jax.jit
    def both(slopes, operands):
        traces.append(1)
        made = (variants.alibi(slopes), variants.soft_cap(3.0))
        return [
            ji.ragged_paged_attention(
                **operands, **options(case, variant), implementation="cuda"
            )
            for variant in made
        ]

    for seed in range(3):
        slopes = jnp.asarray(np.random.default_rng(seed).random(8), jnp.float32)
        outs = both(slopes, jax.device_put(operands))
        for out, variant in zip(
            outs, (variants.alibi(slopes), variants.soft_cap(3.0)), strict=True
        ):
            expected = attention_float64(operands, **options(case, variant))
            assert_attention_close(out, None, expected)
    assert len(traces) == 1


def test_a_captured_loop_over_layers():
    """A variant inside scan, one plan for all layers: bitwise the same as outside."""
    case = in_dtype(CASES["decode"], "bfloat16")
    operands = jax.device_put(make_operands(case))
    variant = VARIANTS["all"]()
    plan = plan_of(case, None, variant.window)
    query = operands.pop("query")

    def attend(query):
        return ji.ragged_paged_attention(
            query, **operands, **options(case, variant), plan=plan
        )

    outs = jax.jit(lambda q: jax.lax.scan(lambda c, _: (c, attend(c)), q, None, 20)[1])(
        query
    )
    alone = np.asarray(jax.jit(attend)(query)).view(np.uint16)
    assert (np.asarray(outs).view(np.uint16) == alone).all()


def test_vmap_folds_or_not():
    case = in_dtype(CASES["decode"], "bfloat16")
    operands = jax.device_put(make_operands(case))
    query = operands.pop("query")
    queries = jnp.stack([query, query[::-1]])
    for name in ("alibi", "documents"):  # without and with the sequence's number
        variant = VARIANTS[name]()

        def attend(query, variant=variant):
            return ji.ragged_paged_attention(
                query, **operands, **options(case, variant), implementation="cuda"
            )

        outs = jax.jit(jax.vmap(attend))(queries)
        for got, one in zip(outs, queries, strict=True):
            arrays = jax.tree.map(np.asarray, operands | {"query": one})
            expected = attention_float64(arrays, **options(case, variant))
            assert_attention_close(np.asarray(got), None, expected)
