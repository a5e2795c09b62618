# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Calls the FFI targets with operands that Python would never let through.

    python tests/fuzz_ffi.py shapes --cases 5000 --seed 0
    python tests/fuzz_ffi.py contents --only 17   # one case again

Case i is a function of (kind, seed, i) alone. Each is named on stderr before it runs,
so that the last line names the one that crashed. Kinds:

  shapes    wrong ranks, sizes, dtypes, attributes and results: the call must be refused
            with a text that names the operand exactly if it does not fit its signature.
  contents  any int32 as length, offset, page, slot, layer or plan row, any bits as
            floats: never refused, the defined clamping; operands are never written.
  planner   the host planner on any facts and lengths.
"""

import argparse
import dataclasses
import re
import sys

import fuzz_calls
import fuzz_oracles
import jax
import numpy as np
from fuzz_calls import Call

from jaxinfer import _native
from jaxinfer._library import target_name

INT32 = np.iinfo(np.int32)
SPECIAL = (INT32.min, INT32.max, INT32.max - 1, -(2**30), 2**30, -1, 0, 1, 2, 3, 17)
DTYPES = ("float32", "float16", "bfloat16", "int32", "uint32", "int8", "bool", "uint16")


SIZES = ("head_dim", "head_dim_v", "window", "facts", "page_indices", "hopper_tiles")


class WrongError(Exception):
    """A call was neither refused with a clear text nor did what is defined."""


def compiled(call: Call):
    """The target as a jitted function of the operands."""
    target = jax.ffi.ffi_call(
        target_name(call.op), call.result_types, input_output_aliases=call.aliases
    )
    return jax.jit(lambda *operands: target(*operands, **call.attributes))


def run(function, operands) -> tuple[list[np.ndarray], str]:
    """(results, "") or ([], text of the refusal); operands must stay as they are."""
    before = [x.tobytes() for x in operands]
    try:
        results = list(map(np.asarray, jax.block_until_ready(function(*operands))))
        error = ""
    except (jax.errors.JaxRuntimeError, ValueError) as refusal:  # by when it comes
        results, error = [], str(refusal)
    if before != [x.tobytes() for x in operands]:
        raise WrongError("an operand was written to")
    return results, error


OF_NO_OPERAND = (
    r"jaxinfer: \d+ operands, \d+ results?$",
    r"jaxinfer: \w+ is missing among the attributes, or of another type$",
)


def check_text(call: Call, text: str) -> None:
    """INVALID_ARGUMENT, and the name of something in the signature."""
    signature = fuzz_calls.fields(", ".join(fuzz_calls.SIGNATURES[call.op]))
    names = "|".join((*(name for name, _, _ in signature), *SIZES))
    ours = rf"(jaxinfer: |plan ).*\b({names})\b"
    known = any(re.search(pattern, text) for pattern in (ours, *OF_NO_OPERAND))
    if not text.startswith("INVALID_ARGUMENT") or not known:
        raise WrongError(f"not a clear text: {text!r}")


def resized(x: np.ndarray, shape) -> np.ndarray:
    return np.resize(x, shape) if x.size else np.zeros(shape, x.dtype)


def spoil_array(rng, x: np.ndarray) -> np.ndarray:
    """Another rank, another size of an axis, or another dtype."""
    shape = list(x.shape)
    match rng.integers(4):
        case 0 if shape:
            del shape[rng.integers(len(shape))]
        case 0 | 1:
            shape.insert(rng.integers(len(shape) + 1), int(rng.integers(0, 3)))
        case 2 if shape:
            axis = rng.integers(len(shape))
            size = shape[axis]
            shape[axis] = max(0, int(rng.choice([0, 1, size - 1, size + 1, 2 * size])))
        case _:
            return x.astype(np.float32).astype(jax.numpy.dtype(rng.choice(DTYPES)))
    return resized(x, shape)


def spoil_facts(rng, facts: np.ndarray) -> np.ndarray:
    match rng.integers(5):
        case 0:
            return facts[: rng.integers(len(facts))]
        case 1:
            return np.append(facts, facts[: rng.integers(1, len(facts))])
        case 2:
            return any_int32(rng, facts.shape)
    facts = facts.copy()
    facts[rng.integers(len(facts), size=rng.integers(1, 3))] = rng.choice(SPECIAL)
    return facts


def spoil_attribute(rng, attributes: dict) -> dict:
    name = rng.choice(list(attributes))
    match rng.integers(6):
        case 0:
            return {k: v for k, v in attributes.items() if k != name}
        case 1:
            return attributes | {"spare": np.int32(1)}
        case 2:
            wrong = rng.choice([1.5, 7]).item()
            return attributes | {name: "text" if rng.random() < 0.5 else wrong}
        case 3 if "scale" in attributes:
            special = rng.choice([np.nan, np.inf, -np.inf, 0.0, 3e38])
            name = rng.choice(["scale", "logits_soft_cap"])
            return attributes | {name: np.float32(special)}
        case 4 if "scale" in attributes:
            name = rng.choice(["window_left", "window_right"])
            return attributes | {name: np.int32(rng.choice(SPECIAL))}
        case 5 if "hopper_tiles" in attributes:
            plausible = [16 * rng.integers(20), rng.integers(6)]
            tiles = rng.choice([plausible, any_int32(rng, 2)]).astype(np.int32)
            return attributes | {
                "hopper_tiles": np.resize(tiles, rng.choice([1, 2, 2, 3]))
            }
    return {k: np.float32(1.0) for k in attributes}


def spoil_call(rng, call: Call) -> Call:
    """One thing of a good call made wrong."""
    operands, results = dict(call.operands), dict(call.results)
    match rng.integers(10):
        case 0:
            name = rng.choice(list(results))
            results[name] = spoil_array(rng, results[name])
        case 1 if call.attributes:
            attributes = spoil_attribute(rng, call.attributes)
            return dataclasses.replace(call, attributes=attributes, trusted=False)
        case 2 if call.trusted and "facts" in call.attributes:
            facts = spoil_facts(rng, call.attributes["facts"])
            if call.op == "plan" and (size := layout_size(facts)) < 10**6:
                results["plan"] = np.zeros(size, np.int32)
            attributes = call.attributes | {"facts": facts}
            return dataclasses.replace(
                call, attributes=attributes, results=results, trusted=False
            )
        case 3:
            a, b = rng.choice(list(operands), 2)
            operands[a], operands[b] = operands[b], operands[a]
        case 4 if rng.random() < 0.3:
            if rng.random() < 0.5:
                operands.popitem()
            else:
                operands["one_more"] = np.zeros(3, np.float32)
        case _:
            name = rng.choice(list(operands))
            operands[name] = spoil_array(rng, operands[name])
    return dataclasses.replace(call, operands=operands, results=results)


def layout_size(facts: np.ndarray) -> int:
    try:
        return _native.plan_layout(facts)["size"]
    except ValueError:
        return 10**9


def shapes_case(rng, cache) -> None:
    # A third of the cases are of unusual sizes throughout, not of sizes that disagree.
    call = fuzz_calls.good_call(rng, unusual=rng.random() < 0.3)
    if rng.random() < 0.8:
        call = spoil_call(rng, call)
    if rng.random() < 0.2:
        call = spoil_call(rng, call)
    _, error = run(compiled(call), list(call.operands.values()))
    if error:
        check_text(call, error)
    # XLA removes a call whose results have no elements.
    is_called = any(x.size for x in call.results.values())
    if call.trusted and is_called and fuzz_oracles.fits(call) == bool(error):
        raise WrongError(f"{error or 'not refused'}: {call}")


def any_int32(rng, shape) -> np.ndarray:
    """Small numbers, extreme ones, and any at all."""
    small = rng.integers(-2, 9, shape)
    anything = rng.integers(INT32.min, INT32.max, shape, endpoint=True)
    extreme = rng.choice(SPECIAL, shape)
    which = rng.choice(3, shape, p=[0.5, 0.2, 0.3])
    return np.choose(which, (small, anything, extreme)).astype(np.int32)


def spoil_contents(rng, x: np.ndarray) -> np.ndarray:
    """Some elements, or all, become anything."""
    share = rng.choice([0.05, 0.3, 1.0])
    if x.dtype == np.int32:
        values = any_int32(rng, x.shape)
    elif x.dtype == np.bool_:
        values = rng.random(x.shape) < 0.5
    else:
        specials = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, 3e38, -65504.0]
        with np.errstate(all="ignore"):
            values = rng.choice(specials, x.shape).astype(x.dtype)
    return np.where(rng.random(x.shape) < share, values, x).astype(x.dtype)


def spoil_plan(rng, plan: np.ndarray) -> np.ndarray:
    """Wild numbers anywhere; or fields of the items in use that are plausible."""
    if rng.random() < 0.5:
        return spoil_contents(rng, plan)
    in_use = np.flatnonzero(plan)
    values = rng.integers(-1, rng.choice([3, 10, 200]), len(in_use))
    spoiled = rng.random(len(in_use)) < rng.choice([0.02, 0.2])
    plan = plan.copy()
    plan[in_use[spoiled]] = values[spoiled]
    return plan


def contents_case(rng, cache) -> None:
    key = int(rng.integers(len(fuzz_calls.SIGNATURES) * 8))
    if key not in cache:
        call = fuzz_calls.good_call(
            np.random.default_rng(key), op=list(fuzz_calls.SIGNATURES)[key // 8]
        )
        cache[key] = call, compiled(call), fuzz_oracles.oracle(call)
    call, function, oracle = cache[key]
    operands = dict(call.operands)
    lengths = [k for k, x in operands.items() if x.dtype == np.int32 and k != "plan"]
    floats = [k for k in operands if k != "plan" and k not in lengths]
    # What a damaged plan or a NaN gives is not defined, only that it does no harm.
    defined = True
    for name in lengths:
        if rng.random() < 0.4:
            operands[name] = spoil_contents(rng, operands[name])
    if "plan" in operands:
        operands["plan"] = _native.make_plan(
            call.attributes["facts"], operands["cu_q_lens"], operands["kv_lens"]
        )
        if rng.random() < 0.5:
            operands["plan"] = spoil_plan(rng, operands["plan"])
            defined = False
    if "lses" in operands:
        empty = rng.random(operands["lses"].shape) < 0.4
        operands["lses"] = np.where(empty, np.float32(-np.inf), operands["lses"])
        operands["outs"] = np.where(empty[..., None], np.nan, operands["outs"]).astype(
            operands["outs"].dtype
        )
    if floats and rng.random() < 0.2:
        name = rng.choice(floats)
        operands[name] = spoil_contents(rng, operands[name])
        defined = defined and call.op == "update_kv_pages"
    results, error = run(function, list(operands.values()))
    call = dataclasses.replace(call, operands=operands)
    if error:
        raise WrongError(f"contents are never refused: {error}")
    if defined and fuzz_oracles.is_defined(call):
        oracle(operands, results)


def planner_case(rng, cache) -> None:
    facts = fuzz_calls.good_call(rng, op="plan").attributes["facts"]
    if rng.random() < 0.6:
        facts = spoil_facts(rng, facts)
    if layout_size(facts) > 10**6 or (num_seqs := int(facts[1])) > 1000:
        return
    cu_q_lens = np.sort(rng.integers(0, 9, num_seqs + 1, np.int32))
    kv_lens = rng.integers(0, 99, num_seqs, np.int32)
    cu_q_lens, kv_lens = (spoil_contents(rng, x) for x in (cu_q_lens, kv_lens))
    if rng.random() < 0.2:
        cu_q_lens = cu_q_lens[:0]  # one query each
    plan = _native.make_plan(facts, cu_q_lens, kv_lens)
    fuzz_oracles.check_plan(facts, plan)


KINDS = {"shapes": shapes_case, "contents": contents_case, "planner": planner_case}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int)
    args = parser.parse_args()
    cases = range(args.cases) if args.only is None else [args.only]
    cache = {}
    for i in cases:
        print(args.kind, "--seed", args.seed, "--only", i, file=sys.stderr, flush=True)
        rng = np.random.default_rng([list(KINDS).index(args.kind), args.seed, i])
        KINDS[args.kind](rng, cache)
    print(f"{len(cases)} cases")


if __name__ == "__main__":
    main()
