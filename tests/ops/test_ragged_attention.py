# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""ragged_attention: kernel and reference against float64 numpy."""

import functools

import jax
import numpy as np
import pytest
import values_of_nobody

import jaxinfer as ji
from jaxinfer import PlanConfig
from jaxinfer.testing.attention_cases import RAGGED
from jaxinfer.testing.cases import AttentionCase, make_operands
from jaxinfer.testing.numerics import assert_attention_close, attention_float64

IMPLEMENTATIONS = ("cpu", "xla")


def attend(operands, implementation, plan=None, **options):
    """(out, lse or None) of the jitted op."""
    return_lse = options.get("use_softmax", True)
    call = functools.partial(
        ji.ragged_attention,
        implementation=implementation,
        return_lse=return_lse,
        **options,
    )
    result = jax.jit(call)(**operands, plan=plan)
    return result if return_lse else (result, None)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("case", RAGGED, ids=lambda case: case.name)
def test_every_case(case, implementation):
    operands = make_operands(case)
    out, lse = attend(operands, implementation, **case.options)
    assert out.dtype == operands["query"].dtype
    assert_attention_close(out, lse, attention_float64(operands, **case.options))


def test_self_attention_without_kv_offsets():
    case = AttentionCase(q_lens=(5, 30), kv_lens=(5, 30), page_size=None)
    operands = make_operands(case)
    expected = attention_float64(operands)
    del operands["cu_kv_lens"]
    for implementation in IMPLEMENTATIONS:
        assert_attention_close(*attend(operands, implementation), expected)


@pytest.mark.parametrize("num_ctas", [1, 132])
def test_with_a_plan_made_beforehand(num_ctas):
    case = AttentionCase(q_lens=(1, 70), kv_lens=(3000, 200), page_size=None)
    operands = make_operands(case)
    plan = ji.plan(
        operands["cu_q_lens"],
        np.diff(operands["cu_kv_lens"]),
        num_tokens=71,
        max_kv_len=3000,
        num_q_heads=case.num_q_heads,
        num_kv_heads=case.num_kv_heads,
        head_dim=case.head_dim,
        config=PlanConfig.gpu(num_ctas=num_ctas),
    )
    out, lse = attend(operands, "cpu", plan)
    assert_attention_close(out, lse, attention_float64(operands))


@pytest.mark.parametrize(
    "cu_kv_lens",
    [(0, 40, 33, 64), (-7, 5, 60, 2**31 - 1), (0, 0, 0, 0), (64, 64, 70, -(2**31))],
)
def test_offsets_of_keys_that_cannot_be_are_clamped(cu_kv_lens):
    """To 0 .. S; a sequence whose keys would end before they begin has none."""
    case = AttentionCase(q_lens=(3, 5, 2), kv_lens=(20, 20, 24), page_size=None)
    operands = make_operands(case, poison=False)
    operands["cu_kv_lens"] = np.array(cu_kv_lens, np.int32)
    expected = attention_float64(operands)
    for implementation in IMPLEMENTATIONS:
        assert_attention_close(*attend(operands, implementation), expected)


@pytest.mark.parametrize(
    "cu_q_lens", [(0, 7, 4, 10), (9, 3, 8, 10), (0, 3, 50, 60), (0, 0, 0, -4)]
)
def test_offsets_of_queries_that_cannot_be_are_clamped(cu_q_lens):
    case = AttentionCase(q_lens=(3, 5, 2), kv_lens=(20, 20, 24), page_size=None)
    operands = make_operands(case, poison=False)
    operands["cu_q_lens"] = np.array(cu_q_lens, np.int32)
    expected = attention_float64(operands)
    for implementation in IMPLEMENTATIONS:
        assert_attention_close(*attend(operands, implementation), expected)


def test_the_paged_op_computes_the_same():
    """The same keys in pages of one: the layout is all that differs."""
    case = AttentionCase(q_lens=(3, 40), kv_lens=(300, 90), page_size=None)
    operands = make_operands(case)
    out, lse = attend(operands, "cpu")
    kv_lens = np.diff(operands["cu_kv_lens"])
    paged, paged_lse = ji.ragged_paged_attention(
        operands["query"],
        operands["key"][:, None],
        operands["value"][:, None],
        np.arange(kv_lens.sum(), dtype=np.int32),
        kv_lens,
        operands["cu_q_lens"],
        page_indptr=operands["cu_kv_lens"],
        return_lse=True,
        implementation="cpu",
    )
    np.testing.assert_array_equal(out, paged)
    np.testing.assert_array_equal(lse, paged_lse)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("planned_lens", ["KV_LENS", "STALE"])
def test_values_of_nobody_change_nothing(implementation, planned_lens):
    lens, config = getattr(values_of_nobody, planned_lens), PlanConfig.cpu(20)
    values_of_nobody.check(lens, config, implementation)
