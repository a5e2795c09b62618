# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""rope_update_kv_pages: rope and update_kv_pages in one, in place."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rope_oracle import assert_rotated

import jaxinfer as ji
from jaxinfer.ops.rope import rope_frequencies

IMPLEMENTATIONS = (None, "cpu", "xla")
T, N, K, H, HV, P, PAGE, B = 9, 6, 2, 32, 16, 20, 3, 4
KV_LENS, CU_Q_LENS = (
    np.array([9, 3, 1, 4], np.int32),
    np.array([0, 1, 1, 4, 7], np.int32),
)
# One sequence has more queries than keys; two rows are padding.
POSITIONS = np.array([8, -2, -1, 0, 1, 2, 3, 0, 0], np.int32)


def arrays(num_layers=None, dtype="float32", seed=0):
    """query, k_pages, v_pages, key, value."""
    rng = np.random.default_rng(seed)
    lead = (P, PAGE, K) if num_layers is None else (num_layers, P, PAGE, K)
    shapes = (T, N, H), (*lead, H), (*lead, HV), (T, K, H), (T, K, HV)
    return [jnp.asarray(rng.standard_normal(s), dtype) for s in shapes]


def table():
    return np.random.default_rng(1).permutation(P).reshape(B, -1).astype(np.int32)


LISTS = {"page_table": table(), "kv_lens": KV_LENS, "cu_q_lens": CU_Q_LENS}
CSR = LISTS | {
    "page_table": table().ravel(),
    "page_indptr": np.arange(B + 1, dtype=np.int32) * (P // B),
}
OTHERS = np.array([5, 0, 99, 3, 3, 1000, 7, 1, 2], np.int32)
SLOTS = np.array([4, 8, -1, 3, 0, 50, 21, 11, 60], np.int32)  # one past the cache
FORMS = {
    "table": (LISTS, POSITIONS),
    "csr": (CSR, POSITIONS),
    "positions": (LISTS | {"positions": OTHERS}, OTHERS),
    "slots": ({"slot_mapping": SLOTS, "positions": OTHERS}, OTHERS),
}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("num_layers", [None, 2])
@pytest.mark.parametrize("form", FORMS)
def test_it_is_rope_and_then_the_append(form, num_layers, implementation):
    where, positions = FORMS[form]
    query, k_pages, v_pages, key, value = arrays(num_layers)
    turn = {"theta": 5e5, "rotary_dim": 24, "is_interleaved": form == "csr"}
    turn["scaling"] = ji.Llama3RopeScaling(8.0, 1.0, 4.0, 100)
    where = where | {"layer": None if num_layers is None else jnp.int32(1)}
    call = functools.partial(ji.rope_update_kv_pages, implementation=implementation)
    got = jax.jit(lambda *args: call(*args, **where, **turn))(
        query, k_pages, v_pages, key, value
    )
    frequencies = rope_frequencies(H, 5e5, 24, turn["scaling"])
    assert_rotated(got[0], query, positions, frequencies, turn["is_interleaved"])
    lists = {name: x for name, x in where.items() if name != "positions"}
    turned = ji.rope(key, positions, **turn)
    want = ji.update_kv_pages(k_pages, v_pages, turned, value, **lists)
    np.testing.assert_allclose(got[1], want[0], atol=1e-6)
    np.testing.assert_array_equal(got[2], want[1])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_dtypes(dtype):
    query, *others = arrays(dtype=dtype)
    query = query.astype(jnp.float32)  # the cache may be narrower than the query
    got = ji.rope_update_kv_pages(query, *others, **LISTS)
    assert [x.dtype for x in got] == [query.dtype, dtype, dtype]
    assert_rotated(
        got[0], query, POSITIONS, rope_frequencies(H, 1e4, None, None), False
    )


def test_one_token_each_without_offsets():
    query, k_pages, v_pages, key, value = arrays()
    args = query[:B], k_pages, v_pages, key[:B], value[:B], table(), KV_LENS
    got = ji.rope_update_kv_pages(*args)
    want = ji.rope(query[:B], KV_LENS - 1)
    np.testing.assert_allclose(got[0], want, atol=1e-6)
    assert (got[1] != k_pages).any((-1, -2)).sum() == B


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_donated_cache_stays_where_it_is(implementation):
    query, *pages, key, value = arrays(2)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(k_pages, v_pages, layer):
        return ji.rope_update_kv_pages(
            query, k_pages, v_pages, key, value, **LISTS, layer=layer,
            implementation=implementation,
        )  # fmt: skip

    before = [x.unsafe_buffer_pointer() for x in pages]
    _, *after = step(*pages, jnp.int32(1))
    assert [x.unsafe_buffer_pointer() for x in after] == before


def test_batches():
    entries = [arrays(seed=seed) for seed in range(3)]
    kv_lens = np.stack([KV_LENS, KV_LENS + 1, KV_LENS[::-1]])
    stacked = [jnp.stack(x) for x in zip(*entries, strict=True)]

    def call(query, k_pages, v_pages, key, value, kv_lens):
        where = LISTS | {"kv_lens": kv_lens}
        return ji.rope_update_kv_pages(query, k_pages, v_pages, key, value, **where)

    got = jax.vmap(call)(*stacked, jnp.asarray(kv_lens))
    for i, entry in enumerate(entries):
        for a, b in zip(got, call(*entry, jnp.asarray(kv_lens[i])), strict=True):
            np.testing.assert_allclose(a[i], b, atol=1e-6)
    axes = (0, None, None, 0, 0, 0)
    with pytest.raises(ValueError, match="needs a cache per batch entry"):
        jax.vmap(call, in_axes=axes)(
            stacked[0], *entries[0][1:3], *stacked[3:], jnp.asarray(kv_lens)
        )


def test_derivatives():
    """Those of the two ops; keys come back turned."""
    query, k_pages, v_pages, key, value = arrays()

    def fused(query, k_pages, v_pages, key, value):
        args = query, k_pages, v_pages, key, value
        return ji.rope_update_kv_pages(*args, **LISTS)

    def apart(query, k_pages, v_pages, key, value):
        query, key = ji.rope(query, POSITIONS), ji.rope(key, POSITIONS)
        return query, *ji.update_kv_pages(k_pages, v_pages, key, value, **LISTS)

    cotangents = tuple(arrays(seed=5)[:3])
    args = query, k_pages, v_pages, key, value
    for got, want in zip(
        *(jax.vjp(f, *args)[1](cotangents) for f in (fused, apart)), strict=True
    ):
        np.testing.assert_allclose(got, want, atol=1e-6)


GOOD = dict(zip(("query", "k_pages", "v_pages", "key", "value"), arrays(), strict=True))
NO_LISTS = dict.fromkeys(LISTS)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (NO_LISTS, "rope_update_kv_pages needs either page_table .*, got neither"),
        ({"slot_mapping": SLOTS}, "rope_update_kv_pages needs either .*, got both"),
        ({"kv_lens": None}, "kv_lens must be given together with page_table, got None"),
        (NO_LISTS | {"slot_mapping": SLOTS, "kv_lens": KV_LENS}, "slot_mapping takes"),
        (NO_LISTS | {"slot_mapping": SLOTS},
         "positions must be given together with slot_mapping, got None"),
        (NO_LISTS | {"slot_mapping": SLOTS.astype(np.float32)}, "slot_mapping must be"),
        ({"query": np.zeros((T, N, 16), np.float32)}, r"query .* with H = 32, got 16"),
        ({"query": np.zeros((T, 0, H), np.float32)}, "number of query heads"),
        ({"query": np.zeros((T, N, H), np.int32)}, "query must be one of .* got int32"),
        ({"key": jnp.zeros((T, K, H), jnp.float16)}, "key must have the dtype of k_p"),
        ({"positions": OTHERS[:4]}, r"positions must have shape \[T\] with T = 9"),
        ({"positions": OTHERS.astype(np.float32)}, "positions must be int32"),
        ({"kv_lens": KV_LENS + 15}, r"kv_lens\[0\] must be in \[0, 15\] .*, got 24"),
        ({"rotary_dim": 34}, "rotary_dim must be even and from 2 to head_dim = 32"),
        ({"is_interleaved": None}, "is_interleaved must be a Python bool, got None"),
    ],
)  # fmt: skip
def test_errors(changes, text):
    with pytest.raises(ValueError, match=text):
        ji.rope_update_kv_pages(**(GOOD | LISTS | changes))
