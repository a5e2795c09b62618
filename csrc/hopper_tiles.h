// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// The geometry of the prefill kernel for sm_90a. Its tiles are chosen once a call, and told to the
// kernel (struct Spec) and to the host that launches it (attribute hopper_tiles); all else follows
// from them.
#pragma once

#include "csrc/attention_tiles.h"

namespace jaxinfer {

struct HopperTiles {
  int keys;    // of a step
  int stages;  // of keys, and of values
};

struct HopperLayout {
  int box;  // keys that one copy brings
  // Tensor copies bring boxes of keys. Keys of pages that are no groups of eight come one by one.
  bool copies_rows;
  // One copy brings all panels of a page. Half a panel would reach into the next head there.
  bool panels_meet;
  int q_bytes, k_bytes, v_bytes, out_bytes;
  int out_panels;  // of results that are written at a time
  int shared_bytes;
};

constexpr int kHopperRows = 128;  // packed rows of a tile, 64 a warpgroup
constexpr int kHopperThreads = 384;
constexpr int kHopperFactBytes = 9216;      // of what the loader tells the others
constexpr int kHopperSharedBytes = 232448;  // that a CTA may have

// Head dims of keys and values.
constexpr bool has_hopper_tiles(int head_dim, int head_dim_v) {
  const bool is_size = (head_dim % 64 == 0 && head_dim <= 256) || head_dim == 96;
  return is_size && (head_dim == head_dim_v || (head_dim == 192 && head_dim_v == 128));
}

// What two stages leave room for, beside the queries.
constexpr HopperTiles hopper_tiles(int head_dim) {
  return {head_dim <= 128 ? 128 : head_dim <= 192 ? 96 : 64, 2};
}

// All keys of a step, or of a page the largest power of two that divides it and them: tensor
// copies take groups of eight keys, so that keys of other pages come one by one.
constexpr int hopper_box(int page_size, int keys) {
  if (page_size == 0) return keys;
  if (page_size % 8 != 0) return 1;
  int box = keys & -keys;
  while (page_size % box != 0) box /= 2;
  return box;
}

constexpr HopperLayout hopper_layout(int head_dim, int head_dim_v, int page_size,
                                     HopperTiles tiles) {
  HopperLayout at{};
  at.box = hopper_box(page_size, tiles.keys);
  at.copies_rows = at.box < 8;
  at.panels_meet = page_size > 0 && !at.copies_rows && (head_dim | head_dim_v) % kPanel == 0;
  at.q_bytes = kHopperRows * panel_bytes(head_dim);
  at.k_bytes = tiles.keys * panel_bytes(head_dim);
  at.v_bytes = tiles.keys * panel_bytes(head_dim_v);
  at.out_panels = head_dim > 128 && head_dim_v > 128 ? 1 : panel_bytes(head_dim_v) / 128;
  at.out_bytes = kHopperRows * at.out_panels * 128;
  at.shared_bytes =
      at.q_bytes + tiles.stages * (at.k_bytes + at.v_bytes) + at.out_bytes + kHopperFactBytes;
  return at;
}

// Whether the 16 packed rows of a warp are a box of heads and tokens.
constexpr bool stores_boxes(int group) { return 16 % group == 0 || group % 16 == 0; }

// Whether a kernel could have these tiles: a box has at most 256 rows.
constexpr bool fits_hopper(int head_dim, int head_dim_v, HopperTiles tiles) {
  return tiles.keys >= 16 && tiles.keys <= 256 && tiles.keys % 16 == 0 && tiles.stages >= 1 &&
         tiles.stages <= 4 &&
         hopper_layout(head_dim, head_dim_v, 0, tiles).shared_bytes <= kHopperSharedBytes;
}

}  // namespace jaxinfer
