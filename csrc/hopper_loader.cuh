// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// The warp that brings queries, keys and values to shared memory, by tensor copies: keys that are
// contiguous, or lie in pages that are groups of eight.
#pragma once

#include "csrc/hopper_steps.cuh"

namespace jaxinfer {

struct HopperLoader {
  const HopperParams& params;
  HopperShared& s;
  int pool_group;  // first group of eight rows of the layer
  Steps steps;
  int turn_k = 0, turn_v = 0;  // tiles so far

  JAXINFER_DEVICE HopperLoader make(const HopperParams& params, HopperShared& s) {
    const AttentionParams& p = params.p;
    const int64_t layer = Spec::kIsStacked ? clamp64(*p.layer, 0, p.num_layers - 1) : 0;
    const int64_t rows = layer * p.kv.num_pages * p.kv.page_size;
    return {params, s, static_cast<int>(rows / 8), {params}};
  }

  __device__ __forceinline__ void run() {
    for (int turn = 0;; ++turn) {
      const int slot = turn % kItemSlots;
      const HopperItem& now = s.items[slot];
      barrier(s.item_full[slot]).wait(turn / kItemSlots & 1);
      if (now.first < 0) return end_queries(s, turn);
      // Keys are needed one tile ahead of values, and page numbers one ahead of keys.
      Step step = steps.find_first(now);
      int entry = look_up(now, step.tile);
      Box keys = find_box(now, step.tile, entry);
      Step next = steps.find(now, step.tile - 1);
      entry = look_up(now, next.tile);
      // Queries that stay are in use until the item before is nearly over.
      if constexpr (kQueriesStay) copy_keys(now, step, next, keys);
      copy_queries(params, s, now, turn);
      if constexpr (!kQueriesStay) copy_keys(now, step, next, keys);
      while (step.tile >= now.last) {
        const Box values = keys;
        const int tile = step.tile;
        step = next;
        keys = find_box(now, step.tile, entry);
        next = steps.find(now, step.tile - 1);
        entry = look_up(now, next.tile);
        if (step.tile >= now.last) copy_keys(now, step, next, keys);
        copy_values(now, tile, values);
      }
      __syncwarp();
      if ((threadIdx.x & 31) == 0) barrier(s.item_empty[slot]).arrive();
    }
  }

 private:
  // Lane l, of box l of a tile.
  struct Box {
    int row;          // where it begins; outside of the cache if it does not exist
    uint32_t absent;  // bit l: some row sees it all the same; equal in all lanes
  };

  __device__ __forceinline__ bool has_box(const HopperItem& now, int tile, int* key) const {
    const int box = threadIdx.x & 31;
    *key = tile * kHopperKeys + box * kHopper.box;
    return kIsPaged && box < kBoxes && tile >= now.last && *key < now.item.hi &&
           *key + kHopper.box > now.item.lo;
  }
  // The entry of the page list: it takes a while to come.
  __device__ __forceinline__ int look_up(const HopperItem& now, int tile) const {
    int key;
    return has_box(now, tile, &key) ? load_entry(params.p, now.item.page_row, key) : 0;
  }
  __device__ __forceinline__ Box find_box(const HopperItem& now, int tile, int entry) const {
    int key;
    const bool exists = has_box(now, tile, &key);
    const int row = exists ? row_of_entry(params.p, entry, key) : -1;
    return {row, __ballot_sync(kWholeWarp, exists && row < 0)};
  }

  template <int kDim>
  __device__ __forceinline__ void copy(uint8_t* to, const TensorMap& map, Barrier full,
                                       const HopperItem& now, int tile, const Box& box) const {
    constexpr int kPanelsOfRow = panel_bytes(kDim) / 128;
    const int lane = threadIdx.x & 31;
    const uint32_t address = shared_address(to);
    if (lane == 0) full.arrive_expecting(kHopperKeys * kPanelsOfRow * 128);
    if constexpr (!kIsPaged) {
      if (lane < kPanelsOfRow)
        copy_box(address + lane * kNextPanel, map, full, lane * kPanel, now.kv_head,
                 now.start + tile * kHopperKeys);
    } else if constexpr (kPanelsMeet) {
      if (lane < kBoxes)
        copy_box(address + lane * kHopper.box * kDim * 2, map, full, 0, 0, 0, group_of(box),
                 now.kv_head);
    } else {
      const int group = group_of(box);
#pragma unroll
      for (int panel = 0; panel < kPanelsOfRow; ++panel) {
        if (lane < kBoxes)
          copy_box(address + panel * kNextPanel + lane * kHopper.box * 128, map, full,
                   panel * kPanel, 0, group, now.kv_head);
      }
    }
  }
  // Of eight rows, of all layers.
  __device__ __forceinline__ int group_of(const Box& box) const {
    return box.row < 0 ? kOutside : pool_group + (box.row >> 3);
  }

  __device__ __forceinline__ void copy_keys(const HopperItem& now, Step step, Step next,
                                            const Box& box) {
    const int stage = turn_k % kHopperStages;
    barrier(s.k_empty[stage]).wait((turn_k / kHopperStages & 1) ^ 1);
    if ((threadIdx.x & 31) == 0) {
      s.absent[turn_k % (2 * kHopperStages)][0] = box.absent;
      tell_step(s, now, turn_k, step, next.tile < now.last);
    }
    copy<kHeadDim>(s.k[stage], params.k, barrier(s.k_full[stage]), now, step.tile, box);
    ++turn_k;
  }
  __device__ __forceinline__ void copy_values(const HopperItem& now, int tile, const Box& box) {
    const int stage = turn_v % kHopperStages;
    barrier(s.v_empty[stage]).wait((turn_v / kHopperStages & 1) ^ 1);
    copy<kHeadDimV>(s.v[stage], params.v, barrier(s.v_full[stage]), now, tile, box);
    ++turn_v;
  }
};

}  // namespace jaxinfer
