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

// The largest power of two that divides `page_size`, `most` at most: a power of two.
constexpr int hopper_box(int page_size, int most) {
  int box = most;
  while (page_size % box != 0) box /= 2;
  return box;
}

// page_size: 0 if keys are contiguous. Head dims are 64 or 128.
constexpr HopperTiles hopper_tiles(int head_dim, int head_dim_v, int page_size) {
  HopperTiles t{};
  t.keys = 128;
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
