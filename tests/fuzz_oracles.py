# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""What fits a fuzzed call of an FFI target, and what it must compute."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from fuzz_calls import FIXED, FLOATS, PAGES, SIGNATURES, Call, facts_letters, fields

from jaxinfer import _native
from jaxinfer._attention import AttentionOptions
from jaxinfer.reference.dot_product_attention import dot_product_attention
from jaxinfer.reference.merge_partials import merge_partials
from jaxinfer.reference.ragged_attention import ragged_attention
from jaxinfer.reference.ragged_paged_attention import ragged_paged_attention

# ---- what fits ---------------------------------------------------------------------


def fits(call: Call) -> bool:
    """Whether the arrays agree with the signature, the limits and the facts."""
    parts = ", ".join(SIGNATURES[call.op])
    operands = call.operands
    if operands.get("page_indptr", np.zeros(0)).size:
        parts = parts.replace("i32 B max_pages", "i32 num_indices")
    expected = fields(parts)
    arrays = [*operands.values(), *call.results.values()]
    if len(arrays) != len(expected) or not operands.keys() <= {f[0] for f in expected}:
        return False
    by_slots = operands.get("slot_mapping", np.zeros(0)).size > 0
    unused = ("page_table", "page_indptr", "kv_lens", "cu_q_lens") if by_slots else ()
    letters: dict[str, int] = {}
    if "facts" in call.attributes:
        letters |= facts_letters(call.attributes["facts"])
    dtypes: dict[str, Any] = dict(FIXED)
    present = []
    for (name, dtype, dims), array in zip(expected, arrays, strict=True):
        if name in unused or (dtype.endswith("?") and not array.size):
            continue
        shape = array.shape
        if name in PAGES and not operands["layer"].size and array.ndim >= 4:
            shape = as_one_layer(array).shape
        if name == "out" and "facts" in call.attributes:  # only its size counts
            shape, dims = (array.size,), ["*".join(dims)]
        if len(shape) != len(dims):
            return False
        dtype = dtype.rstrip("?")
        if dtypes.setdefault(dtype, array.dtype) != array.dtype:
            return False
        present += zip(dims, shape, strict=True)
    if any(dtypes[d] not in FLOATS for d in ("q", "kv") if d in dtypes):
        return False
    for dim, size in present:
        if dim.isidentifier() and letters.setdefault(dim, size) != size:
            return False
    for dim, size in present:
        if size not in [eval(d, {}, letters) for d in dim.split("|")]:
            return False
    return limits(call, letters)


def as_one_layer(pages: np.ndarray) -> np.ndarray:
    """[..., page_size, K, H] as [1, P, page_size, K, H]."""
    num_pages = math.prod(pages.shape[:-3])
    return pages.reshape(1, num_pages, *pages.shape[-3:])


def limits(call: Call, letters: dict[str, int]) -> bool:
    """Sizes that the kernels take, and those that the plan was made for."""
    n = letters
    if call.op == "merge_partials":
        return 1 <= n["S"] <= 64 and n["H"] in range(16, 257, 16)
    if call.op == "update_kv_pages":
        return min(n["L"], n["P"], n["page_size"]) > 0 and len(call.aliases) == 2
    facts = call.attributes["facts"]
    if call.op == "plan":
        return n["B"] == facts[1]
    tokens = n["T"] * (n["B"] if call.op == "dot_product_attention" else 1)
    return (
        min(n["T"], n["N"], n["K"], n["B"], n.get("L", 1), n.get("page_size", 1)) > 0
        and [tokens, n["B"], n["N"], n["K"]] == list(facts[[0, 1, 3, 4]])
        and n["H"] in range(16, 257, 16)
        and n["Hv"] in range(16, 257, 16)
    )


def is_defined(call: Call) -> bool:
    """dot_product_attention computes dense batches; others only do no harm there."""
    if call.op != "dot_product_attention":
        return True
    (batch, queries), keys = (
        call.operands["query"].shape[:2],
        call.operands["key"].shape[1],
    )
    steps = np.arange(batch + 1)
    return (
        np.array_equal(offsets_of(call.operands)[1:], steps[1:] * queries)
        and np.array_equal(call.operands["kv_starts"], steps[:-1] * keys)
        and bool((call.operands["kv_lens"] <= keys).all())
    )


def offsets_of(operands: dict[str, np.ndarray]) -> np.ndarray:
    """cu_q_lens; absent ones are those of one token each."""
    if operands["cu_q_lens"].size:
        return operands["cu_q_lens"]
    return np.arange(len(operands["kv_lens"]) + 1)


# ---- what they compute -------------------------------------------------------------


def oracle(call: Call) -> Callable[[dict, list], None]:
    """A function of (operands, results) that raises unless these are right."""
    if call.op == "plan":
        return lambda operands, results: check_plan(call.attributes["facts"], *results)
    if call.op == "update_kv_pages":
        return check_update
    reference = {
        "ragged_paged_attention": ragged_paged_attention,
        "ragged_attention": ragged_attention,
        "dot_product_attention": dot_product_attention,
        "merge_partials": merge_partials,
    }[call.op]
    params: dict[str, Any] = {"implementation": "xla"}
    if call.op == "merge_partials":
        params |= call.attributes
    else:
        given = call.attributes
        sides = [int(given[f"window_{side}"]) for side in ("left", "right")]
        params["facts"] = None
        params["options"] = AttentionOptions(
            scale=float(given["scale"]),
            is_causal=given["is_causal"],
            local_window_size=(sides[0], sides[1]),
            logits_soft_cap=float(given["logits_soft_cap"]) or None,
            use_softmax=given["use_softmax"],
        )
    function = jax.jit(lambda *operands: reference(*operands, **params))
    error = {4: 3e-5, 2: 2e-2}[call.results["out"].itemsize]

    def check(operands, results):
        if call.op == "dot_product_attention":
            operands = {k: v for k, v in operands.items() if k != "plan"}
        for got, want in zip(results, function(*operands.values()), strict=False):
            got = np.asarray(got, np.float32)
            want = np.asarray(want, np.float32).reshape(got.shape)
            np.testing.assert_allclose(got, want, rtol=error, atol=error)

    return check


def slots_of(operands, num_pages, page_size):
    """Slot of every token by the rules of update_kv_pages; -1: nowhere."""
    num_slots = num_pages * page_size
    slots = [int(s) if 0 <= s < num_slots else -1 for s in operands["slot_mapping"]]
    if slots:
        return np.array(slots)
    table, indptr = operands["page_table"], operands["page_indptr"]
    slots, begin = np.full(len(operands["key"]), -1), 0
    cu_q_lens = offsets_of(operands)
    for seq, kv_len in enumerate(map(int, operands["kv_lens"])):
        end = min(max(int(cu_q_lens[seq + 1]), begin), len(slots))
        bounds = np.clip(indptr[seq : seq + 2], 0, len(table))
        pages = table[slice(*bounds)] if len(indptr) else table[seq]
        for token in range(begin, end):
            position = kv_len - end + token
            if 0 <= position < len(pages) * page_size:
                page = int(pages[position // page_size])
                if 0 <= page < num_pages:
                    slots[token] = page * page_size + position % page_size
        begin = end
    return slots


def check_update(operands, results) -> None:
    """Token by token, and every byte of both caches."""
    wanted = [operands["k_pages"].copy(), operands["v_pages"].copy()]
    layer, layers = operands["layer"], wanted
    if not layer.size:
        layer, layers = 0, [as_one_layer(x) for x in wanted]
    num_layers, num_pages, page_size = layers[0].shape[:3]
    slots = slots_of(operands, num_pages, page_size)
    layer = min(max(int(layer), 0), num_layers - 1)
    for pages, new in zip(layers, (operands["key"], operands["value"]), strict=True):
        flat = pages[layer].reshape(num_pages * page_size, *pages.shape[3:])
        for token, slot in enumerate(slots):
            if 0 <= slot < len(flat):
                flat[slot] = new[token]
    for got, want in zip(results, wanted, strict=True):
        assert got.tobytes() == want.tobytes()


def check_plan(facts: np.ndarray, plan: np.ndarray) -> None:
    """In bounds everywhere, and every row and head in an item."""
    layout = _native.plan_layout(facts)
    tokens, seqs, _, _, heads = facts[:5]
    num_items, num_merges, num_parts, num_ctas = plan[:4]
    assert len(plan) == layout["size"]
    assert 0 < num_items <= layout["max_items"]
    assert 0 <= num_merges <= layout["max_merges"]
    assert 0 <= num_parts <= layout["max_parts"]
    most_ctas = facts[8:10].sum()  # of both bands
    assert 0 < num_ctas <= most_ctas
    ctas = plan[layout["cta_indptr"] :][: most_ctas + 1]
    assert ctas[0] == 0
    assert ctas[-1] == num_items
    assert (np.diff(ctas) >= 0).all()
    items = plan[layout["items"] :][: 16 * num_items].reshape(-1, 16)
    covered = np.zeros((tokens, heads), bool)
    for _, row, rows, mode, seq, head, count, begin, end, *_ in items:
        assert rows > 0
        assert seq in range(seqs) if mode == 0 else seq == -1
        assert begin >= -1
        assert end >= -1
        covered[row : row + rows, head : head + count] = True
    assert covered.all()
    last_row, last_head = (items[:, [1, 5]] + items[:, [2, 6]]).max(0)
    assert (last_row, last_head) == (tokens, heads)
    assert items[:, 12].min() >= -1
    assert items[:, 12].max() < max(layout["num_slots"], 1)
    merges = plan[layout["merges"] :][: 8 * num_merges].reshape(-1, 8)
    assert (merges[:, 4] < merges[:, 5]).all()
    assert (merges[:, 5] <= num_parts).all()
    parts = plan[layout["parts"] :][:num_parts]
    assert ((parts >= 0) & (parts < max(layout["num_slots"], 1))).all()
