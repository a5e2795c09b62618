# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""Compiles the texts of many variants for the host, and runs them on rows of inputs."""

import ctypes
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from numpy.ctypeslib import ndpointer

from jaxinfer.variant import HOOKS, Hooks, Variant

ROOT = Path(__file__).parents[2]
HEAD_DIM, HEAD_DIM_V = 16, 12

_INCLUDES = ("<stdlib.h>", '"csrc/small_cap.h"', '"csrc/variant.h"')
# Operands are at.data; what rows differ in comes as arrays.
_ENTRIES = """
extern "C" void {name}_score_mod(const VariantOperands* at, int rows,
    const float* score, const int* b, const int* h, const int* q, const int* k,
    float* out) {{
  using {name}::Variant;
  for (int r = 0; r < rows; ++r) {{
    const SmallScore small{{score[r] * 4.0f, 0.25f}};
    out[r] = fabsf(score[r]) <= Variant::kSmallScores  // asked of whole tiles on a GPU
        ? Variant::score_mod(*at, small, b[r], h[r], q[r], k[r])
        : Variant::score_mod(*at, score[r], b[r], h[r], q[r], k[r]);
    float beyond = 1.0f, capped = 0.0f;
    if (Variant::kSoftCap.size > 0.0f) {{
      const auto [size, factor] = Variant::kSoftCap;
      const SmallCap cap = SmallCap::make(0.25f * factor, size);
      capped = SmallCap::of(cap, 4.0f * score[r], 0.0f, &beyond);
    }}
    if (signbit(beyond)) out[r] = capped;
    if (Variant::kAddsLine && k[r] >= 5 && k[r] <= 1000 && abs(q[r]) <= 1000) {{
      const Line line = Variant::line_mod(*at, b[r], h[r], q[r], k[r] - 5);
      out[r] = score[r] + (line.base + 5 * line.slope);
    }}
  }}
}}
extern "C" void {name}_mask_mod(const VariantOperands* at, int rows, const int* b,
    const int* h, const int* q, const int* k, bool* out) {{
  for (int r = 0; r < rows; ++r)
    out[r] = {name}::Variant::mask_mod(*at, b[r], h[r], q[r], k[r]);
}}
"""
_VECTOR_ENTRY = """
extern "C" void {name}_{hook}(const VariantOperands* at, int rows, const float* x,
    const int* b, const int* h, const int* p, float* out) {{
  for (int r = 0; r < rows; ++r) {{
    // Reading past the vector stops the test.
    auto vector = [&](int j) {{
      if (j < 0 || j >= {size}) abort();
      return x[r * {size} + j];
    }};
    for (int i = 0; i < {size}; ++i)
      out[r * {size} + i] = {name}::Variant::{hook}(*at, vector, b[r], h[r], p[r], i);
  }}
}}
"""


class Emitted:
    """The hooks of one variant, compiled.

    Attributes:
      hooks: as traced.
      operands: as traced.
    """

    def __init__(self, library: ctypes.CDLL, name: str, hooks: Hooks, operands):
        self.hooks = hooks
        self.operands = operands
        self._library = library
        self._name = name

    def __call__(self, hook: str, *inputs, operands=None) -> np.ndarray:
        """The hook on every row of its inputs."""
        arrays = [np.ascontiguousarray(x) for x in operands or self.operands]
        at = (ctypes.c_void_p * 16)(*(x.ctypes.data for x in arrays))
        function = self._library[f"{self._name}_{hook}"]
        out = np.empty(inputs[0].shape, bool if hook == "mask_mod" else np.float32)
        function.argtypes = [
            *(ctypes.c_void_p, ctypes.c_int),
            *(ndpointer(x.dtype, flags="C") for x in (*inputs, out)),
        ]
        function(at, len(out), *inputs, out)
        return out


def build(traced: Sequence[tuple[Hooks, Sequence[jax.Array]]]) -> list[Emitted]:
    """Compiles them all at once."""
    text = [f"#include {name}" for name in _INCLUDES]
    for i, (hooks, _) in enumerate(traced):
        begin = hooks.code.index("struct Variant")
        end = hooks.code.rindex("}  // namespace")
        text += [f"namespace jaxinfer::case_{i} {{", hooks.code[begin:end], "}"]
    text += ["using namespace jaxinfer;"]
    for i, (hooks, _) in enumerate(traced):
        name = f"case_{i}"
        scalar = _ENTRIES.format(name=name).split('\nextern "C"')[1:]
        text += ['extern "C"' + e for e in scalar if f"{name}_{hooks.names[0]}(" in e]
        for hook in hooks.names:
            if HOOKS[hook][0] == "vector":
                size = HEAD_DIM_V if hook in ("value_mod", "output_mod") else HEAD_DIM
                text += [_VECTOR_ENTRY.format(name=name, hook=hook, size=size)]
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "cases.cc"), Path(folder, "cases.so")
        source.write_text("\n".join(text))
        # Wall: a text that warns is a text that may be wrong.
        flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-Wall", "-Werror"]
        flags += ["-Wfloat-conversion", "-Wno-tautological-compare"]
        flags += ["-fsanitize=undefined", "-fno-sanitize-recover", f"-I{ROOT}"]
        flags += ["-fno-sanitize=float-divide-by-zero"]
        command = [os.environ.get("CXX", "g++"), *flags, source, "-o", library]
        subprocess.run(command, check=True)
        loaded = ctypes.CDLL(str(library))
    return [Emitted(loaded, f"case_{i}", *t) for i, t in enumerate(traced)]


def variant_of(hook: str, function) -> Variant:
    return Variant(**{hook: function})


def trace(hook: str, function):
    return variant_of(hook, function).trace(HEAD_DIM, HEAD_DIM_V)


def build_cases(cases: Mapping[str, tuple[str, Callable]]) -> dict[str, Emitted]:
    """By name, of cases (hook, function)."""
    traced = [trace(*case) for case in cases.values()]
    return dict(zip(cases, build(traced), strict=True))


def inputs_of(hook: str, rows: int = 200, seed: int = 0) -> list[np.ndarray]:
    """Rows of inputs: ordinary ones, far ones and negative ones."""
    rng = np.random.default_rng(seed)

    def draw(name):
        if name == "score":
            score = rng.normal(0, 5, rows).astype(np.float32)
            score[:6] = [0.0, -0.0, 1.0, -1.0, 0.5, 100.0]
            return score
        if name == "vector":
            size = HEAD_DIM_V if hook in ("value_mod", "output_mod") else HEAD_DIM
            return rng.normal(0, 2, (rows, size)).astype(np.float32)
        highest = {"b": 4, "h": 8}.get(name, 300)
        index = rng.integers(0, highest, rows, np.int32)
        index[:8] = [0, -1, highest, -highest, 1000, -1000, 2**31 - 1, -(2**31)]
        return rng.permutation(index)

    return [draw(name) for name in HOOKS[hook]]


def expected(hook: str, function, inputs) -> np.ndarray:
    """What JAX says, one operation after the other."""
    result = np.asarray(jax.vmap(function)(*inputs))
    return result if hook == "mask_mod" else result.astype(np.float32)


def assert_close(actual, wanted):
    """To float32; exactly for what is rounded to 16 bits, masks and integers."""
    if wanted.dtype == bool:
        np.testing.assert_array_equal(actual, wanted)
    else:
        np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=2e-6)
