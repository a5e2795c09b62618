# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""plan: balancing a decode batch, on the host and inside the graph."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu_timing import Settings, measure_apart
from benchmarks.harness import failure, measure, record
from benchmarks.op_cells import plan_cells
from jaxinfer import Plan, PlanConfig, plan
from jaxinfer.testing.cases import AttentionCase


def records() -> Iterator[dict[str, Any]]:
    """Host time, for the CPU's configuration and an H200's."""
    for config in (PlanConfig.cpu(), PlanConfig.gpu()):
        for case in plan_cells():
            lengths = case.make_lengths()

            def call(_, config=config, case=case, lengths=lengths):
                return _plan(case, *lengths, config=config).buffer

            times = measure(call, repeats=500)
            yield record("plan", case.name, f"jaxinfer host, {config.arch}", times)


def device_records(
    cases: Sequence[AttentionCase], settings: Settings
) -> Iterator[dict[str, Any]]:
    """Device time of the op of the graph."""
    for case in cases:
        try:
            times = _on_device(case, settings)
            yield record("plan", case.name, "jaxinfer device", times)
        except Exception as error:
            yield failure("plan", case.name, "jaxinfer device", error)


def _on_device(case: AttentionCase, settings: Settings) -> dict[str, float]:
    cu_q_lens, kv_lens = case.make_lengths()

    def call(cu_q_lens, kv_lens):
        return _plan(case, cu_q_lens, kv_lens).buffer

    made = jax.jit(call)(jnp.asarray(cu_q_lens), jnp.asarray(kv_lens))
    expected = _plan(case, cu_q_lens, kv_lens).buffer
    if not np.array_equal(made, expected):
        raise AssertionError("the plan of the graph is not that of the host")
    # One token less from call to call, so that no two are the same.
    buffers = [jnp.asarray(np.maximum(kv_lens - i, 1)) for i in range(settings.calls)]
    return measure_apart(call, jnp.asarray(cu_q_lens), buffers, settings)


def _plan(case: AttentionCase, cu_q_lens: Any, kv_lens: Any, **options: Any) -> Plan:
    return plan(
        cu_q_lens,
        kv_lens,
        num_tokens=case.batch,
        max_kv_len=131072,
        num_q_heads=case.num_q_heads,
        num_kv_heads=case.num_kv_heads,
        head_dim=case.head_dim,
        **options,
    )
