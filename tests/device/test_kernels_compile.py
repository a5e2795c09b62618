# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The attention kernels as NVRTC sees them: for every head size, tile and option.

Specs come from lowering the ops, so they are those that programs ask for. What is
compiled is kept in build/, by the digest of all that it is made from: only changes cost
time. The small kernels are in test_small_kernels.py.
"""

import dataclasses
import functools
import os
import re
import shutil
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from without_warnings import WithoutWarnings

import jaxinfer as ji
from jaxinfer import jit

pytestmark = pytest.mark.nvrtc
ROOT = Path(__file__).parents[2]
ARCHS = ("sm_80", "sm_90a")
ARRAYS = ("attention_sink", "bias", "k_scale", "mask", "page_indptr", "v_scale")


@dataclasses.dataclass(frozen=True)
class Case:
    """A call, by what the kernel is compiled for."""

    head_dim: int
    head_dim_v: int
    tokens: int = 64
    seqs: int = 64  # as many as tokens: decode
    kv_len: int = 1024  # long sequences in a large batch: two CTAs a multiprocessor
    heads: tuple[int, int] = (8, 2)
    dtype: str = "bfloat16"
    op: str = "paged"
    page_size: int = 16
    is_stacked: bool = False
    given: tuple[str, ...] = ()  # of ARRAYS
    options: tuple[tuple[str, object], ...] = ()

    def __str__(self) -> str:
        kind = "decode" if self.tokens == self.seqs else "prefill"
        names = [*self.given, *(name for name, _ in self.options)]
        names += ["stacked"] * self.is_stacked
        size = f"{self.head_dim}_{self.head_dim_v}"
        group = self.heads[0] // self.heads[1]
        return "-".join([kind, self.op, size, f"group{group}", self.dtype, *names])

    def lower(self) -> None:
        """Lowers the call for CUDA, from shapes alone."""
        num_heads, num_kv_heads = self.heads
        given = {
            "attention_sink": ((num_heads,), "float32"),
            "k_scale": ((), "float32"),
            "v_scale": ((num_kv_heads,), "float32"),
            "page_indptr": ((self.seqs + 1,), "int32"),
            "bias": ((1, num_heads, self.tokens, self.kv_len), "float32"),
            "mask": ((self.seqs, 1, 1, self.kv_len), "bool"),
        }
        arrays = {name: given[name] for name in self.given}
        arrays |= getattr(self, f"_{self.op}")(num_heads, num_kv_heads)
        operands = {
            name: jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
            for name, (shape, dtype) in arrays.items()
        }
        op = {
            "paged": ji.ragged_paged_attention,
            "ragged": ji.ragged_attention,
            "dense": ji.dot_product_attention,
        }[self.op]
        call = functools.partial(op, **dict(self.options), implementation="cuda")
        jax.jit(call).trace(**operands).lower(lowering_platforms=("cuda",))

    def _paged(self, num_heads, num_kv_heads):
        lead = (2, 9) if self.is_stacked else (9,)
        max_pages = -(-self.kv_len // self.page_size)
        is_csr = "page_indptr" in self.given
        pages = (*lead, self.page_size, num_kv_heads)
        return {
            "query": ((self.tokens, num_heads, self.head_dim), self.dtype),
            "k_pages": ((*pages, self.head_dim), self.dtype),
            "v_pages": ((*pages, self.head_dim_v), self.dtype),
            "page_table": ((max_pages,) if is_csr else (self.seqs, max_pages), "int32"),
            "kv_lens": ((self.seqs,), "int32"),
            "cu_q_lens": ((self.seqs + 1,), "int32"),
        } | ({"layer": ((), "int32")} if self.is_stacked else {})

    def _ragged(self, num_heads, num_kv_heads):
        return {
            "query": ((self.tokens, num_heads, self.head_dim), self.dtype),
            "key": ((self.kv_len, num_kv_heads, self.head_dim), self.dtype),
            "value": ((self.kv_len, num_kv_heads, self.head_dim_v), self.dtype),
            "cu_q_lens": ((self.seqs + 1,), "int32"),
            "cu_kv_lens": ((self.seqs + 1,), "int32"),
        }

    def _dense(self, num_heads, num_kv_heads):
        size = self.head_dim
        return {
            "query": ((self.seqs, self.tokens, num_heads, size), self.dtype),
            "key": ((self.seqs, self.kv_len, num_kv_heads, size), self.dtype),
            "value": ((self.seqs, self.kv_len, num_kv_heads, size), self.dtype),
        }


def decode(head_dim, head_dim_v=None, **fields):
    return Case(head_dim, head_dim_v or head_dim, **fields)


def prefill(head_dim, head_dim_v=None, **fields):
    return Case(head_dim, head_dim_v or head_dim, tokens=300, seqs=3, **fields)


SOFT_CAP = (("logits_soft_cap", 30.0),)
NO_SOFTMAX = (("use_softmax", False), ("scale", -0.5))
F16 = {"dtype": "float16"}
LONG = {"kv_len": 2**17}


# Every head size, both tiles and both types, on every architecture ...
CASES = [
    *(decode(64), decode(64, **F16, **LONG), prefill(64, **F16)),
    *(decode(96, **F16), decode(96, **LONG), prefill(96)),
    prefill(128, 64),
    *(decode(128), decode(128, is_stacked=True, **F16, **LONG), prefill(128, **F16)),
    *(decode(192), decode(192, 128, **F16), prefill(192), prefill(192, 128, **F16)),
    *(decode(256, **F16), prefill(256, **F16), decode(256, **LONG)),
]
# ... and all else on one.
ALL = ("attention_sink", "k_scale", "page_indptr", "v_scale")
OTHERS = [
    decode(128, page_size=1, given=("attention_sink", "page_indptr")),
    decode(128, page_size=5, given=("k_scale", "v_scale"), options=SOFT_CAP),
    decode(128, options=NO_SOFTMAX),
    decode(128, heads=(8, 8)),
    decode(128, heads=(32, 2), is_stacked=True, given=ALL, options=SOFT_CAP),
    decode(64, heads=(9, 1)),
    decode(256, heads=(16, 1)),
    decode(128, heads=(32, 1)),
    prefill(128, page_size=5, is_stacked=True, given=ALL, options=SOFT_CAP),
    prefill(256, is_stacked=True, given=ALL, options=SOFT_CAP),
    prefill(64, options=NO_SOFTMAX),
    decode(128, op="ragged"),
    prefill(128, op="ragged", given=("attention_sink",)),
    decode(64, op="dense", given=("mask",)),
    prefill(128, op="dense"),
    prefill(256, op="dense", given=("bias", "mask")),
]
# The prefill kernel that only sm_90a has; some of CASES take it as well.
HOPPER = [
    prefill(64, page_size=8, given=("page_indptr",)),
    prefill(64, page_size=64, is_stacked=True, given=ALL, options=SOFT_CAP, **F16),
    prefill(64, op="ragged", given=("attention_sink",), **F16),
    prefill(64, op="dense"),
    prefill(64, page_size=1, heads=(9, 1), **F16),
    prefill(96, page_size=64, given=("page_indptr",)),
    prefill(96, op="ragged", **F16),
    prefill(128),
    prefill(128, page_size=5, is_stacked=True, given=ALL, options=SOFT_CAP),
    prefill(128, page_size=8, given=("attention_sink",), **F16),
    prefill(128, page_size=24, heads=(9, 1), options=SOFT_CAP),
    prefill(128, page_size=64, heads=(8, 8), given=("k_scale", "v_scale")),
    prefill(128, is_stacked=True, given=ALL, options=SOFT_CAP),
    prefill(128, options=NO_SOFTMAX, **F16),
    prefill(128, op="ragged"),
    prefill(128, op="ragged", given=("attention_sink",), options=SOFT_CAP, **F16),
    prefill(192, page_size=64, given=ALL, options=SOFT_CAP),
    prefill(192, 128, page_size=24, heads=(9, 1), **F16),
    prefill(256, page_size=8, heads=(16, 2), is_stacked=True, given=ALL),
    prefill(256, op="ragged", **F16),
]
WORK = [(arch, case) for arch in ARCHS for case in CASES]
WORK += [(ARCHS[i % 2], case) for i, case in enumerate(OTHERS)]
WORK += [("sm_90a", case) for case in HOPPER]

# Bytes that may be stored and loaded again, by (packed rows of the tile, head_dim).
# What is not here must not spill. Large tiles trade some for fewer passes over keys.
ALLOWED_SPILLS = {
    (16, 256): 1100,
    (64, 192): 1200,
    (64, 256): 1700,
    (128, 64): 120,
    (128, 96): 80,
    (128, 128): 240,
    (128, 256): 1800,
}
# The same of the kernel for sm_90a, once a work item; and of decode beside it.
ON_HOPPER = 16
BESIDE_HOPPER = {128: 40, 192: 700, 256: 1100}


def specs_of(arch, case):
    """By kernel: decode and, beside it, prefill for sm_90a; or one for both."""
    with pytest.MonkeyPatch.context() as patch, jit.collect_specs() as specs:
        patch.setenv("JAXINFER_PLAN_TARGET", arch)
        case.lower()
    return {s.kernel: s for s in specs if s.kernel.startswith("attention")}


def compile_all(found, store):
    """Of {key: specs by kernel}, each (spec, cubin, what the compiler said)."""
    specs = [spec for of_case in found.values() for spec in of_case.values()]
    digests = dict(zip(specs, jit.warmup(specs, store=store), strict=True))
    said = {entry.digest: entry.description for entry in store.disk.entries()}
    return {
        key: {
            kernel: (spec, store.find(digests[spec]), said[digests[spec]])
            for kernel, spec in of_case.items()
        }
        for key, of_case in found.items()
    }


@pytest.fixture(scope="module")
def store():
    return jit.KernelStore(
        disk=jit.DiskCache(ROOT / "build" / "kernels"),
        nvrtc=WithoutWarnings(jit.find_nvrtc()),
    )


@pytest.fixture(scope="module")
def kernels(store):
    """Of WORK -> (spec, cubin, what the compiler said) by kernel."""
    return compile_all({key: specs_of(*key) for key in WORK}, store)


@pytest.mark.parametrize(
    ("arch", "case"), WORK, ids=[f"{arch}-{case}" for arch, case in WORK]
)
def test_registers_suffice(arch, case, kernels):
    tiles, found = [], kernels[arch, case]
    for kernel, (spec, _, said) in found.items():
        constants = dict(spec.constants)
        rows = constants.get("kHopperRows", constants["kTileRows"])
        tiles.append(next(size for size in (8, 16, 64, 128) if rows <= size))
        assert said["arch"] == arch
        allowed = ALLOWED_SPILLS.get((tiles[-1], case.head_dim), 0)
        if "attention_hopper" in found:
            beside = BESIDE_HOPPER.get(case.head_dim, 0)
            allowed = ON_HOPPER if kernel == "attention_hopper" else beside
        assert said["spill_bytes"] <= allowed
    is_decode = case.tokens == case.seqs and case.op != "dense"
    is_short = is_decode and case.heads[0] // case.heads[1] <= 16
    assert (max(tiles) <= 16) == is_short


def test_the_kernel_for_sm_90a_is_what_programs_ask_for(kernels):
    assert all("attention_hopper" in kernels["sm_90a", case] for case in HOPPER)


# The second product reads what the first one writes, and is begun before that is over.
TOO_EARLY = """
extern "C" __global__ void products(float* out, unsigned long long a) {
  float d[4] = {};
  for (int i = 0; i < 2; ++i) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 "
                 "{%0,%1,%2,%3}, %4, %4, 1, 1, 1, 0, 0;"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "l"(a));
    d[0] += 1.0f;
  }
  out[threadIdx.x] = d[0] + d[1] + d[2] + d[3];
}
"""


def test_serialised_products_are_an_error(store):
    with pytest.raises(AssertionError, match="are serialized"):
        store.nvrtc.compile(TOO_EARLY, "a.cu", {}, ["-arch=sm_90a", *jit.OPTIONS])


def test_decode_kernels_promise_not_to_spill():
    allowed = {(rows, dim) for rows, dim in ALLOWED_SPILLS if rows <= 16}
    assert allowed == {(16, 256)}


def test_a_large_batch_of_long_sequences_takes_two_ctas_a_multiprocessor(kernels):
    for (_, case), of_case in kernels.items():
        is_long = case.kv_len == LONG["kv_len"]
        for spec, _, _ in of_case.values():
            assert dict(spec.constants)["kCtasPerSm"] == (2 if is_long else 1)


# Bytes of shared memory that a CTA may have; kernels of these head dims do with that.
SHARED_BYTES = {"sm_80": 166912, "sm_90a": 232448}
HEAD_DIMS = [(64, 64), (96, 96), (128, 128), (192, 128), (192, 192), (256, 256)]


@pytest.fixture(scope="module")
def shared_bytes(tmp_path_factory):
    """(head_dim, head_dim_v) -> bytes of the largest kernel, as the host counts."""
    folder = tmp_path_factory.mktemp("tiles")
    source, program = folder / "tiles.cc", folder / "tiles"
    calls = [
        f"std::max(attention_tiles({k}, {v}, {ctas}).shared_bytes(8),"
        f"attention_tiles({k}, {v}, {ctas}).shared_bytes(128)),"
        for k, v in HEAD_DIMS
        for ctas in (1, 2)
    ]
    source.write_text(
        "#include <algorithm>\n#include <cstdio>\n"
        '#include "csrc/attention_tiles.h"\nusing namespace jaxinfer;\n'
        f'int main() {{ for (int n : {{{"".join(calls)}}}) std::printf("%d\\n", n); }}'
    )
    compiler = os.environ.get("CXX", "g++")
    command = [compiler, "-std=c++17", f"-I{ROOT}", source, "-o", program]
    subprocess.run(command, check=True)
    printed = subprocess.run([program], capture_output=True, text=True, check=True)
    numbers = list(map(int, printed.stdout.split()))
    pairs = zip(numbers[::2], numbers[1::2], strict=True)
    return dict(zip(HEAD_DIMS, map(max, pairs), strict=True))


@pytest.mark.parametrize("arch", ARCHS)
def test_shared_memory_suffices(arch, shared_bytes):
    assert {d: n for d, n in shared_bytes.items() if n > SHARED_BYTES[arch]} == {}


def nvdisasm() -> str | None:
    """In pip's packages, beside NVRTC, or in a toolkit."""
    try:
        bundled = Path(jit.find_nvrtc()).parents[1] / "bin" / "nvdisasm"
    except jit.NvrtcUnavailable:
        return None
    return str(bundled) if bundled.is_file() else shutil.which("nvdisasm")


def sass(cubin, folder) -> dict[str, str]:
    """The code of each entry point; functions that are called are part of it."""
    path = folder / "kernel.cubin"
    path.write_bytes(cubin)
    command = [nvdisasm(), "-c", path]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    _, *parts = re.split(r"\.section\s+\.text\.(\w+),", run.stdout)
    return dict(zip(parts[::2], parts[1::2], strict=True))


needs_nvdisasm = pytest.mark.skipif(
    nvdisasm() is None, reason="needs nvdisasm (pip install nvidia-cuda-nvdisasm)"
)


@needs_nvdisasm
@pytest.mark.parametrize(
    ("arch", "case"),
    [
        *((arch, decode(128)) for arch in ARCHS),
        ("sm_80", prefill(128, **F16)),
        ("sm_90a", prefill(128, 64)),
    ],
    ids=str,
)
def test_tensor_cores_and_asynchronous_copies(arch, case, kernels, tmp_path):
    ((_, cubin, _),) = kernels[arch, case].values()
    code = sass(cubin, tmp_path)["attention"]
    kind = ".BF16" if case.dtype == "bfloat16" else ""
    least = (case.head_dim + case.head_dim_v) // 16  # 16 columns a product
    assert len(re.findall(rf"HMMA\.16816\.F32{re.escape(kind)} ", code)) >= least
    assert len(re.findall(r"LDGSTS\.\S*128 ", code)) >= 8
    # No other products of matrices, which are slower.
    assert set(re.findall(r"H\w*MMA\S*", code)) == {f"HMMA.16816.F32{kind}"}


@needs_nvdisasm
@pytest.mark.parametrize("case", HOPPER, ids=str)
def test_products_of_warpgroups_and_tensor_copies(case, kernels, tmp_path):
    _, cubin, _ = kernels["sm_90a", case]["attention_hopper"]
    code = sass(cubin, tmp_path)
    assert set(code) == {"attention_hopper"}
    prefill = code["attention_hopper"]
    kind = ".BF16" if case.dtype == "bfloat16" else ""
    keys = 128 if case.head_dim <= 128 else 96 if case.head_dim == 192 else 64  # a step
    products = {f"HGMMA.64x{n}x16.F32{kind}" for n in (keys, case.head_dim_v)}
    assert set(re.findall(r"H\w*MMA\S*", prefill)) == products
    # Queries and contiguous keys have three axes, pages five or, of half panels, four.
    is_boxed = case.op == "paged" and case.page_size % 8 == 0
    pages = "4D" if case.head_dim == 96 else "5D"
    copies = {"UTMALDG.3D", *([f"UTMALDG.{pages}"] if is_boxed else [])}
    assert set(re.findall(r"UTMALDG\S*", prefill)) == copies
    assert ("LDGSTS" in prefill) == (case.op == "paged" and not is_boxed)
    assert not re.search("CALL.*jaxinfer", prefill)
