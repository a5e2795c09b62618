# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Attention in float64 numpy, and a comparison that knows what may be rounded."""

import dataclasses
import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxinfer.testing.hooks_float64 import HooksFloat64

_EPS32 = float(np.finfo(np.float32).eps)
# Roundings that a float32 score, weight or sum may collect, in eps of its magnitude: a
# few times what kernels show, far below the bound of the worst case.
_ROUNDINGS = 3


@dataclasses.dataclass(frozen=True)
class Expected:
    """What attention should give, and how far off a correct kernel may be.

    Attributes:
      out: f64[T, N, Hv].
      lse: f64[T, N].
      out_rounded: f64[3, T, N, Hv], out if P is rounded to query's dtype before P V.
        Kernels round multiples of P: of three, the worst tells more of chance than one.
      out_error: f64[T, N, Hv], what float32 scores and sums may add.
      lse_error: f64[T, N].
    """

    out: np.ndarray
    lse: np.ndarray
    out_rounded: np.ndarray
    out_error: np.ndarray
    lse_error: np.ndarray


def attention_float64(
    operands: dict[str, Any],
    *,
    is_causal: bool = True,
    scale: float | None = None,
    local_window_size: Any = None,
    logits_soft_cap: float | None = None,
    use_softmax: bool = True,
    variant: Any = None,
    **_: Any,
) -> Expected:
    """ragged_paged_attention or ragged_attention, one sequence after the other.

    Independent of the engine and of its reference.

    Args:
      operands: keyword arguments of the op, arrays; as make_operands gives them.
      is_causal: as of the op, and so the rest.
      scale: None = 1 / sqrt(H).
      local_window_size: None, int or (left, right).
      logits_soft_cap: None = none.
      use_softmax: False weighs values by the visible scores themselves.
      variant: jaxinfer.Variant.

    Returns:
      Expected. Rows without a visible key have 0 and -inf.
    """
    query = np.asarray(operands["query"])
    num_rows, num_heads, head_dim = query.shape
    k_all, v_all, rows_of = _keys(operands)
    num_kv_heads, head_dim_v = v_all.shape[1:]
    group = num_heads // num_kv_heads
    ones = np.ones(num_kv_heads)
    k_scale = np.repeat(ones * operands.get("k_scale", 1.0), group)[:, None, None]
    v_scale = np.repeat(ones * operands.get("v_scale", 1.0), group)[:, None, None]
    k_scale = k_scale * (head_dim**-0.5 if scale is None else scale)
    window = local_window_size
    left, right = (
        (window, window) if isinstance(window, int) else window or (None, None)
    )
    if variant is not None:
        left, right = variant.narrowed((left, right))
        use_softmax = use_softmax and variant.use_softmax
    eps16 = float(jnp.finfo(query.dtype).eps)

    out = np.zeros((num_rows, num_heads, head_dim_v))
    out_error = np.zeros_like(out)
    rounded = np.zeros((3, *out.shape))
    lse = np.full((num_rows, num_heads), -np.inf)
    lse_error = np.zeros_like(lse)
    outputs = []
    end = 0
    for seq, rows in enumerate(rows_of):
        begin, end = end, min(max(int(operands["cu_q_lens"][seq + 1]), end), num_rows)
        q_len, kv_len = end - begin, len(rows)
        # Which keys each of the sequence's rows sees: [q_len, kv_len]. Queries stand
        # where kv_lens says, also where the list of pages ends before that.
        last = int(operands["kv_lens"][seq]) if "kv_lens" in operands else kv_len
        position = max(last, 0) - q_len + np.arange(q_len)[:, None]
        key = np.arange(kv_len)
        visible = np.broadcast_to(rows >= 0, (q_len, kv_len)).copy()
        if is_causal:
            visible &= key <= position
        if left is not None:
            visible &= key >= position - left
        if right is not None:
            visible &= key <= position + right
        hooks = HooksFloat64(variant, seq, position[:, 0])
        outputs.append((begin, end, hooks))
        if not visible.any():
            continue
        # What no row sees may hold anything. Heads first: [N or K, q_len or kv_len, H].
        used = np.logical_or.reduce(visible)
        k, v = (
            np.where(used[:, None, None], x[rows], 0).astype(np.float64)
            for x in (k_all, v_all)
        )
        k = hooks.key(k.swapaxes(0, 1), k_all.dtype)
        v = np.where(used[:, None], hooks.value(v.swapaxes(0, 1), v_all.dtype), 0)
        q = hooks.query(query[begin:end].astype(np.float64).swapaxes(0, 1), query.dtype)
        scores = _multiply(q, k.swapaxes(1, 2)) * k_scale  # [N, q_len, kv_len]
        magnitude = _multiply(np.abs(q), np.abs(k).swapaxes(1, 2)) * np.abs(k_scale)
        magnitude += 1
        if logits_soft_cap is not None:
            scores = logits_soft_cap * np.tanh(scores / logits_soft_cap)
            magnitude += logits_soft_cap
        if hooks.has("query_mod", "key_mod"):
            # An element on the edge between two 16-bit numbers may round to the other.
            largest_k = np.repeat(np.abs(k).max(2), group, axis=0)
            largest = np.abs(q).max(2)[..., None] * largest_k[:, None]
            magnitude += eps16 / _EPS32 * largest * np.abs(k_scale)
        if hooks.has("score_mod"):
            # Functions on a GPU err by a few roundings of what they are made of.
            scores = hooks.score(scores)
            magnitude += 3 * np.abs(scores)
        visible = visible & hooks.mask(scores)
        if use_softmax:
            seen = visible.any(-1)
            scores = np.where(visible, scores, -np.inf)
            m = np.where(seen, scores.max(2), 0)
            weights = np.exp(scores - m[..., None])
            total = np.where(seen, weights.sum(2), 1)
            weights /= total[..., None]
            with np.errstate(divide="ignore"):
                lse[begin:end] = np.where(seen, m + np.log(total), -np.inf).T
            largest = np.where(visible, magnitude, 0).max(2)
            lse_error[begin:end] = _ROUNDINGS * _EPS32 * largest.T
            error = np.abs(weights) * largest[..., None]
        else:
            weights = np.where(visible, scores, 0)
            lse[begin:end] = 0
            error = np.where(visible, magnitude, 0)
        if hooks.has("value_mod"):
            error = error + eps16 / _EPS32 * np.abs(weights)
        lows = []
        for factor in (1.0, 2 ** (1 / 3), 2 ** (2 / 3)):
            low = (weights * factor).astype(query.dtype).astype(np.float64)
            lows.append(low / factor)
        for result, p, value in (
            (out, weights, v),
            *((made, low, v) for made, low in zip(rounded, lows, strict=True)),
            (out_error, _ROUNDINGS * _EPS32 * error, np.abs(v)),
        ):
            result[begin:end] = (_multiply(p, value) * v_scale).swapaxes(0, 1)
    if "attention_sink" in operands:
        sink = np.asarray(operands["attention_sink"], np.float64)
        sink = np.clip(sink, -1e6, 1e6)  # far enough; a finite error below
        finite_lse = np.where(lse == -np.inf, 0, lse)
        share = (1 / (1 + np.exp(np.clip(sink - finite_lse, -700, 700))))[..., None]
        difference = (np.abs(sink) + np.abs(finite_lse))[..., None]
        out_error += _ROUNDINGS * _EPS32 * difference * (1 - share) * np.abs(out)
        for result in (out, *rounded, out_error):
            result *= share
    out_error = np.abs(out_error)
    for begin, end, hooks in outputs:
        if hooks.has("output_mod") and end > begin:
            arrays = (out, *rounded, out_error)
            _modify_output(hooks, *(x[begin:end] for x in arrays))
    return Expected(out, lse, rounded, out_error, lse_error)


def _multiply(a, b):
    """[N, rows, x] and [K, x, y] -> [N, rows, y]; query heads share what is theirs."""
    rows_of_group = len(a) // len(b) * a.shape[1]
    made = a.reshape(len(b), rows_of_group, a.shape[2]) @ b
    return made.reshape(*a.shape[:2], b.shape[2])


def _modify_output(hooks, out, *rest):
    """In place; an error becomes what it changes, up or down."""
    *rounded, error = rest
    made, up, down, *lows = (
        hooks.output(x.swapaxes(0, 1)).swapaxes(0, 1)
        for x in (out, out + error, out - error, *rounded)
    )
    error[:] = np.maximum(abs(up - made), abs(down - made)) + 8 * _EPS32 * abs(made)
    for array, value in zip((out, *rounded), (made, *lows), strict=True):
        array[:] = value


def _keys(operands):
    """K and V by row, and the rows of each sequence's keys, -1 outside the cache."""
    if "key" in operands:
        k, v = np.asarray(operands["key"]), np.asarray(operands["value"])
        ends = operands.get("cu_kv_lens", operands["cu_q_lens"])
        ends = np.clip(ends, 0, len(k))
        return k, v, [np.arange(a, b) for a, b in itertools.pairwise(ends)]
    k, v = np.asarray(operands["k_pages"]), np.asarray(operands["v_pages"])
    if "layer" in operands:
        layer = min(max(int(operands["layer"]), 0), len(k) - 1)
        k, v = k[layer], v[layer]
    num_pages, page_size = k.shape[:2]
    table = np.asarray(operands["page_table"]).astype(np.int64)
    rows_of = []
    for seq, kv_len in enumerate(operands["kv_lens"]):
        if "page_indptr" in operands:
            begin, end = np.maximum(operands["page_indptr"][seq : seq + 2], 0)
            pages = table[begin:end]
        else:
            pages = table[seq]
        key = np.arange(min(max(int(kv_len), 0), len(pages) * page_size))
        page = pages[key // page_size]
        in_cache = (page >= 0) & (page < num_pages)
        rows_of.append(np.where(in_cache, page * page_size + key % page_size, -1))
    return *(x.reshape(-1, *x.shape[2:]) for x in (k, v)), rows_of


def assert_attention_close(out: Any, lse: Any, expected: Expected) -> None:
    """Holds a result of an attention op against float64.

    The rule: the error is at most 2.5 times that of exact softmax with P rounded to
    the dtype of the query before P V (the largest of a token, and of three multiples of
    P), plus one ulp of the output, plus what float32 scores and sums cost. (Exact
    softmax of P times other numbers goes beyond 1.5 times in one of four cases of
    400,000 elements, beyond 2 in one of seventy, and in 300 draws never beyond 2.5:
    `pytest --exhaustive tests/test_numerics.py`.)

    Args:
      out: [T, N, Hv] in the dtype of query.
      lse: f32[T, N], or None if the op was not asked for it.
      expected: of attention_float64.

    Raises:
      AssertionError: naming the worst element.
    """
    rounding = np.abs(expected.out_rounded - expected.out).max((0, 2, 3))[:, None, None]
    tolerance = 2.5 * rounding + ulp(expected.out, out.dtype) + expected.out_error
    assert_close("out", out, expected.out, tolerance)
    if lse is not None:
        tolerance = expected.lse_error + ulp(expected.lse, np.dtype(np.float32))
        assert_close("lse", lse, expected.lse, tolerance)


def ulp(x: np.ndarray, dtype: Any) -> np.ndarray:
    """Distance of the neighbours of x in `dtype`, as f64; 0 at infinities."""
    info = jnp.finfo(dtype)
    finite = np.where(np.isfinite(x), np.abs(x), 0.0)
    _, exponent = np.frexp(np.maximum(finite, float(info.tiny)))
    return np.where(np.isfinite(x), np.ldexp(1.0, exponent - 1 - info.nmant), 0.0)


def assert_close(name: str, got: Any, expected: Any, tolerance: Any = 0.0) -> None:
    """|got - expected| <= tolerance everywhere; infinities and NaN must be the same.

    Raises:
      AssertionError: with the number of elements that are off, and the worst of them.
    """
    got = np.asarray(got).astype(np.float64)
    expected = np.asarray(expected).astype(np.float64)
    if got.shape != expected.shape:
        raise AssertionError(f"{name} has shape {got.shape}, expected {expected.shape}")
    same = (got == expected) | (np.isnan(got) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(got - expected))
    difference = np.nan_to_num(difference, nan=np.inf)
    excess = difference - tolerance
    if not (excess > 0).any():
        return
    worst = np.unravel_index(np.argmax(excess), got.shape)
    at = ", ".join(str(i) for i in worst)
    allowed = np.broadcast_to(tolerance, got.shape)[worst]
    raise AssertionError(
        f"{name}: {(excess > 0).sum()} of {got.size} elements are off; worst at [{at}]"
        f": got {got[worst]:.9g}, expected {expected[worst]:.9g}, difference "
        f"{difference[worst]:.3g}, allowed {allowed:.3g}"
    )
