# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Plans of whole tiles on an NVIDIA GPU: CTAs take the items as they become free."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from gpu_plans import plan_of

import jaxinfer as ji
from jaxinfer.testing.cases import make_operands
from jaxinfer.testing.gpu_cases import LONG_TILES
from jaxinfer.testing.numerics import assert_attention_close, attention_float64

pytestmark = pytest.mark.gpu

CASES = {
    "paged": LONG_TILES,
    "ragged": replace(LONG_TILES, page_size=None, dtype="float16"),
    "64, pages of 8": replace(LONG_TILES, head_dim=64, page_size=8, num_padding=150),
    "window": replace(
        LONG_TILES, options={"local_window_size": (200, 0)}, num_layers=2
    ),
    "mixed": replace(LONG_TILES, q_lens=(257, 1, 64, 500, 1)),
    "full": replace(LONG_TILES, options={"is_causal": False}, is_csr=True),
    "96": replace(LONG_TILES, head_dim=96, dtype="float16"),
    "96 without pages": replace(LONG_TILES, head_dim=96, page_size=None),
    "pages of 5": replace(LONG_TILES, page_size=5, num_layers=2),
    "pages of 1, 256": replace(LONG_TILES, page_size=1, head_dim=256),
    # Maxima that the next keys outgrow, and tanh of small and of large scores.
    "large scores": replace(LONG_TILES, options={"scale": 3.0}),
    "large scores in float16": replace(
        LONG_TILES, options={"scale": 3.0}, dtype="float16"
    ),
    "small capped": replace(LONG_TILES, options={"logits_soft_cap": 30.0}),
    "small capped in float16": replace(
        LONG_TILES, options={"logits_soft_cap": 30.0}, dtype="float16"
    ),
    "large capped": replace(
        LONG_TILES, options={"logits_soft_cap": 30.0, "scale": 0.5}
    ),
}
# The first two of its sequences; the rows of the others are padding.
FEW = replace(LONG_TILES, q_lens=(257, 150, 0, 0, 0), num_padding=64 + 500 + 129)


def whole_plan(case):
    """Of so few CTAs that each has several tiles."""
    plan = plan_of(case, ji.PlanConfig.gpu(num_ctas=6))
    assert plan.header[5] == 1
    return plan


def op_of(case):
    op = ji.ragged_attention if case.page_size is None else ji.ragged_paged_attention
    return functools.partial(op, **case.options, return_lse=True, implementation="cuda")


@pytest.mark.parametrize("name", CASES)
def test_equals_float64_and_itself(name):
    case = CASES[name]
    operands, plan = make_operands(case), whole_plan(case)
    call = jax.jit(op_of(case))
    on_device = jax.device_put(operands)
    out, lse = call(**on_device, plan=plan)
    assert_attention_close(out, lse, attention_float64(operands, **case.options))
    for _ in range(20):
        again, lse_again = call(**on_device, plan=plan)
        assert (again.view(jnp.uint16) == out.view(jnp.uint16)).all()
        assert (lse_again.view(jnp.uint32) == lse.view(jnp.uint32)).all()


TILES = ji.TileClass(16, 16, 1), ji.TileClass(128, 128, 13)
OTHER_TILES = {
    "long ones alone": {"tile_classes": TILES[1:]},
    "two CTAs of short ones": {"tile_classes": TILES, "ctas_per_sm": 2},
}


@pytest.mark.parametrize("name", OTHER_TILES)
@pytest.mark.parametrize("page_size", [5, 16])
def test_tiles_of_other_classes(name, page_size):
    case = replace(CASES["mixed"], page_size=page_size)
    operands = make_operands(case)
    plan = plan_of(case, replace(ji.PlanConfig.gpu(num_ctas=6), **OTHER_TILES[name]))
    out, lse = jax.jit(op_of(case))(**jax.device_put(operands), plan=plan)
    assert_attention_close(out, lse, attention_float64(operands))


def test_captured_calls_with_plans_of_different_sizes():
    """The tickets of one call are back at zero for the next, whatever its plan."""
    operands = jax.device_put(make_operands(LONG_TILES))
    query, rest = operands.pop("query"), operands
    plans = [whole_plan(LONG_TILES), whole_plan(FEW)]
    assert plans[0].header[0] != plans[1].header[0]
    attend = functools.partial(ji.ragged_paged_attention, implementation="cuda")

    def once(query, offsets, plan):
        return attend(query, **rest | {"cu_q_lens": offsets}, plan=plan)

    offsets = [rest["cu_q_lens"], jnp.asarray(FEW.make_lengths()[0])]
    expected = [jax.jit(once)(query, o, p) for o, p in zip(offsets, plans, strict=True)]

    @jax.jit
    def many(query, plans):
        def step(i, wrong):
            outs = [once(query, o, p) for o, p in zip(offsets, plans, strict=True)]
            pairs = zip(outs, expected, strict=True)
            return wrong + sum(jnp.sum(out != e) for out, e in pairs)

        return jax.lax.fori_loop(0, 50, step, 0)

    assert many(query, plans) == 0
