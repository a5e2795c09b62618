# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""ragged_paged_attention: kernel and reference against float64 numpy."""

import dataclasses
import functools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxinfer as ji
from jaxinfer import PlanConfig
from jaxinfer.testing.attention_cases import PAGED
from jaxinfer.testing.cases import AttentionCase, make_operands
from jaxinfer.testing.numerics import (
    assert_attention_close,
    attention_float64,
    ulp,
)

IMPLEMENTATIONS = ("cpu", "xla")
INVARIANT = dataclasses.replace(PlanConfig.cpu(2), batch_invariant=True, split_keys=32)
# What the cases are planned for, in turn; None = planned by the op itself.
CONFIGS = (None, PlanConfig.gpu(), INVARIANT, PlanConfig.cpu(8))


def attend(case, operands, implementation, config=None, plan=None):
    """(out, lse or None) of the jitted op."""
    options = dict(case.options, implementation=implementation)
    options["return_lse"] = case.options.get("use_softmax", True)
    if config is not None:
        plan = make_plan(case, operands, config)
    call = jax.jit(functools.partial(ji.ragged_paged_attention, **options))
    result = call(**operands, plan=plan)
    return result if options["return_lse"] else (result, None)


def make_plan(case, operands, config):
    width = operands["page_table"].shape[-1] * operands["k_pages"].shape[-3]
    return ji.plan(
        operands["cu_q_lens"],
        operands["kv_lens"],
        num_tokens=len(operands["query"]),
        max_kv_len=width,
        num_q_heads=case.num_q_heads,
        num_kv_heads=case.num_kv_heads,
        head_dim=case.head_dim,
        is_causal=case.is_causal,
        local_window_size=case.options.get("local_window_size"),
        config=config,
    )


def check(case, implementation, config=None):
    operands = make_operands(case)
    out, lse = attend(case, operands, implementation, config)
    assert out.dtype == operands["query"].dtype
    assert lse is None or lse.dtype == jnp.float32
    assert_attention_close(out, lse, attention_float64(operands, **case.options))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("case", PAGED, ids=lambda case: case.name)
def test_every_case(case, implementation):
    config = (
        CONFIGS[PAGED.index(case) % len(CONFIGS)] if implementation == "cpu" else None
    )
    check(case, implementation, config)


MIXED = PAGED[0]


def test_one_query_each_without_offsets():
    case = AttentionCase(batch=3, kv_len=50, lengths="uniform")
    operands = make_operands(case)
    expected = attention_float64(operands)
    del operands["cu_q_lens"]
    for implementation in IMPLEMENTATIONS:
        assert_attention_close(*attend(case, operands, implementation), expected)


@pytest.mark.parametrize("sink", [-np.inf, -1e30, 0.0, 80.0, 1e30])
def test_a_sink_takes_its_share_and_leaves_the_lse(sink):
    operands = make_operands(MIXED)
    operands["attention_sink"] = np.array([sink, 0, sink, 1], np.float32)
    expected = attention_float64(operands)
    for implementation in IMPLEMENTATIONS:
        assert_attention_close(
            *attend(MIXED, operands, implementation, INVARIANT), expected
        )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("level", [-245_952, -10_080, 245_952])
def test_extreme_logits_are_not_taken_for_masked_ones(level, dtype):
    """Scores that float32 holds exactly: only the weights and P V are rounded."""
    case = AttentionCase(
        q_lens=(3, 1), kv_lens=(9, 150), dtype=dtype, options={"scale": 1.0}
    )
    operands = make_operands(case)
    k_pages = operands["k_pages"]
    is_key = ~np.isnan(k_pages)
    scores = np.random.default_rng(0).integers(0, 6, k_pages.shape[:3])
    operands["query"][:] = 64
    k_pages[is_key] = level / 64 / 63
    k_pages[..., 0] = np.where(is_key[..., 0], scores / 64, np.nan)
    expected = attention_float64(operands, **case.options)
    assert (np.abs(expected.lse - level) < 20).all()
    whole = dataclasses.replace(expected, out_error=1e-6, lse_error=0)
    # Partial results are weighed by their lse, a float32 itself.
    split = dataclasses.replace(whole, out_error=ulp(np.float64(level), np.float32))
    for implementation, config, want in (
        ("cpu", None, whole),
        ("cpu", INVARIANT, split),
        ("xla", None, whole),
    ):
        assert_attention_close(*attend(case, operands, implementation, config), want)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_small_values_are_not_lost(dtype, implementation):
    check_small_values(dtype, implementation)


def check_small_values(dtype, implementation):
    """Half precision is subnormal below 6e-5; no float32 on the way is."""
    case = AttentionCase(
        q_lens=(2, 1), kv_lens=(9, 40), dtype=dtype, options={"scale": 1e9}
    )
    operands = make_operands(case)
    for name in ("k_pages", "v_pages", "query"):
        operands[name] = (operands[name].astype(np.float32) * 2.0**-17).astype(dtype)
    expected = attention_float64(operands, **case.options)
    assert_attention_close(*attend(case, operands, implementation), expected)


def bad_contents():
    """Lengths, offsets and pages that cannot be, and what they are clamped to."""
    good = make_operands(
        AttentionCase(q_lens=(3, 5, 2), kv_lens=(40, 33, 64), num_padding=6)
    )
    good = {name: np.nan_to_num(x) for name, x in good.items()}
    table = good["page_table"]
    num_pages = len(good["k_pages"])

    def with_pages(**columns):
        other = np.where((table < 0) | (table >= num_pages), 0, table)
        for column, page in columns.items():
            other[:, int(column[1:])] = page
        return good | {"page_table": other.astype(np.int32)}

    def with_lengths(cu_q_lens=(0, 3, 8, 10), kv_lens=(40, 33, 64)):
        lengths = {"cu_q_lens": cu_q_lens, "kv_lens": kv_lens}
        return with_pages() | {k: np.array(x, np.int32) for k, x in lengths.items()}

    big = 2**31 - 1
    return {
        "no_page_in_the_cache": with_pages(_0=-1, _1=num_pages, _2=big, _3=-big, _4=-1),
        "first_page_missing": with_pages(_0=-1),
        "middle_page_missing": with_pages(_1=num_pages),
        "kv_lens_too_long": with_lengths(kv_lens=(1000, big, 64)),
        "kv_lens_negative": with_lengths(kv_lens=(-1, 33, -big - 1)),
        "offsets_too_large": with_lengths(cu_q_lens=(0, 3, 100, big)),
        "offsets_descend": with_lengths(cu_q_lens=(0, 7, 4, 10)),
        "offsets_negative": with_lengths(cu_q_lens=(-5, -3, 4, 6)),
        "offsets_start_late": with_lengths(cu_q_lens=(6, 3, 8, 10)),
        "no_queries": with_lengths(cu_q_lens=(0, 0, 0, 0)),
    }


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("config", [None, INVARIANT], ids=["default", "invariant"])
@pytest.mark.parametrize("name", bad_contents())
def test_contents_that_cannot_be_are_masked_or_clamped(name, config, implementation):
    operands = bad_contents()[name]
    expected = attention_float64(operands)
    out, lse = attend(AttentionCase(), operands, implementation, config)
    assert_attention_close(out, lse, expected)


@pytest.mark.parametrize(
    "indptr",
    [(0, 3, 6, 10), (-4, 3, 2, 99), (5, 2**31 - 1, 6, 10), (9, 9, 0, -(2**31))],
)
def test_offsets_of_page_lists_that_cannot_be_are_clamped(indptr):
    case = AttentionCase(q_lens=(3, 5, 2), kv_lens=(40, 33, 64), is_csr=True)
    operands = make_operands(case, poison=False)
    operands["page_indptr"] = np.array(indptr, np.int32)
    expected = attention_float64(operands)
    for implementation in IMPLEMENTATIONS:
        assert_attention_close(*attend(case, operands, implementation), expected)


@pytest.mark.parametrize("layer", [-3, 1, 7])
def test_a_layer_outside_the_cache_is_the_nearest(layer):
    case = AttentionCase(q_lens=(2, 1), kv_lens=(20, 9), num_layers=3)
    operands = make_operands(case, poison=False)
    operands["layer"] = np.array(layer, np.int32)
    expected = attention_float64(operands)
    for implementation in IMPLEMENTATIONS:
        assert_attention_close(*attend(case, operands, implementation), expected)


@pytest.mark.parametrize(
    "config", [PlanConfig.gpu(), INVARIANT], ids=["gpu", "invariant"]
)
@pytest.mark.parametrize("window", [None, (50, None)])
def test_a_plan_serves_all_later_lengths(window, config):
    """Open ends: made before the first step, right at every step after it."""
    case = AttentionCase(
        q_lens=(1, 3, 1),
        kv_lens=(400, 64, 700),
        num_q_heads=8,
        options={"local_window_size": window},
    )
    operands = make_operands(dataclasses.replace(case, options={}), poison=False)
    for planned in ((1, 3, 100), (0, 0, 0), (390, 40, 33)):
        early = operands | {"kv_lens": np.array(planned, np.int32)}
        plan = make_plan(case, early, config)
        out, lse = attend(case, operands, "cpu", plan=plan)
        assert_attention_close(out, lse, attention_float64(operands, **case.options))


def test_the_same_bits_every_time_on_any_thread():
    case = AttentionCase(batch=9, kv_len=600, lengths="zipf", q_len=2, has_sink=True)
    operands = {name: jnp.asarray(x) for name, x in make_operands(case).items()}
    plan = make_plan(case, make_operands(case), PlanConfig.gpu(num_ctas=24))
    call = jax.jit(functools.partial(ji.ragged_paged_attention, implementation="cpu"))
    want = np.asarray(call(**operands, plan=plan))
    # Calls that overlap share the threads in ever new ways.
    with ThreadPoolExecutor(6) as pool:
        calls = [pool.submit(call, **operands, plan=plan) for _ in range(120)]
        for got in calls:
            np.testing.assert_array_equal(got.result(), want)


@pytest.mark.parametrize("q_len", [1, 20])
def test_invariant_mode_gives_a_sequence_the_same_bits_in_any_batch(q_len):
    lens = {7: (q_len, 531), 1: (1, 40), 2: (30, 90), 3: (0, 8), 4: (1, 2000)}
    batches = [(7,), (1, 7, 2), (2, 3, 7, 4), (7, 4)]
    case = AttentionCase(
        q_lens=tuple(q for q, _ in lens.values()),
        kv_lens=tuple(kv for _, kv in lens.values()),
        num_q_heads=8,
    )
    whole = make_operands(case)
    results = []
    for batch in batches:
        index = [list(lens).index(seq) for seq in batch]
        cu_q_lens = np.cumsum([0, *(lens[seq][0] for seq in batch)], dtype=np.int32)
        starts = whole["cu_q_lens"]
        operands = whole | {
            "cu_q_lens": cu_q_lens,
            "kv_lens": whole["kv_lens"][index],
            "page_table": whole["page_table"][index],
            "query": np.concatenate(
                [whole["query"][starts[i] : starts[i + 1]] for i in index]
            ),
        }
        out, lse = attend(case, operands, "cpu", INVARIANT)
        begin = cu_q_lens[batch.index(7)]
        results.append([np.asarray(x[begin : begin + q_len]) for x in (out, lse)])
    for out, lse in results[1:]:
        np.testing.assert_array_equal(out, results[0][0])
        np.testing.assert_array_equal(lse, results[0][1])
    assert np.abs(results[0][0]).max() > 0


def test_many_partial_results_of_one_row():
    """More chunks than a merge takes at once, some of them empty."""
    case = AttentionCase(q_lens=(1, 2), kv_lens=(16 * 130, 16 * 64), has_sink=True)
    config = dataclasses.replace(INVARIANT, split_keys=16)
    check(case, "cpu", config)
    check(dataclasses.replace(case, options={"local_window_size": 1040}), "cpu", config)


@pytest.mark.parametrize("isa", ["base", "v3", "v4"])
def test_every_instruction_set(isa):
    code = """if True:
        import test_ragged_paged_attention as t
        from jaxinfer import _native
        print(_native.cpu_isa)
        labels = "wide_values full_cap left_window both_windows no_softmax".split()
        for case in t.PAGED:
            if case.label in labels:
                t.check(case, "cpu", t.INVARIANT)
        t.check_small_values("float16", "cpu")
    """
    env = dict(os.environ, JAXINFER_CPU_ISA=isa, PYTHONPATH=str(Path(__file__).parent))
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    if run.stdout.split() != [isa]:
        pytest.skip(f"this processor does not run {isa}, but {run.stdout.strip()}")


def test_a_cache_of_more_than_2_to_the_31_elements():
    """Offsets are 64 bit. No memory backs the cache, but for the pages in use."""
    num_pages, page_size, num_kv_heads, head_dim = 2**17 + 3, 16, 8, 128
    shape = (num_pages, page_size, num_kv_heads, head_dim)
    size = int(np.prod(shape))
    assert size > 2**31
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if available < 8 * 2**30:
        pytest.skip(f"needs 8 GiB of free memory, has {available / 2**30:.1f}")
    raw = np.zeros(2 * size + 64, np.uint8)
    raw = raw[-raw.ctypes.data % 64 :][: 2 * size]  # aligned: jax takes it as it is
    pages = raw.view(jnp.bfloat16).reshape(shape)
    rng = np.random.default_rng(0)
    pages[-2:] = rng.standard_normal((2, *shape[1:]), np.float32)
    cache = jax.device_put(pages, may_alias=True)
    assert cache.unsafe_buffer_pointer() == raw.ctypes.data, "the cache was copied"
    operands = {
        "query": rng.standard_normal((1, 32, head_dim), np.float32).astype(
            jnp.bfloat16
        ),
        "page_table": np.array([[num_pages - 1, num_pages - 2]], np.int32),
        "kv_lens": np.array([27], np.int32),
        "cu_q_lens": np.array([0, 1], np.int32),
    }
    small = operands | {"page_table": np.array([[1, 0]], np.int32)}
    expected = attention_float64(small | {"k_pages": pages[-2:], "v_pages": pages[-2:]})
    call = jax.jit(functools.partial(ji.ragged_paged_attention, implementation="cpu"))
    out = call(**operands, k_pages=cache, v_pages=cache)
    assert_attention_close(out, None, expected)
