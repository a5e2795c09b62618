# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Named attention cases: lengths, page lists and data from a seed.

Tests poison everything that an op must not read. Benchmarks leave the poison out and
take the same lengths and page lists.
"""

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from jaxinfer._visible_keys import needed_keys, visible_keys

Lengths = Literal["const", "uniform", "zipf"]

_SHORT = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}
_NOT_A_PAGE = np.array([-1, -(2**31), 2**31 - 1], np.int32)
_POOL = 2**22  # normal numbers drawn; larger arrays repeat them


@dataclasses.dataclass(frozen=True)
class AttentionCase:
    """One ragged batch, paged or not, and the options of the call.

    Attributes:
      batch: B.
      kv_len: mean of the KV lengths, those of the new tokens included.
      lengths: "const": all equal. "uniform": kv_len / 2 to 3 * kv_len / 2.
        "zipf": proportional to 1 / rank, in random order, the same total.
      q_len: new tokens of each sequence.
      num_q_heads: N.
      num_kv_heads: K.
      head_dim: H.
      page_size: None = ragged_attention, keys without pages.
      dtype: of query.
      head_dim_v: Hv; None = H.
      kv_dtype: of keys and values; None = dtype.
      q_lens: given lengths instead of `q_len`, one per sequence.
      kv_lens: given lengths instead of `kv_len` and `lengths`.
      num_padding: rows of query past the last sequence.
      num_layers: None = pages of one layer; else a stacked cache and a layer of it.
      is_csr: page lists as CSR instead of a padded table.
      has_sink: draw an attention_sink.
      scales: k_scale and v_scale, none, one each, or one per head each.
      options: static keyword arguments of the op.
      label: distinguishes cases that the name does not.
      seed: of everything random.
    """

    batch: int = 1
    kv_len: int = 64
    lengths: Lengths = "const"
    q_len: int = 1
    num_q_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 64
    page_size: int | None = 16
    dtype: str = "float32"
    head_dim_v: int | None = None
    kv_dtype: str | None = None
    q_lens: tuple[int, ...] | None = None
    kv_lens: tuple[int, ...] | None = None
    num_padding: int = 0
    num_layers: int | None = None
    is_csr: bool = False
    has_sink: bool = False
    scales: Literal[None, "scalar", "head"] = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    label: str = ""
    seed: int = 0

    @property
    def name(self) -> str:
        """b{B}_[q{q}_]kv{kv}_{lengths}_[causal_|full_]{N}x{K}_d{H}_{pages}_{dtype}."""
        q_lens = self.q_lens or (self.q_len,)
        kv_len = max(self.kv_lens) if self.kv_lens else self.kv_len
        parts = [f"b{self.num_seqs}"]
        if max(q_lens) != 1:
            parts += [f"q{max(q_lens)}"]
        parts += [f"kv{kv_len}", "mixed" if self.kv_lens else self.lengths]
        if max(q_lens) != 1:
            parts += ["causal" if self.is_causal else "full"]
        parts += [f"{self.num_q_heads}x{self.num_kv_heads}", f"d{self.head_dim}"]
        parts += ["ragged" if self.page_size is None else f"p{self.page_size}"]
        parts += [_SHORT[self.dtype]] + ([self.label] if self.label else [])
        return "_".join(parts)

    @property
    def is_causal(self) -> bool:
        """Whether queries see no later keys."""
        return self.options.get("is_causal", True)

    @property
    def num_seqs(self) -> int:
        """B."""
        return len(self.kv_lens) if self.kv_lens else self.batch

    def make_lengths(self) -> tuple[np.ndarray, np.ndarray]:
        """(cu_q_lens i32[B + 1], kv_lens i32[B])."""
        q_lens = self.q_lens or (self.q_len,) * self.num_seqs
        cu_q_lens = np.cumsum([0, *q_lens], dtype=np.int32)
        return cu_q_lens, self._kv_lens()

    def _kv_lens(self) -> np.ndarray:
        if self.kv_lens is not None:
            return np.array(self.kv_lens, np.int32)
        rng = np.random.default_rng(self.seed)
        shares = np.ones(self.batch)
        if self.lengths == "uniform":
            shares = rng.uniform(0.5, 1.5, self.batch)
        elif self.lengths == "zipf":
            shares = rng.permutation(1 / np.arange(1, self.batch + 1))
            shares *= self.batch / shares.sum()
        return np.maximum(self.q_len, shares * self.kv_len).astype(np.int32)

    def num_visible(self) -> int:
        """(query, key) pairs that a head computes."""
        lo, hi = visible_keys(*self.make_lengths(), **self.options)
        return int((hi - lo).sum())

    def num_bytes(self) -> int:
        """Bytes that must move: every K and V that some query sees, query and out."""
        cu_q_lens, kv_lens = self.make_lengths()
        begin, end = needed_keys(cu_q_lens, kv_lens, **self.options)
        kv = np.dtype(jnp.dtype(self.kv_dtype or self.dtype)).itemsize
        q = np.dtype(jnp.dtype(self.dtype)).itemsize
        width = self.head_dim + (self.head_dim_v or self.head_dim)
        keys, rows = int((end - begin).sum()), int(cu_q_lens[-1])
        return width * (keys * self.num_kv_heads * kv + rows * self.num_q_heads * q)

    def num_flops(self) -> int:
        """Multiplications and additions of the two matrix products."""
        width = self.head_dim + (self.head_dim_v or self.head_dim)
        return 2 * self.num_visible() * self.num_q_heads * width


def make_operands(case: AttentionCase, *, poison: bool = True) -> dict[str, Any]:
    """Keyword arguments of the op that the case is for, as numpy arrays.

    Args:
      case: page_size None is for ragged_attention, else ragged_paged_attention.
      poison: NaN in every page, slot of a page, key and padding row that no query
        sees, and page numbers outside the cache after the last page of each list.
    """
    rng = np.random.default_rng((case.seed, 1))
    cu_q_lens, kv_lens = case.make_lengths()
    num_rows = int(cu_q_lens[-1])
    head_dims = (case.head_dim, case.head_dim_v or case.head_dim)
    query_shape = (num_rows + case.num_padding, case.num_q_heads, case.head_dim)
    operands: dict[str, Any] = {
        "query": _normal(rng, query_shape, case.dtype),
        "cu_q_lens": cu_q_lens,
    }
    if poison:
        operands["query"][num_rows:] = np.nan
    # Slots that are read, and the shape of the arrays that hold them.
    begin, end = needed_keys(cu_q_lens, kv_lens, **case.options)
    names: tuple[str, str]
    if case.page_size is None:
        names, shape = ("key", "value"), (max(int(kv_lens.sum()), 1),)
        operands["cu_kv_lens"] = np.cumsum([0, *kv_lens], dtype=np.int32)
        slots = _ranges(operands["cu_kv_lens"][:-1] + begin, end - begin)
    else:
        num_pages, pages, lists = _page_lists(case, rng, kv_lens, poison)
        operands |= {"kv_lens": kv_lens} | lists
        names, shape = ("k_pages", "v_pages"), (num_pages, case.page_size)
        counts = -(-kv_lens.astype(np.int64) // case.page_size)
        first_page = np.cumsum(counts) - counts  # of each sequence in `pages`
        key = _ranges(first_page * case.page_size + begin, end - begin)
        slots = pages[key // case.page_size] * case.page_size + key % case.page_size
        if case.num_layers is not None:
            layer = int(rng.integers(case.num_layers))
            operands["layer"] = np.array(layer, np.int32)
            slots = slots + layer * num_pages * case.page_size
            shape = (case.num_layers, *shape)
    for name, head_dim in zip(names, head_dims, strict=True):
        row = (case.num_kv_heads, head_dim)
        dtype = case.kv_dtype or case.dtype
        if poison:
            array = np.full((int(np.prod(shape)), *row), np.nan, jnp.dtype(dtype))
            array[slots] = _normal(rng, (len(slots), *row), dtype)
        else:
            array = _normal(rng, (*shape, *row), dtype)
        operands[name] = array.reshape(*shape, *row)
    if case.has_sink:
        operands["attention_sink"] = _normal(rng, (case.num_q_heads,), "float32")
    if case.scales:
        scale_shape = () if case.scales == "scalar" else (case.num_kv_heads,)
        for name in ("k_scale", "v_scale"):
            scale = rng.uniform(0.5, 2.0, scale_shape)
            operands[name] = np.asarray(scale, np.float32)
    return operands


def _page_lists(
    case: AttentionCase, rng: np.random.Generator, kv_lens: np.ndarray, poison: bool
) -> tuple[int, np.ndarray, dict[str, np.ndarray]]:
    """P, the pages of all lists in order (the cache's own in random), the operands."""
    assert case.page_size is not None
    counts = -(-kv_lens // case.page_size)
    used, longest = int(counts.sum()), int(counts.max())
    num_pages = used + used // 4 + 1 if poison else max(used, 1)
    pages = rng.permutation(num_pages)[:used]
    if case.is_csr:
        indptr = np.cumsum([0, *counts], dtype=np.int32)
        beyond = rng.choice(_NOT_A_PAGE, 2)
        indices = np.append(pages, beyond).astype(np.int32)
        return num_pages, pages, {"page_table": indices, "page_indptr": indptr}
    width = longest + 1 if poison else longest
    table = rng.choice(_NOT_A_PAGE, (case.num_seqs, width))
    table[np.arange(width) < counts[:, None]] = pages
    return num_pages, pages, {"page_table": table}


def _ranges(begin: np.ndarray, count: np.ndarray) -> np.ndarray:
    """The numbers begin[i] .. begin[i] + count[i], one range after the other."""
    total = np.cumsum(count)
    return np.repeat(begin - total + count, count) + np.arange(total[-1])


def _normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    size = int(np.prod(shape))
    drawn = rng.standard_normal(min(size, _POOL), np.float32).astype(jnp.dtype(dtype))
    return np.resize(drawn, shape)


def decode_cases(
    batches: tuple[int, ...] = (1, 16, 64, 128),
    kv_lens: tuple[int, ...] = (1024, 4096, 16384),
    **fields: Any,
) -> list[AttentionCase]:
    """The decode grid of the benchmarks: B x kv_len x distribution."""
    defaults: dict[str, Any] = {
        "num_q_heads": 32,
        "num_kv_heads": 8,
        "head_dim": 128,
        "dtype": "bfloat16",
    }
    return [
        AttentionCase(batch=b, kv_len=n, lengths=lengths, **(defaults | fields))
        for b in batches
        for n in kv_lens
        for lengths in (("const", "uniform", "zipf") if b > 1 else ("const",))
    ]
