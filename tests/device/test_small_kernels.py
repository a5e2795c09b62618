# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The small kernels as NVRTC sees them, and their calls in programs for GPUs."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxinfer as ji
from jaxinfer import jit
from jaxinfer._library import target_name

ENTRIES = {
    "plan": {"make_plan"},
    "update_kv_pages": {"update_kv_pages"},
    "merge_partials": {"merge_partials"},
    "rope": {"rope", "rope_update_kv_pages", "update_kv_pages"},
}


@pytest.fixture(scope="module")
def nvrtc(tmp_path_factory):
    try:
        found = jit.Nvrtc(jit.find_nvrtc())
    except jit.NvrtcUnavailable as error:
        pytest.skip(f"needs NVRTC. {error}")
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")  # not that of whoever runs it
        patch.setenv("JAXINFER_CACHE_DIR", str(folder))
        yield found


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("kernel", ENTRIES)
def test_no_register_is_spilled(kernel, arch, nvrtc):
    spec = jit.KernelSpec(kernel, arch)
    headers = jit.transitive_headers(spec.source, jit.device_sources())
    compiled = nvrtc.compile(
        spec.source, kernel, headers, (*jit.OPTIONS, f"-arch={arch}")
    )
    entries = re.findall(r"Compiling entry function '(\w+)'", compiled.log)
    assert set(entries) == ENTRIES[kernel]
    assert compiled.spill_bytes == 0, compiled.log
    assert "warning" not in compiled.log


def rope():
    x, positions = jnp.ones((2, 3, 64)), jnp.arange(2, dtype=jnp.int32)
    return ji.rope(x, positions, implementation="cuda")


def rope_update_kv_pages(dtype=jnp.float32):
    pages, new = jnp.ones((3, 4, 2, 64)), jnp.ones((2, 2, 64))
    table, kv_lens = np.zeros((2, 1), np.int32), np.ones(2, np.int32)
    query = jnp.ones((2, 4, 64), dtype)
    return ji.rope_update_kv_pages(query, pages, pages, new, new, table, kv_lens)


def update_kv_pages():
    pages, new = jnp.ones((3, 4, 2, 64)), jnp.ones((2, 2, 64))
    return ji.update_kv_pages(
        pages, pages, new, new, slot_mapping=np.arange(2, dtype="i")
    )


def merge_partials():
    return ji.merge_partials(jnp.ones((2, 3, 4, 64)), jnp.ones((2, 3, 4)))


def calls(function) -> list[str]:
    """FFI targets in the program for a GPU."""
    lowered = jax.jit(function).trace().lower(lowering_platforms=("cuda",))
    text = lowered.as_text()
    names = "|".join(ENTRIES | {"rope_update_kv_pages": 0})
    assert text.count("kernel = ") == len(re.findall(r"@jaxinfer_\w+\(", text))
    return re.findall(rf"{target_name('')}({names})\b", text)


@pytest.mark.parametrize(
    "op", [rope, rope_update_kv_pages, update_kv_pages, merge_partials]
)
def test_programs_for_gpus_call_the_kernel(op, nvrtc):
    assert calls(op) == [op.__name__]


def test_a_query_of_another_dtype_than_the_cache_is_rotated_by_xla(nvrtc):
    got = calls(lambda: rope_update_kv_pages(jnp.bfloat16))
    assert got == ["update_kv_pages"]
