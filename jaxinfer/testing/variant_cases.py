# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Variants to test on every path: each named one, and one for every hook alone."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinfer import variants
from jaxinfer.testing.cases import AttentionCase
from jaxinfer.variant import Variant

NUM_HEADS, HEAD_DIM = 8, 64
_LENGTHS: dict[str, dict[str, Any]] = {
    "decode": {"q_lens": (1,) * 7, "kv_lens": (1, 17, 300, 16, 1097, 63, 129)},
    "verify": {"q_lens": (5, 1, 3, 4), "kv_lens": (700, 30, 3, 4)},
    "mixed": {"q_lens": (130, 1, 0, 1, 77), "kv_lens": (400, 1100, 5, 0, 77)},
}
_MOST = 1100  # keys
_MOST_SEQS = 7


def _normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def _integers(seed: int, most: int, *shape: int) -> jax.Array:
    numbers = np.random.default_rng(seed).integers(0, most, shape)
    return jnp.asarray(numbers, jnp.int32)


def _packed() -> Variant:
    mask = np.random.default_rng(3).random((_MOST_SEQS, _MOST, _MOST)) < 0.7
    bits = np.packbits(mask, axis=-1, bitorder="little")
    return variants.packed_mask(jnp.asarray(bits))


def _tree() -> Variant:
    ancestors = np.random.default_rng(4).random((_MOST_SEQS, 5, 5)) < 0.5
    ancestors |= np.eye(5, dtype=bool)
    lengths = _LENGTHS["verify"]
    context = np.array(lengths["kv_lens"]) - np.array(lengths["q_lens"])
    return variants.tree(jnp.asarray(ancestors), jnp.asarray(context, jnp.int32))


# By name; made when asked for, as they hold arrays.
VARIANTS: dict[str, Callable[[], Variant]] = {
    "score_mod": lambda: Variant(
        score_mod=lambda s, b, h, q, k: s * 0.5 + jnp.where(q - k > 3, b, h) * 0.1
    ),
    "mask_mod": lambda: Variant(mask_mod=lambda b, h, q, k: (q - k + h + b) % 3 != 1),
    "query_mod": lambda: Variant(query_mod=lambda x, b, h, q: x * (1 + (q + h) % 5)),
    "key_mod": lambda: Variant(key_mod=lambda x, b, h, k: x[::-1] * (1 + k % 3 + h)),
    "value_mod": lambda: Variant(value_mod=lambda x, b, h, k: jnp.roll(x, 3) - k % 7),
    "output_mod": lambda: Variant(
        output_mod=lambda x, b, h, q: x * jax.nn.sigmoid(x[::-1]) + b + h - q % 4
    ),
    "causal": variants.causal,
    "sliding_window": lambda: variants.sliding_window(40),
    "sink_tokens": lambda: variants.sink_tokens(4, 60),
    "prefix_lm": lambda: variants.prefix_lm(_integers(1, 50, _MOST_SEQS)),
    "documents": lambda: variants.documents(_integers(2, 3, _MOST_SEQS, _MOST)),
    "packed_mask": _packed,
    "tree": _tree,
    "soft_cap": lambda: variants.soft_cap(5.0),
    "alibi": lambda: variants.alibi(2.0 ** -jnp.arange(1.0, NUM_HEADS + 1)),
    "t5_bias": lambda: variants.t5_bias(_normal(5, 32, NUM_HEADS)),
    "sigmoid": lambda: variants.sigmoid(-2.0),
    "rope": lambda: variants.rope(HEAD_DIM),
    "rope_interleaved": lambda: variants.rope(HEAD_DIM, is_interleaved=True),
    "rope_partial": lambda: variants.rope(HEAD_DIM, rotary_dim=32),
    "streaming_llm": lambda: variants.streaming_llm(HEAD_DIM, 4, 200),
    "logit_dump": lambda: variants.logit_dump(10),
    # Hides some whole tiles, cuts through some, and shows some; of these, the causal
    # mask cuts a few.
    "block_map": lambda: variants.documents(
        jnp.broadcast_to(jnp.arange(_MOST) // 300, (_MOST_SEQS, _MOST))
    ).with_block_map(q_len=_MOST, kv_len=_MOST, num_seqs=7, block_q=32, block_kv=64),
    "block_map_of_heads": lambda: Variant(
        mask_mod=lambda b, h, q, k: ((q // 64 + k // 128 + h) % 3 == 0) | (k == 5)
    ).with_block_map(q_len=1000, kv_len=900, num_q_heads=NUM_HEADS, block_q=64),
    "all": lambda: (
        variants.alibi(2.0 ** -jnp.arange(1.0, NUM_HEADS + 1))
        & variants.documents(_integers(2, 3, _MOST_SEQS, _MOST))
        & variants.rope(HEAD_DIM)
        & Variant(
            value_mod=lambda x, b, h, k: x * (1 + h),
            output_mod=lambda x, b, h, q: x + b,
            local_window_size=(900, None),
        )
    ),
}


def _case(kind: str, **fields: Any) -> AttentionCase:
    shape: dict[str, Any] = {
        "num_q_heads": NUM_HEADS,
        "num_kv_heads": 2,
        "head_dim": HEAD_DIM,
    }
    return AttentionCase(label=kind, **_LENGTHS[kind], **(shape | fields))


# Of every tile: decode of 8 and of 16 rows, prefill; paged and contiguous.
CASES: dict[str, AttentionCase] = {
    "decode": _case("decode", scales="head"),
    "verify": _case("verify", page_size=5, has_sink=True),
    "mixed": _case("mixed", num_padding=5, options={"logits_soft_cap": 20.0}),
    "full": _case("mixed", page_size=None, options={"is_causal": False}),
}


def options(case: AttentionCase, variant: Variant) -> dict[str, Any]:
    """Static keyword arguments of the op, with those that go with the variant."""
    return case.options | {"variant": variant}


def in_dtype(case: AttentionCase, dtype: str) -> AttentionCase:
    """The case with queries and cache of another dtype."""
    return dataclasses.replace(case, dtype=dtype)
