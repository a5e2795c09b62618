# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Every variant on a CPU, where the reference runs it, against float64."""

import functools

import jax
import pytest

import jaxinfer as ji
from jaxinfer.testing.cases import make_operands
from jaxinfer.testing.numerics import assert_attention_close, attention_float64
from jaxinfer.testing.variant_cases import CASES, VARIANTS, options


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("kind", ["verify", "full"])
def test_reference_equals_float64(name, kind):
    case, variant = CASES[kind], VARIANTS[name]()
    if not variant.use_softmax and case.has_sink:
        pytest.skip("a sink needs a softmax")
    operands = make_operands(case)
    op = ji.ragged_attention if case.page_size is None else ji.ragged_paged_attention
    has_lse = variant.use_softmax
    call = functools.partial(op, return_lse=has_lse, **options(case, variant))
    result = jax.jit(call)(**operands)
    out, lse = result if has_lse else (result, None)
    expected = attention_float64(operands, **options(case, variant))
    assert_attention_close(out, lse, expected)
