# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The CUDA attention kernels against float64, on an NVIDIA GPU."""

import functools

import jax
import jax.numpy as jnp
import pytest
import values_of_nobody
from gpu_plans import CONFIGS, plan_of

import jaxinfer as ji
from jaxinfer.testing.cases import AttentionCase, make_operands
from jaxinfer.testing.gpu_cases import GRID, PAGED_16_BIT, RAGGED_16_BIT
from jaxinfer.testing.numerics import assert_attention_close, attention_float64

pytestmark = pytest.mark.gpu


def attend(case, operands, config=None):
    """(out, lse or None) of the jitted op, by the CUDA kernel or not at all."""
    has_lse = case.options.get("use_softmax", True)
    op = ji.ragged_attention if case.page_size is None else ji.ragged_paged_attention
    call = jax.jit(
        functools.partial(op, **case.options, return_lse=has_lse, implementation="cuda")
    )
    plan = None if config is None else plan_of(case, config)
    result = call(**jax.device_put(operands), plan=plan)
    return result if has_lse else (result, None)


def check(case: AttentionCase, config) -> None:
    operands = make_operands(case)
    out, lse = attend(case, operands, config)
    assert out.dtype == operands["query"].dtype
    assert lse is None or lse.dtype == jnp.float32
    assert_attention_close(out, lse, attention_float64(operands, **case.options))


@pytest.mark.parametrize("case", GRID, ids=lambda case: case.name)
def test_the_grid(case):
    check(case, CONFIGS[GRID.index(case) % len(CONFIGS)])


@pytest.mark.parametrize("case", PAGED_16_BIT, ids=lambda case: case.name)
def test_paged(case):
    check(case, CONFIGS[PAGED_16_BIT.index(case) % len(CONFIGS)])


@pytest.mark.parametrize("case", RAGGED_16_BIT, ids=lambda case: case.name)
def test_ragged(case):
    check(case, CONFIGS[RAGGED_16_BIT.index(case) % len(CONFIGS)])


@pytest.mark.parametrize("num_ctas", [4, 132])
@pytest.mark.parametrize("planned_lens", ["KV_LENS", "STALE"])
def test_values_of_nobody_change_nothing(num_ctas, planned_lens):
    lens, config = getattr(values_of_nobody, planned_lens), ji.PlanConfig.gpu
    values_of_nobody.check(lens, config(num_ctas=num_ctas), implementation="cuda")


@pytest.mark.parametrize("page_size", [1, 5, 16, 64])
@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_pages_that_do_not_exist_are_masked(page_size, head_dim):
    """Every seventh page of a list, beside rows of tiles whose pages all exist."""
    case = AttentionCase(
        q_lens=(150, 1, 100),
        kv_lens=(700, 400, 100),
        num_q_heads=8,
        head_dim=head_dim,
        page_size=page_size,
        dtype="bfloat16",
    )
    operands = make_operands(case)
    table, num_pages = operands["page_table"], operands["k_pages"].shape[0]
    table[0, 3::7], table[1, 2::7] = -1, num_pages
    expected = attention_float64(operands)
    assert (expected.out != attention_float64(make_operands(case)).out).any()
    assert_attention_close(*attend(case, operands), expected)


@pytest.mark.parametrize("options", [{}, {"logits_soft_cap": 30.0}], ids=str)
def test_bits_do_not_depend_on_the_next_sequence(options):
    """Its queries lie behind the rows of a tile that is not full."""
    case = AttentionCase(
        q_lens=(150, 100),
        kv_lens=(700, 400),
        num_q_heads=8,
        head_dim=128,
        dtype="bfloat16",
        options=options,
    )
    operands = make_operands(case)
    out, lse = attend(case, operands)
    query = operands["query"].copy()
    query[150:] *= 30
    again, lse_again = attend(case, operands | {"query": query})
    assert (again[:150] == out[:150]).all()
    assert (lse_again[:150] == lse[:150]).all()
    assert not (again[150:] == out[150:]).all()
