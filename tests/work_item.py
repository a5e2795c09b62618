# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The fields of csrc/work_item.h by name, and plans made by hand from them."""

import numpy as np

import jaxinfer as ji

OPEN = WRITE_THROUGH = -1
ONE_SEQ, SPAN_SEQS, PADDING = range(3)
FULL, MASKED = range(2)
(
    TILE_CLASS,
    ROW_BEGIN,
    NUM_ROWS,
    ROW_MODE,
    SEQ,
    KV_HEAD_BEGIN,
    NUM_KV_HEADS,
    KEY_BEGIN,
    KEY_END,
    KEY_BASE,
    PAGE_ROW,
    MASK_MODE,
    PARTIAL,
    PARTIAL_ROW,
    MERGE,
) = range(15)
NUM_ITEMS, NUM_MERGES, NUM_PARTS, NUM_CTAS, MAX_LOAD, IS_WHOLE = range(6)


def item(
    row_begin,
    num_rows,
    seq,
    num_kv_heads,
    *,
    tile_class=0,
    row_mode=ONE_SEQ,
    kv_head_begin=0,
    key_begin=OPEN,
    key_end=OPEN,
    key_base=0,
    page_row=None,
    mask_mode=MASKED,
    partial=WRITE_THROUGH,
):
    """A work item: rows of one sequence, its own pages, all keys, written through."""
    page_row = max(seq, 0) if page_row is None else page_row
    fields = [tile_class, row_begin, num_rows, row_mode, seq, kv_head_begin]
    fields += [num_kv_heads, key_begin, key_end, key_base, page_row, mask_mode, partial]
    return np.array([*fields, 0, 0, 0], np.int32)


def hand_made_plan(facts, ctas, merges=()):
    """A Plan from items by CTA, and merges as (an item of the rows, slots in order)."""
    layout = facts.layout
    buffer = np.zeros(layout["size"], np.int32)
    plan = ji.Plan(buffer, facts)
    items = [item for cta in ctas for item in cta]
    parts = [slot for _, slots in merges for slot in slots]
    buffer[:4] = len(items), len(merges), len(parts), len(ctas)
    # Views of the buffer: writing to them fills it.
    plan.cta_indptr[:] = len(items)
    plan.cta_indptr[: len(ctas) + 1] = np.cumsum([0, *map(len, ctas)])
    plan.items[: len(items)] = items
    plan.parts[: len(parts)] = parts
    ends = np.cumsum([0, *(len(slots) for _, slots in merges)])
    for i, (of, _) in enumerate(merges):
        rows = of[[ROW_BEGIN, NUM_ROWS, KV_HEAD_BEGIN, NUM_KV_HEADS]]
        plan.merges[i, :6] = *rows, ends[i], ends[i + 1]
    return plan
