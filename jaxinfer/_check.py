# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Checks of arguments. Every text names the argument, the expectation and the value."""

from typing import Any

import jax.numpy as jnp

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
    if value == "cuda":
        raise NotImplementedError(
            "implementation='cuda' is not in this version; None runs the reference on "
            "GPUs, as 'xla' does"
        )


def window(value: Any) -> tuple[int | None, int | None]:
    """Normalises local_window_size to (left, right), None = unbounded."""
    if value is None:
        return None, None
    sides = (value, value) if isinstance(value, int) else tuple(value)
    if len(sides) != 2 or any(
        s is not None and (isinstance(s, bool) or not isinstance(s, int) or s < 0)
        for s in sides
    ):
        raise ValueError(
            "local_window_size must be None, an int >= 0 or (left, right) of such, "
            f"got {value!r}"
        )
    return sides[0], sides[1]


def soft_cap(value: float | None) -> None:
    """A cap is a positive number; None means none."""
    if value is not None and not 0 < value < float("inf"):
        raise ValueError(
            f"logits_soft_cap must be None or a positive number, got {value!r}"
        )
