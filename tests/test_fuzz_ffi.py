# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""10,000 fuzzed calls of the FFI targets: no crash, clear refusals, defined clamping.

In processes of their own: a crash fails the test and names the case. tests/run_asan.sh
runs the same under sanitizers.
"""

import dataclasses
import subprocess
import sys
from pathlib import Path

import fuzz_calls
import fuzz_ffi
import fuzz_oracles
import numpy as np
import pytest

SCRIPT = Path(__file__).with_name("fuzz_ffi.py")


def fuzz(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments],
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.parametrize(
    ("kind", "seed", "cases"),
    [
        ("shapes", 0, 2500),
        ("shapes", 1, 2500),
        ("contents", 0, 5000),
        ("planner", 0, 20000),
    ],
)
def test_fuzzed_calls(kind, seed, cases):
    done = fuzz(kind, "--seed", str(seed), "--cases", str(cases))
    last = "\n".join(done.stderr.splitlines()[-40:])
    assert done.returncode == 0, (
        f"exit {done.returncode}, run again by the last line of:\n{last}"
    )
    assert done.stdout == f"{cases} cases\n"


@pytest.mark.parametrize("op", list(fuzz_calls.SIGNATURES))
def test_good_calls_fit_and_spoiled_ones_do_not(op):
    call = fuzz_calls.good_call(np.random.default_rng(0), op=op)
    assert fuzz_oracles.fits(call)
    for name in call.operands:
        array = call.operands[name]
        operands = call.operands | {name: np.zeros((2, *array.shape, 2), array.dtype)}
        spoiled = fuzz_calls.Call(op, operands, call.results, call.attributes)
        is_unused = op == "update_kv_pages" and call.operands["slot_mapping"].size
        if array.size and not (
            is_unused and name in ("page_table", "page_indptr", "kv_lens", "cu_q_lens")
        ):
            assert not fuzz_oracles.fits(spoiled), name


# The last but one does not fit shared memory, for head dims of 64 and 48.
WRONG_TILES = [
    *((128,), (128, 2, 1), (0, 0), (24, 2), (272, 1), (16, 5), (-16, -1)),
    *((256, 4), (2**31 - 1, 2**31 - 1)),
]


@pytest.mark.parametrize("tiles", [(), (128, 2), (64, 4), *WRONG_TILES])
def test_tiles_for_sm_90a_are_checked(tiles):
    """On CPUs too, which have no use for them: all platforms match alike."""
    call = fuzz_calls.good_call(np.random.default_rng(1), op="ragged_attention")
    assert [call.operands[name].shape[-1] for name in ("key", "value")] == [64, 48]
    attributes = call.attributes | {"hopper_tiles": np.array(tiles, np.int32)}
    call = dataclasses.replace(call, attributes=attributes)
    _, refusal = fuzz_ffi.run(fuzz_ffi.compiled(call), list(call.operands.values()))
    assert ("hopper_tiles must be empty, or" in refusal) == (tiles in WRONG_TILES)
