# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The attention kernels with variants, as NVRTC sees them: registers and calls."""

import re
import subprocess

import jax.numpy as jnp
import pytest
from test_kernels_compile import (
    ROOT,
    WithoutWarnings,
    decode,
    nvdisasm,
    prefill,
    spec_of,
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
    "packed_mask": variants.packed_mask(jnp.zeros((64, 1024, 128), jnp.uint8)),
    "rope": variants.rope(128),
    "sigmoid": variants.sigmoid(-2.0),
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
# Bytes stored and loaded again, none of them between two steps of 64 keys. The plain
# kernel with this tile may spill 200.
ALLOWED_SPILLS = {"decode": 0, "prefill": 480}


@pytest.fixture(scope="module")
def kernels():
    """(name, tile) -> (cubin, what the compiler said)."""
    store = jit.KernelStore(
        disk=jit.DiskCache(ROOT / "build" / "kernels"),
        nvrtc=WithoutWarnings(jit.find_nvrtc()),
    )
    specs = {
        (name, tile): spec_of("sm_90a", make(128, options=(("variant", variant),)))
        for name, variant in VARIANTS.items()
        for tile, make in TILES.items()
    }
    digests = dict(zip(specs, jit.warmup(specs.values(), store=store), strict=True))
    said = {entry.digest: entry.description for entry in store.disk.entries()}
    return {key: (store.find(d), said[d]) for key, d in digests.items()}


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("name", VARIANTS)
def test_registers_suffice(name, tile, kernels):
    _, said = kernels[name, tile]
    assert said["spill_bytes"] <= ALLOWED_SPILLS[tile]


def test_no_hooks_are_no_variant():
    for make in TILES.values():
        plain, empty = (
            spec_of("sm_90a", make(128, options=options))
            for options in ((), (("variant", Variant()),))
        )
        assert plain == empty


@pytest.mark.skipif(
    nvdisasm() is None, reason="needs nvdisasm (pip install nvidia-cuda-nvdisasm)"
)
@pytest.mark.parametrize("tile", TILES)
def test_hooks_call_nothing(tile, kernels, tmp_path):
    called = {}
    for name in ("none", "all"):
        path = tmp_path / f"{name}.cubin"
        path.write_bytes(kernels[name, tile][0])
        command = [nvdisasm(), "-c", path]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        called[name] = set(re.findall(r"CALL.*jaxinfer\d+([a-z_]+)", run.stdout))
    assert called == {name: {"find_row", "find_later_item"} for name in called}
