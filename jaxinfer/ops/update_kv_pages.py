# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""update_kv_pages: append the keys and values of new tokens to a paged cache."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxinfer import _check, _fold
from jaxinfer._attention import absent
from jaxinfer._compat import call_target, define_op, out_type
from jaxinfer._library import kernel_attributes
from jaxinfer._plan import gpu_arch
from jaxinfer.jit import KernelSpec
from jaxinfer.ops._append import append_operands
from jaxinfer.ops.ragged_paged_attention import check_page_lists
from jaxinfer.reference.update_kv_pages import token_slots as _token_slots
from jaxinfer.reference.update_kv_pages import update_kv_pages as _reference


def update_kv_pages(
    k_pages: Any,
    v_pages: Any,
    key: Any,
    value: Any,
    page_table: Any = None,
    kv_lens: Any = None,
    cu_q_lens: Any = None,
    *,
    page_indptr: Any = None,
    slot_mapping: Any = None,
    layer: Any = None,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Writes new tokens into their pages, in place.

    The results are the cache operands: donate these (or carry them through a scan) and
    use only the results afterwards, then nothing is copied. Where a token goes is given
    either by page_table, kv_lens and cu_q_lens as in ragged_paged_attention: token i of
    a sequence is written at position kv_len - q_len + i (kv_lens counts the new ones);
    or by slot_mapping. (FlashInfer, arXiv 2501.01005, section 3.1.)

    Args:
      k_pages: f32 | f16 | bf16 [P, page_size, K, H], or [L, ...] with `layer`.
      v_pages: as k_pages, [P, page_size, K, Hv] or [L, ...].
      key: [T, K, H] in the dtype of the cache.
      value: [T, K, Hv] in the dtype of the cache.
      page_table: i32[B, max_pages], or i32[num_indices] with page_indptr.
      kv_lens: i32[B].
      cu_q_lens: i32[B + 1]; None = one token per sequence.
      page_indptr: i32[B + 1], offsets into page_table for the CSR form.
      slot_mapping: i32[T], page * page_size + offset of each token; -1 skips it. Slots
        must be distinct.
      layer: i32[], which layer of a stacked cache.
      implementation: None, "cuda", "cpu" or "xla", as in ragged_paged_attention.

    Returns:
      (k_pages, v_pages). Tokens whose page is outside the cache are dropped.

    Raises:
      ValueError: for shapes, dtypes or numpy lengths that do not fit, or both or
        neither of page_table and slot_mapping.
    """
    _check.implementation(implementation)
    operands, _ = append_operands(
        "update_kv_pages",
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
    k_new, v_new = update_kv_pages_op.bind(*operands, implementation=implementation)
    return k_new, v_new


def token_slots(
    page_table: Any,
    kv_lens: Any,
    cu_q_lens: Any = None,
    *,
    num_tokens: int,
    num_pages: int,
    page_size: int,
    page_indptr: Any = None,
    is_active: Any = None,
) -> jax.Array:
    """The slot of every new token, to be computed once a step for all layers.

    Args:
      page_table: as in update_kv_pages.
      kv_lens: i32[B], the new tokens included.
      cu_q_lens: i32[B + 1]; None = one token per sequence.
      num_tokens: T.
      num_pages: P.
      page_size: tokens in a page.
      page_indptr: as in update_kv_pages.
      is_active: bool[B]; tokens of other sequences are skipped. A finished sequence
        keeps q_len 1 and its kv_len, and writes nothing.

    Returns:
      i32[T] for update_kv_pages(slot_mapping=); -1 for padding rows, inactive
      sequences and pages outside the cache.

    Raises:
      ValueError: for shapes and dtypes that do not fit, or if num_pages * page_size
        does not fit int32.
    """
    _check.count("num_tokens", num_tokens, least=1)
    _check.count("num_pages", num_pages, least=1)
    _check.count("page_size", page_size, least=1)
    if num_pages * page_size >= 2**31:
        raise ValueError(
            f"slots are int32: num_pages * page_size must be below 2^31, got "
            f"{num_pages} * {page_size}"
        )
    given = kv_lens, cu_q_lens, page_indptr
    page_table, kv_lens = jnp.asarray(page_table), jnp.asarray(kv_lens)
    cu_q_lens = cu_q_lens if cu_q_lens is None else jnp.asarray(cu_q_lens)
    page_indptr = page_indptr if page_indptr is None else jnp.asarray(page_indptr)
    sizes: dict[str, int] = {}
    check_page_lists(page_table, page_indptr, kv_lens, cu_q_lens, sizes)
    _check.host_lengths(
        *given,
        num_tokens=num_tokens,
        list_size=page_table.shape[-1],
        page_size=page_size,
    )
    if is_active is not None:
        is_active = jnp.asarray(is_active)
        _check.shape("is_active", is_active, "B", sizes=sizes)
        _check.boolean("is_active", is_active)
        kv_lens = jnp.where(is_active, kv_lens, 0)  # before position 0: no slot
    return _token_slots(
        page_table,
        page_indptr,
        kv_lens,
        absent(jnp.int32) if cu_q_lens is None else cu_q_lens,
        num_tokens=num_tokens,
        num_pages=num_pages,
        page_size=page_size,
    )


def _out_types(k_pages, v_pages, *_, **params):
    return [out_type(x.shape, x.dtype) for x in (k_pages, v_pages)]


def _cuda(*operands, implementation):
    return _call(
        *operands, **kernel_attributes(KernelSpec("update_kv_pages", gpu_arch()))
    )


def _cpu(*operands, implementation):
    return _call(*operands)


def _call(k_pages, v_pages, *operands, **attributes):
    results = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (k_pages, v_pages)]
    operands = (k_pages, v_pages, *operands)
    aliases = {0: 0, 1: 1}
    name = "update_kv_pages"
    return call_target(name, results, *operands, aliases=aliases, **attributes)


update_kv_pages_op = define_op(
    "update_kv_pages",
    out_types=_out_types,
    cpu=_cpu,
    cuda=_cuda,
    reference=_reference,
    batch=lambda operands, axes, **params: _fold.update_kv_pages(
        update_kv_pages_op, operands, axes, **params
    ),
)
