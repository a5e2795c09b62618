# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Reference of rope: pairs of elements turn by position * frequency."""

import jax.numpy as jnp


def rope(x, positions, frequencies, *, is_interleaved, implementation):
    """Operands as in the op; frequencies f32[R / 2], angles and products in float32."""
    size = 2 * frequencies.shape[0]
    angle = positions[:, None, None].astype(jnp.float32) * frequencies
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
    return [jnp.concatenate([turned.astype(x.dtype), x[..., size:]], axis=-1)]
