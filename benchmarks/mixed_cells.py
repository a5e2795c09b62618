# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The cells of the benchmark of mixed batches: sequences in decode, then chunks.

In numpy alone, as the decode cells: what runs in PyTorch times the same cells.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxinfer.testing.cases import AttentionCase

MIXED = "mixed"  # the benchmark's name in records
NUM_DECODES = 128
SHORTEST, LONGEST = 2048, 8192  # keys of a sequence in decode

Chunk = tuple[int, int]  # queries; keys, its own included


def cells(is_quick: bool = False) -> list[AttentionCase]:
    """A chunk beside sequences of one length, then chunks beside unequal ones."""
    if is_quick:
        # Heads as wide as in the others, which FlashInfer compiles for.
        fields = {"num_q_heads": 4, "num_kv_heads": 2}
        return [
            _mixed("3", [30, 7, 133], [(40, 40)], **fields),
            _mixed("3", [30, 7, 133], [(20, 150), (70, 70)], **fields),
        ]
    alike = ((2048, (512, 512)), (4096, (1024, 1024)), (8192, (4096, LONGEST)))
    chunks: list[list[Chunk]] = [
        [(512, LONGEST)],
        [(2048, 2048)],
        [(2048, LONGEST)],
        [(512, LONGEST)] * 4,
        [(num, num) for num in (512, 1024, 2048, 4096)],
    ]
    return [
        *(_mixed(str(n), [n] * NUM_DECODES, [chunk]) for n, chunk in alike),
        *(_mixed("uniform", uniform(), some) for some in chunks),
    ]


def uniform() -> list[int]:
    """Lengths of U(2048, 8192)."""
    rng = np.random.default_rng(0)
    return rng.integers(SHORTEST, LONGEST + 1, NUM_DECODES).tolist()


def _mixed(
    kind: str, decodes: Sequence[int], chunks: Sequence[Chunk], **fields: Any
) -> AttentionCase:
    defaults: dict[str, Any] = {"num_q_heads": 32, "num_kv_heads": 8, "head_dim": 128}
    names = [f"{q}" if q == kv else f"{q}of{kv}" for q, kv in chunks]
    if len(chunks) > 1 and len(set(chunks)) == 1:
        names = [f"{len(chunks)}x{names[0]}"]
    return AttentionCase(
        q_lens=(*(1 for _ in decodes), *(q for q, _ in chunks)),
        kv_lens=(*decodes, *(kv for _, kv in chunks)),
        label="+".join([kind, *names]),
        dtype="bfloat16",
        **(defaults | fields),
    )


def num_decodes(case: AttentionCase) -> int:
    """How many of the first sequences have one query."""
    return int((np.diff(case.make_lengths()[0]) == 1).sum())


def parts(case: AttentionCase) -> tuple[AttentionCase, AttentionCase]:
    """The sequences in decode and the chunks, each as a batch of its own."""
    q_lens, kv_lens = case.q_lens, case.kv_lens
    assert q_lens is not None
    assert kv_lens is not None
    n = num_decodes(case)
    return (
        dataclasses.replace(case, q_lens=q_lens[:n], kv_lens=kv_lens[:n]),
        dataclasses.replace(case, q_lens=q_lens[n:], kv_lens=kv_lens[n:]),
    )
