# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The rule for results: what rounds P as a kernel must keeps it."""

from dataclasses import replace

import numpy as np
import pytest

from jaxinfer.testing.cases import make_operands
from jaxinfer.testing.gpu_cases import LONG_TILES
from jaxinfer.testing.numerics import assert_attention_close, attention_float64

CASE = replace(LONG_TILES, head_dim=96, page_size=None)


def softmax_of_multiples(operands, rng):
    """Causal attention in float64; P is rounded, in each row times another number."""
    query, key, value = (
        operands[name].astype(np.float64) for name in ("query", "key", "value")
    )
    key, value = (x.repeat(2, axis=1) for x in (key, value))
    q_ends, kv_ends = operands["cu_q_lens"], operands["cu_kv_lens"]
    out = np.zeros_like(query)
    for seq in range(len(q_ends) - 1):
        rows, keys = (slice(*ends[seq : seq + 2]) for ends in (q_ends, kv_ends))
        scores = np.einsum("qnh,knh->nqk", query[rows], key[keys]) / np.sqrt(96)
        q_len, kv_len = scores.shape[1:]
        sees = np.arange(kv_len) <= np.arange(q_len)[:, None] + kv_len - q_len
        p = np.where(sees, np.exp(scores - scores.max(-1, keepdims=True)), 0)
        p /= p.sum(-1, keepdims=True)
        times = 2 ** rng.random((*p.shape[:2], 1))
        low = (p * times).astype(operands["query"].dtype).astype(np.float64) / times
        out[rows] = np.einsum("nqk,knh->qnh", low, value[keys])
    return out.astype(operands["query"].dtype)


@pytest.mark.parametrize("draws", [3, pytest.param(300, marks=pytest.mark.exhaustive)])
def test_exact_softmax_keeps_the_rule(draws):
    operands, rng = make_operands(CASE), np.random.default_rng(0)
    expected = attention_float64(operands)
    for _ in range(draws):
        assert_attention_close(softmax_of_multiples(operands, rng), None, expected)
