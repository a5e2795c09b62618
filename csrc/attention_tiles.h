// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// The geometry of the CUDA attention kernel: a pure function of head dims, read by the
// kernel itself and by the host that launches it.
#pragma once

#include "csrc/types.h"

namespace jaxinfer {

struct AttentionTiles {
  int warps;          // of a CTA
  int decode_stages;  // of each warp's private ring of 16 keys and values
  int decode_bytes;   // shared memory of the decode tile
  int prefill_rows;   // packed rows of the prefill tile, 16 a warp
  int prefill_keys;   // keys of a prefill step
  int prefill_bytes;  // shared memory of the prefill tile

  constexpr int threads() const { return warps * 32; }
  constexpr int shared_bytes(int tile_rows) const;
};

constexpr int kMostRows = 128;         // packed rows of a tile of a plan
constexpr int kDecodeKeys = 16;        // keys of a warp's step: the k of one mma
constexpr int kMaxDecodeRows = 16;     // packed rows of a decode tile: two n8 of an mma
constexpr int kPanel = 64;             // elements of a 128-byte row of shared memory
constexpr int kItemsAtOnce = 20;       // work items whose bounds are looked up together
constexpr int kItemBytes = 72;         // of one of these
constexpr int kOutPad = 4;             // floats: rows of the merge buffer avoid bank conflicts
constexpr int kMostInFlight = 131072;  // more bytes in flight per SM measured slower

// A plan whose tiles have at most `tile_rows` packed rows needs the decode tile for this many,
// and the prefill tile for what is larger.
constexpr int decode_rows(int tile_rows) { return tile_rows <= 8 ? 8 : kMaxDecodeRows; }
constexpr bool has_prefill(int tile_rows) { return tile_rows > kMaxDecodeRows; }

// Bytes of a row of K or V in shared memory.
constexpr int panel_bytes(int head_dim) { return (head_dim + kPanel - 1) / kPanel * 128; }

constexpr AttentionTiles attention_tiles(int head_dim, int head_dim_v, int ctas_per_sm) {
  AttentionTiles t{};
  const int row = panel_bytes(head_dim) + panel_bytes(head_dim_v);
  t.warps = (row <= 512 ? 8 : 4) / ctas_per_sm;
  const int stage = kDecodeKeys * row;
  t.decode_stages = kMostInFlight / ctas_per_sm / (t.warps * stage);
  t.decode_stages = t.decode_stages < 2 ? 2 : t.decode_stages > 4 ? 4 : t.decode_stages;
  const int items = kItemsAtOnce * kItemBytes;
  // Ring, and per warp 8 rows of partial O with their m and l; a merge takes the place of these.
  t.decode_bytes = t.warps * (t.decode_stages * stage + 8 * (head_dim_v + kOutPad + 2) * 4) + items;
  t.prefill_rows = t.warps * 16;
  t.prefill_keys = 64;
  // Q, two stages of K and V, the bounds of each row and the rows of the cache.
  t.prefill_bytes = t.prefill_rows * panel_bytes(head_dim) + 2 * t.prefill_keys * row +
                    t.prefill_rows * 8 + 4 * t.prefill_keys * 4 + items;
  return t;
}

constexpr int AttentionTiles::shared_bytes(int tile_rows) const {
  return has_prefill(tile_rows) && prefill_bytes > decode_bytes ? prefill_bytes : decode_bytes;
}

}  // namespace jaxinfer
