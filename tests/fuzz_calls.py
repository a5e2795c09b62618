# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Calls of the FFI targets as data: signatures, and calls that fit them."""

import contextlib
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinfer import _native
from jaxinfer._attention import AttentionOptions
from jaxinfer._plan import PlanConfig, PlanFacts, TileClass

# Operands, then results: name, dtype ("?": may be empty; q, kv: one float dtype each),
# shape. A new letter is bound by what comes.
ATTENTION_RESULTS = (
    "lse f32 T N, partial_out f32 slots slot_tokens slot_heads Hv, "
    "partial_lse f32 slots slot_tokens slot_heads"
)
SIGNATURES = {
    "plan": ("cu_q_lens i32? B+1, kv_lens i32 B", "plan i32 plan_size"),
    "ragged_paged_attention": (
        "query q T N H, k_pages kv L P page_size K H, v_pages kv L P page_size K Hv, "
        "page_table i32 B max_pages, page_indptr i32? B+1, kv_lens i32 B, "
        "cu_q_lens i32? B+1, layer i32?, k_scale f32? K, v_scale f32? K, "
        "attention_sink f32? N, plan i32 plan_size",
        f"out q T N Hv, {ATTENTION_RESULTS}",
    ),
    "ragged_attention": (
        "query q T N H, key kv S K H, value kv S K Hv, kv_starts i32 B, kv_lens i32 B, "
        "cu_q_lens i32? B+1, k_scale f32? K, v_scale f32? K, attention_sink f32? N, "
        "plan i32 plan_size",
        f"out q T N Hv, {ATTENTION_RESULTS}",
    ),
    "dot_product_attention": (
        "query q B T N H, key kv B S K H, value kv B S K Hv, "
        "bias f32? B|1 N|1 T|1 S|1, mask bool? B|1 N|1 T|1 S|1, "
        "kv_starts i32 B, kv_lens i32 B, cu_q_lens i32? B+1, plan i32 plan_size",
        f"out q B*T N Hv, {ATTENTION_RESULTS}".replace("lse f32 T", "lse f32 B*T", 1),
    ),
    "update_kv_pages": (
        "k_pages kv L P page_size K H, v_pages kv L P page_size K Hv, key kv T K H, "
        "value kv T K Hv, slot_mapping i32? T, page_table i32 B max_pages, "
        "page_indptr i32? B+1, kv_lens i32 B, cu_q_lens i32? B+1, layer i32?",
        "k_new kv L P page_size K H, v_new kv L P page_size K Hv",
    ),
    "merge_partials": (
        "outs q S T N H, lses f32 S T N, attention_sink f32? N",
        "out q T N H, lse f32 T N",
    ),
}
# Without a layer these have any number of axes in front, which count pages together.
PAGES = ("k_pages", "v_pages", "k_new", "v_new")
FIXED = {"i32": jnp.int32, "f32": jnp.float32, "bool": jnp.bool_}
FLOATS = tuple(map(jnp.dtype, ("float32", "float16", "bfloat16")))


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a target; of the results only shapes and dtypes matter."""

    op: str
    operands: dict[str, np.ndarray]
    results: dict[str, np.ndarray]
    attributes: dict[str, Any]
    trusted: bool = True  # whether fits() can tell

    def __str__(self) -> str:
        shapes = (
            f"{name} {x.dtype}{list(x.shape)}"
            for name, x in (*self.operands.items(), *self.results.items())
        )
        return f"{self.op}({', '.join(shapes)}, {self.attributes})"

    @property
    def result_types(self) -> list[jax.ShapeDtypeStruct]:
        return [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in self.results.values()]

    @property
    def aliases(self) -> dict[int, int]:
        """The cache operands are the results, where JAX lets them."""
        if self.op != "update_kv_pages":
            return {}
        pairs = enumerate(
            zip(self.operands.values(), self.results.values(), strict=False)
        )
        return {
            i: i for i, (a, b) in pairs if a.shape == b.shape and a.dtype == b.dtype
        }


def fields(part: str) -> list[tuple[str, str, list[str]]]:
    """(name, dtype, dims) of each array in one part of a signature."""
    split = (field.split() for field in part.split(", "))
    return [(name, dtype, dims) for name, dtype, *dims in split]


# ---- good calls --------------------------------------------------------------------

USUAL = {
    "T": (1, 2, 5, 9), "K": (1, 2, 3), "H": (16, 64), "Hv": (16, 48), "B": (1, 2, 4),
    "L": (1, 2), "P": (1, 3, 5), "page_size": (1, 3, 8), "max_pages": (1, 2, 4),
}  # fmt: skip
UNUSUAL = {
    "T": (0, 70), "K": (0, 5), "N": (0, 1, 7), "H": (0, 8, 17, 256, 272), "P": (0,),
    "Hv": (0, 8, 17, 256, 272), "B": (0, 9), "L": (0,), "page_size": (0, 70),
    "S": (0, 65), "max_pages": (0,), "num_indices": (0, 20),
}  # fmt: skip


def good_call(rng, op: str | None = None, unusual: bool = False) -> Call:
    """A call that fits; if unusual, one letter has a size that may not be supported."""
    op = op or str(rng.choice(list(SIGNATURES)))
    letters = {name: int(rng.choice(sizes)) for name, sizes in USUAL.items()}
    letters["N"] = letters["K"] * int(rng.choice([1, 2, 3]))
    letters["S"] = int(rng.integers(1, 65 if op == "merge_partials" else 90))
    letters["num_indices"] = letters["B"] * letters["max_pages"]
    window = (3, int(rng.integers(9)))
    options = AttentionOptions(
        scale=float(rng.choice([0.1, 0.25])),
        is_causal=bool(rng.random() < 0.5),
        local_window_size=(None, None) if rng.random() < 0.5 else window,
        logits_soft_cap=None if rng.random() < 0.7 else 5.0,
        use_softmax=bool(rng.random() < 0.8),
    )
    if op == "dot_product_attention":  # jax.nn has neither
        options = dataclasses.replace(options, logits_soft_cap=None, use_softmax=True)
    facts = good_facts(rng, op, letters, options)
    if unusual:
        letter = str(rng.choice(list(UNUSUAL)))
        letters[letter] = int(rng.choice(UNUSUAL[letter]))
        with contextlib.suppress(ValueError, StopIteration, ZeroDivisionError):
            facts = good_facts(rng, op, letters, options)  # where a plan has such
    letters |= facts_letters(facts)
    dtypes = {"q": rng.choice(FLOATS), "kv": rng.choice(FLOATS)} | FIXED
    given = {k: rng.random() < 0.5 for k in ("page_indptr", "slot_mapping", "layer")}
    axes_in_front = 0 if given["layer"] else int(rng.integers(2))
    operands, results = {}, {}
    for arrays, part in zip((operands, results), SIGNATURES[op], strict=True):
        for name, dtype, dims in fields(part):
            sizes = [rng.choice(d.split("|")) for d in dims]
            shape = [1 if d == "1" else eval(d, {}, letters) for d in sizes]
            absent = dtype.endswith("?") and rng.random() < 0.5
            if name in given:
                absent = not given[name]
            if name == "attention_sink" and not options.use_softmax:
                absent = True
            if name == "page_table" and given["page_indptr"]:
                shape = [letters["num_indices"]]
            if name in PAGES:
                shape = shape[axes_in_front:]
            arrays[name] = contents(
                rng, name, [0] if absent else shape, letters
            ).astype(dtypes[dtype.rstrip("?")])
    attributes = {"facts": facts}
    if op == "merge_partials":
        attributes = {"use_softmax": options.use_softmax}
    elif op == "update_kv_pages":
        attributes = {}
    elif op != "plan":
        attributes |= options.attributes | {"hopper_tiles": np.zeros(0, np.int32)}
        lengths = operands["cu_q_lens"], operands["kv_lens"]
        if len(lengths[1]) == facts[1]:
            operands["plan"] = _native.make_plan(facts, *lengths)
    return Call(op, operands, results, attributes)


def contents(rng, name: str, shape, letters) -> np.ndarray:
    """Sensible ones; dense batches for dot_product_attention need theirs."""
    dense = "kv_starts" in name or (name == "cu_q_lens" and letters.get("dense"))
    steps = np.arange(int(np.prod(shape)))
    if dense:
        return (steps * letters["S" if name == "kv_starts" else "T"]).reshape(shape)
    match name:
        case "cu_q_lens":
            return np.sort(rng.integers(0, letters["T"] + 1, shape))
        case "page_indptr":
            return np.sort(rng.integers(0, letters["num_indices"] + 1, shape))
        case "page_table":
            return rng.integers(-1, letters["P"] + 1, shape)
        case "slot_mapping":
            return rng.integers(-1, letters["P"] * letters["page_size"] + 1, shape)
        case "kv_lens":
            most = letters["S"] if letters.get("dense") else 30
            return rng.integers(0, most + 1, shape)
        case "layer" | "plan":
            return np.zeros(shape)
        case "mask":
            return rng.random(shape) < 0.7
    return rng.standard_normal(shape)


def good_facts(rng, op: str, letters: dict, options) -> np.ndarray:
    letters["dense"] = op == "dot_product_attention"
    tokens = letters["T"] * (letters["B"] if letters["dense"] else 1)
    rows = np.sort(rng.choice([1, 2, 8, 16], 2))
    keys, item_costs = rng.choice([1, 16, 64], 2), rng.choice([0, 0, 3, 70], 2)
    tiles = [
        TileClass(int(row), int(key), 1 + int(row), int(item_cost))
        for row, key, item_cost in zip(rows, keys, item_costs, strict=True)
    ]
    config = PlanConfig(
        "cpu",
        num_ctas=letters["K"] + int(rng.integers(0, 8)),
        tile_classes=tuple(tiles[: rng.integers(1, 3)]),
        kv_heads_per_item=int(rng.choice([0, 1])) or None,
        min_keys_per_row=int(rng.choice([1, 40])),
        batch_invariant=bool(rng.random() < 0.3),
        split_keys=int(rng.choice([5, 16])),
    )
    facts = PlanFacts(
        num_tokens=tokens,
        num_seqs=letters["B"],
        max_kv_len=letters["S"] if letters["dense"] else 40,
        num_q_heads=letters["N"],
        num_kv_heads=letters["K"],
        head_dim=64,
        is_causal=options.is_causal,
        local_window_size=options.local_window_size,
        config=config,
    )
    _ = facts.layout
    return facts.encoded


def facts_letters(facts: np.ndarray) -> dict[str, int]:
    layout = _native.plan_layout(facts)
    return {
        "plan_size": layout["size"],
        "slots": layout["num_slots"],
        "slot_tokens": layout["slot_tokens"],
        "slot_heads": layout["slot_heads"],
    }
