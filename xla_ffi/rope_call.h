// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// What the ops that rotate share: rows of heads, positions and frequencies.
#pragma once

#include "csrc/rope.h"
#include "xla_ffi/check.h"

namespace jaxinfer {

// Matches x [T, N, H], positions [T] (or empty, if they need not be given), frequencies
// [R / 2] and out [T, N, H], and fills the parameters but for `width`.
inline void match_rope(Matcher& m, const ffi::AnyBuffer& x, const ffi::AnyBuffer& positions,
                       const ffi::AnyBuffer& frequencies, const ffi::AnyBuffer& out,
                       bool needs_positions, ffi::Dictionary attributes, RopeParams* p) {
  int64_t T = -1, N = -1, H = -1, pairs = -1;
  ElementType out_type{};
  m.shape("x", x, {&T, &N, &H})
      .element_type("x", x, &p->type)
      .shape("out", out, {T, N, H})
      .element_type("out", out, &out_type)
      .require(out_type == p->type, "out", "must have the dtype of x")
      .match("frequencies", frequencies, ffi::F32, {&pairs})
      .require(pairs > 0 && 2 * pairs <= H && 2 * pairs <= kMostRotaryDim, "frequencies",
               "must be 1 to head_dim / 2")
      .attribute(attributes, "is_interleaved", &p->is_interleaved);
  if (needs_positions || positions.element_count() > 0) {
    m.match("positions", positions, ffi::S32, {T});
    p->positions = int32s(positions);
  }
  p->num_tokens = T, p->num_heads = N, p->head_dim = H, p->rotary_dim = 2 * pairs;
  p->x = x.untyped_data();
  p->out = out.untyped_data();
  p->frequencies = floats(frequencies);
}

inline uint64_t address(const void* p) { return reinterpret_cast<uint64_t>(p); }

}  // namespace jaxinfer
