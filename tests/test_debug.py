# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""jaxinfer.debug.check_pages: bad contents are reported by sequence and value."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

import jaxinfer as ji
from jaxinfer.debug import check_pages

T, P, PAGE = 6, 4, 8


def i32(*values):
    return jnp.array(values, jnp.int32)


TABLE = {"page_table": i32((0, 1), (2, -1), (-1, 9)), "page_indptr": None}
CSR = {"page_table": i32(7, 0, 1, 2, -5), "page_indptr": i32(1, 3, 4, 4)}
LENGTHS = {"kv_lens": i32(9, 8, 0), "cu_q_lens": i32(0, 2, 6, 6)}
SIZES = {"num_tokens": T, "num_pages": P, "page_size": PAGE}


def check(page_table, page_indptr, kv_lens, cu_q_lens):
    check_pages(page_table, kv_lens, cu_q_lens, page_indptr=page_indptr, **SIZES)
    return kv_lens + 1


CHECKED = jax.jit(checkify.checkify(check))


def test_good_contents_pass():
    """Entries that hold no keys may be anything: past the keys, or of no sequence."""
    for lists in (TABLE, CSR | {"page_indptr": i32(0, 2, 4, 5)}):
        if lists["page_indptr"] is not None:
            lists["page_table"] = i32(0, 1, 2, 8, -5)
        error, result = CHECKED(**lists, **LENGTHS)
        error.throw()
        np.testing.assert_array_equal(result, LENGTHS["kv_lens"] + 1)
        check(**lists, **LENGTHS)


BAD = {
    "page of padding": (TABLE, {"kv_lens": i32(9, 9, 0)},
        "page 1 of sequence 1 must be in [0, 3], got -1"),
    "page too large": (TABLE, {"page_table": i32((0, 4), (2, -1), (-1, 9))},
        "page 1 of sequence 0 must be in [0, 3], got 4"),
    "page of CSR": (CSR | {"page_indptr": i32(0, 2, 5, 5)}, {},
        "page 0 of sequence 0 must be in [0, 3], got 7"),
    "page of a later list": (CSR | {"page_indptr": i32(0, 2, 4, 5)},
        {"page_table": i32(0, 1, 2, 3, -5), "kv_lens": i32(9, 8, 1)},
        "page 0 of sequence 2 must be in [0, 3], got -5"),
    "kv_len": (TABLE, {"kv_lens": i32(9, 8, 17)},
        "kv_lens[2] must be in [0, 16], got 17"),
    "negative kv_len": (TABLE, {"kv_lens": i32(9, -3, 0)},
        "kv_lens[1] must be in [0, 16], got -3"),
    "kv_len of CSR": (CSR | {"page_indptr": i32(0, 3, 4, 4)}, {"kv_lens": i32(9, 9, 0)},
        "kv_lens[1] must be in [0, 8], got 9"),
    "first offset": (TABLE, {"cu_q_lens": i32(1, 2, 6, 6)},
        "cu_q_lens[0] must be in [0, 0], got 1"),
    "descending": (TABLE, {"cu_q_lens": i32(0, 5, 2, 6)},
        "cu_q_lens[2] must be in [5, 6], got 2"),
    "past T": (TABLE, {"cu_q_lens": i32(0, 2, 6, 7)},
        "cu_q_lens[3] must be in [6, 6], got 7"),
    "page_indptr": (CSR | {"page_indptr": i32(0, 2, 4, 6)}, {},
        "page_indptr[3] must be in [4, 5], got 6"),
    "extreme": (TABLE, {"kv_lens": i32(9, 8, 2**31 - 1)},
        "kv_lens[2] must be in [0, 16], got 2147483647"),
}  # fmt: skip


@pytest.mark.parametrize(("lists", "changes", "text"), BAD.values(), ids=list(BAD))
def test_bad_contents_are_named(lists, changes, text):
    arguments = lists | LENGTHS | changes
    error, _ = CHECKED(**arguments)
    assert error.get().startswith(text)
    with pytest.raises(checkify.JaxRuntimeError, match=re.escape(text)):
        error.throw()
    with pytest.raises(checkify.JaxRuntimeError, match=re.escape(text)):
        check(**arguments)  # outside jit: at once


def test_before_an_op_in_a_loop():
    pages = jnp.zeros((P, PAGE, 1, 64))
    table = TABLE["page_table"][:1]

    def step(kv_lens, _):
        check_pages(table, kv_lens, num_tokens=1, num_pages=P, page_size=PAGE)
        q = jnp.zeros((1, 1, 64))
        out = ji.ragged_paged_attention(q, pages, pages, table, kv_lens)
        return kv_lens + 1, out

    def run(kv_lens, steps):
        return jax.lax.scan(step, kv_lens, length=steps)

    checked = jax.jit(checkify.checkify(run), static_argnums=1)
    assert checked(i32(12), 5)[0].get() is None
    text = "kv_lens[0] must be in [0, 16], got 17"
    assert checked(i32(12), 6)[0].get().startswith(text)


def test_shapes_are_checked_without_checkify():
    with pytest.raises(
        ValueError, match=r"page_table must have shape \[B, max_pages\]"
    ):
        check_pages(i32(1, 2), i32(3), **SIZES)
    with pytest.raises(ValueError, match=r"cu_q_lens must have shape \[B\+1\]"):
        check_pages(TABLE["page_table"], i32(3, 4, 5), i32(0, 1), **SIZES)


def test_jit_without_checkify_is_refused_by_jax():
    with pytest.raises(ValueError, match=r"checkify\.check which was not functional"):
        jax.jit(check)(**TABLE, **LENGTHS)
