# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Checks of arguments. Every text names the argument, the expectation and the value."""

import math
import operator
from typing import Any

import jax.numpy as jnp
import numpy as np

HEAD_DIMS = (64, 96, 128, 192, 256)
FLOATS = ("float32", "float16", "bfloat16")
IMPLEMENTATIONS = (None, "cuda", "cpu", "xla")


def shape(name: str, array: Any, *dims: int | str, sizes: dict[str, int]) -> None:
    """Matches array.shape against `dims`: numbers, or letters that `sizes` collects.

    A letter that is new is bound to what the array has; one that is known must agree.
    Letters may be followed by "+1".
    """
    text = "[" + ", ".join(str(d) for d in dims) + "]"
    if array.ndim != len(dims):
        raise ValueError(
            f"{name} must have shape {text} (rank {len(dims)}), "
            f"got shape {tuple(array.shape)}"
        )
    for axis, (dim, got) in enumerate(zip(dims, array.shape, strict=True)):
        if isinstance(dim, str):
            letter, _, plus = dim.partition("+")
            want = sizes.setdefault(letter, got - int(plus or 0)) + int(plus or 0)
        else:
            want = dim
        if got != want:
            raise ValueError(
                f"{name} must have shape {text} with {dim} = {want}, "
                f"got {got} on axis {axis} (shape {tuple(array.shape)})"
            )


def not_empty(sizes: dict[str, int], **letters: str) -> None:
    """Every named axis must have at least one element."""
    for letter, meaning in letters.items():
        if sizes[letter] < 1:
            raise ValueError(f"the {meaning} ({letter}) must be at least 1, got 0")


def int32(name: str, array: Any) -> None:
    """Lengths, offsets and page numbers are int32."""
    if array.dtype != jnp.int32:
        raise ValueError(f"{name} must be int32, got {array.dtype}")


def float32(name: str, array: Any) -> None:
    """Scales, sinks and log-sum-exps are float32."""
    if array.dtype != jnp.float32:
        raise ValueError(f"{name} must be float32, got {array.dtype}")


def boolean(name: str, array: Any) -> None:
    """Masks are bool; a float mask is something else."""
    if array.dtype != jnp.bool_:
        raise ValueError(f"{name} must be bool, got {array.dtype}")


def floating(name: str, array: Any) -> None:
    """Queries, keys and values are float32, float16 or bfloat16."""
    if array.dtype.name not in FLOATS:
        raise ValueError(f"{name} must be one of {FLOATS}, got {array.dtype}")


def same_dtype(name: str, array: Any, other_name: str, other: Any) -> None:
    """Two arrays that a kernel reads together."""
    if array.dtype != other.dtype:
        raise ValueError(
            f"{name} must have the dtype of {other_name} ({other.dtype}), "
            f"got {array.dtype}"
        )


def head_counts(num_q_heads: int, num_kv_heads: int) -> None:
    """Query heads are shared out over KV heads in equal groups."""
    if num_q_heads % num_kv_heads:
        raise ValueError(
            "the number of query heads must be a multiple of the number of KV heads, "
            f"got {num_q_heads} and {num_kv_heads}"
        )


def head_dim(name: str, value: int, implementation: str | None) -> None:
    """Kernels exist for some head sizes; the reference takes any."""
    if implementation != "xla" and value not in HEAD_DIMS:
        raise NotImplementedError(
            f"{name} must be one of {HEAD_DIMS}, got {value}; "
            "implementation='xla' runs any"
        )


def implementation(value: str | None) -> None:
    """None, or the name of one implementation, which then runs or raises."""
    if value not in IMPLEMENTATIONS:
        raise ValueError(
            f"implementation must be one of {IMPLEMENTATIONS}, got {value!r}"
        )


def window(value: Any) -> tuple[int | None, int | None]:
    """Normalises local_window_size to (left, right), None = unbounded."""
    if value is None:
        return None, None
    sides = value if isinstance(value, tuple | list) else (value, value)
    if len(sides) != 2 or not all(map(_is_side, sides)):
        raise ValueError(
            "local_window_size must be None, an int in [0, 2^31) or (left, right) of "
            f"such, got {value!r}"
        )
    left, right = (None if side is None else int(side) for side in sides)
    return left, right


def _is_side(value: Any) -> bool:
    is_int = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return value is None or (is_int and bool(0 <= value < 2**31))


def soft_cap(value: float | None) -> None:
    """A cap is a positive number; None means none."""
    if value is None:
        return
    number("logits_soft_cap", value)
    if value <= 0:
        raise ValueError(
            f"logits_soft_cap must be None or a positive number, got {value!r}"
        )


def number(name: str, value: Any) -> None:
    """A static number: a part of the program, not of its data."""
    try:
        is_number = math.isfinite(value)
    except TypeError:  # traced, or no scalar
        is_number = False
    if not is_number:
        raise ValueError(f"{name} must be a finite Python number, got {value!r}")


def count(name: str, value: Any, least: int) -> None:
    """A static size."""
    try:
        is_count = least <= operator.index(value) < 2**31
    except TypeError:  # traced, or no integer
        is_count = False
    if not is_count:
        raise ValueError(
            f"{name} must be a Python int in [{least}, 2^31), got {value!r}"
        )


def flag(name: str, value: Any) -> None:
    """A static choice."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} must be a Python bool, got {value!r}")


def host_lengths(
    kv_lens: Any,
    cu_q_lens: Any,
    page_indptr: Any,
    *,
    num_tokens: int,
    list_size: int,
    page_size: int,
) -> None:
    """Checks the contents of those that are numpy arrays.

    What lies on a device cannot be looked at without waiting for it: the ops clamp
    it, and jaxinfer.debug reports it.

    Args:
      kv_lens: [B].
      cu_q_lens: [B + 1].
      page_indptr: [B + 1] or None.
      num_tokens: T.
      list_size: entries of every page list, or with page_indptr of all together.
      page_size: keys in a page.
    """
    _ascending("cu_q_lens", cu_q_lens, num_tokens)
    _ascending("page_indptr", page_indptr, list_size)
    held = np.diff(page_indptr) if isinstance(page_indptr, np.ndarray) else list_size
    in_range("kv_lens", kv_lens, 0, held * page_size, " (pages listed * page_size)")


def _ascending(name: str, offsets: Any, end: int) -> None:
    if isinstance(offsets, np.ndarray):
        most = np.where(np.arange(offsets.size), end, 0)
        hint = f" (ascending from 0 to at most {end})"
        in_range(name, offsets, np.append(0, offsets[:-1]), most, hint)


def in_range(name: str, array: Any, low: Any, high: Any, hint: str = "") -> None:
    """Looks at the contents of a numpy array, and of nothing else."""
    if not isinstance(array, np.ndarray):
        return
    index = "[{}]" if array.ndim else ""
    array, low, high = (x.ravel() for x in np.broadcast_arrays(array, low, high))
    for i in np.flatnonzero((array < low) | (array > high))[:1]:
        raise ValueError(
            f"{name}{index.format(i)} must be in [{low[i]}, {high[i]}]{hint}, "
            f"got {array[i]}"
        )
