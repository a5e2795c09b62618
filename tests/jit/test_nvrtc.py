# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""The real compiler: what it is given, what comes back, and when it is loaded."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fake_nvrtc
import numpy as np
import pytest
from fake_nvrtc import SOURCES, SPEC, store

from jaxinfer import jit
from jaxinfer.jit import Compiled, KernelSpec, Nvrtc, nvrtc

pytestmark = pytest.mark.nvrtc


@pytest.fixture(scope="module")
def compiler():
    return Nvrtc(jit.find_nvrtc())


def source(text):
    """A folder of device sources with one kernel."""
    return {"csrc/probe.cuh": text}


def is_cubin(data):
    e_machine = int.from_bytes(data[18:20], "little")
    return data[:4] == b"\x7fELF" and e_machine == 190


def test_the_version_has_a_build(compiler):
    major, minor, build = compiler.version
    assert major >= 12
    assert minor < 20
    assert build > 0
    fields = Path(compiler.path).resolve().name.partition(".so.")[2].split(".")
    assert [major, minor, build][: len(fields)] == list(map(int, fields))


def test_a_compiler_without_a_version(monkeypatch):
    silent = Nvrtc("lib.so")
    monkeypatch.setattr(silent, "_compile", lambda *args: Compiled(b"", "", 0.0))
    with pytest.raises(jit.NvrtcUnavailable, match=r"lib\.so did not tell its version"):
        _ = silent.version


def test_an_error_without_a_log(compiler):
    with pytest.raises(jit.CompileError, match=r"NVRTC \(.*\): NVRTC_ERROR_OUT_OF_MEM"):
        compiler._check(1)


def test_a_cubin(compiler, tmp_path):
    kernels = store(tmp_path, compiler)
    compiled = kernels.compile(SPEC)
    assert is_cubin(compiled.cubin)
    assert b"scale" in compiled.cubin
    assert "Compiling entry function 'scale' for 'sm_90a'" in compiled.log
    assert 0 < compiled.registers < 64
    assert compiled.spill_bytes == 0
    assert compiled.seconds > 0
    digest = kernels.load(SPEC)
    assert kernels.find(digest) == compiled.cubin
    assert "\0" not in compiled.log


def test_compile_source(compiler):
    assert is_cubin(jit.compile_source(SPEC, SOURCES).cubin)


def test_registers_and_spills_are_read_from_the_log():
    compiled = Compiled(b"", fake_nvrtc.LOG, 0.0)
    assert (compiled.registers, compiled.spill_bytes) == (168, 64)


def test_spills_are_reported(compiler, tmp_path):
    text = (
        'extern "C" __global__ void __launch_bounds__(1024, 2) probe(float* x) {\n'
        "  float y[64];\n"
        "  #pragma unroll\n  for (int i = 0; i < 64; ++i) y[i] = x[i * 1024];\n"
        "  __syncthreads();\n"
        "  #pragma unroll\n  for (int i = 0; i < 64; ++i) x[i] = y[i] * y[63 - i];\n"
        "}\n"
    )
    compiled = store(tmp_path, compiler, source(text)).compile(
        KernelSpec("probe", "sm_90a")
    )
    assert compiled.registers == 32
    assert compiled.spill_bytes > 0


def test_constants_arrive_exactly(compiler, tmp_path):
    floats = {"kA": 0.1, "kB": -2.5e-30, "kC": 3.0e38, "kD": 1e-45}
    constants = (("kInt", -(2**31)), ("kOn", True), *floats.items())
    bits = {n: int(np.float32(x).view(np.int32)) for n, x in floats.items()}
    text = (
        "using jaxinfer::Spec;\n"
        "static_assert(Spec::kInt == -2147483647 - 1 && Spec::kOn);\n"
        'extern "C" __global__ void probe(int* x) {\n'
        + "".join(f"  *x++ = __float_as_int(Spec::{name});\n" for name in floats)
        + "}\n"
    )
    spec = KernelSpec("probe", "sm_90a", constants)
    options = ("-arch=compute_90", *jit.OPTIONS)
    ptx = compiler._compile(
        spec.source, "probe.cu", source(text), options, "PTX"
    ).cubin.decode()
    assert all(f", {value};" in ptx for value in bits.values()), ptx


def test_the_options(compiler, tmp_path):
    text = (
        "#ifndef __CUDACC_RTC__\n#error not as csrc/types.h knows it\n#endif\n"
        "inline int unannotated(int x) { return x + 1; }\n"
        "template <int n> int chosen() {\n"
        "  if constexpr (n > 1) return n; else return 0;\n"
        "}\n"
        'extern "C" __global__ void probe(int* x) {\n'
        "  *x = unannotated(*x) + chosen<2>();\n"
        "}\n"
    )
    kernels = store(tmp_path, compiler, source(text))
    assert kernels.load(KernelSpec("probe", "sm_90a"))


@pytest.mark.parametrize("include", ['"outside.h"', "<cuda_bf16.h>", "<stdint.h>"])
def test_there_are_no_other_headers(compiler, tmp_path, monkeypatch, include):
    # NVRTC would look beside the including file, in the working directory.
    (tmp_path / "csrc").mkdir()
    (tmp_path / "csrc/outside.h").write_text("")
    monkeypatch.chdir(tmp_path)
    kernels = store(tmp_path / "cache", compiler, source(f"#include {include}\n"))
    with pytest.raises(jit.CompileError, match="open source file"):
        kernels.load(KernelSpec("probe", "sm_90a"))


def test_the_text_of_a_compile_error(compiler, tmp_path):
    kernels = store(tmp_path, compiler, source("void probe() {\n  undeclared();\n}\n"))
    with pytest.raises(jit.CompileError) as caught:
        kernels.load(KernelSpec("probe", "sm_90a", (("kX", 1),)))
    text = str(caught.value)
    assert text.startswith("kernel 'probe' for sm_90a: probe.cu: NVRTC (")
    assert "could not compile it with -arch=sm_90a --std=c++17" in text
    assert "csrc/probe.cuh(2): error" in text
    assert '"undeclared" is undefined' in text
    assert "static constexpr int kX = 1;" in text
    assert kernels.disk.entries() == []


def test_an_architecture_that_the_compiler_does_not_know(compiler, tmp_path):
    with pytest.raises(jit.CompileError, match=r"'scale' for sm_33: .*-arch=sm_33"):
        store(tmp_path, compiler).load(KernelSpec("scale", "sm_33"))


def test_headers_shared_with_the_cpu(compiler, tmp_path):
    shared = {"csrc/work_item.h": jit.device_sources()["csrc/work_item.h"]}
    text = (
        '#include "csrc/work_item.h"\n'
        'extern "C" __global__ void probe(jaxinfer::WorkItem* x) { x->seq = 1; }\n'
    )
    kernels = store(tmp_path, compiler, shared | source(text))
    assert kernels.load(KernelSpec("probe", "sm_90a"))


def test_threads(compiler, tmp_path):
    specs = [KernelSpec("scale", "sm_90a", (("kFactor", i),)) for i in range(8)]
    kernels = store(tmp_path, compiler)
    with ThreadPoolExecutor(4) as pool:
        cubins = list(pool.map(lambda spec: kernels.compile(spec).cubin, specs))
    assert len(set(cubins)) == 8
    assert cubins == [kernels.compile(spec).cubin for spec in specs]


PROGRAM = """
import sys
from fake_nvrtc import SOURCES, SPEC
from jaxinfer.jit import KernelStore
digest = KernelStore(sources=SOURCES, register=lambda *kernel: None).load(SPEC)
print(digest, "libnvrtc" in open("/proc/self/maps").read())
"""


def test_only_a_cold_start_loads_nvrtc(compiler, monkeypatch):
    monkeypatch.setenv("JAXINFER_NVRTC", compiler.path)
    runs = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            cwd=Path(fake_nvrtc.__file__).parent,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout.split()
        for _ in range(2)
    ]
    assert [loaded for _, loaded in runs] == ["True", "False"]
    assert runs[0][0] == runs[1][0]


def test_compiling_twice_gives_the_same_bytes_and_a_whole_log(compiler):
    headers = {name: SOURCES[name] for name in SOURCES}
    options = ("-arch=sm_90a", *nvrtc.OPTIONS)
    one, two = (
        compiler.compile(SPEC.source, "scale.cu", headers, options) for _ in "12"
    )
    assert one.cubin == two.cubin
    assert one.registers == two.registers > 0
