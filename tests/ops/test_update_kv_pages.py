# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""update_kv_pages: against a loop in numpy, bit for bit, and in place."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxinfer as ji

IMPLEMENTATIONS = ("cpu", "xla")
L, P, PAGE, K, H, HV = 2, 9, 4, 2, 8, 24
BIG = 2**31 - 1


def new_tokens(num_tokens, dtype="float32", num_layers=None, seed=0):
    """(k_pages, v_pages, key, value) of random numbers."""
    rng = np.random.default_rng(seed)
    lead = (P, PAGE, K) if num_layers is None else (num_layers, P, PAGE, K)
    shapes = (*lead, H), (*lead, HV), (num_tokens, K, H), (num_tokens, K, HV)
    return [rng.standard_normal(s).astype(jnp.dtype(dtype)) for s in shapes]


def write(arrays, slots, layer=None):
    """The loop: token t goes to its slot, if that is one of the cache."""
    k_pages, v_pages, key, value = arrays
    k_pages, v_pages = k_pages.copy(), v_pages.copy()
    for t, slot in enumerate(slots):
        if 0 <= slot < P * PAGE:
            at = (int(slot) // PAGE, int(slot) % PAGE)
            at = at if layer is None else (layer, *at)
            k_pages[at], v_pages[at] = key[t], value[t]
    return k_pages, v_pages


def slots_of(num_tokens, page_lists, kv_lens, cu_q_lens):
    """Slot of each token by its position in its sequence; -1: none."""
    slots = np.full(num_tokens, -1, np.int64)
    end = 0
    for seq, pages in enumerate(page_lists):
        begin, end = end, min(max(int(cu_q_lens[seq + 1]), end), num_tokens)
        for t in range(begin, end):
            position = int(kv_lens[seq]) - (end - t)
            if 0 <= position < len(pages) * PAGE:
                page = int(pages[position // PAGE])
                if 0 <= page < P:
                    slots[t] = page * PAGE + position % PAGE
    return slots


def check(arrays, slots, layer=None, **where):
    want = write(arrays, slots, layer)
    if layer is not None:
        where["layer"] = np.array(layer, np.int32)
    for implementation in IMPLEMENTATIONS:
        call = functools.partial(ji.update_kv_pages, implementation=implementation)
        for got, pages in zip(jax.jit(call)(*arrays, **where), want, strict=True):
            np.testing.assert_array_equal(got, pages)
    return want


LENGTHS = {
    "decode": ((5, 16, 1, 9), (0, 1, 2, 3, 4)),
    "prefill": ((7, 4, 0, 12), (0, 7, 8, 8, 18)),
    "across_pages": ((9, 13, 5, 4), (0, 5, 11, 13, 14)),
    "more_queries_than_keys": ((2, 1, 0, 3), (0, 5, 6, 9, 14)),
    "beyond_the_list": ((20, 17, BIG, 16), (0, 5, 6, 9, 14)),
    "negative": ((-1, 5, -BIG - 1, 3), (0, 5, 6, 9, 14)),
    "offsets_descend": ((9, 9, 9, 9), (0, 8, 3, 10, 9)),
    "offsets_too_large": ((9, 9, 9, 9), (0, 8, 13, 99, BIG)),
    "offsets_start_late": ((9, 9, 9, 9), (6, 3, 9, 10, 12)),
    "offsets_negative": ((9, 9, 9, 9), (-4, -1, 2, -5, 6)),
}


@pytest.fixture(scope="module")
def table():
    """[4, 4] pages, some lists ending early, some pages outside the cache."""
    table = np.array([[3, 7, 0, -1], [1, 8, 2, 5], [P, 4, BIG, 6], [-BIG, -1, 4, 6]])
    return table.astype(np.int32)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_by_page_table(table, lengths):
    kv_lens, cu_q_lens = (np.array(x, np.int32) for x in LENGTHS[lengths])
    arrays = new_tokens(18)
    slots = slots_of(18, table, kv_lens, cu_q_lens)
    check(arrays, slots, page_table=table, kv_lens=kv_lens, cu_q_lens=cu_q_lens)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_by_page_lists(table, lengths):
    kv_lens, cu_q_lens = (np.array(x, np.int32) for x in LENGTHS[lengths])
    arrays = new_tokens(18)
    lists = table[0, :3], table[1, :4], table[2, :2], table[3, :4]
    indptr = np.cumsum([0, 3, 4, 2, 4], dtype=np.int32)
    check(
        arrays,
        slots_of(18, lists, kv_lens, cu_q_lens),
        page_table=np.concatenate(lists),
        page_indptr=indptr,
        kv_lens=kv_lens,
        cu_q_lens=cu_q_lens,
    )


@pytest.mark.parametrize("indptr", [(0, 9, 4, 99, 13), (-5, 3, -1, 8, BIG)])
def test_offsets_of_page_lists_that_cannot_be_are_clamped(indptr):
    pages = np.array([3, 7, 0, 1, 8, 2, 5, 4, 6], np.int32)
    ends = np.clip(indptr, 0, len(pages))
    lists = [pages[a:b] for a, b in itertools.pairwise(ends)]
    kv_lens, cu_q_lens = np.array([6, 5, 9, 3], np.int32), np.arange(5, dtype=np.int32)
    check(
        new_tokens(4),
        slots_of(4, lists, kv_lens, cu_q_lens),
        page_table=pages,
        page_indptr=np.array(indptr, np.int32),
        kv_lens=kv_lens,
    )


def test_one_token_each_without_offsets(table):
    kv_lens = np.array([12, 3, 8, 0], np.int32)
    slots = slots_of(4, table, kv_lens, range(5))
    want = check(new_tokens(4), slots, page_table=table, kv_lens=kv_lens)
    assert (slots >= 0).sum() == 3
    assert (want[0] != new_tokens(4)[0]).any()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("layer", [None, 0, 1])
def test_by_slots(layer, dtype):
    """-1 skips; slots outside the cache are dropped, also those of another layer."""
    slots = np.array([5, -1, 35, 0, 36, -36, BIG, -BIG - 1, 17, 40], np.int32)
    arrays = new_tokens(10, dtype, None if layer is None else L)
    check(arrays, slots, layer, slot_mapping=slots)


@pytest.mark.parametrize(("layer", "written"), [(-5, 0), (1, 1), (7, 1)])
def test_a_layer_outside_the_cache_is_the_nearest(layer, written):
    arrays = new_tokens(3, num_layers=L)
    slots = np.array([4, 1, 30], np.int32)
    want = write(arrays, slots, written)
    for implementation in IMPLEMENTATIONS:
        got = ji.update_kv_pages(
            *arrays,
            slot_mapping=slots,
            layer=jnp.int32(layer),
            implementation=implementation,
        )
        for pages, expected in zip(got, want, strict=True):
            np.testing.assert_array_equal(pages, expected)


def test_slots_of_tokens(table):
    """token_slots says where update_kv_pages by page table writes; a loop agrees."""
    sizes = {"num_pages": P, "page_size": PAGE}
    for kv_lens, cu_q_lens in LENGTHS.values():
        kv_lens, cu_q_lens = (np.array(x, np.int32) for x in (kv_lens, cu_q_lens))
        want = slots_of(18, table, kv_lens, cu_q_lens)
        lengths = jnp.asarray(kv_lens), jnp.asarray(cu_q_lens)
        got = ji.token_slots(table, *lengths, num_tokens=18, **sizes)
        np.testing.assert_array_equal(got, want)
    active = np.array([True, False, True, True])
    kv_lens = np.array([12, 3, 8, 12], np.int32)
    got = ji.token_slots(table, kv_lens, num_tokens=4, is_active=active, **sizes)
    np.testing.assert_array_equal(got, [3, -1, 19, 19])


@pytest.mark.parametrize("form", ["table", "slots", "layer"])
def test_a_donated_cache_stays_where_it_is(form):
    num_layers = L if form == "layer" else None
    arrays = [jnp.asarray(x) for x in new_tokens(3, num_layers=num_layers)]
    slots = np.array([4, 1, 30], np.int32)
    want = write([np.array(x) for x in arrays], slots, 1 if num_layers else None)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(k_pages, v_pages, key, value, slots):
        if form == "table":
            where = {"page_table": slots[:, None] // PAGE, "kv_lens": slots % PAGE + 1}
        else:
            where = {"slot_mapping": slots}
        layer = jnp.int32(1) if num_layers else None
        return ji.update_kv_pages(k_pages, v_pages, key, value, layer=layer, **where)

    before = [x.unsafe_buffer_pointer() for x in arrays[:2]]
    got = step(*arrays, jnp.asarray(slots))
    assert [x.unsafe_buffer_pointer() for x in got] == before
    assert arrays[0].is_deleted()
    for pages, expected in zip(got, want, strict=True):
        np.testing.assert_array_equal(pages, expected)


def test_a_cache_that_is_not_donated_is_left_as_it_was():
    arrays = [jnp.asarray(x) for x in new_tokens(3)]
    before = [np.array(x) for x in arrays]
    ji.update_kv_pages(*arrays, slot_mapping=np.array([4, 1, 30], np.int32))
    for array, expected in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, expected)
