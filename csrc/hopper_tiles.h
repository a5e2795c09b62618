// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// The geometry of the prefill kernel for sm_90a: a pure function of head dims and page size, read
// by the kernel itself and by the host that launches it.
#pragma once

#include "csrc/types.h"

namespace jaxinfer {

struct HopperTiles {
  int keys;  // of a step
  int box;   // keys that one tensor copy brings
  int q_bytes, k_bytes, v_bytes, out_bytes;
  int shared_bytes;
};

constexpr int kHopperRows = 128;  // packed rows of a tile, 64 a warpgroup
constexpr int kHopperThreads = 384;
constexpr int kHopperStages = 2;        // of keys, and of values
constexpr int kHopperFactBytes = 9216;  // of what the loader tells the others

// Head dims of keys and values.
constexpr bool has_hopper_tiles(int head_dim, int head_dim_v) {
  const bool is_square = head_dim == head_dim_v && head_dim % 64 == 0 && head_dim <= 256;
  return is_square || (head_dim == 192 && head_dim_v == 128);
}

// All keys of a step, or of a page the largest power of two that divides it and them.
constexpr int hopper_box(int page_size, int keys) {
  if (page_size == 0) return keys;
  int box = keys & -keys;
  while (page_size % box != 0) box /= 2;
  return box;
}

// page_size: 0 if keys are contiguous.
constexpr HopperTiles hopper_tiles(int head_dim, int head_dim_v, int page_size) {
  HopperTiles t{};
  // What two stages leave room for, beside the queries.
  t.keys = head_dim <= 128 ? 128 : head_dim <= 192 ? 96 : 64;
  t.box = hopper_box(page_size, t.keys);
  t.q_bytes = kHopperRows * head_dim * 2;
  t.k_bytes = t.keys * head_dim * 2;
  t.v_bytes = t.keys * head_dim_v * 2;
  t.out_bytes = kHopperRows * 128;  // a panel of 64 columns
  t.shared_bytes =
      t.q_bytes + kHopperStages * (t.k_bytes + t.v_bytes) + t.out_bytes + kHopperFactBytes;
  return t;
}

}  // namespace jaxinfer
