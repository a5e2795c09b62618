# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The plans that tests of the CUDA kernels take in turn."""

import dataclasses

import jaxinfer as ji

INVARIANT = dataclasses.replace(
    ji.PlanConfig.gpu(), batch_invariant=True, split_keys=256
)
CONFIGS = (ji.PlanConfig.gpu(), INVARIANT, ji.PlanConfig.gpu(num_ctas=40))


def plan_of(case, config, window=None):
    """The plan of an AttentionCase; `window` in the place of the case's own."""
    cu_q_lens, kv_lens = case.make_lengths()
    return ji.plan(
        cu_q_lens,
        kv_lens,
        num_tokens=int(cu_q_lens[-1]) + case.num_padding,
        max_kv_len=int(kv_lens.max()),
        num_q_heads=case.num_q_heads,
        num_kv_heads=case.num_kv_heads,
        head_dim=case.head_dim,
        is_causal=case.is_causal,
        local_window_size=window or case.options.get("local_window_size"),
        config=config,
    )
