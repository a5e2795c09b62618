# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The cells of the benchmark of variants: shapes, work, and results in float64.

In numpy alone, as the decode cells: what runs in PyTorch times the same cells. Results
are written out here once more, by name, and share no code with what computes them.
"""

import dataclasses
import math

import numpy as np

from benchmarks.gpu_timing import Settings
from benchmarks.prefill_cells import error_of_rows
from jaxinfer.testing.cases import AttentionCase, decode_cases

CAP = 30.0
WINDOW = 1024  # keys that a query sees, itself among them
NUM_DOCUMENTS = 4
VARIANTS = ("causal", "soft_cap", "alibi", "window1024", "documents")
TIMING = Settings(calls=12, repeats=5)
_FULL = 512  # up to this length everything is checked, beyond it a few rows


@dataclasses.dataclass(frozen=True)
class PrefillCell:
    """Causal self attention of sequences of one length, in bfloat16.

    Attributes:
      batch: B.
      seq_len: S; there are B * S tokens.
      num_q_heads: N.
      num_kv_heads: K.
      head_dim: H.
      variants: to time.
    """

    batch: int
    seq_len: int
    num_q_heads: int = 16
    num_kv_heads: int = 16
    head_dim: int = 128
    variants: tuple[str, ...] = VARIANTS

    @property
    def name(self) -> str:
        """b{B}_s{S}_{N}x{K}_d{H}_bf16."""
        heads = f"{self.num_q_heads}x{self.num_kv_heads}"
        return f"b{self.batch}_s{self.seq_len}_{heads}_d{self.head_dim}_bf16"

    @property
    def num_tokens(self) -> int:
        """B * S."""
        return self.batch * self.seq_len

    @property
    def cu_q_lens(self) -> np.ndarray:
        """i32[B + 1]."""
        return np.arange(self.batch + 1, dtype=np.int32) * np.int32(self.seq_len)

    @property
    def slopes(self) -> np.ndarray:
        """f32[N], of ALiBi."""
        heads = np.arange(1, self.num_q_heads + 1)
        return np.exp2(-8 * heads / self.num_q_heads).astype(np.float32)

    @property
    def document_of(self) -> np.ndarray:
        """i32[S]."""
        positions = np.arange(self.seq_len)
        return (positions * NUM_DOCUMENTS // self.seq_len).astype(np.int32)

    def case(self, variant: str) -> str:
        """The name of a record."""
        return f"{self.name}, {variant}"

    def num_flops(self, variant: str) -> int:
        """Of the two matrix products, over what the queries see."""
        lengths = [self.seq_len]
        if variant == "documents":
            lengths = np.bincount(self.document_of).tolist()
        most = WINDOW if variant == "window1024" else self.seq_len
        seen = sum(int(np.minimum(np.arange(n) + 1, most).sum()) for n in lengths)
        return 4 * self.head_dim * self.num_q_heads * self.batch * seen

    def tflops(self, variant: str, us: float) -> float:
        """TFLOP/s of a call that takes as many microseconds."""
        return round(self.num_flops(variant) / us / 1e6, 5)

    def settings(self, variant: str, settings: Settings) -> Settings:
        """The same for programs that are not too long."""
        return settings.for_flops(self.num_flops(variant))

    def checked_seqs(self) -> list[int]:
        """All, or the first and the last."""
        every = range(self.batch)
        return list(every) if self.seq_len <= _FULL else sorted({0, every[-1]})

    def checked_rows(self) -> np.ndarray:
        """All, or those around the borders of tiles, windows and documents."""
        size = self.seq_len
        if size <= _FULL:
            return np.arange(size)
        cut = size // NUM_DOCUMENTS
        rows = [0, 1, 127, 128, WINDOW - 1, WINDOW, cut - 1, cut, 3 * cut + 77]
        rows += [size // 2 + 5, size - 2, size - 1]
        return np.unique([row for row in rows if row < size])

    def checked_heads(self) -> tuple[list[int], list[int]]:
        """(query heads, the KV head of each): the first and the last."""
        heads = [0, self.num_q_heads - 1]
        return heads, [h * self.num_kv_heads // self.num_q_heads for h in heads]

    def max_error(
        self,
        variant: str,
        out: np.ndarray,
        query: np.ndarray,
        key: np.ndarray,
        value: np.ndarray,
    ) -> float:
        """The largest error of the checked rows and heads of a sequence.

        Args:
          variant: which.
          out: [rows, heads, H].
          query: of the same.
          key: [S, heads, H], the KV heads of these query heads.
          value: as key.

        Raises:
          AssertionError: if the error is more than rounding explains.
        """
        worst = 0.0
        for i, head in enumerate(self.checked_heads()[0]):
            q, k, v = (x[:, i].astype(np.float64) for x in (query, key, value))
            expected = self._attention(variant, head, q, k) @ v
            error = error_of_rows(out[:, i], expected, head, self.checked_rows())
            worst = max(worst, error)
        return float(f"{worst:.3g}")

    def _attention(self, variant, head, q, k) -> np.ndarray:
        """The weights of a head, f64[rows, S]."""
        rows = self.checked_rows()[:, None]
        distance = rows - np.arange(self.seq_len)
        scores = q @ k.T / math.sqrt(self.head_dim)
        seen = distance >= 0
        if variant == "soft_cap":
            scores = CAP * np.tanh(scores / CAP)
        elif variant == "alibi":
            scores -= self.slopes[head].astype(np.float64) * distance
        elif variant == "window1024":
            seen &= distance < WINDOW
        elif variant == "documents":
            seen &= self.document_of == self.document_of[rows]
        scores = np.where(seen, scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        return weights / weights.sum(-1, keepdims=True)


def prefill_cells(is_quick: bool = False) -> list[PrefillCell]:
    """Sequences from 512 to 16384 tokens, and one long one with grouped heads."""
    if is_quick:
        some = VARIANTS[:1]
        return [PrefillCell(2, 128, 2, 2, 64), PrefillCell(1, 640, 4, 2, 64, some)]
    long = PrefillCell(1, 16384, 32, 8, variants=VARIANTS[:-1])
    return [long, *(PrefillCell(16, 2**n) for n in range(9, 15))]


def streaming_cells(is_quick: bool = False) -> list[AttentionCase]:
    """StreamingLLM in decode: as many cached keys as the window and the sinks have."""
    if is_quick:
        return decode_cases((2,), (40,), num_q_heads=4, num_kv_heads=2, head_dim=64)[:1]
    cases = decode_cases((16, 64), (1000, 2000, 4000))
    return [case for case in cases if case.lengths == "const"]


def turned(keys: np.ndarray, theta: float = 10000.0) -> np.ndarray:
    """Keys [kv_len, heads, H], each rotated by its distance to the last one.

    Their scores with a query that is not rotated are those of rotated keys with the
    rotated query of the last position.
    """
    half = keys.shape[-1] // 2
    distance = np.arange(len(keys)) - (len(keys) - 1.0)
    angles = np.outer(distance, theta ** -(np.arange(half) / half))[:, None]
    a, b = np.split(keys.astype(np.float64), 2, axis=-1)
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
