# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The benchmark of mixed batches runs, and holds decode and chunks against float64."""

import itertools

import numpy as np
import pytest

from benchmarks import (
    bench_mixed,
    bench_prefill,
    decode_cells,
    harness,
    jobs,
    mixed_cells,
    report_gpu,
)


def test_mixed_batches_are_measured_in_one_call_and_in_two():
    made = list(dict(jobs.gpu(is_quick=True))["mixed"](600.0))
    cases = [case.name for case in mixed_cells.cells(is_quick=True)]
    impls = ("jaxinfer", "jaxinfer, two calls")
    ours = [one for one in made if one["impl"] in impls]
    assert [one.get("why") for one in ours] == [None] * 2 * len(cases)
    ran = [(one["case"], one["impl"]) for one in ours]
    assert ran == list(itertools.product(cases, impls))
    assert all(one["tflops"] > 0 and one["tbps"] > 0 for one in ours)
    assert all(one["max_err"] < 0.05 for one in ours)
    assert {one["benchmark"] for one in made} == {"mixed"}
    others = [one["impl"] for one in made if one["impl"] not in impls]
    assert len(others) >= len(jobs.MIXED_PEERS)
    assert {name.split()[0] for name in others} == {"flashinfer"}


@pytest.mark.parametrize("case", mixed_cells.cells(is_quick=True), ids=str)
def test_wrong_rows_of_decode_and_of_chunks_are_found(case):
    operands = bench_prefill.Operands.create(case)
    call, shared, queries = bench_mixed.two_calls(operands)
    decodes, chunks = call(shared, queries)
    for row in (0, 2, -1):  # the middle and the longest in decode, the last chunk
        out = np.concatenate([decodes, chunks])
        assert bench_prefill.check(operands, out) < 0.05
        out[row, -1] *= 1.1
        with pytest.raises(AssertionError, match="wrong result"):
            bench_prefill.check(operands, out)


def test_mixed_batches_are_sequences_in_decode_and_then_chunks():
    cells = mixed_cells.cells()
    assert len({case.name for case in cells}) == len(cells)
    for case in cells:
        decodes, chunks = mixed_cells.parts(case)
        assert decodes.num_seqs == mixed_cells.NUM_DECODES
        assert decodes.q_lens == (1,) * mixed_cells.NUM_DECODES
        assert min(decodes.kv_lens) >= mixed_cells.SHORTEST
        assert max(decodes.kv_lens) <= mixed_cells.LONGEST
        lens = zip(chunks.q_lens, chunks.kv_lens, strict=True)
        assert all(1 < q <= kv for q, kv in lens)
        assert case.num_flops() == decodes.num_flops() + chunks.num_flops()
        checked = decode_cells.checked_seqs(case)
        assert {*decode_cells.checked_seqs(decodes)} < {*checked}
        assert checked[-1] == case.num_seqs - 1


def test_mixed_batches_are_reported():
    case = mixed_cells.cells()[0]
    times = {"us": 8.0, "us_min": 7.9, "us_max": 8.2}
    faster = {name: value / 2 for name, value in times.items()}
    records = [
        harness.record("mixed", case.name, "flashinfer POD", times, case),
        harness.record("mixed", case.name, "jaxinfer", faster, case),
        harness.record("mixed", case.name, "jaxinfer, two calls", times, case),
        harness.record("prefill", case.name, "jaxinfer", times, case),
    ]
    title, _, row = report_gpu.mixed_table(records)
    assert title.startswith(
        "| case | jaxinfer | jaxinfer, two calls | flashinfer POD |"
    )
    rates = f"{case.num_flops() / 4e6:.0f} | {case.num_bytes() / 4e6:.2f}"
    assert row == f"| {case.name} | 4 | 8 | 8 | {rates} | 0.50 |"
    (alone,) = report_gpu.mixed_table(records[:1])[2:]
    assert alone == f"| {case.name} | 8 |  |  |  |"
