// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// What all loaders do: go through the tiles of an item that some row sees, tell the consumers of
// them, and bring queries.
#pragma once

#include "csrc/hopper_shared.cuh"

namespace jaxinfer {

// A tile of keys.
struct Step {
  int tile;       // below the last one of the item: there are no more
  bool is_shown;  // every row sees all of it, says the block map
};

struct Steps {
  const HopperParams& params;
  // With a block map: what it says of tiles `window` - l, for l from 0 to 31.
  int window = -1;
  uint32_t seen = 0, shown = 0;

  // An item has a step, though unseen.
  __device__ __forceinline__ Step find_first(const HopperItem& now) {
    window = -1;
    const Step step = find(now, now.first);
    return step.tile < now.last ? Step{now.first, false} : step;
  }
  // The first tile from `tile` down that some row may see.
  __device__ __forceinline__ Step find(const HopperItem& now, int tile) {
    if constexpr (kHasBlockMap) {
      while (tile >= now.last) {
        if (tile > window || tile <= window - 32) look_at_blocks(now, tile);
        const uint32_t left = seen & ~0u << (window - tile);
        if (left != 0) {
          const int at = __ffs(left) - 1;
          return {window - at, (shown >> at & 1) != 0};
        }
        tile = window - 32;
      }
    }
    return {tile, false};
  }

 private:
  // Each lane a tile.
  __device__ __forceinline__ void look_at_blocks(const HopperItem& now, int from) {
    const int tile = from - (threadIdx.x & 31);
    const int begin = max(tile * kHopperKeys, now.item.lo);
    const int end = min(tile * kHopperKeys + kHopperKeys, now.item.hi);
    SeenBlocks blocks{false, false};
    if (begin < end)
      blocks = SeenBlocks::look(params.p, now.item, now.kv_head, begin, end - begin, 0, 1);
    window = from;
    seen = __ballot_sync(kWholeWarp, blocks.some);
    shown = __ballot_sync(kWholeWarp, blocks.every);
  }
};

// By one lane, before the keys of the step are said to be there.
JAXINFER_DEVICE void tell_step(HopperShared& s, const HopperItem& now, int turn, Step step,
                               bool is_last) {
  if constexpr (!kHasBlockMap) return;
  const bool is_cut = step.tile < now.full_begin || step.tile >= now.full_end;
  s.steps[turn % (2 * kHopperStages)] = encode_step(step.tile, is_cut, !step.is_shown, is_last);
}

JAXINFER_DEVICE void copy_queries(const HopperParams& params, HopperShared& s,
                                  const HopperItem& now, int turn) {
  const int lane = threadIdx.x & 31;
  barrier(s.q_empty).wait((turn & 1) ^ 1);
  if (lane == 0) barrier(s.q_full).arrive_expecting(kHopperTokens * kGroup * kRowBytes);
  if (lane < kPanels)
    copy_box(shared_address(s.q) + lane * kHopperRows * 128, params.q, barrier(s.q_full),
             lane * kPanel, now.kv_head * kGroup, now.item.row_begin);
}
// There are no more items: the consumers stop where they would wait for queries.
JAXINFER_DEVICE void end_queries(HopperShared& s, int turn) {
  barrier(s.q_empty).wait((turn & 1) ^ 1);
  if ((threadIdx.x & 31) == 0) barrier(s.q_full).arrive();
}

}  // namespace jaxinfer
