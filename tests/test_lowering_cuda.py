# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Programs for NVIDIA GPUs, lowered on a machine without one.

Most tests put a compiler in the place of NVRTC that compiles nothing: what is asked of
it, and what of its work is in the program, is all that matters here.
"""

import functools
import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from fake_nvrtc import FakeNvrtc

import jaxinfer as ji
from jaxinfer import export, jit
from jaxinfer._library import target_name

T, B, N, K, H, P, PAGE_SIZE, MAX_PAGES = 6, 3, 4, 2, 64, 9, 16, 4


def array(*shape, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))


i32 = functools.partial(array, dtype=jnp.int32)


def lists():
    return {
        "page_table": i32(B, MAX_PAGES),
        "kv_lens": i32(B),
        "cu_q_lens": i32(B + 1),
    }


def pages(dtype=jnp.bfloat16):
    shape = (P, PAGE_SIZE, K, H)
    return {
        "k_pages": array(*shape, dtype=dtype),
        "v_pages": array(*shape, dtype=dtype),
    }


def paged(dtype=jnp.bfloat16, kv_dtype=None):
    query = array(T, N, H, dtype=dtype)
    return {"query": query, **pages(kv_dtype or dtype), **lists()}


def ragged(dtype=jnp.bfloat16):
    new = array(T, K, H, dtype=dtype)
    query = array(T, N, H, dtype=dtype)
    return {"query": query, "key": new, "value": new, "cu_q_lens": i32(B + 1)}


def dense(dtype=jnp.bfloat16):
    keys = array(B, T, K, H, dtype=dtype)
    return {"query": array(B, T, N, H, dtype=dtype), "key": keys, "value": keys}


def partials(dtype=jnp.bfloat16):
    return {"outs": array(2, T, N, H, dtype=dtype), "lses": array(2, T, N, dtype="f4")}


def new_tokens(dtype=jnp.bfloat16):
    return {"key": array(T, K, H, dtype=dtype), "value": array(T, K, H, dtype=dtype)}


def append(dtype=jnp.bfloat16):
    return {**pages(dtype), **new_tokens(dtype), **lists()}


def rotate(dtype=jnp.bfloat16):
    return {"x": array(T, N, H, dtype=dtype), "positions": i32(T)}


def make_plan(**given):
    facts = {"num_q_heads": N, "num_kv_heads": K, "head_dim": H}
    return ji.plan(num_tokens=T, max_kv_len=MAX_PAGES * PAGE_SIZE, **facts, **given)


# Name of the op: (function, operands by dtype, kernels beside its own).
OPS = {
    "ragged_paged_attention": (ji.ragged_paged_attention, paged, ["plan"]),
    "ragged_attention": (ji.ragged_attention, ragged, ["plan"]),
    "dot_product_attention": (ji.dot_product_attention, dense, ["plan"]),
    "update_kv_pages": (ji.update_kv_pages, append, []),
    "rope_update_kv_pages": (
        ji.rope_update_kv_pages,
        lambda dtype=jnp.bfloat16: paged(dtype) | new_tokens(dtype),
        [],
    ),
    "rope": (functools.partial(ji.rope, implementation="cuda"), rotate, []),
    "merge_partials": (ji.merge_partials, partials, []),
    "plan": (
        lambda **lengths: make_plan(**lengths).buffer,
        lambda: {"cu_q_lens": i32(B + 1), "kv_lens": i32(B)},
        [],
    ),
}
ATTENTION = [name for name in OPS if name.endswith("attention")]
# A sequence may have one of the T tokens or several: decode, and prefill on sm_90a.
KERNELS = {name: ["attention", "attention_hopper"] for name in ATTENTION}
KERNELS["rope_update_kv_pages"] = ["rope"]


def lower(function, operands, *platforms, **options):
    """The text of the program for CUDA, or for other platforms."""
    call = jax.jit(functools.partial(function, **options))
    traced = call.trace(**operands)
    return traced.lower(lowering_platforms=platforms or ("cuda",)).as_text()


def lower_op(name, *platforms, operands=None, **options):
    function, make_operands, _ = OPS[name]
    return lower(function, operands or make_operands(), *platforms, **options)


def targets(text):
    return re.findall(r"custom_call @jaxinfer_v\d+_(\w+)\(", text)


def digests(text):
    return re.findall(r'kernel = "(\w+)"', text)


def make_store(folder, nvrtc, registered):
    return jit.KernelStore(
        disk=jit.DiskCache(folder), nvrtc=nvrtc, register=registered.__setitem__
    )


@pytest.fixture
def nvrtc():
    return FakeNvrtc()


@pytest.fixture
def registered():
    """What the extension was given: digest -> cubin."""
    return {}


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch, nvrtc, registered):
    monkeypatch.setenv("JAXINFER_PLAN_TARGET", "sm_90a:132")
    store = make_store(tmp_path / "cache", nvrtc, registered)
    monkeypatch.setattr(jit, "DEFAULT", store)
    return store


def compiled_kernels(nvrtc):
    """Name and architecture of all that was compiled."""
    heads = [source.splitlines()[0] for source in nvrtc.compiled]
    return [re.match(r"// (\w+) for (\w+),", head).groups() for head in heads]


# ---- which kernels -----------------------------------------------------------------


@pytest.mark.parametrize("op", OPS)
def test_an_op_calls_its_target_with_a_kernel(op, nvrtc, registered):
    text = lower_op(op)
    beside = OPS[op][2]
    assert sorted(targets(text)) == sorted([op, *beside])
    assert len(digests(text)) == text.count("cubin = dense<0> : tensor<1xi32>")
    assert set(digests(text)) == set(registered)
    kernels = [*KERNELS.get(op, [op]), *beside]
    assert sorted(compiled_kernels(nvrtc)) == sorted((k, "sm_90a") for k in kernels)


@pytest.mark.parametrize("op", sorted(set(OPS) - {"plan"}))
def test_by_name(op):
    assert op in targets(lower_op(op, implementation="cuda"))
    assert targets(lower_op(op, implementation="xla")) == []


@pytest.mark.parametrize("op", sorted(set(OPS) - {"plan", *ATTENTION}))
def test_small_kernels_take_every_dtype(op):
    operands = OPS[op][1](jnp.float32)
    assert targets(lower_op(op, operands=operands)) == [op]


@pytest.mark.parametrize("op", ATTENTION)
def test_float32_attention_is_the_reference(op, nvrtc):
    assert targets(lower_op(op, operands=OPS[op][1](jnp.float32))) == []
    assert nvrtc.compiled == []


@pytest.mark.parametrize("op", ATTENTION)
def test_float32_attention_by_name_raises(op):
    text = rf"{op}: no cuda kernel for float32\[.*; use implementation=None or 'xla'"
    with pytest.raises(NotImplementedError, match=text):
        lower_op(op, operands=OPS[op][1](jnp.float32), implementation="cuda")


def test_a_cache_of_another_dtype_is_the_references():
    operands = paged(jnp.bfloat16, jnp.float16)
    assert targets(lower_op("ragged_paged_attention", operands=operands)) == []


def test_values_much_wider_than_keys_are_the_references():
    operands = paged() | {"v_pages": array(P, PAGE_SIZE, K, 192)}
    assert targets(lower_op("ragged_paged_attention", operands=operands)) == []


@pytest.mark.parametrize("op", sorted(set(OPS) - {"plan"}))
def test_the_name_of_another_platform_raises(op):
    text = (
        r": implementation='cpu' was asked for, but the program is being compiled for "
        r"another platform; use None, 'xla' or a CPU device"
    )
    with pytest.raises(ValueError, match=text):
        lower_op(op, implementation="cpu")
    with pytest.raises(ValueError, match=r"'cuda' was .* another platform; .* CUDA de"):
        lower_op(op, "cpu", implementation="cuda")


def test_a_given_plan_is_not_made_again():
    plan = make_plan(cu_q_lens=np.arange(B + 1, dtype="i"), kv_lens=np.ones(B, "i"))
    op = "ragged_paged_attention"
    assert targets(lower_op(op, plan=plan)) == [op]


@pytest.mark.parametrize("op", ["merge_partials", "ragged_paged_attention"])
def test_one_program_for_two_platforms(op):
    text = lower_op(op, "cpu", "cuda")
    called = [op, *OPS[op][2]]
    assert sorted(targets(text)) == sorted(2 * called)
    assert len(digests(text)) == len(KERNELS.get(op, [op])) + len(OPS[op][2])


# ---- plans of the machine that lowers ----------------------------------------------


@pytest.mark.parametrize("platforms", [("cuda",), ("cpu", "cuda")])
@pytest.mark.parametrize("op", [*ATTENTION, "plan"])
def test_a_plan_for_a_cpu_is_refused(op, platforms, monkeypatch, nvrtc):
    monkeypatch.delenv("JAXINFER_PLAN_TARGET")
    with pytest.raises(ValueError, match=r"plans for a GPU, got one for arch='cpu'"):
        lower_op(op, *platforms)
    assert nvrtc.compiled == []


def test_what_has_no_plan_needs_no_target(monkeypatch):
    monkeypatch.delenv("JAXINFER_PLAN_TARGET")
    for op in set(OPS) - {"plan", *ATTENTION}:
        assert targets(lower_op(op)) == [op]
    for op in ATTENTION:
        assert targets(lower_op(op, implementation="xla")) == []
        assert targets(lower_op(op, operands=OPS[op][1](jnp.float32))) == []


def test_a_plan_with_a_config_needs_no_target(monkeypatch):
    monkeypatch.delenv("JAXINFER_PLAN_TARGET")

    def attend(**operands):
        lengths = {name: operands[name] for name in ("cu_q_lens", "kv_lens")}
        made = make_plan(**lengths, config=ji.PlanConfig.gpu())
        return ji.ragged_paged_attention(**operands, plan=made)

    for platforms in (("cuda",), ("cpu", "cuda")):
        called = sorted(targets(lower(attend, paged(), *platforms)))
        assert called == sorted(["plan", "ragged_paged_attention"] * len(platforms))


# ---- when they are compiled --------------------------------------------------------


def test_only_lowering_for_cuda_compiles(nvrtc):
    for name, (function, operands, _) in OPS.items():
        function = getattr(function, "func", function)  # rope without "cuda"
        jax.eval_shape(lambda o, f=function: f(**o), operands())
        traced = jax.jit(function).trace(**operands())
        assert nvrtc.compiled == []
        assert digests(traced.lower(lowering_platforms=("cpu",)).as_text()) == [], name
    assert nvrtc.compiled == []


def test_two_lowerings_of_the_same_shapes_compile_once(nvrtc, registered):
    texts = [lower_op("ragged_paged_attention", scale=scale) for scale in (1.0, 2.0)]
    assert texts[0] != texts[1]
    assert digests(texts[0]) == digests(texts[1])
    assert len(nvrtc.compiled) == len(registered) == 3  # with that of the plan
    lower_op("ragged_paged_attention", logits_soft_cap=1.0)
    assert len(nvrtc.compiled) == 5


def test_layers_of_a_model_share_kernels(nvrtc):
    def layers(layer, **operands):
        def body(query, i):
            attend = functools.partial(ji.ragged_paged_attention, layer=layer + i)
            return attend(**(operands | {"query": query})), None

        return jax.lax.scan(body, operands["query"], jnp.arange(8, dtype=jnp.int32))

    stack = {name: array(8, *x.shape) for name, x in pages().items()}
    lower(layers, paged() | stack | {"layer": i32()})
    assert len(nvrtc.compiled) == 3


def test_a_second_process_compiles_nothing(tmp_path, monkeypatch, registered):
    text = lower_op("ragged_paged_attention")
    second = FakeNvrtc()
    other = make_store(tmp_path / "cache", second, registered)
    monkeypatch.setattr(jit, "DEFAULT", other)
    assert digests(lower_op("ragged_paged_attention")) == digests(text)
    assert second.compiled == []


def test_the_target_names_the_architecture(nvrtc, monkeypatch):
    monkeypatch.setenv("JAXINFER_PLAN_TARGET", "sm_80:108")
    lower_op("ragged_paged_attention")
    assert set(compiled_kernels(nvrtc)) == {("attention", "sm_80"), ("plan", "sm_80")}


@pytest.mark.parametrize("op", OPS)
def test_without_a_compiler_lowering_raises(op, tmp_path, monkeypatch):
    missing = tmp_path / "libnvrtc.so.13"
    monkeypatch.setenv("JAXINFER_NVRTC", str(missing))
    store = jit.KernelStore(disk=jit.DiskCache(tmp_path / "empty"))
    monkeypatch.setattr(jit, "DEFAULT", store)
    text = rf"JAXINFER_NVRTC must be the path of .*{missing}.*, which is not a file"
    with pytest.raises(jit.NvrtcUnavailable, match=text):
        lower_op(op)
    if op in ATTENTION:  # what needs no kernel needs no compiler
        lower_op(op, implementation="xla")
        lower_op(op, operands=OPS[op][1](jnp.float32))


# ---- programs that leave the process -----------------------------------------------


def embedded(text):
    """The cubins in a program, decoded as xla_ffi/kernel.cc does."""
    cubins = []
    for digits in re.findall(r'cubin = dense<"0x(\w+)"> : tensor<\d+xi32>', text):
        words = np.frombuffer(bytes.fromhex(digits), np.int32)
        cubins.append(words[1:].tobytes()[: words[0]])
    return cubins


def test_embedded_kernels_are_in_the_program(registered):
    with jit.embed_kernels():
        text = lower_op("ragged_paged_attention")
    assert len(registered) == 3
    assert sorted(embedded(text)) == sorted(registered.values())
    assert embedded(lower_op("ragged_paged_attention")) == []


def step(query, key, value, k_pages, v_pages, **where):
    query, k_pages, v_pages = ji.rope_update_kv_pages(
        query, k_pages, v_pages, key, value, **where
    )
    out, lse = ji.ragged_paged_attention(
        query, k_pages, v_pages, **where, return_lse=True
    )
    outs, lses = (jnp.stack([x, x]) for x in (out, lse))
    return ji.merge_partials(outs, lses), k_pages, v_pages


@pytest.mark.parametrize("is_embedding", [False, True])
def test_exported_programs_come_back(is_embedding, registered):
    exporting = jax.export.export(
        jax.jit(step),
        platforms=["cuda"],
        disabled_checks=export.disabled_checks(),
    )
    if is_embedding:
        with jit.embed_kernels():
            exported = exporting(**paged(), **new_tokens())
    else:
        exported = exporting(**paged(), **new_tokens())
    again = jax.export.deserialize(exported.serialize())
    assert again.platforms == ("cuda",)
    text = again.mlir_module()
    called = ["rope_update_kv_pages", "plan", "ragged_paged_attention"]
    assert targets(text) == [*called, "merge_partials"]
    assert set(digests(text)) == set(registered)
    want = [registered[digest] for digest in digests(text)] if is_embedding else []
    assert sorted(embedded(text)) == sorted(want)


def test_every_cuda_target_may_be_exported():
    checks = {str(check) for check in export.disabled_checks()}
    for op in OPS:
        assert any(target_name(op) in check for check in checks), op


@pytest.mark.nvrtc
def test_real_kernels_in_a_program(tmp_path, monkeypatch):
    store = make_store(tmp_path / "real", jit.Nvrtc(jit.find_nvrtc()), {})
    monkeypatch.setattr(jit, "DEFAULT", store)
    with jit.embed_kernels():
        text = lower_op("ragged_paged_attention")
    assert [cubin[:4] for cubin in embedded(text)] == [b"\x7fELF"] * 3
