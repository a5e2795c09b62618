# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""rope: rotary position embedding (RoFormer, arXiv 2104.09864) of packed tokens."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxinfer import _check


def rope(
    x: Any,
    positions: Any,
    *,
    theta: float = 10000.0,
    rotary_dim: int | None = None,
    is_interleaved: bool = False,
) -> jax.Array:
    """Rotates pairs of elements of every head by an angle that grows with the position.

    Pair i of R / 2 turns by position * theta ** (-2 i / R), R = rotary_dim. Weights and
    pairing belong together: a checkpoint made for one gives poor text, not an error,
    with the other.

    Args:
      x: floating [T, heads, H], queries or keys before they are cached.
      positions: i32[T], in the sequence, from 0.
      theta: base of the frequencies.
      rotary_dim: R, the leading elements of a head that rotate, even; None = H.
      is_interleaved: pairs are (0, 1), (2, 3) ... (GPT-J, and GGUF files of
        architecture "llama"); False: (0, R / 2), (1, R / 2 + 1) ... (GPT-NeoX, and
        Hugging Face's Llama).

    Returns:
      As x; angles and products are computed in float32.

    Raises:
      ValueError: for shapes, dtypes or a rotary_dim that do not fit.
    """
    x, positions = jnp.asarray(x), jnp.asarray(positions)
    sizes: dict[str, int] = {}
    _check.shape("x", x, "T", "heads", "H", sizes=sizes)
    _check.floating("x", x)
    _check.shape("positions", positions, "T", sizes=sizes)
    _check.int32("positions", positions)
    size = sizes["H"] if rotary_dim is None else rotary_dim
    if size % 2 or not 0 < size <= sizes["H"]:
        raise ValueError(
            f"rotary_dim must be even and from 2 to head_dim = {sizes['H']}, got {size}"
        )
    frequency = theta ** (-jnp.arange(0, size, 2, dtype=jnp.float32) / size)
    angle = positions[:, None, None].astype(jnp.float32) * frequency
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    turned = x[..., :size].astype(jnp.float32)
    if is_interleaved:
        a, b = turned[..., 0::2], turned[..., 1::2]
    else:
        a, b = turned[..., : size // 2], turned[..., size // 2 :]
    a, b = a * cos - b * sin, a * sin + b * cos
    if is_interleaved:
        turned = jnp.stack([a, b], axis=-1).reshape(turned.shape)
    else:
        turned = jnp.concatenate([a, b], axis=-1)
    return jnp.concatenate([turned.astype(x.dtype), x[..., size:]], axis=-1)
