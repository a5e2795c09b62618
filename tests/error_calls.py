# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Good calls of every op, to be spoiled by changing one argument."""

import os
import tempfile
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

import jaxinfer as ji
from jaxinfer import _library

T, N, K, H, P, PAGE, B, S = 6, 4, 2, 64, 5, 8, 3, 7


def zeros(*shape, dtype=jnp.float32):
    return jnp.zeros(shape, dtype)


def i32(*values):
    return np.array(values, np.int32)


QUERY, PAGES, STACKED = zeros(T, N, H), zeros(P, PAGE, K, H), zeros(2, P, PAGE, K, H)
LISTS = {
    "page_table": zeros(B, 2, dtype=jnp.int32),
    "kv_lens": i32(9, 3, 16),
    "cu_q_lens": i32(0, 2, 2, 6),
}
CSR = {"page_table": zeros(6, dtype=jnp.int32), "page_indptr": i32(0, 2, 4, 6)}
LENGTHS = {"cu_q_lens": LISTS["cu_q_lens"], "kv_lens": LISTS["kv_lens"]}
STATIC = {"num_tokens": T, "num_q_heads": N, "num_kv_heads": K, "head_dim": H}
STATIC |= {"max_kv_len": 16}


def paged(**changes):
    good = {"query": QUERY, "k_pages": PAGES, "v_pages": PAGES, **LISTS}
    return lambda: ji.ragged_paged_attention(**(good | changes))


def ragged(**changes):
    good = {"query": QUERY, "key": zeros(S, K, H), "value": zeros(S, K, H)}
    good |= {"cu_q_lens": LISTS["cu_q_lens"], "cu_kv_lens": i32(0, 2, 2, 7)}
    return lambda: ji.ragged_attention(**(good | changes))


def dense(**changes):
    good = {"query": zeros(B, T, N, H), "key": zeros(B, S, K, H)}
    good["value"] = good["key"]
    return lambda: ji.dot_product_attention(**(good | changes))


def append(**changes):
    good = {"k_pages": PAGES, "v_pages": PAGES, **LISTS}
    good |= {"key": zeros(T, K, H), "value": zeros(T, K, H)}
    return lambda: ji.update_kv_pages(**(good | changes))


def by_slot(**changes):
    lists = dict.fromkeys(LISTS) | {"slot_mapping": zeros(T, dtype=jnp.int32)}
    return append(**(lists | changes))


def rotate(**changes):
    good = {"x": QUERY, "positions": i32(*range(T))}
    return lambda: ji.rope(**(good | changes))


def scaled(*numbers):
    return lambda: ji.Llama3RopeScaling(*numbers)


def rotate_and_append(**changes):
    good = {"query": QUERY, "k_pages": PAGES, "v_pages": PAGES, **LISTS}
    good |= {"key": zeros(T, K, H), "value": zeros(T, K, H)}
    return lambda: ji.rope_update_kv_pages(**(good | changes))


def slots(**changes):
    good = {**LISTS, "num_tokens": T, "num_pages": P, "page_size": PAGE}
    return lambda: ji.token_slots(**(good | changes))


def merge(**changes):
    good = {"outs": zeros(2, T, N, H), "lses": zeros(2, T, N)}
    return lambda: ji.merge_partials(**(good | changes))


def plan(**changes):
    return lambda: ji.plan(**(LENGTHS | STATIC | changes))


def plan_of(**changes):
    return plan(config=ji.PlanConfig(**({"arch": "cpu", "num_ctas": 4} | changes)))()


def in_layer(**changes):
    return paged(layer=jnp.int32(0), **changes)


def planned_for(**changes):
    """A plan of other facts, used where those of `paged` are asked for."""
    return lambda: paged(plan=plan(**changes)())()


def traced(call, **changes):
    """An option given by a traced value."""
    ((name, value),) = changes.items()
    return lambda: jax.jit(lambda x: call(**{name: x})())(value)


def under_vmap(call, *in_axes, **mapped):
    """`call` with some arguments mapped; shapes only, nothing is allocated."""

    def mapped_call(*values):
        return call(**dict(zip(mapped, values, strict=True)))()

    return lambda: jax.eval_shape(
        jax.vmap(mapped_call, in_axes=in_axes), *mapped.values()
    )


def for_cuda(call):
    return jax.jit(call).trace().lower(lowering_platforms=("cuda",))


def planned_for_a_cpu():
    bf16 = {"query": QUERY, "k_pages": PAGES, "v_pages": PAGES}
    bf16 = {name: array.astype(jnp.bfloat16) for name, array in bf16.items()}
    with mock.patch.dict(os.environ, JAXINFER_PLAN_TARGET="cpu:3"):
        for_cuda(paged(**bf16))


def with_target(text):
    with mock.patch.dict(os.environ, JAXINFER_PLAN_TARGET=text):
        return ji.PlanConfig.default()


def old_jaxlib():
    with tempfile.TemporaryDirectory() as folder:
        header = Path(folder, "xla", "ffi", "api", "c_api.h")
        header.parent.mkdir(parents=True)
        lines = [f"#define XLA_FFI_API_{part} 0" for part in ("MAJOR", "MINOR")]
        header.write_text("\n".join(lines))
        _library.check_ffi_version((0, 3), folder)


TILES = (ji.TileClass(16, 16, 1),)
MAPPED = zeros(2, *STACKED.shape)
HUGE = jax.ShapeDtypeStruct((2, 2**16, 2**15, PAGE, K, H), jnp.float32)
