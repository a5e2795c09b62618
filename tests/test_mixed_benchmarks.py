# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The benchmark of mixed batches runs, and holds decode and chunks against float64."""

import importlib
import itertools
import sys
from types import SimpleNamespace
from unittest import mock

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


@pytest.fixture
def peer():
    """The peer's module, of a PyTorch and a FlashInfer that do nothing."""
    absent = {name: mock.MagicMock() for name in ("torch", "flashinfer")}
    with mock.patch.dict(sys.modules, absent):
        for name in [name for name in sys.modules if "peers.flashinfer" in name]:
            del sys.modules[name]
        yield importlib.import_module("benchmarks.peers.flashinfer_mixed")


def test_what_jobs_ask_of_peers_is_there_and_has_its_column(peer):
    asked = [arguments[-1] for _, *arguments in jobs.MIXED_PEERS]
    assert sorted(asked) == sorted(peer.BACKENDS)
    assert {f"flashinfer {name}" for name in asked} <= {*report_gpu.IMPLS}


@pytest.mark.parametrize("case", mixed_cells.cells(is_quick=True), ids=str)
def test_prefill_on_decode_gets_chunks_and_decodes_apart(case, peer):
    rows = np.arange(case.make_lengths()[0][-1])
    cell = SimpleNamespace(case=case, query=rows, k="k", v="v", shape=("shape",))
    cell.cu_q_lens_of = lambda seqs: ("q", seqs)
    cell.page_lists = lambda seqs: [("pages", seqs)]
    wrapper = peer.flashinfer.BatchPODWithPagedKVCacheWrapper.return_value
    wrapper.run.side_effect = lambda chunks, _, decodes, *rest, **more: (
        chunks,
        decodes,
    )
    made = peer.pod(cell)()
    np.testing.assert_array_equal(np.concatenate(made), rows)
    assert [len(part) for part in made] == [3, len(rows) - 3]
    lists = [
        (name, part) for part in (slice(3, None), slice(3)) for name in ("q", "pages")
    ]
    assert [*wrapper.plan.call_args.args] == [*lists, "shape"]
    assert wrapper.run.call_args.kwargs == {"causal_p": True}


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
