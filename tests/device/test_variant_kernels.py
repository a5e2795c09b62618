# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The attention kernels with variants, as NVRTC sees them: registers and calls."""

import re

import jax.numpy as jnp
import pytest
from test_kernels_compile import (
    ROOT,
    WithoutWarnings,
    compile_all,
    decode,
    needs_nvdisasm,
    prefill,
    sass,
    specs_of,
)

from jaxinfer import jit, variants
from jaxinfer.variant import Variant

pytestmark = pytest.mark.nvrtc

ONES = jnp.ones((8,), jnp.float32)
IDS = jnp.zeros((64, 1024), jnp.int32)
VARIANTS = {
    "none": Variant(),
    "soft_cap": variants.soft_cap(30.0),
    "alibi": variants.alibi(ONES),
    "t5_bias": variants.t5_bias(jnp.ones((32, 8))),
    "packed_mask": variants.packed_mask(jnp.zeros((64, 1024, 128), jnp.uint8)),
    "sigmoid": variants.sigmoid(-2.0),
    "query_mod": Variant(query_mod=lambda x, b, h, q: x[::-1] * (1 + q)),
    "rope": variants.rope(128),
    "block_map": variants.documents(IDS).with_block_map(
        q_len=1024, kv_len=1024, num_seqs=64
    ),
    "all": variants.alibi(ONES)
    & variants.t5_bias(jnp.ones((32, 8)))
    & variants.sink_tokens(4, 100)
    & variants.rope(128, is_interleaved=True)
    & Variant(
        value_mod=lambda x, b, h, k: x * (1 + h),
        output_mod=lambda x, b, h, q: x[::-1] + b,
    ),
}
TILES = {"decode": decode, "prefill": prefill}
# Bytes stored and loaded again. On sm_80 none of them between two steps of 64 keys, and
# the plain kernel may spill 240. On sm_90a only functions of everything at once do.
ALLOWED_SPILLS = {
    ("decode", "sm_90a"): 0,
    ("prefill", "sm_90a"): 0,
    ("prefill", "sm_80"): 500,
}
ON_HOPPER = {"all": 1600}
ON_SM_80 = ("soft_cap", "packed_mask", "rope", "block_map", "all")
WORK = [
    (tile, arch, name)
    for tile, arch in ALLOWED_SPILLS
    for name in (ON_SM_80 if arch == "sm_80" else VARIANTS)
]


def has_hopper(tile, arch):
    return tile == "prefill" and arch == "sm_90a"


@pytest.fixture(scope="module")
def kernels():
    """Of WORK -> (spec, cubin, what the compiler said) by kernel."""
    store = jit.KernelStore(
        disk=jit.DiskCache(ROOT / "build" / "kernels"),
        nvrtc=WithoutWarnings(jit.find_nvrtc()),
    )
    specs = {
        (tile, arch, name): specs_of(
            arch, TILES[tile](128, options=(("variant", VARIANTS[name]),))
        )
        for tile, arch, name in WORK
    }
    return compile_all(specs, store)


@pytest.mark.parametrize(("tile", "arch", "name"), WORK)
def test_registers_suffice(tile, arch, name, kernels):
    found = kernels[tile, arch, name]
    assert ("attention_hopper" in found) == has_hopper(tile, arch)
    allowed = ALLOWED_SPILLS[tile, arch]
    if has_hopper(tile, arch):
        allowed = ON_HOPPER.get(name, allowed)
    assert all(said["spill_bytes"] <= allowed for _, _, said in found.values())


def test_no_hooks_are_no_variant():
    for make in TILES.values():
        plain, empty = (
            specs_of("sm_90a", make(128, options=options))
            for options in ((), (("variant", Variant()),))
        )
        assert plain == empty


@needs_nvdisasm
@pytest.mark.parametrize(("tile", "arch", "name"), WORK)
def test_hooks_call_nothing(tile, arch, name, kernels, tmp_path):
    called = {
        entry: set(re.findall(r"CALL.*jaxinfer\d+([a-z_]+)", text))
        for _, cubin, _ in kernels[tile, arch, name].values()
        for entry, text in sass(cubin, tmp_path).items()
    }
    expected = {"attention": {"find_row", "find_later_item"}, "merge_split": set()}
    if has_hopper(tile, arch):
        expected["attention_hopper"] = set()
    assert called == expected
