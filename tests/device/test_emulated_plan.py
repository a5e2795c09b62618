# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The planner of the GPU, on the host: every bit that of csrc/plan.cc."""

import ctypes
import dataclasses
import itertools

import emulation
import fuzz_calls
import fuzz_ffi
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinfer import PlanConfig, TileClass, _native
from jaxinfer._plan import PlanFacts

GPU = PlanConfig("sm_90a", 132, (TileClass(16, 16, 1), TileClass(128, 128, 6)))
THREE_CLASSES = (TileClass(4, 8, 1), TileClass(16, 24, 5), TileClass(64, 64, 16))
CONFIGS = {
    "gpu": GPU,
    "one_class": dataclasses.replace(GPU, tile_classes=(TileClass(8, 16, 1),)),
    "7_ctas": dataclasses.replace(GPU, num_ctas=7),
    "one_cta": dataclasses.replace(GPU, num_ctas=1),
    "two_heads": dataclasses.replace(GPU, kv_heads_per_item=2, num_ctas=24),
    "all_heads": dataclasses.replace(GPU, kv_heads_per_item=None, num_ctas=13),
    "costly_cta": dataclasses.replace(GPU, min_cost=37, min_keys_per_row=64),
    "always_split": dataclasses.replace(GPU, num_ctas=61, min_keys_per_row=1),
    "many_ctas": dataclasses.replace(GPU, num_ctas=1500, min_keys_per_row=1),
    "three_classes": PlanConfig("x", 19, THREE_CLASSES),
    "four_classes": PlanConfig(
        "x", 40, (TileClass(1, 16, 3), *THREE_CLASSES[1:], TileClass(128, 128, 29))
    ),
    "item_cost": dataclasses.replace(GPU, tile_classes=(TileClass(8, 16, 1, 5),)),
    "item_costs": PlanConfig(
        "x",
        23,
        (TileClass(4, 8, 1, 13), TileClass(16, 24, 5), TileClass(64, 64, 16, 3)),
    ),
    "costly_items": dataclasses.replace(
        GPU, tile_classes=(TileClass(16, 16, 1, 65536), TileClass(128, 128, 6, 7000))
    ),
    "costs": PlanConfig("x", 9, (TileClass(8, 3, 65536), TileClass(64, 7, 40000))),
    "invariant_16": dataclasses.replace(GPU, batch_invariant=True, split_keys=16),
    "invariant_100": dataclasses.replace(
        GPU, num_ctas=11, batch_invariant=True, split_keys=100, min_keys_per_row=1
    ),
}
MASKS = [(True, None, None)] * 3 + [
    (False, None, None),
    (False, 0, None),
    (False, 5, 9),
    (True, 0, 0),
    (True, 100, None),
    (False, None, 20),
    (False, 2**31 - 2, 2**31 - 2),
]
PAINT = 0x5A5A5A5A
LIMITS = np.array([-9, 0, 1])
NONE = np.zeros(0, np.int32)  # offsets of one row a sequence


def emulated_plan(facts, cu_q_lens, kv_lens, threads=0, ctas=0, seed=0):
    """The buffer, written by emulated threads over paint; nothing around it changes."""
    size = _native.plan_layout(facts)["size"]
    room = np.full(size + 64, PAINT, np.int32)
    # 16-byte aligned, as XLA's buffers are at least.
    first = 16 + (-room.ctypes.data // 4) % 4
    arrays = [np.ascontiguousarray(x, np.int32) for x in (facts, cu_q_lens, kv_lens)]
    facts, cu_q_lens, kv_lens = (
        x.ctypes.data_as(ctypes.c_void_p) if x.size else None for x in arrays
    )
    ended = emulation.build("plan").plan_emulated(
        facts,
        ctypes.c_int64(len(arrays[0])),
        cu_q_lens,
        kv_lens,
        ctypes.c_void_p(room[first:].ctypes.data),
        threads,
        ctas,
        ctypes.c_int64(seed),
    )
    assert ended, "threads wait for ever"
    outside = np.append(room[:first], room[first + size :])
    assert (outside == PAINT).all(), "written out of bounds"
    return room[first : first + size]


def check(facts, cu_q_lens, kv_lens, **launch):
    want = _native.make_plan(facts, cu_q_lens, kv_lens)
    got = emulated_plan(facts, cu_q_lens, kv_lens, **launch)
    if not np.array_equal(got, want):
        layout, at = _native.plan_layout(facts), int(np.flatnonzero(got != want)[0])
        raise AssertionError(
            f"int {at} is {got[at]}, not {want[at]}: {list(map(int, facts))}, "
            f"{cu_q_lens.tolist()}, {kv_lens.tolist()}, {launch}, {layout}"
        )
    return want


def make_facts(config, heads, mask, num_seqs, num_tokens, max_kv_len):
    group, num_kv_heads = heads
    is_causal, *window = mask
    return PlanFacts(
        num_tokens=num_tokens,
        num_seqs=num_seqs,
        max_kv_len=max_kv_len,
        num_q_heads=group * num_kv_heads,
        num_kv_heads=num_kv_heads,
        head_dim=64,
        is_causal=is_causal,
        local_window_size=tuple(window),
        config=config,
    ).encoded


def draw_config(rng, name, num_kv_heads):
    """The configuration, as the heads allow it, at times with other costs of items."""
    chosen = CONFIGS[name]
    if (
        chosen.kv_heads_per_item or 99
    ) < num_kv_heads and chosen.num_ctas < num_kv_heads:
        chosen = dataclasses.replace(chosen, kv_heads_per_item=None)
    if rng.random() < 0.5:
        return chosen
    tiles = (
        dataclasses.replace(tile, item_cost=int(rng.choice([0, 1, 5, 90, 65536])))
        for tile in chosen.tile_classes
    )
    return dataclasses.replace(chosen, tile_classes=tuple(tiles))


def draw(rng, num_seqs, size):
    """(cu_q_lens, kv_lens): of one kind, at times malformed."""
    ones = np.ones(num_seqs, np.int64)
    few = min(size, 4000 // num_seqs)
    q_lens = [
        lambda: ones,
        lambda: ones,
        lambda: rng.integers(0, 2, num_seqs),
        lambda: rng.integers(0, 9, num_seqs),
        lambda: rng.integers(0, 1 + few, num_seqs),
        lambda: np.where(ones.cumsum() == 1, few, rng.integers(0, 3)),
    ][rng.integers(6)]()
    q_lens = rng.permutation(q_lens)
    kv_lens = [
        lambda: rng.integers(0, size + 1, num_seqs),
        lambda: 0 * ones,
        lambda: ones,
        lambda: rng.permutation(size // ones.cumsum()),
        lambda: np.maximum(q_lens - rng.integers(0, 3, num_seqs), 0),
        lambda: rng.integers(0, size + 1, num_seqs) // 16 * 16,
        lambda: np.where(ones.cumsum() == 1, size, ones),
        lambda: size * ones,
    ][rng.integers(8)]()
    cu_q_lens = np.append(0, np.cumsum(q_lens)).astype(np.int32)
    kv_lens = kv_lens.astype(np.int32)
    if rng.random() < 0.15:
        cu_q_lens = fuzz_ffi.spoil_contents(rng, cu_q_lens)
    if rng.random() < 0.15:
        kv_lens = fuzz_ffi.spoil_contents(rng, kv_lens)
    return cu_q_lens, kv_lens, max(int(q_lens.sum()), 1)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("seed", range(4))
def test_random_plans(config, seed):
    """Any threads and CTAs: one tile or sequence a thread, and several."""
    rng = np.random.default_rng([seed, list(CONFIGS).index(config)])
    for _ in range(60):
        num_seqs = int(rng.choice([1, 2, 3, 5, 8, 17, 40, 150]))
        size = int(rng.choice([1, 20, 300, 1000, 8192]))
        cu_q_lens, kv_lens, num_tokens = draw(rng, num_seqs, size)
        num_tokens += int(rng.choice([0, 0, 1, 30, 700]))
        groups = int(rng.choice([1, 3, 4, 7, 16])), int(rng.choice([1, 1, 2, 8]))
        chosen = draw_config(rng, config, groups[1])
        mask = MASKS[rng.integers(len(MASKS))]
        most = size if rng.random() < 0.8 else int(rng.integers(size + 1))
        facts = make_facts(chosen, groups, mask, num_seqs, num_tokens, most)
        launch = {
            "threads": int(rng.choice([0, 128, 256, 512])),
            "ctas": int(rng.choice([1, 1, 2, 5])),
            "seed": int(rng.integers(2**40)),
        }
        check(facts, cu_q_lens, kv_lens, **launch)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("seed", range(2))
def test_plain_batches(config, seed):
    """A row for each of the first sequences, in offsets or for want of them."""
    rng, checked = np.random.default_rng([seed, list(CONFIGS).index(config)]), 0
    while checked < 30:
        num_seqs = int(rng.choice([1, 2, 5, 40, 127, 128, 129, 300]))
        num_rows = int(rng.choice([num_seqs, rng.integers(num_seqs + 1)]))
        num_tokens = max(num_rows + int(rng.choice([0, 0, 1, 9, 200])), 1)
        heads = int(rng.choice([1, 4])), int(rng.choice([1, 8]))
        chosen = draw_config(rng, config, heads[1])
        # From a few keys to costs whose sum is just small enough, or just not.
        most_cost = 2**30 // max(num_seqs, num_tokens)
        limit = min(
            int((most_cost - tile.item_cost) * min(tile.keys / tile.cost, 1))
            for tile in chosen.tile_classes
        )
        most = int(rng.choice([0, 40, 1000, 10**5, *np.maximum(limit + LIMITS, 0)]))
        mask = MASKS[rng.integers(len(MASKS))]
        facts = make_facts(chosen, heads, mask, num_seqs, num_tokens, most)
        if fuzz_ffi.layout_size(facts) > 10**6:
            continue
        kv_lens = rng.integers(0, most + 1, num_seqs)
        kv_lens = np.where(
            rng.random(num_seqs) < rng.choice([0, 0.2, 1]), most, kv_lens
        )
        kv_lens = kv_lens.astype(np.int32)
        offsets = np.minimum(np.arange(num_seqs + 1, dtype=np.int32), num_rows)
        if rng.random() < 0.1:
            offsets[rng.integers(num_seqs + 1)] += rng.choice([-1, 1])
        launch = {"threads": int(rng.choice([0, 0, 128])), "seed": checked}
        check(facts, offsets, kv_lens, ctas=int(rng.choice([0, 1, 3])), **launch)
        absent = check(facts, NONE, kv_lens, ctas=1, **launch)
        same = _native.make_plan(facts, np.arange(num_seqs + 1), kv_lens)
        np.testing.assert_array_equal(absent, same)
        checked += 1


def test_any_facts():
    """Facts at their limits, where sums and products are largest."""
    rng, checked = np.random.default_rng(0), 0
    for _ in range(4000):
        facts = fuzz_calls.good_call(rng, op="plan").attributes["facts"]
        if rng.random() < 0.7:
            facts = fuzz_ffi.spoil_facts(rng, facts)
        if (
            fuzz_ffi.layout_size(facts) > 10**6
            or facts[1] > 300
            or facts[8:10].sum() > 4096
        ):
            continue
        num_seqs = int(facts[1])
        cu_q_lens = np.sort(rng.integers(0, 9, num_seqs + 1, np.int32))
        kv_lens = rng.integers(0, 99, num_seqs, np.int32)
        if rng.random() < 0.5:
            cu_q_lens, kv_lens = (
                fuzz_ffi.spoil_contents(rng, x) for x in (cu_q_lens, kv_lens)
            )
        check(facts, cu_q_lens, kv_lens, threads=128, ctas=1, seed=checked)
        checked += 1
    assert checked > 1000


@pytest.mark.parametrize(
    "config", ["gpu", "item_costs", "always_split", "invariant_100"]
)
@pytest.mark.parametrize("kind", ["plain", "decode", "prefill", "mixed", "giant"])
def test_large_batches(kind, config):
    """More sequences and tiles than threads, with the launch's own geometry."""
    rng = np.random.default_rng(7)
    sizes = {"plain": 1500, "decode": 20_000, "prefill": 700, "mixed": 3000, "giant": 3}
    num_seqs = sizes[kind]
    q_lens = {
        "plain": lambda: np.ones(num_seqs, np.int64),
        "decode": lambda: np.ones(num_seqs, np.int64),
        "prefill": lambda: rng.integers(0, 300, num_seqs),
        "mixed": lambda: np.where(rng.random(num_seqs) < 0.02, 500, 1),
        "giant": lambda: np.array([1, 200_000, 0]),
    }[kind]()
    cu_q_lens = np.append(0, np.cumsum(q_lens)).astype(np.int32)
    kv_lens = (q_lens + rng.integers(0, 300, num_seqs)).astype(np.int32)
    heads = (8, 2) if kind != "decode" else (4, 1)
    facts = make_facts(
        CONFIGS[config],
        heads,
        (True, None, None),
        num_seqs,
        int(cu_q_lens[-1]) + 1000,
        int(kv_lens.max()) if config != "invariant_100" or kind != "giant" else 900,
    )
    check(facts, cu_q_lens, kv_lens, ctas=2)


def test_items_may_cost_more_than_an_int_holds():
    """One row and few keys a sequence, but too large a sum for a plain batch."""
    num_seqs, heads, mask = 40_000, (2, 2), (True, None, None)
    facts = make_facts(CONFIGS["costly_items"], heads, mask, num_seqs, num_seqs, 99)
    kv_lens = np.arange(num_seqs, dtype=np.int32) % 99
    check(facts, NONE, kv_lens, ctas=1)


@pytest.mark.parametrize("item_costs", [(0, 0), (3, 1), (1, 8)])
def test_every_small_batch(item_costs):
    """All lengths up to a few units, for two head groups and two classes."""
    short, long = item_costs
    config = dataclasses.replace(
        GPU, num_ctas=8, min_keys_per_row=1,
        tile_classes=(TileClass(1, 2, 2, short), TileClass(2, 4, 3, long)),
    )  # fmt: skip
    q_lens, kv_lens = (0, 1, 3), (0, 1, 4, 9)
    for seqs in itertools.product(itertools.product(q_lens, kv_lens), repeat=2):
        q, kv = np.array(seqs).T
        cu_q_lens = np.append(0, np.cumsum(q)).astype(np.int32)
        facts = make_facts(
            config, (1, 2), (True, None, None), 2, int(cu_q_lens[-1]) + 1, 9
        )
        check(facts, cu_q_lens, kv.astype(np.int32), threads=128, ctas=1)


def test_the_handler():
    cu_q_lens, kv_lens = np.arange(129, dtype=np.int32), np.full(128, 3000, np.int32)
    kv_lens[:40] = np.arange(40) ** 2
    facts = make_facts(GPU, (4, 8), (True, None, None), 128, 130, 4096)
    size = _native.plan_layout(facts)["size"]

    @jax.jit
    def plan(cu_q_lens, kv_lens):
        result = jax.ShapeDtypeStruct((size,), jnp.int32)
        return emulation.call("plan", result, cu_q_lens, kv_lens, facts=facts)

    for offsets in (cu_q_lens, NONE):
        want = _native.make_plan(facts, offsets, kv_lens)
        np.testing.assert_array_equal(plan(offsets, kv_lens), want)


def test_more_ctas_than_fit_shared_memory_are_refused():
    config = dataclasses.replace(GPU, num_ctas=4097)
    facts = make_facts(config, (1, 1), (True, None, None), 1, 1, 16)
    size = _native.plan_layout(facts)["size"]
    result = jax.ShapeDtypeStruct((size,), jnp.int32)
    with pytest.raises(Exception, match="CTAs of a plan must be at most 4096 to plan"):
        emulation.call("plan", result, np.arange(2, dtype=np.int32),
                       np.ones(1, np.int32), facts=facts)  # fmt: skip
