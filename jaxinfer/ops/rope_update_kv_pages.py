# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""rope_update_kv_pages: rotate queries and keys, and append, in one pass."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxinfer import _check
from jaxinfer._attention import absent
from jaxinfer._compat import call_target, define_op, out_type
from jaxinfer._library import kernel_attributes
from jaxinfer._plan import gpu_arch
from jaxinfer.jit import KernelSpec
from jaxinfer.ops._append import append_operands
from jaxinfer.ops.rope import Llama3RopeScaling, rope_frequencies, rope_op
from jaxinfer.ops.update_kv_pages import update_kv_pages_op
from jaxinfer.reference.rope_update_kv_pages import (
    rope_update_kv_pages as _reference,
)
from jaxinfer.reference.rope_update_kv_pages import token_positions


def rope_update_kv_pages(
    query: Any,
    k_pages: Any,
    v_pages: Any,
    key: Any,
    value: Any,
    page_table: Any = None,
    kv_lens: Any = None,
    cu_q_lens: Any = None,
    *,
    positions: Any = None,
    page_indptr: Any = None,
    slot_mapping: Any = None,
    layer: Any = None,
    theta: float = 10000.0,
    rotary_dim: int | None = None,
    is_interleaved: bool = False,
    scaling: Llama3RopeScaling | None = None,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Rotates queries and keys, and writes keys and values into their pages, in place.

    rope of query and key, then update_kv_pages: on a GPU one kernel, in which keys take
    no way through memory of their own. Donate the cache as for update_kv_pages.

    Args:
      query: f32 | f16 | bf16 [T, N, H].
      k_pages: f32 | f16 | bf16 [P, page_size, K, H], or [L, ...] with `layer`.
      v_pages: as k_pages, [P, page_size, K, Hv] or [L, ...].
      key: [T, K, H] in the dtype of the cache, before its rotation.
      value: [T, K, Hv] in the dtype of the cache.
      page_table: i32[B, max_pages], or i32[num_indices] with page_indptr.
      kv_lens: i32[B], the new tokens included.
      cu_q_lens: i32[B + 1]; None = one token per sequence.
      positions: i32[T], as in rope; None = kv_len - q_len + i for token i of a sequence
        and 0 for padding rows. Must be given with slot_mapping.
      page_indptr: i32[B + 1], offsets into page_table for the CSR form.
      slot_mapping: i32[T], as in update_kv_pages.
      layer: i32[], which layer of a stacked cache.
      theta: base of the frequencies.
      rotary_dim: R, the leading elements of a head that rotate, even; None = H.
      is_interleaved: which elements are pairs, as in rope.
      scaling: of the frequencies, as in rope.
      implementation: None, "cuda", "cpu" or "xla", as in ragged_paged_attention.

    Returns:
      (query, k_pages, v_pages), the query rotated.

    Raises:
      ValueError: for shapes, dtypes, options or numpy lengths that do not fit.
    """
    _check.implementation(implementation)
    operands, sizes = append_operands(
        "rope_update_kv_pages",
        k_pages,
        v_pages,
        key,
        value,
        page_table,
        kv_lens,
        cu_q_lens,
        page_indptr=page_indptr,
        slot_mapping=slot_mapping,
        layer=layer,
    )
    query = jnp.asarray(query)
    _check.shape("query", query, "T", "N", "H", sizes=sizes)
    _check.floating("query", query)
    _check.not_empty(sizes, N="number of query heads")
    if positions is not None:
        positions = jnp.asarray(positions)
        _check.shape("positions", positions, "T", sizes=sizes)
        _check.int32("positions", positions)
    elif slot_mapping is not None:
        raise ValueError("positions must be given together with slot_mapping, got None")
    frequencies = rope_frequencies(sizes["H"], theta, rotary_dim, scaling)
    _check.flag("is_interleaved", is_interleaved)
    query, k_new, v_new = rope_update_kv_pages_op.bind(
        query,
        *operands,
        absent(jnp.int32) if positions is None else positions,
        jnp.asarray(frequencies),
        is_interleaved=bool(is_interleaved),
        implementation=implementation,
    )
    return query, k_new, v_new


def _out_types(query, k_pages, v_pages, *_, **params):
    return [out_type(x.shape, x.dtype) for x in (query, k_pages, v_pages)]


def _cuda(*operands, is_interleaved, implementation):
    query, k_pages, v_pages = operands[:3]
    if query.dtype != k_pages.dtype:
        params = {"is_interleaved": is_interleaved, "implementation": implementation}
        return _one_after_the_other(*operands, **params)
    results = [
        jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (query, k_pages, v_pages)
    ]
    kernel = kernel_attributes(KernelSpec("rope", gpu_arch()))
    return call_target(
        "rope_update_kv_pages",
        results,
        *operands,
        aliases={1: 1, 2: 2},
        is_interleaved=is_interleaved,
        **kernel,
    )


def _one_after_the_other(
    query, k_pages, v_pages, key, value, *rest, is_interleaved, implementation
):
    *lists, positions, frequencies = rest
    if not positions.size:
        kv_lens, cu_q_lens = lists[3:5]
        positions = token_positions(kv_lens, cu_q_lens, num_tokens=query.shape[0])

    def rotate(x):
        # On CPUs rope is XLA's own code.
        by = None if implementation == "cpu" else implementation
        options = {"is_interleaved": is_interleaved, "implementation": by}
        return rope_op.bind(x, positions, frequencies, **options)[0]

    pages = update_kv_pages_op.bind(
        k_pages, v_pages, rotate(key), value, *lists, implementation=implementation
    )
    return [rotate(query), *pages]


def _batch(operands, axes, **params):
    """By the rules of the two ops."""

    def unfused(*operands):
        return _one_after_the_other(*operands, **params)

    return jax.vmap(unfused, in_axes=tuple(axes))(*operands), [0, 0, 0]


rope_update_kv_pages_op = define_op(
    "rope_update_kv_pages",
    out_types=_out_types,
    cpu=_one_after_the_other,
    cuda=_cuda,
    reference=_reference,
    batch=_batch,
)
