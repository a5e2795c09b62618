# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""A compiler that compiles nothing, and small device sources.

Run as a program, it loads kernels into a folder that others use at the same time.
"""

import hashlib
import sys
import time
from pathlib import Path

from jaxinfer.jit import Compiled, DiskCache, KernelSpec, KernelStore, Nvrtc

SOURCES = {
    "csrc/scale.cuh": (
        "#pragma once\n"
        '#include "csrc/factor.h"\n'
        'extern "C" __global__ void scale(float* x) {\n'
        "  x[threadIdx.x] = jaxinfer::times_factor(x[threadIdx.x]);\n"
        "}\n"
    ),
    "csrc/factor.h": (
        '#pragma once\n#  include "csrc/number.h"\n'
        "namespace jaxinfer {\n"
        "float times_factor(float x) { return x * kNumber * Spec::kFactor; }\n"
        "}\n"
    ),
    "csrc/number.h": "#pragma once\nconstexpr float kNumber = 3.0f;\n",
    "csrc/unrelated.h": "constexpr int kUnrelated = 1;\n",
}
SPEC = KernelSpec("scale", "sm_90a", (("kFactor", 2),))
LOG = (
    "ptxas info    : Compiling entry function 'a' for 'sm_90a'\n"
    "ptxas    .    16 bytes stack frame, 24 bytes spill stores, 40 bytes spill loads\n"
    "ptxas info    : Used 168 registers, used 0 barriers\n"
    "ptxas info    : Compiling entry function 'b' for 'sm_90a'\n"
    "ptxas    .    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
    "ptxas info    : Used 32 registers, used 0 barriers\n"
)


class FakeNvrtc(Nvrtc):
    """Its cubins are hashes. Counts what it is asked for."""

    def __init__(self, path="libfake.so", version=(13, 5, 37), before=None, size=1000):
        super().__init__(path)
        self.version = version
        self.before = before or (lambda: None)
        self.size = size
        self.compiled = []

    def compile(self, source, name, headers, options):
        self.compiled.append(source)
        self.before()
        text = repr((source, sorted(headers.items()), self.version, options))
        word = hashlib.sha256(text.encode()).digest()
        return Compiled(word * (self.size // len(word) + 1), LOG, 0.25)


def store(folder, nvrtc=None, sources=SOURCES, register=lambda digest, cubin: None):
    return KernelStore(
        sources=sources,
        disk=DiskCache(Path(folder)),
        nvrtc=nvrtc or FakeNvrtc(),
        register=register,
    )


def race(folder):
    """Prints what it loaded, having waited for a line of input."""
    specs = [KernelSpec("scale", "sm_90a", (("kFactor", i),)) for i in range(5)]
    loaded = {}
    nvrtc = FakeNvrtc(before=lambda: time.sleep(0.02), size=1_000_000)
    kernels = store(folder, nvrtc, register=loaded.__setitem__)
    print("ready", flush=True)
    sys.stdin.readline()
    for spec in specs:
        kernels.load(spec)
    print({d: hashlib.sha256(c).hexdigest() for d, c in sorted(loaded.items())})


if __name__ == "__main__":
    race(sys.argv[1])
