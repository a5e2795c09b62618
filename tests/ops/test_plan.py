# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""plan: every promise of a Plan, on random and on adversarial lengths."""

import dataclasses

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import work_item
from hypothesis import strategies as st
from plan_oracle import check_plan, chunks_of

import jaxinfer as ji
from jaxinfer import PlanConfig, TileClass

GPU = PlanConfig.gpu()
THREE_CLASSES = (TileClass(4, 8, 1, 9), TileClass(16, 24, 5), TileClass(64, 64, 16, 3))
FOUR_CLASSES = (TileClass(1, 16, 3), *THREE_CLASSES[1:], TileClass(128, 128, 29))
CONFIGS = {
    "cpu": PlanConfig.cpu(2),
    "gpu": GPU,
    "gpu_7_ctas": PlanConfig.gpu(num_ctas=7),
    "one_cta": PlanConfig.gpu(num_ctas=1),
    "two_heads": dataclasses.replace(GPU, kv_heads_per_item=2, num_ctas=24),
    "all_heads": dataclasses.replace(GPU, kv_heads_per_item=None, num_ctas=13),
    "costly_cta": dataclasses.replace(GPU, min_cost=37, min_keys_per_row=64),
    "always_split": dataclasses.replace(GPU, num_ctas=61, min_keys_per_row=1),
    "three_classes": PlanConfig("x", 19, THREE_CLASSES),
    "four_classes": PlanConfig("x", 40, FOUR_CLASSES, kv_heads_per_item=None),
    "invariant_16": dataclasses.replace(GPU, batch_invariant=True, split_keys=16),
    "invariant_100": dataclasses.replace(
        PlanConfig.cpu(2), batch_invariant=True, split_keys=100
    ),
}
MASKS = [(True, None, None)] * 4 + [
    (False, None, None),
    (False, 0, None),
    (False, 5, 9),
    (True, 0, 0),
    (True, 100, None),
    (False, None, 20),
]
Q_KINDS = ("decode", "zero_or_one", "few", "prefill", "giant", "malformed")
KV_KINDS = ("zeros", "ones", "even", "giant", "zipf", "below_q", "edges", "malformed")


def draw_lengths(rng, q_kind, kv_kind, num_seqs, num_padding, size):
    """(cu_q_lens, kv_lens, num_tokens, max_kv_len) of one adversarial batch."""
    ones = np.ones(num_seqs, np.int64)
    q_lens = {
        "zero_or_one": lambda: rng.integers(0, 2, num_seqs),
        "few": lambda: rng.integers(0, 9, num_seqs),
        "prefill": lambda: rng.integers(0, 1 + size // 8, num_seqs),
        "giant": lambda: np.where(ones.cumsum() == 1, rng.integers(1, size + 1), ones),
    }.get(q_kind, lambda: ones)()
    q_lens = rng.permutation(q_lens)
    cu_q_lens = np.append(0, np.cumsum(q_lens))
    num_tokens = max(int(cu_q_lens[-1]) + num_padding, 1)
    if q_kind == "malformed":
        cu_q_lens = rng.integers(-3, 2 * num_seqs + 2, num_seqs + 1)
        cu_q_lens[rng.integers(num_seqs + 1)] = rng.choice([-(2**31), 2**31 - 1])
    even = rng.integers(0, size + 1, num_seqs)
    kv_lens = {
        "zeros": lambda: 0 * ones,
        "ones": lambda: ones,
        "giant": lambda: rng.permutation(np.where(ones.cumsum() == 1, size, ones)),
        "zipf": lambda: rng.permutation(size // ones.cumsum()),
        "below_q": lambda: np.maximum(q_lens - rng.integers(0, 3, num_seqs), 0),
        "edges": lambda: np.maximum(even // 16 * 16 + rng.integers(-1, 2, num_seqs), 0),
        "malformed": lambda: rng.choice([-(2**31), -1, 3, size, 2**31 - 1], num_seqs),
    }.get(kv_kind, lambda: even)()
    max_kv_len = size if kv_kind == "malformed" else int(kv_lens.max())
    lengths = cu_q_lens.astype(np.int32), kv_lens.astype(np.int32)
    return *lengths, num_tokens, max_kv_len


def make(config, heads, mask, cu_q_lens, kv_lens, num_tokens, max_kv_len):
    group, num_kv_heads = heads
    is_causal, *window = mask
    return ji.plan(
        cu_q_lens,
        kv_lens,
        num_tokens=num_tokens,
        max_kv_len=max_kv_len,
        num_q_heads=group * num_kv_heads,
        num_kv_heads=num_kv_heads,
        head_dim=64,
        is_causal=is_causal,
        local_window_size=tuple(window),
        config=config,
    )


def check(config, heads, mask, lengths, seq):
    """All properties of one plan; `seq` is also planned alone in the invariant mode."""
    plan = make(config, heads, mask, *lengths)
    tiles = check_plan(plan, *lengths[:2])
    again = make(config, heads, mask, *lengths)
    assert (again.buffer == plan.buffer).all()
    if config.batch_invariant:
        cu_q_lens, kv_lens, num_tokens, max_kv_len = lengths
        starts = np.append(
            0, np.clip(np.maximum.accumulate(cu_q_lens[1:]), 0, num_tokens)
        )
        begin, end = (int(x) for x in starts[seq : seq + 2])
        if begin == end:
            return
        cu_alone = np.array([0, end - begin], np.int32)
        lengths = cu_alone, kv_lens[seq : seq + 1], end - begin, max_kv_len
        alone = make(config, heads, mask, *lengths)
        tiles_alone = check_plan(alone, *lengths[:2])
        got, want = chunks_of(tiles, seq, begin), chunks_of(tiles_alone, 0, 0)
        np.testing.assert_array_equal(got, want, "not batch-invariant")


def with_item_costs(config, item_costs):
    """The configuration with other costs of its tiles, or as it is for None."""
    if item_costs is None or config.tile_classes is None:
        return config
    classes = zip(config.tile_classes, item_costs, strict=False)
    classes = (dataclasses.replace(tile, item_cost=cost) for tile, cost in classes)
    return dataclasses.replace(config, tile_classes=tuple(classes))


ITEM_COSTS = st.none() | st.tuples(*[st.sampled_from([0, 1, 5, 100, 65536])] * 4)
HEADS = st.sampled_from([1, 3, 4, 7, 16]), st.sampled_from([1, 2, 8])


@pytest.mark.parametrize(
    "num_plans", [20_000, pytest.param(1_000_000, marks=pytest.mark.exhaustive)]
)
def test_every_property_of_many_plans(num_plans, capsys):
    num_checked = 0
    plans_an_example = 10

    # One example draws the kind of batch; its seed draws several batches of the kind.
    @hypothesis.settings(
        max_examples=num_plans // plans_an_example,
        derandomize=num_plans < 1_000_000,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(
        config=st.sampled_from(list(CONFIGS)),
        item_costs=ITEM_COSTS,
        heads=st.tuples(*HEADS),
        mask=st.sampled_from(MASKS),
        q_kind=st.sampled_from(Q_KINDS),
        kv_kind=st.sampled_from(KV_KINDS),
        num_seqs=st.sampled_from([1, 2, 3, 5, 8, 17, 40, 150]),
        num_padding=st.sampled_from([0, 0, 1, 30]),
        size=st.sampled_from([1, 20, 300, 1000, 8192]),
        seed=st.integers(0, 2**32 - 1),
    )
    def check_many(
        config, item_costs, heads, mask, q_kind, kv_kind, num_seqs, num_padding, size,
        seed,
    ):  # fmt: skip
        nonlocal num_checked
        rng = np.random.default_rng(seed)
        chosen = with_item_costs(CONFIGS[config], item_costs)
        # Few sequences where each may be long: every plan stays small.
        if q_kind == "prefill":
            num_seqs = min(num_seqs, 8)
        for _ in range(plans_an_example):
            lengths = draw_lengths(rng, q_kind, kv_kind, num_seqs, num_padding, size)
            check(chosen, heads, mask, lengths, int(rng.integers(num_seqs)))
            num_checked += 1

    check_many()
    with capsys.disabled():
        print(f"\n{num_checked} random plans checked")
    assert num_checked >= num_plans


LENGTHS = st.one_of(st.integers(0, 3), st.integers(0, 40), st.integers(0, 9000))


@hypothesis.settings(max_examples=500)
@hypothesis.given(
    config=st.sampled_from(list(CONFIGS)),
    item_costs=ITEM_COSTS,
    heads=st.tuples(*HEADS),
    mask=st.sampled_from(MASKS),
    lengths=st.lists(st.tuples(st.integers(0, 90), LENGTHS), min_size=1, max_size=7),
    num_padding=st.integers(0, 70),
    is_decode=st.booleans(),
)
def test_every_property_of_drawn_lengths(
    config, item_costs, heads, mask, lengths, num_padding, is_decode
):
    """As above, with lengths that hypothesis can shrink one by one."""
    q_lens, kv_lens = np.array(lengths).T
    q_lens = np.minimum(q_lens, 1) if is_decode else q_lens
    cu_q_lens = np.cumsum([0, *q_lens], dtype=np.int32)
    num_tokens = max(int(cu_q_lens[-1]) + num_padding, 1)
    lengths = cu_q_lens, kv_lens.astype(np.int32), num_tokens, int(kv_lens.max())
    chosen = with_item_costs(CONFIGS[config], item_costs)
    for seq in range(len(kv_lens)):
        check(chosen, heads, mask, lengths, seq)


def decode_plan(kv_lens, config=GPU, heads=(4, 8), mask=(True, None, None)):
    kv_lens = np.asarray(kv_lens, np.int32)
    cu_q_lens = np.arange(len(kv_lens) + 1, dtype=np.int32)
    lengths = cu_q_lens, kv_lens, len(kv_lens), int(kv_lens.max())
    check(config, heads, mask, lengths, 0)
    return make(config, heads, mask, *lengths)


@pytest.mark.parametrize(("ctas_per_sm", "num_ranges"), [(1, 16), (2, 33)])
def test_a_skewed_batch_is_balanced_over_all_ctas(ctas_per_sm, num_ranges):
    kv_lens = 64 * 4096 // np.arange(1, 65)
    plan = decode_plan(kv_lens, dataclasses.replace(GPU, ctas_per_sm=ctas_per_sm))
    num_ctas, max_load = plan.header[[work_item.NUM_CTAS, work_item.MAX_LOAD]]
    assert num_ctas == 8 * num_ranges
    (tile,) = plan.facts.tile_classes
    mean = (-(-kv_lens // 16) + tile.item_cost).sum() / num_ranges
    assert mean <= max_load <= mean + 1 + tile.item_cost


def test_many_short_tiles_are_not_left_to_one_range():
    """By their keys alone the 15 short tiles would be one range of the 16."""
    tiles = (TileClass(8, 16, 1, item_cost=5),)
    plan = decode_plan([4000] + [16] * 15, dataclasses.replace(GPU, tile_classes=tiles))
    num_ctas, max_load = plan.header[[work_item.NUM_CTAS, work_item.MAX_LOAD]]
    assert num_ctas == 8 * 16
    mean = (250 + 15 + 16 * 5) / 16
    assert mean <= max_load <= mean + 6
    assert np.diff(plan.cta_indptr[: num_ctas + 1]).max() * 6 <= mean + 6


def test_little_work_gets_few_ctas():
    tiles = (TileClass(8, 16, 1),)
    config = dataclasses.replace(
        GPU, min_cost=10, min_keys_per_row=1, tile_classes=tiles
    )
    for kv_len, num_ranges in ((16, 1), (16 * 19, 1), (16 * 20, 2), (16 * 10000, 132)):
        plan = decode_plan([kv_len], config, heads=(1, 1))
        assert plan.header[work_item.NUM_CTAS] == num_ranges


def test_short_sequences_do_not_wait_for_each_other():
    plan = decode_plan([17] * 16)
    (tile,) = plan.facts.tile_classes
    assert plan.header[work_item.NUM_CTAS] == 8 * 16
    assert plan.header[work_item.MAX_LOAD] == 2 + tile.item_cost


def test_partial_traffic_stays_small_where_every_cut_splits_a_short_sequence():
    decode_plan([1, 1] + [17, 1] * 131 + [1], heads=(1, 1))
    decode_plan([0, 0, 0, 49], heads=(3, 1))
    decode_plan([105, 210], heads=(3, 1), mask=(True, 100, None))


def test_items_that_every_row_sees_whole_skip_the_mask():
    plan = decode_plan([100_000])
    items = plan.items[: plan.header[work_item.NUM_ITEMS]]
    is_open = items[:, work_item.KEY_END] == work_item.OPEN
    assert 8 == is_open.sum() < len(items)
    assert (items[~is_open, work_item.MASK_MODE] == work_item.FULL).all()


@pytest.mark.parametrize(
    ("num_kv_heads", "num_ctas", "want", "heads"),
    [(8, 132, 1, 1), (8, 132, None, 8), (8, 7, 1, 2), (8, 1, 1, 8), (6, 4, 1, 2)]
    + [(6, 9, 4, 6), (7, 6, 1, 7), (1, 5, 3, 1)],
)
def test_heads_of_an_item_divide_the_heads_and_leave_each_group_a_cta(
    num_kv_heads, num_ctas, want, heads
):
    config = dataclasses.replace(GPU, num_ctas=num_ctas, kv_heads_per_item=want)
    plan = decode_plan([1000, 5], config, heads=(2, num_kv_heads))
    assert plan.items[0, work_item.NUM_KV_HEADS] == heads


def test_workspace_of_the_invariant_mode_is_bounded_by_max_kv_len():
    """Tiles x head groups x (max_kv_len / split_keys + 1), as PlanConfig says."""
    config = dataclasses.replace(GPU, batch_invariant=True, split_keys=256)
    plan = decode_plan([5000, 1, 4096], config, heads=(4, 8))
    assert plan.facts.layout["num_slots"] == 3 * 8 * (5000 // 256 + 1)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("num_seqs", [1, 37])
def test_the_graph_plans_the_same_bits_as_the_host(config, num_seqs):
    num_tokens, max_kv_len, mask = 120, 700, (True, 64, None)
    rng = np.random.default_rng(num_seqs)

    def plan(cu_q_lens, kv_lens):
        lengths = cu_q_lens, kv_lens, num_tokens, max_kv_len
        return make(CONFIGS[config], (3, 2), mask, *lengths)

    planned = jax.jit(plan)
    for q_kind in Q_KINDS:
        for kv_kind in KV_KINDS:
            args = draw_lengths(rng, q_kind, kv_kind, num_seqs, 0, max_kv_len)[:2]
            host, graph = plan(*args), planned(*args)
            assert isinstance(host.buffer, np.ndarray)
            assert host.facts == graph.facts
            np.testing.assert_array_equal(host.buffer, graph.buffer)
    eager = plan(*map(jnp.asarray, args))
    assert isinstance(eager.buffer, jax.Array)
    np.testing.assert_array_equal(host.buffer, eager.buffer)


@pytest.mark.parametrize("config", CONFIGS)
def test_no_offsets_mean_one_query_each(config):
    rng = np.random.default_rng(0)
    for num_seqs, num_tokens in ((3, 3), (40, 40), (40, 51), (40, 7)):
        for kv_kind in KV_KINDS:
            lengths = draw_lengths(rng, "decode", kv_kind, num_seqs, 0, 900)
            cu_q_lens, kv_lens, _, max_kv_len = lengths
            rest = kv_lens, num_tokens, max_kv_len
            ours, same = (
                make(CONFIGS[config], (2, 2), (True, None, None), offsets, *rest)
                for offsets in (None, cu_q_lens)
            )
            np.testing.assert_array_equal(ours.buffer, same.buffer)
