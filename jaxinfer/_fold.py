# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""vmap as a larger batch: rules that fold the mapped axis into tokens or sequences.

Entry v of V becomes B + 1 sequences of one batch: its own, and an empty one that owns
its padding rows. Its page p is page (v * L + layer) * P + p of the whole cache, which
stays as it is: a call without a layer counts pages along all leading axes.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxinfer._attention import absent
from jaxinfer.reference.attention import sequence_starts


def ragged_paged_attention(op, operands, axes, *, facts, **params):
    """Folds into more sequences; batched plans, scales and sinks run one by one."""
    if any(axis is not None for axis in axes[8:]) or _reads_sequence(params):
        return sequential(op, operands, axes, facts=facts, **params)
    size = batch_size(operands, axes)
    (q, k_pages, v_pages, table, indptr, kv_lens, cu_q_lens, layer) = operands[:8]
    table, indptr, kv_lens, cu_q_lens, layer, q = (
        to_front(x, axis, size)
        for x, axis in zip(
            (table, indptr, kv_lens, cu_q_lens, layer, q),
            (*axes[3:8], axes[0]),
            strict=True,
        )
    )
    num_pages, first_page = flat_pages(op, k_pages, axes[1:3], layer)
    table, indptr = fold_page_lists(table, indptr, first_page, num_pages)
    results = op.bind(
        q.reshape(-1, *q.shape[2:]),
        k_pages,
        v_pages,
        table,
        indptr,
        *fold_lengths(cu_q_lens, kv_lens, facts.num_tokens),
        absent(jnp.int32),
        *operands[8:11],
        absent(jnp.int32),
        *operands[12:],
        facts=fold_facts(facts, size),
        **params,
    )
    return [x.reshape(size, -1, *x.shape[1:]) for x in results], [0, 0]


def ragged_attention(op, operands, axes, *, facts, **params):
    """Folds into more sequences; batched plans, scales and sinks run one by one."""
    if any(axis is not None for axis in axes[6:]) or _reads_sequence(params):
        return sequential(op, operands, axes, facts=facts, **params)
    size = batch_size(operands, axes)
    key, value = operands[1:3]
    q, kv_starts, kv_lens, cu_q_lens = (
        to_front(operands[i], axes[i], size) for i in (0, 3, 4, 5)
    )
    num_keys = key.shape[0 if axes[1] is None else int(axes[1] == 0)]
    kv_lens = jnp.clip(kv_lens, 0, num_keys - kv_starts)
    if axes[1] is not None or axes[2] is not None:
        key, value = (to_front(operands[i], axes[i], size) for i in (1, 2))
        key, value = (x.reshape(-1, *x.shape[-2:]) for x in (key, value))
        kv_starts += num_keys * jnp.arange(size, dtype=jnp.int32)[:, None]
    results = op.bind(
        q.reshape(-1, *q.shape[2:]),
        key,
        value,
        jnp.pad(kv_starts, ((0, 0), (0, 1))).ravel(),
        *fold_lengths(cu_q_lens, kv_lens, facts.num_tokens),
        *operands[6:9],
        absent(jnp.int32),
        *operands[10:],
        facts=fold_facts(facts, size),
        **params,
    )
    return [x.reshape(size, -1, *x.shape[1:]) for x in results], [0, 0]


def _reads_sequence(params) -> bool:
    """Whether a hook is told the number of the sequence, which folding changes."""
    hooks = params["options"].hooks
    return hooks is not None and hooks.uses_seq


def dot_product_attention(op, operands, axes, *, facts, **params):
    """Folds into the batch axis that every operand has."""
    size = batch_size(operands, axes)
    batch = facts.num_seqs

    def fold(i):
        x, axis = operands[i], axes[i]
        is_shared = i in (3, 4) and axis is None and x.shape[0] == 1
        if not x.size or is_shared:  # absent, or a bias or mask of all entries
            return x
        x = to_front(x, axis, size)
        x = jnp.broadcast_to(x, (size, batch, *x.shape[2:]))
        return x.reshape(-1, *x.shape[2:])

    query, key, value, bias, mask, kv_lens = (fold(i) for i in (0, 1, 2, 3, 4, 6))
    # The entries lie one after the other: their offsets are those of a longer batch.
    entries, cu_q_lens = size * batch, operands[7]
    if cu_q_lens.size:
        cu_q_lens = jnp.arange(entries + 1, dtype=jnp.int32) * query.shape[1]
    results = op.bind(
        query,
        key,
        value,
        bias,
        mask,
        jnp.arange(entries, dtype=jnp.int32) * key.shape[1],
        kv_lens,
        cu_q_lens,
        facts=dataclasses.replace(
            facts, num_tokens=size * facts.num_tokens, num_seqs=entries
        ),
        **params,
    )
    return [x.reshape(size, batch, *x.shape[1:]) for x in results], [0, 0]


def update_kv_pages(op, operands, axes, **params):
    """Writes every entry's pages of one flat cache, still in place."""
    if axes[0] is None or axes[1] is None:
        raise ValueError(
            "update_kv_pages under vmap needs a cache per batch entry: k_pages and "
            f"v_pages must be mapped too, got in_axes {tuple(axes[:2])} for them; to "
            "append to one cache, pass the tokens as one ragged batch instead"
        )
    size = batch_size(operands, axes)
    k_pages, v_pages = operands[:2]
    page_size = k_pages.shape[-3]
    key, value, slots, table, indptr, kv_lens, cu_q_lens, layer = (
        to_front(x, axis, size) for x, axis in zip(operands[2:], axes[2:], strict=True)
    )
    num_pages, first_page = flat_pages(op, k_pages, axes[:2], layer)
    if slots.size:
        # Each token as a sequence with a list of one page: slots of several caches
        # together may not fit int32, pages do.
        slots = jnp.where(slots < num_pages * page_size, slots, -1)
        table = jnp.where(slots >= 0, slots // page_size + first_page[:, None], -1)
        table, indptr = table.reshape(-1, 1), absent(jnp.int32)
        kv_lens = jnp.where(slots >= 0, slots % page_size + 1, 0).ravel()
        cu_q_lens = absent(jnp.int32)
    else:
        table, indptr = fold_page_lists(table, indptr, first_page, num_pages)
        kv_lens, cu_q_lens = fold_lengths(cu_q_lens, kv_lens, key.shape[1])
    results = op.bind(
        k_pages,
        v_pages,
        key.reshape(-1, *key.shape[2:]),
        value.reshape(-1, *value.shape[2:]),
        absent(jnp.int32),
        table,
        indptr,
        kv_lens,
        cu_q_lens,
        absent(jnp.int32),
        **params,
    )
    return results, [0, 0]


def merge_partials(op, operands, axes, **params):
    """Folds into the token axis; a batched sink runs one by one."""
    if axes[2] is not None:
        return sequential(op, operands, axes, **params)
    size = batch_size(operands, axes)
    outs, lses = (
        jnp.moveaxis(to_front(x, axis, size), 0, 1)
        for x, axis in zip(operands[:2], axes[:2], strict=True)
    )
    results = op.bind(
        outs.reshape(outs.shape[0], -1, *outs.shape[3:]),
        lses.reshape(lses.shape[0], -1, *lses.shape[3:]),
        operands[2],
        **params,
    )
    return [x.reshape(size, -1, *x.shape[1:]) for x in results], [0, 0]


def sequential(op, operands, axes, **params):
    """One batch entry after the other."""
    mapped = [i for i, axis in enumerate(axes) if axis is not None]

    def one(values):
        full = list(operands)
        for i, value in zip(mapped, values, strict=True):
            full[i] = value
        return op.bind(*full, **params)

    results = jax.lax.map(one, [jnp.moveaxis(operands[i], axes[i], 0) for i in mapped])
    return results, [0] * len(results)


def batch_size(operands, axes) -> int:
    """V."""
    return next(
        x.shape[axis]
        for x, axis in zip(operands, axes, strict=True)
        if axis is not None
    )


def to_front(x: jax.Array, axis: int | None, size: int) -> jax.Array:
    """The operand with the mapped axis in front, broadcast if it has none."""
    if axis is None:
        return jnp.broadcast_to(x, (size, *x.shape))
    return jnp.moveaxis(x, axis, 0)


def flat_pages(op, k_pages, axes, layer):
    """Pages of one entry and layer, and the first of each entry's in the whole cache.

    The cache stays as it is: a call without a layer counts pages along all its leading
    axes, and a reshape could copy it.
    """
    if (axes[0] is None) != (axes[1] is None) or any(axis for axis in axes):
        raise ValueError(
            f"{op} under vmap: k_pages and v_pages must both be unmapped or both be "
            f"mapped over axis 0 (another axis would copy the cache), got in_axes "
            f"{tuple(axes)}"
        )
    is_mapped = axes[0] is not None
    *leading, _, _, _ = k_pages.shape[1:] if is_mapped else k_pages.shape
    entries = k_pages.shape[0] if is_mapped else 1
    if (total := entries * math.prod(leading)) >= 2**31:
        raise ValueError(
            f"{op} under vmap: the caches hold {total} pages together, but page "
            "numbers are int32"
        )
    num_pages = leading[-1] if layer.size else math.prod(leading)
    first = jnp.arange(layer.shape[0], dtype=jnp.int32) if is_mapped else 0
    if layer.size:
        first = first * leading[0] + jnp.clip(layer, 0, leading[0] - 1)
    first = jnp.broadcast_to(jnp.asarray(first * num_pages, jnp.int32), layer.shape[:1])
    return num_pages, first


def fold_page_lists(table, indptr, first_page, num_pages):
    """Page lists of all entries, with an empty list after those of each."""
    in_cache = (table >= 0) & (table < num_pages)
    shift = first_page.reshape(-1, *[1] * (table.ndim - 1))
    table = jnp.where(in_cache, table + shift, -1)
    if table.ndim == 3:
        table = jnp.pad(table, ((0, 0), (0, 1), (0, 0)))
        return table.reshape(-1, table.shape[-1]), absent(jnp.int32)
    size, length = table.shape
    entry = jnp.arange(size, dtype=jnp.int32)[:, None]
    indptr = jnp.clip(indptr, 0, length) + entry * length
    return table.ravel(), jnp.append(indptr.ravel(), jnp.int32(size * length))


def fold_lengths(cu_q_lens, kv_lens, num_tokens) -> tuple[Any, Any]:
    """(kv_lens, cu_q_lens) of the folded batch, in the order of the operands."""
    size, num_seqs = kv_lens.shape
    starts = jax.vmap(lambda cu: sequence_starts(cu, num_seqs, num_tokens))(cu_q_lens)
    starts += num_tokens * jnp.arange(size, dtype=jnp.int32)[:, None]
    cu_q_lens = jnp.append(starts.ravel(), jnp.int32(size * num_tokens))
    return jnp.pad(kv_lens, ((0, 0), (0, 1))).ravel(), cu_q_lens


def fold_facts(facts, size: int):
    """Facts of the folded batch."""
    return dataclasses.replace(
        facts, num_tokens=size * facts.num_tokens, num_seqs=size * (facts.num_seqs + 1)
    )
