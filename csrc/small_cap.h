// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// Soft caps of small scores, in three sums of products: a tanh would wait for the one unit that has
// the exponentials as well.
#pragma once

#include "csrc/variant_math.h"

namespace jaxinfer {

// cap * tanh(factor * x) for angles factor * x up to 1/3, to 5e-7 of the cap.
struct SmallCap {
  float most;  // square of x up to which it holds; 0: for no x
  float a, b, c;

  JAXINFER_HOOK SmallCap make(float factor, float cap) {
    constexpr float kMost = 1.0f / 9.0f, kA = 0.96453926f, kB = -0.305365595f, kC = 0.123432007f;
    const float size = ::fabsf(factor);
    if (!(size >= 0x1p-20f && size <= 0x1p10f)) return {};  // powers might not be floats
    const float square = factor * factor, times = cap * factor;
    return {kMost / square, times * kA, times * square * kB, times * square * square * kC};
  }
  // Of x, plus `rest`. Where it does not hold, `beyond` has no sign.
  JAXINFER_HOOK float of(const SmallCap& cap, float x, float rest, float* beyond) {
    *beyond = ::fmaf(x, x, -cap.most);
    const float slope = ::fmaf(*beyond, ::fmaf(*beyond, cap.c, cap.b), cap.a);
    return ::fmaf(x, slope, rest);
  }
};

}  // namespace jaxinfer
