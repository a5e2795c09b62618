# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The jaxinfer authors
"""How a warp replaces vectors in shared memory, with lanes that run in random order."""

import ctypes
import os
import re
import subprocess

import numpy as np
import pytest
from variant.emitted import ROOT

HEAD_DIMS = (64, 96, 128, 192, 256)
ROWS, FIRST, PRESENT = 32, 8, 0b1011111011110111
_BEFORE = """
#include "tests/device/cuda_emulation.h"
#include "csrc/types.h"
#define JAXINFER_DEVICE static inline
struct uint4 { uint32_t x, y, z, w; };
static uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) {
  return {x, y, z, w};
}
namespace jaxinfer {
struct Type {
  static float widen(uint16_t x) { return emulated::widen_bf16(x); }
  static uint32_t pack(float x, float y) {
    return emulated::narrow_bf16(x) | uint32_t{emulated::narrow_bf16(y)} << 16;
  }
};
static uint8_t* tile;
static uint32_t shared_address(const void* at) { return (const uint8_t*)at - tile; }
static uint4 load_shared(uint32_t from) { return *(const uint4*)(tile + from); }
static void settle(uint32_t&) {}
"""
# Hooks of halves, of pairs, and of elements that are known at run time only.
_ENTRY = """
template <int kDim, int kRows>
static bool run(int kind, int seed) {
  const auto exists = [&](int r) { return (PRESENT >> r & 1) != 0; };
  const auto hook = [&](const auto& x, int r, int i) {
    constexpr int kHalf = kDim / 2;
    if (kind == 0) return i < kHalf ? x(i) - x(i + kHalf) : x(i) + x(i - kHalf);
    if (kind == 1) return x(i) - x(i % 2 ? i - 1 : i + 1);
    return x(kDim - 1 - i) + x((i + r) % kDim);
  };
  return emulated::run_grid({}, 32, seed, [&] {
    for (int at = 0; at < 16; at += kRows)
      modify_rows<kDim, kRows>(
          tile, ROWS, FIRST + at, [&](int r) { return exists(at + r); },
          [&](const auto& x, int r, int i) { return hook(x, at + r, i); });
  });
}
}  // namespace jaxinfer
extern "C" bool run(uint8_t* at, int dim, int rows, int kind, int seed) {
  jaxinfer::tile = at;
  CASES
  return false;
}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    header = (ROOT / "csrc/attention_variant.cuh").read_text()
    ptx = (ROOT / "csrc/ptx.cuh").read_text()
    swizzled = re.search(r"JAXINFER_DEVICE uint32_t swizzled.*?\n}", ptx, re.S)[0]
    (vector,) = re.findall(r"\nstruct SharedVector {.*?\n};", header, re.S)
    (modify,) = re.findall(r"\ntemplate <int kDim, int kRows, .*?\n}\n", header, re.S)
    cases = "".join(
        f"if (dim == {dim} && rows == {rows}) "
        f"return jaxinfer::run<{dim}, {rows}>(kind, seed);\n"
        for dim in HEAD_DIMS
        for rows in (4, 16)
    )
    text = _BEFORE + swizzled + vector + modify + _ENTRY.replace("CASES", cases)
    for name in ("ROWS", "FIRST", "PRESENT"):
        text = text.replace(name, str(globals()[name]))
    source = tmp_path_factory.mktemp("rows") / "rows.cc"
    source.write_text(text)
    library = source.with_suffix(".so")
    flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-w", "-U_FORTIFY_SOURCE"]
    compiler = os.environ.get("CXX", "g++")
    subprocess.run([compiler, *flags, f"-I{ROOT}", source, "-o", library], check=True)
    function = ctypes.CDLL(str(library)).run
    function.restype = ctypes.c_bool
    return function


def _expected(rows, kind):
    half = rows.shape[1] // 2
    a, b = rows[:, :half], rows[:, half:]
    if kind == 0:
        return np.concatenate([a - b, b + a], 1)
    if kind == 1:
        return rows - rows.reshape(len(rows), half, 2)[..., ::-1].reshape(rows.shape)
    return rows[:, ::-1] + np.stack([np.roll(x, -r) for r, x in enumerate(rows)])


@pytest.mark.parametrize("rows_at_once", [4, 16])
@pytest.mark.parametrize("kind", [0, 1, 2])
@pytest.mark.parametrize("dim", HEAD_DIMS)
def test_rows_are_replaced_in_place(dim, kind, rows_at_once, run):
    panels = -(-dim // 64)
    i = np.arange(panels * 64)
    row = np.arange(ROWS)[:, None]
    chunk = i // 8 % 8 ^ row % 8
    place = i // 64 * ROWS * 64 + row * 64 + chunk * 8 + i % 8
    for seed in range(3):
        values = np.random.default_rng(seed).integers(-60, 60, place.shape)
        values = values.astype(np.float32)
        tile = np.empty(place.size, np.uint16)
        tile[place] = values.view(np.uint32) >> 16
        assert run(tile.ctypes.data_as(ctypes.c_void_p), dim, rows_at_once, kind, seed)
        wanted = values.copy()
        changed = _expected(values[FIRST : FIRST + 16, :dim], kind)
        is_present = (PRESENT >> np.arange(16) & 1) == 1
        wanted[FIRST : FIRST + 16, :dim][is_present] = changed[is_present]
        actual = (tile[place].astype(np.uint32) << 16).view(np.float32)
        np.testing.assert_array_equal(actual, wanted)
