// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// Rotary embedding on CUDA, alone or together with the append: what the kernels are given.
#pragma once

#include "csrc/attention.h"
#include "csrc/update_kv_pages.h"

namespace jaxinfer {

struct RopeParams {
  int64_t num_tokens, num_heads, head_dim, rotary_dim;  // R <= H, even
  bool is_interleaved;                                  // pairs are neighbours, else R / 2 apart
  ElementType type;
  const void* x;             // [T, N, H]
  void* out;                 // [T, N, H]
  const int32_t* positions;  // [T]; with an append nullptr: those of kv_lens and cu_q_lens
  const float* frequencies;  // [R / 2] radians per position
  int width;                 // elements that move at once: 16 bytes, or one
};

struct RopeUpdateKvPagesParams {
  RopeParams query;
  UpdateKvPagesParams append;        // its key is rotated on the way
  int64_t num_kv_heads, head_dim_v;  // H and R are those of the query
};

constexpr int kMostRopeThreads = 512;
constexpr int kMostRotaryDim = 8192;  // two floats of shared memory for every pair

// Steps of a head, each of one thread: pairs of vectors that rotate, then vectors that do not.
JAXINFER_INLINE int rope_pair_steps(const RopeParams& p) { return p.rotary_dim / (2 * p.width); }
JAXINFER_INLINE int rope_head_steps(const RopeParams& p) {
  return rope_pair_steps(p) + (p.head_dim - p.rotary_dim) / p.width;
}

// `addresses_and_sizes`, in bytes and or-ed together, of all rows that are read or written.
JAXINFER_INLINE int rope_width(const RopeParams& p, uint64_t addresses_and_sizes) {
  const int64_t size = p.type == ElementType::kFloat32 ? 4 : 2, width = 16 / size;
  const bool fits = p.rotary_dim % (2 * width) == 0 && p.head_dim % width == 0;
  return fits && addresses_and_sizes % 16 == 0 ? static_cast<int>(width) : 1;
}

// Threads of a token's CTA.
JAXINFER_INLINE int rope_threads(const RopeParams& p, int64_t steps) {
  const int64_t most = steps > p.rotary_dim / 2 ? steps : p.rotary_dim / 2;
  return most < kMostRopeThreads ? static_cast<int>((most + 31) / 32 * 32) : kMostRopeThreads;
}

}  // namespace jaxinfer
