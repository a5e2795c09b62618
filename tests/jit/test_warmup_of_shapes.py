# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Kernels found from shapes: by lowering, before anything is compiled."""

import dataclasses
import functools
import re
import sys

import jax
import jax.numpy as jnp
import pytest
from fake_nvrtc import FakeNvrtc

import jaxinfer as ji
from jaxinfer import jit
from jaxinfer.jit.__main__ import main
from jaxinfer.warmup import OPTIONS, kernel_specs

N, K, H, PAGE_SIZE = 8, 2, 64, 16


@pytest.fixture(autouse=True)
def target(monkeypatch):
    monkeypatch.setenv("JAXINFER_PLAN_TARGET", "sm_90a")


def real_sources(folder, nvrtc=None):
    return jit.KernelStore(
        disk=jit.DiskCache(folder),
        nvrtc=nvrtc or FakeNvrtc(),
        register=lambda digest, cubin: None,
    )


def step(cache, q, k, v, table, kv_lens, cu_q_lens, layer):
    """A layer of a model, with a plan of its own."""
    where = {"page_table": table, "kv_lens": kv_lens, "cu_q_lens": cu_q_lens}
    plan = ji.plan(
        cu_q_lens,
        kv_lens,
        num_tokens=q.shape[0],
        max_kv_len=table.shape[1] * PAGE_SIZE,
        num_q_heads=N,
        num_kv_heads=K,
        head_dim=H,
    )
    q, k_pages, v_pages = ji.rope_update_kv_pages(
        q, cache.k_pages, cache.v_pages, k, v, **where, layer=layer
    )
    return ji.ragged_paged_attention(
        q, k_pages, v_pages, **where, layer=layer, plan=plan
    )


def arguments(tokens, seqs, max_pages=4):
    bf16, i32 = jnp.bfloat16, jnp.int32
    array = jax.ShapeDtypeStruct
    pages = array((3, 5, PAGE_SIZE, K, H), bf16)
    new = array((tokens, K, H), bf16)
    return (
        ji.PagedKVCache(pages, pages),
        array((tokens, N, H), bf16),
        *(new, new),
        array((seqs, max_pages), i32),
        array((seqs,), i32),
        array((seqs + 1,), i32),
        array((), i32),
    )


def lower(function, *args):
    return jax.jit(function).trace(*args).lower(lowering_platforms=("cuda",))


def constants(spec):
    return dict(spec.constants)


def attention_kernels(specs):
    return [spec.kernel for spec in specs if spec.kernel.startswith("attention")]


@pytest.mark.parametrize("max_pages", [1, 2**15])
@pytest.mark.parametrize(("tokens", "seqs"), [(1, 1), (64, 64), (7, 3), (900, 64)])
def test_a_step_asks_for_no_other_kernels(tokens, seqs, max_pages):
    attention = ["attention"] + ["attention_hopper"] * (tokens != seqs)
    found = kernel_specs(N, K, H, page_size=PAGE_SIZE, is_stacked=True)
    assert len(found) == len(set(found))
    with jit.collect_specs() as asked:
        lower(step, *arguments(tokens, seqs, max_pages))
    assert [spec.kernel for spec in asked] == ["plan", "rope", *attention]
    assert set(asked) <= set(found)
    exact = kernel_specs(
        *(N, K, H),
        page_size=PAGE_SIZE,
        is_stacked=True,
        num_tokens=tokens,
        num_seqs=seqs,
        max_kv_len=max_pages * PAGE_SIZE,
    )
    assert set(asked) <= set(exact)
    assert attention_kernels(exact) == attention


def test_every_kernel_of_the_paged_ops_is_found():
    found = kernel_specs(32, 8, 128)
    kernels = {spec.kernel for spec in found}
    attention = {"attention", "attention_hopper"}
    assert kernels == attention | {"merge_partials", "plan", "rope", "update_kv_pages"}
    rows = ("kTileRows", "kHopperRows", "kCtasPerSm")
    tiles = {
        (spec.kernel, *map(constants(spec).get, rows))
        for spec in found
        if spec.kernel in attention
    }
    assert tiles == {
        *(("attention", 8, None, 1), ("attention", 8, None, 2)),
        *(("attention", 16, None, 1), ("attention", 16, None, 2)),
        ("attention_hopper", 16, 128, 1),
    }


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_changes_the_attention_kernel_alone(option):
    sizes = {"num_tokens": 3, "num_seqs": 3, "max_kv_len": 100}
    plain, other = (
        set(kernel_specs(4, 2, 64, **sizes, options=options))
        for options in ((), (option,))
    )
    (before,), (after,) = plain - other, other - plain
    changed = constants(before).items() ^ constants(after).items()
    assert len({name for name, _ in changed}) == 1


def test_one_number_of_tokens_or_sequences_is_both():
    of_tokens, of_seqs, of_both = (
        kernel_specs(4, 4, 64, **sizes)
        for sizes in (
            {"num_tokens": 5},
            {"num_seqs": 5},
            {"num_tokens": 5, "num_seqs": 5},
        )
    )
    assert of_tokens == of_seqs == of_both


def test_a_program_lowered_while_collecting_is_lowered_again(tmp_path, monkeypatch):
    nvrtc = FakeNvrtc()
    monkeypatch.setattr(jit, "DEFAULT", real_sources(tmp_path, nvrtc))
    function = jax.jit(functools.partial(ji.merge_partials))
    traced = function.trace(jnp.ones((2, 3, N, H)), jnp.ones((2, 3, N)))
    with jit.collect_specs() as specs:
        inside = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert nvrtc.compiled == []
    outside = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert [spec.source for spec in specs] == nvrtc.compiled
    digests = [re.findall(r'kernel = "(\w+)"', text) for text in (inside, outside)]
    assert digests == [["0" * 32], [jit.DEFAULT.digest(specs[0])]]


def test_nested_contexts_have_lists_of_their_own():
    args = jnp.ones((2, 3, N, H)), jnp.ones((2, 3, N))
    with jit.collect_specs() as outer:
        with jit.collect_specs() as inner:
            lower(lambda *args: ji.merge_partials(*args), *args)
        assert (len(outer), len(inner)) == (0, 1)
        lower(lambda *args: ji.merge_partials(*args), *args)
    assert outer == inner


def test_command_of_shapes(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm", None)  # as if it were not installed
    kernels = real_sources(tmp_path)
    command = "warmup --heads 32/8 --head-dim 192/128 --dtype float16 --page-size 5"
    options = "--tokens 4 --seqs 4 --max-kv-len 99 --stacked --arch sm_80 --jobs 1"
    assert main([*command.split(), *options.split()], kernels) == 0
    out = capsys.readouterr().out.splitlines()
    lines = [re.sub(r" \w+ ", " ", line) for line in out[:-1]]
    assert lines == [f"{i}/5 for sm_80" for i in range(1, 6)]
    assert out[-1] == f"5 kernels are in {tmp_path}"
    described = [entry.description for entry in kernels.disk.entries()]
    assert {facts["arch"] for facts in described} == {"sm_80"}
    (found,) = (f["constants"] for f in described if f["kernel"] == "attention")
    expected = {"kType": 1, "kHeadDim": 192, "kHeadDimV": 128, "kGroup": 4}
    expected |= {"kPageSize": 5, "kTileRows": 8, "kIsStacked": True, "kIsCsr": False}
    assert expected.items() <= found.items()


WRONG = {
    "": "--heads must be given, such as --heads 32/8",
    "--heads many": "--heads must be a number or two like 32/8, got 'many'",
    "--heads 32/7": "query heads must be a multiple of the number of KV heads, got 32",
    "--heads 32/8 --head-dim 80": "head_dim must be one of (64, 96, 128, 192, 256)",
    "--heads 8 --dtype float32": "--dtype must be bfloat16 or float16, got 'float32'",
    "--heads 0": "the number of KV heads (K) must be at least 1, got 0",
    "--heads 8 --arch hopper": "JAXINFER_PLAN_TARGET must be",
    "--heads 8 --head-dim 64/192": "no cuda kernel for bfloat16[1,8,64]",
}


@pytest.mark.parametrize("options", WRONG)
def test_command_of_wrong_shapes(tmp_path, options, capsys):
    assert main(["warmup", *options.split()], real_sources(tmp_path)) == 2
    assert WRONG[options] in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", ["0", "-1", "many"])
def test_command_of_wrong_counts(tmp_path, count, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["warmup", "--heads", "8", "--page-size", count], real_sources(tmp_path))
    assert caught.value.code == 2
    text = f"argument --page-size: must be at least 1, got '{count}'"
    assert text in capsys.readouterr().err


@pytest.mark.nvrtc
def test_after_the_command_lowering_compiles_nothing(tmp_path, monkeypatch):
    found = jit.find_nvrtc()
    command = f"warmup --heads {N}/{K} --head-dim {H} --page-size {PAGE_SIZE} --stacked"
    shapes = "--tokens 3 --seqs 3 --max-kv-len 64"
    kernels = real_sources(tmp_path, jit.Nvrtc(found))
    assert main([*command.split(), *shapes.split()], kernels) == 0

    class NoCompiler(jit.Nvrtc):
        def compile(self, *args):
            raise AssertionError("compiled again")

    cold = real_sources(tmp_path, NoCompiler(found))
    monkeypatch.setattr(jit, "DEFAULT", cold)
    text = lower(step, *arguments(3, 3)).as_text()
    digests = re.findall(r'kernel = "(\w+)"', text)
    assert len(digests) == 3
    for digest in digests:
        assert cold.resolve(digest)[:4] == b"\x7fELF"


def test_the_target_is_put_back(monkeypatch):
    from jaxinfer.warmup import _target

    monkeypatch.setenv("JAXINFER_PLAN_TARGET", "cpu:3")
    with _target("sm_80"):
        assert ji.PlanConfig.default().arch == "sm_80"
    assert ji.PlanConfig.default() == dataclasses.replace(ji.PlanConfig.cpu(3))
