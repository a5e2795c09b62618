// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// The warp that brings queries, keys and values to shared memory, by tensor copies.
#pragma once

#include "csrc/hopper_shared.cuh"

namespace jaxinfer {

struct HopperLoader {
  const HopperParams& params;
  HopperShared& s;
  int pool_group;              // first group of eight rows of the layer
  int turn_k = 0, turn_v = 0;  // tiles so far
  // With a block map: what it says of tiles `window` - l, for l from 0 to 31.
  int window = -1;
  uint32_t seen = 0, shown = 0;

  JAXINFER_DEVICE HopperLoader make(const HopperParams& params, HopperShared& s) {
    const AttentionParams& p = params.p;
    const int64_t layer = Spec::kIsStacked ? clamp64(*p.layer, 0, p.num_layers - 1) : 0;
    return {params, s, static_cast<int>(layer * p.kv.num_pages * p.kv.page_size / 8)};
  }

  __device__ __forceinline__ void run() {
    const int lane = threadIdx.x & 31;
    for (int turn = 0;; ++turn) {
      const int slot = turn % kItemSlots;
      const HopperItem& now = s.items[slot];
      barrier(s.item_full[slot]).wait(turn / kItemSlots & 1);
      if (now.first < 0) {
        barrier(s.q_empty).wait((turn & 1) ^ 1);
        if (lane == 0) barrier(s.q_full).arrive();
        return;
      }
      // Keys are needed one tile ahead of values, and page numbers one ahead of keys.
      window = -1;
      Step step = find_step(now, now.first);
      if (step.tile < now.last) step = {now.first, false};  // a tile must come, though unseen
      Boxes keys = find_boxes(now, step.tile, look_up(now, step.tile));
      Step next = find_step(now, step.tile - 1);
      int entry = look_up(now, next.tile);
      // Queries that stay are in use until the item before is nearly over.
      if constexpr (kQueriesStay) copy_keys(now, step, next, keys);
      barrier(s.q_empty).wait((turn & 1) ^ 1);
      if (lane == 0) barrier(s.q_full).arrive_expecting(kHopperTokens * kGroup * kHeadDim * 2);
      if (lane < kPanels)
        copy_box(shared_address(s.q) + lane * kHopperRows * 128, params.q, barrier(s.q_full),
                 lane * kPanel, now.kv_head * kGroup, now.item.row_begin);
      if constexpr (!kQueriesStay) copy_keys(now, step, next, keys);
      while (step.tile >= now.last) {
        const Boxes values = keys;
        const int tile = step.tile;
        step = next;
        keys = find_boxes(now, step.tile, entry);
        next = find_step(now, step.tile - 1);
        entry = look_up(now, next.tile);
        if (step.tile >= now.last) copy_keys(now, step, next, keys);
        copy_values(now, tile, values);
      }
      __syncwarp();
      if (lane == 0) barrier(s.item_empty[slot]).arrive();
    }
  }

 private:
  struct Step {
    int tile;       // below the last one: there are no more
    bool is_shown;  // every row sees all of it, says the block map
  };

  // The first tile from `tile` down that some row may see.
  __device__ __forceinline__ Step find_step(const HopperItem& now, int tile) {
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

  // Lane l, of box l of a tile.
  struct Boxes {
    int group;       // of eight rows, where it begins; outside of the cache if it does not exist
    bool is_absent;  // though some row sees it
  };

  __device__ __forceinline__ bool has_box(const HopperItem& now, int tile, int* key) const {
    const int lane = threadIdx.x & 31;
    *key = tile * kHopperKeys + lane * kHopper.box;
    return kIsPaged && lane < kBoxes && tile >= now.last && *key < now.item.hi &&
           *key + kHopper.box > now.item.lo;
  }
  // What the page list says: it takes a while to come.
  __device__ __forceinline__ int look_up(const HopperItem& now, int tile) const {
    int key;
    return has_box(now, tile, &key) ? load_entry(params.p, now.item.page_row, key) : 0;
  }
  __device__ __forceinline__ Boxes find_boxes(const HopperItem& now, int tile, int entry) const {
    int key;
    if (!has_box(now, tile, &key)) return {kOutside, false};
    const int row = row_of_entry(params.p, entry, key);
    return {row < 0 ? kOutside : pool_group + (row >> 3), row < 0};
  }

  // Each lane a box.
  template <int kDim>
  __device__ __forceinline__ void copy(uint8_t* to, const TensorMap& map, Barrier full,
                                       const HopperItem& now, int tile, int group) const {
    const int lane = threadIdx.x & 31;
    const uint32_t address = shared_address(to);
    if (lane == 0) full.arrive_expecting(kHopperKeys * kDim * 2);
    if constexpr (kIsPaged) {
      if (lane < kBoxes)
        copy_box(address + lane * kHopper.box * kDim * 2, map, full, 0, 0, 0, group, now.kv_head);
    } else if (lane < kDim / kPanel) {
      copy_box(address + lane * kNextPanel, map, full, lane * kPanel, now.kv_head,
               now.start + tile * kHopperKeys);
    }
  }
  __device__ __forceinline__ void copy_keys(const HopperItem& now, Step step, Step next,
                                            Boxes boxes) {
    const int stage = turn_k % kHopperStages;
    barrier(s.k_empty[stage]).wait((turn_k / kHopperStages & 1) ^ 1);
    const uint32_t absent = __ballot_sync(kWholeWarp, boxes.is_absent);
    if ((threadIdx.x & 31) == 0) {
      const int at = turn_k % (2 * kHopperStages);
      s.absent[at] = absent;
      if constexpr (kHasBlockMap) {
        const bool is_full =
            step.is_shown && step.tile >= now.full_begin && step.tile < now.full_end;
        s.steps[at] = encode_step(step.tile, !is_full, next.tile < now.last);
      }
    }
    copy<kHeadDim>(s.k[stage], params.k, barrier(s.k_full[stage]), now, step.tile, boxes.group);
    ++turn_k;
  }
  __device__ __forceinline__ void copy_values(const HopperItem& now, int tile, Boxes boxes) {
    const int stage = turn_v % kHopperStages;
    barrier(s.v_empty[stage]).wait((turn_v / kHopperStages & 1) ^ 1);
    copy<kHeadDimV>(s.v[stage], params.v, barrier(s.v_full[stage]), now, tile, boxes.group);
    ++turn_v;
  }
};

}  // namespace jaxinfer
