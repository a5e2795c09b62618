# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""plan: host time of balancing a decode batch."""

from collections.abc import Iterator
from typing import Any

from benchmarks.harness import measure
from jaxinfer import PlanConfig, plan
from jaxinfer.testing.cases import decode_cases


def records() -> Iterator[dict[str, Any]]:
    """B = 1, 128 and 1024 for the CPU's configuration and an H200's."""
    for config in (PlanConfig.cpu(), PlanConfig.gpu()):
        for case in decode_cases((1, 128, 1024), (4096,)):
            cu_q_lens, kv_lens = case.make_lengths()

            def call(_, cu_q_lens=cu_q_lens, kv_lens=kv_lens, config=config, case=case):
                return plan(
                    cu_q_lens,
                    kv_lens,
                    num_tokens=case.batch,
                    max_kv_len=131072,
                    num_q_heads=case.num_q_heads,
                    num_kv_heads=case.num_kv_heads,
                    head_dim=case.head_dim,
                    config=config,
                ).buffer

            times = measure(call, repeats=500)
            impl = f"jaxinfer host, {config.arch}"
            yield {"benchmark": "plan", "case": case.name, "impl": impl} | times
