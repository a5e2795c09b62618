// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// What the prefill kernel for sm_90a is called with.
#pragma once

#include "csrc/attention.h"

namespace jaxinfer {

// What the copy engine is told of a tensor (CUtensorMap): the driver fills it in.
struct alignas(64) TensorMap {
  uint64_t opaque[16];
};

// Axes from the innermost out. Boxes are what one copy brings; kHopper.. in csrc/hopper_tiles.h.
struct HopperParams {
  TensorMap q;     // [H, N, T] in boxes of 64 columns, the heads of a group, the tokens of a tile
  TensorMap k, v;  // contiguous: [H, K, rows] in boxes of 64 columns, 1 head, `keys` rows
                   // pages: [64, 8, H / 64, rows / 8, K] in boxes of `box` rows of 1 head
  TensorMap out;   // [Hv, N, T] in boxes of 64 columns and 16 packed rows: see stores_boxes()
  int first_cta;   // of the plan, that the first one of the kernel stands for
  // Of whole tiles.
  uint32_t* tickets;    // counts up, and from the number of items to 0; nullptr: as the plan says
  int num_head_groups;  // of the plan
  int section_heads;    // of these, whose keys fit the L2 cache together; a divisor
  AttentionParams p;
};

}  // namespace jaxinfer
