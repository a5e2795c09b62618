# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The CPU kernel runs any valid plan, also what no planner emits yet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import work_item as wi
from work_item import hand_made_plan, item

import jaxinfer as ji
from jaxinfer import PlanConfig, TileClass

PAGE = 16
N, K, H = 6, 2, 64
# Items of up to 32 tokens and both KV heads; 128 partial results.
CONFIG = PlanConfig(
    "hand", 32, (TileClass(3, 16, 1), TileClass(96, 16, 8)), kv_heads_per_item=None
)


def batch(q_lens, kv_lens, num_padding=0, shared_pages=0, seed=0):
    """Operands; the first `shared_pages` pages of all sequences are the same."""
    rng = np.random.default_rng(seed)
    width = max(-(-max(kv_lens) // PAGE), 1)
    table = rng.permutation(len(kv_lens) * width).reshape(-1, width).astype(np.int32)
    table[:, :shared_pages] = table[0, :shared_pages]
    rows = sum(q_lens) + num_padding
    pages = (table.max() + 1, PAGE, K, H)
    return {
        "query": rng.standard_normal((rows, N, H), np.float32),
        "k_pages": rng.standard_normal(pages, np.float32),
        "v_pages": rng.standard_normal(pages, np.float32),
        "page_table": table,
        "kv_lens": np.array(kv_lens, np.int32),
        "cu_q_lens": np.cumsum([0, *q_lens], dtype=np.int32),
    }


def planned(operands, is_causal=True):
    """The planner's own plan, whose facts the hand-made ones take."""
    return ji.plan(
        operands["cu_q_lens"],
        operands["kv_lens"],
        num_tokens=len(operands["query"]),
        max_kv_len=4096,
        num_q_heads=N,
        num_kv_heads=K,
        head_dim=H,
        is_causal=is_causal,
        config=CONFIG,
    )


def facts_of(operands, is_causal=True):
    return planned(operands, is_causal).facts


@jax.jit
def run(operands, plan):
    return ji.ragged_paged_attention(
        **operands,
        plan=plan,
        is_causal=plan.facts.is_causal,
        return_lse=True,
        implementation="cpu",
    )


def check(operands, plan, reference=None):
    """The plan computes what implementation="xla" does, which reads no plan."""
    out, lse = run(operands, plan)
    want_out, want_lse = ji.ragged_paged_attention(
        **(reference or operands),
        is_causal=plan.facts.is_causal,
        return_lse=True,
        implementation="xla",
    )
    np.testing.assert_allclose(out, want_out, rtol=0, atol=2e-6)
    np.testing.assert_allclose(lse, want_lse, rtol=0, atol=2e-6)


def test_two_tile_classes_in_one_plan():
    operands = batch([1, 20, 1], [70, 40, 300])
    items = [item(0, 1, 0, K), item(1, 20, 1, K, tile_class=1), item(21, 1, 2, K)]
    check(operands, hand_made_plan(facts_of(operands), [items]))


def test_rows_of_one_sequence_in_unequal_tiles():
    operands = batch([9], [50])
    items = [item(0, 2, 0, K), item(2, 1, 0, K), item(3, 6, 0, K, tile_class=1)]
    check(operands, hand_made_plan(facts_of(operands), [items]))


@pytest.mark.parametrize("is_causal", [True, False])
def test_heads_one_by_one_and_together(is_causal):
    operands = batch([3, 2], [33, 80])
    items = [item(0, 3, 0, 1), item(0, 3, 0, 1, kv_head_begin=1), item(3, 2, 1, 2)]
    check(operands, hand_made_plan(facts_of(operands, is_causal), [items]))


def test_split_keys_with_chunks_left_empty():
    """Chunks past kv_len, between equal cuts, and before the first key."""
    operands = batch([1, 3], [50, 64])
    ends = [(wi.OPEN, 0), (0, 16), (16, 16), (16, 48), (48, 512), (512, wi.OPEN)]
    items, merges = [], []
    for seq, (row, num_rows) in enumerate([(0, 1), (1, 3)]):
        slots = [10 * seq + i for i in range(len(ends))]
        items += [
            item(row, num_rows, seq, K, key_begin=begin, key_end=end, partial=slot)
            for (begin, end), slot in zip(ends, slots, strict=True)
        ]
        merges.append((items[-1], slots))
    check(operands, hand_made_plan(facts_of(operands), [items], merges))


def test_a_tile_of_empty_chunks_only():
    operands = batch([1], [20])
    items = [
        item(0, 1, 0, K, key_begin=32, key_end=48, partial=0),
        item(0, 1, 0, K, key_begin=48, partial=1),
    ]
    plan = hand_made_plan(facts_of(operands), [items], [(items[0], [0, 1])])
    out, lse = run(operands, plan)
    assert not out.any()
    assert (lse == -jnp.inf).all()


def test_items_out_of_order_over_many_ctas():
    operands = batch([1, 40, 0, 1, 25], [900, 300, 5, 2000, 25], num_padding=7)
    plan = planned(operands)
    header = plan.header
    assert header[wi.NUM_MERGES] > 2
    check(operands, plan)
    rng = np.random.default_rng(5)
    items = rng.permutation(plan.items[: header[wi.NUM_ITEMS]])
    ctas = np.array_split(items, np.sort(rng.integers(0, len(items), 31)))
    assert_same_bits(operands, plan, with_items(plan, *ctas))


def to_csr(operands):
    """The same pages as lists without padding: each holds what its kv_len needs."""
    counts = -(-operands["kv_lens"] // PAGE)
    lists = [row[:n] for row, n in zip(operands["page_table"], counts, strict=True)]
    indptr = np.cumsum([0, *counts], dtype=np.int32)
    return operands | {"page_table": np.concatenate(lists), "page_indptr": indptr}


def shared_prefix_plan(operands, prefix):
    """One item for the prefix of all sequences, one each for what follows it.

    Rows of the second chunk share slot 1: sequence by sequence they are the rows that
    the first chunk has in slot 0, so one merge joins the two.
    """
    rows = operands["cu_q_lens"]
    shared = item(
        0,
        rows[-1],
        0,
        K,
        row_mode=wi.SPAN_SEQS,
        key_end=prefix,
        partial=0,
        tile_class=1,
    )
    own = [
        item(rows[s], rows[s + 1] - rows[s], s, K, key_begin=prefix, partial=1)
        for s in range(len(rows) - 1)
        if rows[s] < rows[s + 1]
    ]
    for suffix in own:
        suffix[wi.PARTIAL_ROW] = suffix[wi.ROW_BEGIN]
    ctas = [[suffix] for suffix in own] + [[shared]]
    return hand_made_plan(facts_of(operands), ctas, [(shared, [0, 1])])


@pytest.mark.parametrize("form", [dict, to_csr])
@pytest.mark.parametrize(
    ("q_lens", "kv_lens"),
    [
        ((1, 1, 1), (70, 65, 200)),
        ((1, 20, 0, 2), (65, 97, 64, 300)),
        ((5, 1), (64, 64)),
    ],
)
def test_a_prefix_shared_by_the_rows_of_all_sequences(q_lens, kv_lens, form):
    prefix = 64
    operands = form(batch(q_lens, kv_lens, shared_pages=prefix // PAGE))
    check(operands, shared_prefix_plan(operands, prefix))


def test_a_prefix_item_without_suffixes():
    """Rows that span sequences need no merge where the prefix is all there is."""
    operands = batch([1, 1, 1], [64, 64, 64], shared_pages=4)
    items = [item(0, 3, 0, K, row_mode=wi.SPAN_SEQS, tile_class=1)]
    check(operands, hand_made_plan(facts_of(operands), [items]))


@pytest.mark.parametrize(
    ("q_len", "kv_len"), [(1, 90), (7, 90), (30, 200), (30, 100), (20, 70)]
)
def test_keys_in_two_lists_joined_by_key_base(q_len, kv_len):
    """The prefix is the list of another, empty sequence; the own list follows it.

    The reference sees one sequence with all pages in one list.
    """
    prefix = 64
    whole = batch([q_len], [kv_len])
    (pages,) = whole["page_table"]
    width = max(prefix, kv_len - prefix + PAGE - 1) // PAGE
    table = np.full((2, width), -1, np.int32)
    table[0, : prefix // PAGE] = pages[: prefix // PAGE]
    table[1, : len(pages) - prefix // PAGE] = pages[prefix // PAGE :]
    operands = whole | {
        "page_table": table,
        "kv_lens": np.array([prefix, kv_len], np.int32),
        "cu_q_lens": np.array([0, 0, q_len], np.int32),
    }
    items = [
        item(0, q_len, 1, K, page_row=0, key_end=prefix, partial=3),
        item(0, q_len, 1, K, page_row=1, key_begin=0, key_base=prefix, partial=1),
    ]
    plan = hand_made_plan(facts_of(operands), [items], [(items[0], [3, 1])])
    check(operands, plan, reference=whole)


BIG = 2**31 - 1
NOT_AN_ITEM = {
    "no_rows": {wi.NUM_ROWS: 0},
    "negative_rows": {wi.NUM_ROWS: -1},
    "too_many_rows": {wi.NUM_ROWS: 33},
    "row_before": {wi.ROW_BEGIN: -1},
    "row_after": {wi.ROW_BEGIN: 64},
    "row_overflow": {wi.ROW_BEGIN: BIG},
    "seq_before": {wi.SEQ: -1},
    "seq_after": {wi.SEQ: 4},
    "head_before": {wi.KV_HEAD_BEGIN: -1},
    "head_after": {wi.KV_HEAD_BEGIN: 1},
    "head_overflow": {wi.KV_HEAD_BEGIN: BIG},
    "no_heads": {wi.NUM_KV_HEADS: 0},
    "too_many_heads": {wi.NUM_KV_HEADS: BIG},
    "list_before": {wi.PAGE_ROW: -1},
    "list_after": {wi.PAGE_ROW: BIG},
    "negative_base": {wi.KEY_BASE: -16},
    "slot_before": {wi.PARTIAL: -2},
    "slot_after": {wi.PARTIAL: 128},
    "rows_before_the_slot": {wi.PARTIAL: 0, wi.PARTIAL_ROW: -1},
    "rows_after_the_slot": {wi.PARTIAL: 0, wi.PARTIAL_ROW: 32},
}
NOT_A_MERGE = [
    (-1, 1, 0, 1, 0, 2),
    (64, 1, 0, 1, 0, 2),
    (0, 0, 0, 1, 0, 2),
    (0, 33, 0, 1, 0, 2),
    (BIG, BIG, 0, 1, 0, 2),
    (0, 1, -1, 1, 0, 2),
    (0, 1, 1, 2, 0, 2),
    (0, 1, 0, 0, 0, 2),
    (0, 1, BIG, BIG, 0, 2),
    (0, 1, 0, 1, -1, 2),
]


@pytest.fixture(scope="module")
def mixed():
    """T = 64 rows, 4 sequences."""
    return batch([1, 40, 0, 19], [900, 300, 5, 19], num_padding=4)


def with_items(plan, *ctas):
    """The plan with these items, and merges as they are."""
    other = hand_made_plan(plan.facts, ctas)
    for section in ("merges", "parts"):
        getattr(other, section)[:] = getattr(plan, section)
    counts = [wi.NUM_MERGES, wi.NUM_PARTS]
    other.header[counts] = plan.header[counts]
    return other


def assert_same_bits(operands, plan, other):
    for got, want in zip(run(operands, other), run(operands, plan), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("garbage", NOT_AN_ITEM)
def test_items_out_of_bounds_are_ignored(mixed, garbage):
    plan = planned(mixed)
    bad = item(0, 1, 0, K)
    for field, value in NOT_AN_ITEM[garbage].items():
        bad[field] = value
    items = plan.items[: plan.header[wi.NUM_ITEMS]]
    assert_same_bits(mixed, plan, with_items(plan, [bad], items, [bad]))


@pytest.mark.parametrize("garbage", NOT_A_MERGE)
def test_merges_out_of_bounds_are_ignored(mixed, garbage):
    plan = planned(mixed)
    other = with_items(plan, plan.items[: plan.header[wi.NUM_ITEMS]])
    other.merges[plan.header[wi.NUM_MERGES], :6] = garbage
    other.header[wi.NUM_MERGES] += 1
    assert_same_bits(mixed, plan, other)


def test_parts_out_of_bounds_are_ignored(mixed):
    plan = planned(mixed)
    items = plan.items[: plan.header[wi.NUM_ITEMS]]
    merges = [
        (
            item(row, rows, 0, heads, kv_head_begin=head),
            [BIG, *plan.parts[a:b], -1, 128],
        )
        for row, rows, head, heads, a, b, *_ in plan.merges[
            : plan.header[wi.NUM_MERGES]
        ]
    ]
    other = hand_made_plan(plan.facts, [items], merges)
    assert_same_bits(mixed, plan, other)


def test_counts_and_ranges_out_of_bounds_are_clamped(mixed):
    """What the first CTA computes stays right, and once more changes nothing."""
    plan = planned(mixed)
    items = plan.items[: plan.header[wi.NUM_ITEMS]]
    other = with_items(plan, items, [], [])
    other.header[wi.NUM_ITEMS] = other.header[wi.NUM_CTAS] = BIG
    other.cta_indptr[:2] = -5, BIG
    other.cta_indptr[2:4] = BIG, -BIG
    other.cta_indptr[4:] = 0
    assert_same_bits(mixed, plan, other)


def test_random_numbers_for_a_plan_do_no_harm(mixed):
    rng = np.random.default_rng(0)
    good = planned(mixed)
    for _ in range(50):
        buffer = good.buffer.copy()
        hit = rng.random(len(buffer)) < rng.choice([0.02, 0.3, 1])
        numbers = rng.choice([-BIG - 1, -1, 0, 1, 2, 30, 64, BIG], len(buffer))
        buffer[hit] = numbers[hit]
        run(mixed, ji.Plan(buffer, good.facts))[0].block_until_ready()
    check(mixed, good)
