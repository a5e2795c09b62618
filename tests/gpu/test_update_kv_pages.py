# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""update_kv_pages on an NVIDIA GPU: the same bytes as the reference, and in place."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxinfer as ji

pytestmark = pytest.mark.gpu

P, PAGE_SIZE, K, H, HV = 11, 5, 3, 64, 128


def make_call(*, where, dtype, num_layers, seed=0):
    """(k_pages, v_pages, key, value, keyword arguments), some pages outside."""
    rng = np.random.default_rng(seed)
    lead = (P, PAGE_SIZE, K) if num_layers is None else (num_layers, P, PAGE_SIZE, K)
    q_lens = np.array([1, 7, 0, 3, 1])
    cu_q_lens = np.cumsum([0, *q_lens]).astype(np.int32)
    num_tokens = int(cu_q_lens[-1]) + 2  # and padding rows
    draw = functools.partial(rng.standard_normal, dtype=np.float32)
    arrays = [
        jnp.asarray(draw(shape), dtype)
        for shape in ((*lead, H), (*lead, HV), (num_tokens, K, H), (num_tokens, K, HV))
    ]
    given = {} if num_layers is None else {"layer": jnp.int32(num_layers - 1)}
    if where == "slots":
        slots = rng.permutation(P * PAGE_SIZE)[:num_tokens].astype(np.int32)
        slots[[2, 5]] = -1, P * PAGE_SIZE
        return *arrays, given | {"slot_mapping": jnp.asarray(slots)}
    kv_lens = jnp.array([5, 9, 4, 2, 11], jnp.int32)  # sequence 3: before its start
    given |= {"kv_lens": kv_lens, "cu_q_lens": jnp.asarray(cu_q_lens)}
    pages = rng.permutation(P)[:9].astype(np.int32)
    if where == "csr":
        indptr = jnp.array([0, 1, 3, 4, 5, 9], jnp.int32)
        return *arrays, given | {
            "page_table": jnp.asarray(pages),
            "page_indptr": indptr,
        }
    table = np.full((5, 3), -1, np.int32)
    table[[0, 1, 1, 2, 3, 4, 4, 4], [0, 0, 1, 0, 0, 0, 1, 2]] = pages[:8]
    table[4, 2] = P  # outside the cache: dropped
    return *arrays, given | {"page_table": jnp.asarray(table)}


@pytest.mark.parametrize("where", ["slots", "table", "csr"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("num_layers", [None, 3])
def test_same_bytes_as_the_reference(where, dtype, num_layers):
    *arrays, given = make_call(where=where, dtype=dtype, num_layers=num_layers)
    got, want = (
        jax.jit(functools.partial(ji.update_kv_pages, implementation=implementation))(
            *arrays, **given
        )
        for implementation in ("cuda", "xla")
    )
    for x, y in zip(got, want, strict=True):
        np.testing.assert_array_equal(
            np.asarray(x).view(np.uint8), np.asarray(y).view(np.uint8)
        )


def test_donated_caches_are_not_copied():
    shape = (64, 1024, 8, 128)  # 134 MB
    k_pages, v_pages = (jnp.zeros(shape, jnp.bfloat16) for _ in range(2))
    row = jnp.ones((2, 8, 128), jnp.bfloat16)
    slots = jnp.array([3, 70], jnp.int32)
    update = jax.jit(
        functools.partial(ji.update_kv_pages, implementation="cuda"),
        donate_argnums=(0, 1),
    )
    lowered = update.lower(k_pages, v_pages, row, row, slot_mapping=slots)
    memory = lowered.compile().memory_analysis()
    assert memory.temp_size_in_bytes < 1 << 20
    assert memory.alias_size_in_bytes >= 2 * k_pages.nbytes
    address = k_pages.unsafe_buffer_pointer()
    k_pages, v_pages = update(k_pages, v_pages, row, row, slot_mapping=slots)
    assert k_pages.unsafe_buffer_pointer() == address
    assert (k_pages.reshape(-1, 8, 128)[70] == 1).all()
    assert int(jnp.count_nonzero(k_pages)) == 2 * 8 * 128
