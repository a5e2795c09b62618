# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Reference of merge_partials."""

import jax.numpy as jnp

from jaxinfer.reference.attention import sink_share


def merge_partials(outs, lses, sink, *, use_softmax, implementation):
    """Operands as in the op; `sink` is f32[N] or empty."""
    dtype, outs = outs.dtype, outs.astype(jnp.float32)
    if not use_softmax:
        return [outs.sum(0).astype(dtype), jnp.zeros(lses.shape[1:], jnp.float32)]
    seen = lses > -jnp.inf
    some = seen.any(0)
    m = jnp.where(some, lses.max(0), 0.0)
    weights = jnp.where(seen, jnp.exp(jnp.where(seen, lses - m, 0.0)), 0.0)
    total = jnp.where(some, weights.sum(0), 1.0)
    # What a part without keys holds never matters, NaN included.
    outs = jnp.where(seen[..., None], outs, 0.0)
    out = (weights[..., None] * outs).sum(0) / total[..., None]
    lse = jnp.where(some, m + jnp.log(total), -jnp.inf)
    if sink.size:
        out *= sink_share(sink, lse)[..., None]
    return [out.astype(dtype), lse]
