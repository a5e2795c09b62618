# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The checker of plans notices when a plan breaks a promise."""

import dataclasses

import numpy as np
import pytest
import work_item as wi
from plan_oracle import check_plan

import jaxinfer as ji

CU_Q_LENS = np.array([0, 1, 41, 41, 42], np.int32)
KV_LENS = np.array([3000, 900, 0, 7], np.int32)


def good_plan():
    return ji.plan(
        CU_Q_LENS,
        KV_LENS,
        num_tokens=50,
        max_kv_len=4000,
        num_q_heads=4,
        num_kv_heads=2,
        head_dim=64,
        config=ji.PlanConfig.gpu(num_ctas=12),
    )


def set_item(field, change, which=lambda items: items[:, wi.PARTIAL] >= 0):
    def damage(plan):
        items = plan.items[: plan.header[wi.NUM_ITEMS]]
        index = np.flatnonzero(which(items))[0]
        items[index, field] = change(items[index, field])

    return damage


def set_value(section, index, change):
    def damage(plan):
        values = getattr(plan, section)
        values[index] = change(values[index])

    return damage


def swap_parts(plan):
    plan.parts[:2] = plan.parts[1::-1]


def move_cut(plan):
    """Moves a cut by a whole 4096 keys, past what is visible."""
    items = plan.items[: plan.header[wi.NUM_ITEMS]]
    cut = items[items[:, wi.KEY_END] > 0][0, wi.KEY_END]
    for field in (wi.KEY_BEGIN, wi.KEY_END):
        items[items[:, field] == cut, field] += 4096


DAMAGES = {
    "row_twice": set_item(wi.ROW_BEGIN, lambda x: x + 1),
    "row_missing": set_item(
        wi.NUM_ROWS, lambda x: x - 1, lambda i: i[:, wi.NUM_ROWS] > 1
    ),
    "wrong_sequence": set_item(wi.SEQ, lambda x: x + 1),
    "wrong_pages": set_item(wi.PAGE_ROW, lambda x: x + 1),
    "wrong_head": set_item(wi.KV_HEAD_BEGIN, lambda x: x ^ 1),
    "wrong_class": set_item(wi.TILE_CLASS, lambda x: x ^ 1),
    "keys_twice": set_item(wi.KEY_BEGIN, lambda x: 0, lambda i: i[:, wi.KEY_BEGIN] > 0),
    "closed_end": set_item(wi.KEY_END, lambda x: 900, lambda i: i[:, wi.SEQ] == 3),
    "odd_cut": set_item(wi.KEY_END, lambda x: x + 1, lambda i: i[:, wi.KEY_END] > 0),
    "cuts_elsewhere": move_cut,
    "full_with_open_end": set_item(
        wi.MASK_MODE, lambda x: 0, lambda i: i[:, wi.KEY_END] == wi.OPEN
    ),
    "slot_twice": set_item(wi.PARTIAL, lambda x: x + 1),
    "slot_for_nothing": set_item(
        wi.PARTIAL, lambda x: 23, lambda i: i[:, wi.PARTIAL] == wi.WRITE_THROUGH
    ),
    "spare_field": set_item(15, lambda x: 1),
    "swapped_parts": swap_parts,
    "merge_of_other_rows": set_value("merges", (0, 0), lambda x: x + 1),
    "merge_dropped": set_value("header", wi.NUM_MERGES, lambda x: x - 1),
    "load": set_value("header", wi.MAX_LOAD, lambda x: x + 1),
    "fewer_ctas": set_value("header", wi.NUM_CTAS, lambda x: x - 1),
    "unbalanced": set_value("cta_indptr", 1, lambda x: x + 1),
    "rest_not_zero": set_value("parts", -1, lambda x: 1),
}


def test_a_good_plan_passes():
    plan = good_plan()
    assert plan.header[wi.NUM_MERGES] > 1
    check_plan(plan, CU_Q_LENS, KV_LENS)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_plan_is_noticed(damage):
    plan = good_plan()
    plan = dataclasses.replace(plan, buffer=plan.buffer.copy())
    DAMAGES[damage](plan)
    assert (plan.buffer != good_plan().buffer).any()
    with pytest.raises((AssertionError, IndexError)):
        check_plan(plan, CU_Q_LENS, KV_LENS)
