# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The benchmark of prefill: its cells, its clock, and how it is reported."""

import pytest

from benchmarks import (
    bench_prefill,
    gpu_timing,
    harness,
    jobs,
    prefill_cells,
    report_gpu,
)
from benchmarks.gpu_timing import Settings


def test_bursts_are_timed_after_rests(monkeypatch):
    now, rests = [0.0], []
    monkeypatch.setattr(gpu_timing.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(gpu_timing.time, "sleep", rests.append)

    def launch():  # twice as fast if it did not run just before
        now[0] += 1.0 if len(rests) > 2 * settings.repeats else 2.0

    settings = Settings(calls=10, repeats=3, most_launches=1, bursts=2)
    times = gpu_timing.measure(launch, lambda: None, settings)
    assert times == {"us": 2e5, "us_min": 2e5, "us_max": 2e5, "us_burst": 1e5}
    assert rests == [0.0] * 6 + [0.2] * 4


def test_bursts_are_reported_in_parentheses():
    case = prefill_cells.cells()[0]
    times = {"us": 200.0, "us_min": 190.0, "us_max": 210.0, "us_burst": 100.0}
    made = harness.record("prefill", case.name, "jaxinfer", times, case)
    rate = case.num_flops() / 2e8
    assert f"| {rate:.0f} ({2 * rate:.0f}) |" in report_gpu.prefill_table([made])[-1]


def test_the_first_cells_of_prefill_have_bursts():
    cells = prefill_cells.cells()
    bursts = [prefill_cells.timing(case, Settings()).bursts for case in cells]
    assert bursts == [3] * 5 + [0] * (len(cells) - 5)


def test_prefill_is_measured_and_what_is_missing_says_why():
    made = list(dict(jobs.gpu(is_quick=True))["prefill"](600.0))
    cases = [case.name for case in prefill_cells.cells(is_quick=True)]
    ours = [one for one in made if one["impl"] == "jaxinfer"]
    assert [one.get("why") for one in ours] == [None] * len(cases)
    assert [one["case"] for one in ours] == cases
    assert all(one["tflops"] > 0 and one["max_err"] < 0.05 for one in ours)
    assert {one["benchmark"] for one in made} == {"prefill"}
    impls = {one["impl"].split(" fa")[0] for one in made}
    peers = {"cudnn dense", "flash_attn3_jax", "flashinfer"}
    assert impls == {"jaxinfer", "torch cudnn", "flex_attention"} | peers
    assert all(one["us"] or one["why"] for one in made)


@pytest.mark.parametrize("case", prefill_cells.cells(is_quick=True), ids=str)
def test_wrong_rows_of_prefill_are_found(case):
    operands = bench_prefill.Operands.create(case)
    call, shared = bench_prefill.jaxinfer(operands)
    out = call(shared, operands.query)
    assert bench_prefill.check(operands, out) < 0.05
    last = case.make_lengths()[0][-1] - 1  # whose results are the smallest
    with pytest.raises(AssertionError, match="wrong result"):
        bench_prefill.check(operands, out.at[last, -1].multiply(1.1))


def test_prefill_of_unequal_lengths_is_as_much_work():
    of = {case.name: case for case in prefill_cells.cells()}
    assert len(of) == len(prefill_cells.cells())
    (same,) = (n for n in of if "b8_q2048" in n and "32x8_d128_ragged" in n)
    unequal = [case for case in of.values() if case.label]
    assert [case.label for case in unequal] == ["uniform", "zipf"] * 2
    for case in unequal:
        assert case.num_flops() == pytest.approx(of[same].num_flops(), rel=0.03)
        assert case.q_lens == case.kv_lens


def test_prefill_is_reported_beside_the_best_peer():
    chunk, *others = [case for case in prefill_cells.cells() if "q512_" in case.name]
    assert "flash_attn3_jax" in bench_prefill.impls(chunk)
    us = {"jaxinfer": 8.0, "jaxinfer, two calls": 1.0, "a": 6.0, "b": 4.0}
    made = [
        harness.record("prefill", chunk.name, impl, dict.fromkeys(["us"], one), chunk)
        for impl, one in us.items()
    ]
    made += [harness.record("prefill", others[0].name, "a", {"us": 1.0}, others[0])]
    made += [harness.record("mixed", "c", "jaxinfer", {"us": 2.0}, chunk)]
    made += [harness.failure("mixed", "c", "b", OSError())]
    _, _, prefill, mixed = report_gpu.beside_best(made)
    rates = f"{chunk.num_flops() / 8e6:.1f} | {chunk.num_bytes() / 8e6:.2f}"
    assert prefill == f"| prefill | {chunk.name} | 8.0 | {rates} | b | 4.0 | 0.500 |"
    assert mixed.startswith("| mixed | c | 2.0 | ")
    assert mixed.endswith(" |  |  |  |")
