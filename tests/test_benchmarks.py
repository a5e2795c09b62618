# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The numbers of the docs are those of stored runs, and every benchmark runs."""

import dataclasses
import functools
import itertools
import json
import math

import numpy as np
import pytest

import jaxinfer as ji
from benchmarks import __main__ as command
from benchmarks import (
    bench_decode,
    bench_merge_partials,
    bench_plan,
    bench_rope,
    bench_update_kv_pages,
    decode_cells,
    decode_step,
    gpu_idle,
    gpu_timing,
    harness,
    item_costs,
    jobs,
    op_cells,
    prefill_cells,
    report,
    report_gpu,
    serving,
)
from benchmarks.decode_step_cells import Cell
from benchmarks.gpu_timing import QUICK, Settings
from benchmarks.llama_8b import TINY, Model
from benchmarks.peers.process import flashinfer_records

TINY_CELL = decode_cells.cells("tiny")[-1]


def test_tables_are_made_from_the_stored_runs():
    text = report.PAGE.read_text()
    assert report.page(text) == text
    assert report.page(text.replace("| decode |", "| other |")) == text


def test_a_run_says_what_it_was_measured_on():
    for _, run in report.runs():
        meta = run["meta"]
        assert {"commit", "device", "jax", "date", "read_tbps"} <= meta.keys()
        assert not meta["commit"].endswith("-dirty")


def test_records_have_the_fields_that_all_runs_share():
    for _, run in report.runs():
        for record in run["records"]:
            assert {"benchmark", "case", "impl", "us"} <= record.keys()
            times = {"us_min", "us_max"} if record["us"] else {"why"}
            assert times <= record.keys()


def test_runs_on_a_gpu_have_their_plots():
    for name, run in report.runs():
        if report_gpu.has_plots(run):
            for plot in report_gpu.PLOT_NAMES:
                assert (report.PLOTS / f"{name}-{plot}.svg").exists()


def test_every_target_has_its_cell():
    names = [case.name for case in decode_cells.cells("targets")]
    assert list(decode_cells.TARGETS) == names
    rest = decode_cells.cells("grid", "groups", "pages", "-targets")
    assert not {case.name for case in rest} & set(names)


@pytest.mark.parametrize("case", decode_cells.cells("targets", "pages"), ids=str)
def test_caches_in_turn_are_larger_than_the_l2(case):
    count = decode_cells.num_rotated(case, Settings().calls)
    assert 2 <= count <= Settings().calls
    assert count * decode_cells.kv_bytes(case) >= decode_cells.COLD_BYTES


def test_every_cache_has_a_region_of_the_pool_in_random_order():
    case = dataclasses.replace(TINY_CELL, kv_len=400)
    num_pages, tables = decode_cells.page_tables(case, 3)
    counts = -(-case.make_lengths()[1] // case.page_size)
    assert (len(tables), num_pages) == (3, 3 * counts.sum())
    regions = np.arange(num_pages).reshape(3, -1)
    for table, region in zip(tables, regions, strict=True):
        assert table.dtype == np.int32
        used = np.concatenate([table[b, :n] for b, n in enumerate(counts)])
        assert sorted(used) == region.tolist()
        assert (np.abs(np.diff(used)) > 1).any()
        assert all((table[b, n:] == 0).all() for b, n in enumerate(counts))


def test_results_of_a_chain_stay_as_large_as_queries():
    case = dataclasses.replace(TINY_CELL, kv_len=400, lengths="const")
    pool = bench_decode.Pool.create(case, 2)
    prepared, query = bench_decode.jaxinfer(pool), pool.query
    for buffer in [*prepared.buffers] * 10:
        query = prepared.call(query, prepared.shared, buffer)
        assert 0.4 < float(np.asarray(query, np.float32).std()) < 1.1


def test_wrong_results_are_not_timed():
    keys = [np.ones((3, 1, 8))]
    out = query = np.ones((1, 1, 8))
    assert decode_cells.max_error(out, query, keys, keys) == 0
    with pytest.raises(AssertionError, match="wrong result"):
        decode_cells.max_error(out + 0.1, query, keys, keys)
    with pytest.raises(AssertionError, match="wrong result"):
        decode_cells.max_error(out * math.nan, query, keys, keys)


def test_time_to_start_and_to_report_is_not_that_of_the_calls(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(gpu_timing.time, "perf_counter", lambda: now[0])

    def pass_time(seconds):
        now[0] += seconds

    settings = Settings(calls=10, repeats=3, seconds=60, most_launches=5)
    launch, wait = (functools.partial(pass_time, s) for s in (0.5, 1.0))
    times = gpu_timing.measure(launch, wait, settings)
    assert times == {"us": 5e4, "us_min": 5e4, "us_max": 5e4}
    assert now[0] == 0.5 * (3 + 1 + 3 * (5 + 15)) + 8


def test_decode_is_measured_and_what_cannot_run_says_why():
    impls = ("jaxinfer", "jaxinfer, plan in graph", "xla", "xla dense", "pallas")
    made = list(bench_decode.records([TINY_CELL], impls, QUICK))
    ran = [(r["benchmark"], r["impl"]) for r in made if r["us"]]
    assert ran == list(
        (name, impl)
        for impl, name in itertools.product(impls[:-1], ("decode", "decode_repeated"))
    )
    assert all(r["max_err"] < 0.1 and r["tbps"] > 0 for r in made if r["us"])
    (failed,) = (r for r in made if not r["us"])
    assert failed["impl"] == "pallas"
    assert "ValueError" in failed["why"]


def test_ops_are_measured():
    cells = op_cells.TINY_TOKENS
    made = [
        *bench_update_kv_pages.records(cells, QUICK),
        *bench_merge_partials.records(bench_merge_partials.TINY, QUICK),
        *bench_rope.records(cells, QUICK),
        *bench_plan.device_records(op_cells.plan_cells()[:1], QUICK),
    ]
    ran = [r["benchmark"] for r in made if r["us"]]
    twice = ["append", "append", "merge", "merge", "rope_append", "rope_append"]
    assert sorted(ran) == sorted([*twice, "rope", "plan"])  # no rope of our own on CPUs


def test_a_run_goes_on_after_what_fails_and_ends_in_time(capsys):
    def fails(_):
        yield {"us": 1}
        raise RuntimeError("no such GPU")

    def endless(_):
        while True:
            yield {"us": 2}

    named = [("a", fails), ("b", endless), ("c", fails)]
    made = list(command.run(named, 0.05))
    assert made[0] == {"us": 1}
    assert made[1]["why"] == "RuntimeError: no such GPU"
    assert made[-2]["benchmark"] == "b"
    assert "TimeoutError" in made[-2]["why"]
    assert made[-1]["benchmark"] == "c"
    assert "not begun" in made[-1]["why"]


def test_a_stored_run_can_be_read_at_any_time(tmp_path):
    path = tmp_path / "new" / "run.json"
    for count in range(3):
        records = [harness.failure("decode", str(i), "x", OSError()) for i in range(9)]
        harness.write_run(path, {"count": count}, records[:count])
        assert json.loads(path.read_text())["meta"] == {"count": count}
    assert [p.name for p in path.parent.iterdir()] == ["run.json"]


def test_a_missing_peer_is_a_record():
    (record,) = flashinfer_records(["--cells", "tiny"], 1.0)
    assert record["us"] is None
    assert "torch" in record["why"] or "flashinfer" in record["why"]


def test_jobs_have_names_of_their_own():
    names = [name for name, _ in jobs.gpu(("fa2", "xqa"))]
    assert len(set(names)) == len(names)


def test_item_costs_are_compared_in_one_program():
    title, _, row = item_costs.rows([TINY_CELL], QUICK)
    assert title.startswith("| item cost | 0 | 1 |")
    assert row.startswith(f"| {TINY_CELL.name} | ")
    assert len(row.split("|")) == len(title.split("|"))
    case = dataclasses.replace(decode_cells.cells("targets")[3], kv_len=400)
    like = ji.plan(
        *case.make_lengths(),
        num_tokens=case.batch,
        max_kv_len=2000,
        num_q_heads=case.num_q_heads,
        num_kv_heads=case.num_kv_heads,
        head_dim=case.head_dim,
        config=ji.PlanConfig.gpu(),
    )
    buffers = [np.asarray(item_costs.plan(case, n, like).buffer) for n in (0, 5)]
    assert np.array_equal(buffers[0], like.buffer)
    assert not np.array_equal(*buffers)


@pytest.mark.parametrize("layers", ["scanned", "unrolled"])
def test_decode_steps_are_measured(layers):
    timing = dataclasses.replace(QUICK, calls=1)
    model = Model.create(TINY, layers == "scanned")
    bench = decode_step.Bench(model, layers, True, timing)
    cell = Cell(2, 20, 40, TINY)
    made = {v: bench.measure(cell, v, 8) for v in ("jaxinfer", "identity", "xla")}
    assert made["xla"]["same_tokens"] == 1
    assert made["jaxinfer"]["impl"] == f"jaxinfer, layers {layers}"
    assert made["jaxinfer"]["floor_us"] >= made["jaxinfer"]["kv_floor_us"]


@pytest.mark.parametrize("is_scanned", [False, True])
def test_steps_driven_from_python_are_measured(is_scanned, monkeypatch):
    cell = serving.Cell(2, 16, 2, is_scanned)
    for name in ("WARM_UP", "REPEATS", "ALONE", "LOOP"):
        monkeypatch.setattr(serving, name, 2)
    made = list(serving.records([cell], 10))  # more steps than there are lengths
    ways = ("fresh", "in graph", "carried", "looped")
    assert [one["impl"] for one in made] == [f"jaxinfer, {way}" for way in ways]
    for one in made:
        assert 0 < one["host_us"] <= one["us_max"]
        assert one["alone_us"] > 0
        assert one["initialize"] == one["execute"] == 0  # handlers of CUDA


def test_idle_share_merges_streams():
    def event(name, begin, end, tid):
        span = {"ts": begin, "dur": end - begin}
        return {"ph": "X", "pid": 7, "tid": tid, "name": name} | span

    events = [
        {
            "ph": "M",
            "name": "process_name",
            "pid": 7,
            "args": {"name": "/device:GPU:0"},
        },
        {
            "ph": "M",
            "name": "thread_name",
            "pid": 7,
            "tid": 1,
            "args": {"name": "Stream #1"},
        },
        {
            "ph": "M",
            "name": "thread_name",
            "pid": 7,
            "tid": 2,
            "args": {"name": "Stream #2"},
        },
        {
            "ph": "M",
            "name": "thread_name",
            "pid": 7,
            "tid": 3,
            "args": {"name": "XLA Ops"},
        },
        event("a", 0, 40, 1),
        event("b", 30, 50, 2),
        event("c", 90, 100, 1),
        event("all", 0, 100, 3),
    ]
    assert gpu_idle.idle_share_of(events) == pytest.approx(0.4)
    with pytest.raises(ValueError, match="no kernels"):
        gpu_idle.idle_share_of(events[:4])


def test_a_run_on_a_gpu_is_reported():
    case = decode_cells.cells("targets")[0]
    dense, *_, paged = prefill_cells.cells()[:6]
    times = {"us": 8.0, "us_min": 7.9, "us_max": 8.2}
    faster = {name: value / 2 for name, value in times.items()}
    step = {"floor_us": 4.0, "kv_floor_us": 1.0}
    records = [
        harness.record("decode", case.name, "jaxinfer", times, case),
        harness.record("decode_repeated", case.name, "jaxinfer", faster, case),
        harness.record("decode", case.name, "xla", times, case),
        harness.record("decode_repeated", case.name, "xla", times, case),
        harness.failure("decode", case.name, "pallas", NotImplementedError("too old")),
        harness.record("prefill", dense.name, "jaxinfer", times, dense),
        harness.record("prefill", dense.name, "cudnn dense", faster, dense),
        harness.record("prefill", paged.name, "jaxinfer", faster, paged),
        harness.failure("prefill", "", "flashinfer", TimeoutError("stopped")),
        harness.record("append", "t64", "jaxinfer", times, num_bytes=8000),
        harness.record("decode_step", "b1", "jaxinfer, layers unrolled", times, **step),
        harness.record(
            "decode_step", "b1", "identity, layers unrolled", faster, **step
        ),
        harness.record("decode_step", "b1", "xla, layers unrolled", times, **step),
    ]
    meta = {
        "device": "NVIDIA H200",
        "date": "2026-11-23",
        "driver": "580",
        "cuda": "13",
    }
    meta |= {"jax": "0.11.2", "peers": {"torch": "2"}, "commit": 40 * "a"}
    text = report_gpu.section(
        "h200", {"meta": meta | {"read_tbps": 4.2}, "records": records}
    )
    rate = f"{case.num_bytes() / 4 / 1e6:.2f}"
    assert f"| {case.name} | 7.8 | 4.0 / 8.0 | 8.0 / 8.0 | {rate} | 0.50 |" in text
    assert "| b1 | unrolled | 8 | 4 | 8 | 4 | 1 | 2.00 | +0% |" in text
    speed = [round(dense.num_flops() / us / 1e6) for us in (8, 4)]
    assert "| case | jaxinfer | cudnn dense | speed / best peer |" in text
    assert f"| {dense.name} | {speed[0]} | {speed[1]} | 0.50 |" in text
    assert f"| {paged.name} | {speed[1]} |  |  |" in text
    assert "| prefill |" not in text
    assert "- prefill, flashinfer, 1 of its cases: TimeoutError: stopped" in text
    assert "| append | t64 | jaxinfer | 8.0 (7.9 .. 8.2) | 1.0 |" in text
    assert "- decode, pallas, 1 of its cases: NotImplementedError: too old" in text
