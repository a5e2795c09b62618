# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Which calls take the prefill kernel for sm_90a, and which the one for all GPUs."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxinfer as ji
from jaxinfer import TileClass, _attention, jit, variants
from jaxinfer.variant import Variant

T, B, N, K = 64, 4, 8, 2
array = jax.ShapeDtypeStruct


def paged(head_dim=128, head_dim_v=None, page_size=16, tokens=T, heads=N):
    pages = (9, page_size, K)
    operands = {
        "query": array((tokens, heads, head_dim), jnp.bfloat16),
        "k_pages": array((*pages, head_dim), jnp.bfloat16),
        "v_pages": array((*pages, head_dim_v or head_dim), jnp.bfloat16),
    }
    ints = {"page_table": (B, 8), "kv_lens": (B,), "cu_q_lens": (B + 1,)}
    return operands | {name: array(shape, jnp.int32) for name, shape in ints.items()}


def dense(**arrays):
    tokens = array((B, T, K, 128), jnp.bfloat16)
    return {"query": tokens, "key": tokens, "value": tokens} | arrays


def ragged():
    query = array((T, N, 128), jnp.bfloat16)
    keys = array((128, K, 128), jnp.bfloat16)
    lens = array((B + 1,), jnp.int32)
    tokens = {"query": query, "key": keys, "value": keys}
    return tokens | {"cu_q_lens": lens, "cu_kv_lens": lens}


def attention_call(operands, arch="sm_90a", **options):
    """(specs by kernel, the tiles that the program tells the extension)."""
    ops = {
        "k_pages": ji.ragged_paged_attention,
        "cu_kv_lens": ji.ragged_attention,
        "query": ji.dot_product_attention,
    }
    op = next(op for name, op in ops.items() if name in operands)
    call = functools.partial(op, **options, implementation="cuda")
    with pytest.MonkeyPatch.context() as patch, jit.collect_specs() as specs:
        patch.setenv("JAXINFER_PLAN_TARGET", arch)
        lowered = jax.jit(call).trace(**operands).lower(lowering_platforms=("cuda",))
    found = {s.kernel: s for s in specs if s.kernel.startswith("attention")}
    (told,) = re.findall(r"hopper_tiles = dense<\[?(.*?)\]?> :", lowered.as_text())
    return found, tuple(map(int, told.split(", "))) if told else ()


def planned(*classes, **fields):
    """A plan of other tiles."""
    config = ji.PlanConfig("sm_90a", 132, classes, **fields)
    sizes = {"num_q_heads": N, "num_kv_heads": K, "head_dim": 128}
    lens = np.arange(B + 1, dtype=np.int32), np.ones(B, np.int32)
    return {
        "plan": ji.plan(*lens, num_tokens=T, max_kv_len=128, **sizes, config=config)
    }


def with_hooks(**hooks):
    return {"variant": Variant(**hooks)}


TILES = TileClass(16, 16, 1), TileClass(128, 128, 13)
ONES = jnp.ones((N,), jnp.float32)
DOCUMENTS = variants.documents(jnp.zeros((B, 256), jnp.int32))
BLOCK_MAP = DOCUMENTS.with_block_map(q_len=256, kv_len=256, num_seqs=B)
# Name: (operands, options).
HOPPER = {
    "paged": (paged(), {}),
    "head_dim 64": (paged(64), {}),
    "head_dim 96": (paged(96), {}),
    **{f"pages of {n}": (paged(page_size=n), {}) for n in (1, 4, 8, 24, 64)},
    "ragged": (ragged(), {}),
    "dense": (dense(), {}),
    "a group of 3": (paged(heads=6), {}),
    "more than 16 heads a group": (paged(tokens=B, heads=64), {}),
    "soft cap": (paged(), {"logits_soft_cap": 30.0}),
    "window": (paged(), {"local_window_size": (7, 0)}),
    "no softmax": (paged(), {"use_softmax": False}),
    "score_mod": (paged(), {"variant": variants.alibi(ONES)}),
    "mask_mod": (paged(), {"variant": DOCUMENTS}),
    "query_mod": (paged(), with_hooks(query_mod=lambda x, b, h, q: x * q)),
    "key_mod": (paged(), with_hooks(key_mod=lambda x, b, h, k: x * k)),
    "value_mod": (paged(), with_hooks(value_mod=lambda x, b, h, k: x * k)),
    "output_mod": (paged(), with_hooks(output_mod=lambda x, b, h, q: x * q)),
    "block map": (paged(), {"variant": BLOCK_MAP}),
    "head_dim 192": (paged(192), {}),
    "head_dim 256": (paged(256), {}),
    "narrower values": (paged(192, 128), {}),
    "two CTAs of decode": (paged(), planned(*TILES, ctas_per_sm=2)),
}
OTHERS = {
    "decode": (paged(tokens=B), {}),
    "sm_80": (paged(), {"arch": "sm_80"}),
    "much narrower values": (paged(128, 64), {}),
    "small tiles": (paged(), planned(TileClass(16, 16, 1))),
    "two classes of long tiles": (
        paged(),
        planned(TileClass(32, 16, 1), TileClass(128, 128, 13)),
    ),
    "two CTAs of both": (paged(128, 64), planned(*TILES, ctas_per_sm=2)),
    "bias": (dense(bias=array((B, K, T, T), jnp.float32)), {}),
    "mask": (dense(mask=array((B, K, T, T), jnp.bool_)), {}),
}


@pytest.mark.parametrize("name", HOPPER)
def test_prefill_has_a_kernel_of_its_own(name):
    operands, options = HOPPER[name]
    found, told = attention_call(operands, **options)
    constants = dict(found["attention_hopper"].constants)
    assert told == (constants["kHopperKeys"], constants["kHopperStages"])
    assert 16 < constants["kHopperRows"] <= 128
    assert constants["kHopperRows"] % constants["kGroup"] == 0
    # Where no tile is short, what merges is all that the decode kernel is needed for.
    is_alone = name == "more than 16 heads a group"
    beside = "attention_merge" if is_alone else "attention"
    assert set(found) == {"attention_hopper", beside}
    for spec in found.values():
        assert dict(spec.constants)["kTileRows"] == 16


def test_decode_beside_prefill_is_decode_alone():
    """One kernel for both, where the decode tile has 16 rows in both."""
    alone, _ = attention_call(paged(tokens=B, heads=16 * K))
    mixed, _ = attention_call(paged(heads=16 * K))
    assert mixed["attention"] == alone["attention"]


def test_two_ctas_of_decode_change_no_prefill_kernel():
    one, two = (
        attention_call(paged(), **planned(*TILES, ctas_per_sm=n))[0] for n in (1, 2)
    )
    assert one["attention_hopper"] == two["attention_hopper"]
    assert one["attention"] != two["attention"]


def test_benchmarks_may_choose_other_tiles(monkeypatch):
    monkeypatch.setattr(_attention, "_hopper_tiles", lambda *sizes: (96, 3))
    found, told = attention_call(paged(page_size=32))
    assert told == (96, 3)
    constants = {"kHopperKeys": 96, "kHopperStages": 3}
    assert constants.items() <= dict(found["attention_hopper"].constants).items()


@pytest.mark.parametrize(
    ("batch", "group", "rows", "ctas"),
    [(64, 4, 0, 2), (64, 4, 64, 2), (64, 32, 0, 1), (31, 4, 0, 1)],
)
def test_large_batches_have_two_ctas_of_decode_a_multiprocessor(
    batch, group, rows, ctas
):
    """But not where the tiles of decode are as large as those of prefill."""
    plan = ji.plan(
        np.arange(batch + 1, dtype=np.int32),
        np.full(batch, 9000, np.int32),
        num_tokens=batch + rows,
        max_kv_len=9000,
        num_q_heads=2 * group,
        num_kv_heads=2,
        head_dim=128,
        config=ji.PlanConfig.gpu(),
    )
    assert plan.facts.ctas_per_sm == ctas
    others = 132 if len(plan.facts.tile_classes) > 1 else 0
    assert plan.facts.band_ctas == (132 * ctas, others)


@pytest.mark.parametrize("name", OTHERS)
def test_all_else_is_left_to_the_kernel_for_all(name):
    operands, options = OTHERS[name]
    found, told = attention_call(operands, **options)
    assert (list(found), told) == (["attention"], ())
    assert "kHopperRows" not in dict(found["attention"].constants)
