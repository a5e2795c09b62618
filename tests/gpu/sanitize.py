# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""A reduced grid for compute-sanitizer, which is too slow for the whole of it.

    compute-sanitizer --tool memcheck python tests/gpu/sanitize.py

Kernels alone, one call each, their results compared with the reference. memcheck and
synccheck find nothing, and initcheck found nothing in a smaller grid (c52e4df). With a
filter of kernels (--kernel-name) initcheck reports a word that a kernel reads and no
watched kernel wrote, presumably of the plan. racecheck finds nothing but in
attention_hopper: pairs of accesses by different warps that mbarriers order, as far as
can be told from their addresses; it is not known to follow these in loops.
"""

import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from gpu_plans import plan_of

import jaxinfer as ji
from jaxinfer.testing.cases import AttentionCase, make_operands
from jaxinfer.testing.numerics import assert_attention_close, attention_float64
from jaxinfer.testing.variant_cases import CASES as VARIANT_CASES
from jaxinfer.testing.variant_cases import VARIANTS, in_dtype, options

CASES = (
    AttentionCase(batch=3, kv_len=300, lengths="zipf", num_q_heads=8, head_dim=128),
    AttentionCase(q_lens=(70, 1, 3), kv_lens=(90, 33, 3), num_q_heads=6, page_size=5),
    AttentionCase(q_lens=(90, 1, 30), kv_lens=(300, 33, 30), head_dim=128, page_size=8),
    AttentionCase(q_lens=(90, 1, 30), kv_lens=(600, 33, 30), head_dim=128, page_size=1),
    AttentionCase(q_lens=(150, 1), kv_lens=(300, 33), head_dim=64, page_size=5),
    AttentionCase(q_lens=(90, 30), kv_lens=(90, 200), head_dim=96, page_size=None),
)
# So few that a plan of whole tiles has several for each.
FEW_CTAS = ji.PlanConfig.gpu(num_ctas=3)


def main() -> None:
    for case in CASES:
        operands = make_operands(
            AttentionCase(**(case.__dict__ | {"dtype": "bfloat16"}))
        )
        is_paged = case.page_size is not None
        op = ji.ragged_paged_attention if is_paged else ji.ragged_attention
        call = functools.partial(op, return_lse=True, implementation="cuda")
        attend = jax.jit(call)
        for plan in (None, plan_of(case, FEW_CTAS)):
            out, lse = attend(**jax.device_put(operands), plan=plan)
            assert_attention_close(out, lse, attention_float64(operands))
        print(case.name, "attention and its plans agree with float64")
    for kind, name in (("decode", "all"), ("mixed", "all"), ("mixed", "block_map")):
        case, variant = in_dtype(VARIANT_CASES[kind], "bfloat16"), VARIANTS[name]()
        operands = make_operands(case)
        attend = functools.partial(
            ji.ragged_paged_attention, implementation="cuda", **options(case, variant)
        )
        out = jax.jit(attend)(**jax.device_put(operands))
        expected = attention_float64(operands, **options(case, variant))
        assert_attention_close(out, None, expected)
        print(case.name, name, "agrees with float64")
    pages = jnp.zeros((4, 8, 2, 64), jnp.bfloat16)
    rows = jnp.ones((3, 2, 64), jnp.bfloat16)
    slots = jnp.array([3, -1, 31], jnp.int32)
    k_pages, v_pages = ji.update_kv_pages(pages, pages, rows, rows, slot_mapping=slots)
    assert np.count_nonzero(k_pages) == np.count_nonzero(v_pages) == 2 * 2 * 64
    outs = jnp.ones((3, 5, 4, 64), jnp.bfloat16)
    out, _ = ji.merge_partials(outs, jnp.zeros((3, 5, 4)))
    assert (out == 1).all()
    turned = ji.rope(rows, jnp.arange(3, dtype=jnp.int32))
    assert jnp.isfinite(turned).all()
    print("append, merge and rope ran")


if __name__ == "__main__":
    main()
