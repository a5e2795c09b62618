// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// The warp that brings queries, keys and values to shared memory, by tensor copies; or two, of
// which one copies keys row by row, and the other one values.
#pragma once

#include "csrc/hopper_shared.cuh"

namespace jaxinfer {

struct HopperLoader {
  const HopperParams& params;
  HopperShared& s;
  int loader;                  // of kLoaders warps: one for all, or one for keys, one for values
  Layer layer;                 // for copies of rows
  int pool_group;              // first group of eight rows of the layer, for those of boxes
  int turn_k = 0, turn_v = 0;  // tiles so far
  // With a block map: what it says of tiles `window` - l, for l from 0 to 31.
  int window = -1;
  uint32_t seen = 0, shown = 0;

  JAXINFER_DEVICE HopperLoader make(const HopperParams& params, HopperShared& s, int loader) {
    const AttentionParams& p = params.p;
    if constexpr (kCopiesRows) return {params, s, loader, Layer::find(p), 0};
    const int64_t layer = Spec::kIsStacked ? clamp64(*p.layer, 0, p.num_layers - 1) : 0;
    const int64_t rows = layer * p.kv.num_pages * p.kv.page_size;
    return {params, s, loader, {}, static_cast<int>(rows / 8)};
  }

  __device__ __forceinline__ void run() {
    const int lane = threadIdx.x & 31;
    for (int turn = 0;; ++turn) {
      const int slot = turn % kItemSlots;
      const HopperItem& now = s.items[slot];
      barrier(s.item_full[slot]).wait(turn / kItemSlots & 1);
      if (now.first < 0) {
        if (!brings_keys()) return;
        barrier(s.q_empty).wait((turn & 1) ^ 1);
        if (lane == 0) barrier(s.q_full).arrive();
        return;
      }
      // Keys are needed one tile ahead of values, and page numbers one ahead of keys.
      window = -1;
      Step step = find_step(now, now.first);
      if (step.tile < now.last) step = {now.first, false};  // a tile must come, though unseen
      Entries entries;
      look_up(now, step.tile, entries);
      Boxes keys = find_boxes(now, step.tile, entries);
      Step next = find_step(now, step.tile - 1);
      look_up(now, next.tile, entries);
      // Queries that stay are in use until the item before is nearly over.
      if constexpr (kQueriesStay) copy_keys(now, step, next, keys);
      if (brings_keys()) copy_queries(now, turn);
      if constexpr (!kQueriesStay) copy_keys(now, step, next, keys);
      while (step.tile >= now.last) {
        const Boxes values = keys;
        const int tile = step.tile;
        step = next;
        keys = find_boxes(now, step.tile, entries);
        next = find_step(now, step.tile - 1);
        look_up(now, next.tile, entries);
        if (step.tile >= now.last) copy_keys(now, step, next, keys);
        copy_values(now, tile, values);
      }
      __syncwarp();
      if (lane == 0) barrier(s.item_empty[slot]).arrive();
    }
  }

 private:
  __device__ __forceinline__ bool brings_keys() const { return loader == 0; }
  __device__ __forceinline__ bool brings_values() const { return loader == kLoaders - 1; }
  __device__ __forceinline__ void copy_queries(const HopperItem& now, int turn) const {
    const int lane = threadIdx.x & 31;
    barrier(s.q_empty).wait((turn & 1) ^ 1);
    if (lane == 0) barrier(s.q_full).arrive_expecting(kHopperTokens * kGroup * kRowBytes);
    if (lane < kPanels)
      copy_box(shared_address(s.q) + lane * kHopperRows * 128, params.q, barrier(s.q_full),
               lane * kPanel, now.kv_head * kGroup, now.item.row_begin);
  }

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

  // Lane l, of boxes l, l + 32 ... of a tile.
  using Entries = int[kBoxesOfLane];  // of the page list
  struct Boxes {
    int row[kBoxesOfLane];          // where it begins; outside of the cache if it does not exist
    uint32_t absent[kBoxesOfLane];  // bit l: some row sees it all the same; equal in all lanes
  };

  __device__ __forceinline__ bool has_box(const HopperItem& now, int tile, int i, int* key) const {
    const int box = (threadIdx.x & 31) + 32 * i;
    *key = tile * kHopperKeys + box * kHopper.box;
    return kIsPaged && box < kBoxes && tile >= now.last && *key < now.item.hi &&
           *key + kHopper.box > now.item.lo;
  }
  // What the page list says: it takes a while to come.
  __device__ __forceinline__ void look_up(const HopperItem& now, int tile, Entries& entries) const {
#pragma unroll
    for (int i = 0; i < kBoxesOfLane; ++i) {
      int key;
      entries[i] = has_box(now, tile, i, &key) ? load_entry(params.p, now.item.page_row, key) : 0;
    }
  }
  __device__ __forceinline__ Boxes find_boxes(const HopperItem& now, int tile,
                                              const Entries& entries) const {
    Boxes boxes;
#pragma unroll
    for (int i = 0; i < kBoxesOfLane; ++i) {
      int key;
      const bool exists = has_box(now, tile, i, &key);
      boxes.row[i] = exists ? row_of_entry(params.p, entries[i], key) : -1;
      boxes.absent[i] = __ballot_sync(kWholeWarp, exists && boxes.row[i] < 0);
    }
    return boxes;
  }

  template <int kDim>
  __device__ __forceinline__ void copy(uint8_t* to, const TensorMap& map, const uint16_t* cache,
                                       Barrier full, const HopperItem& now, int tile,
                                       const Boxes& boxes) const {
    constexpr int kPanelsOfRow = panel_bytes(kDim) / 128;
    const int lane = threadIdx.x & 31;
    const uint32_t address = shared_address(to);
    if constexpr (kCopiesRows) {
      copy_rows<kDim>(address, cache + int64_t{now.kv_head} * kDim, boxes);
      full.arrive_behind_copies();
      // What is written for the consumers beside the keys is not a copy.
      if (lane == 0) full.arrive();
      return;
    }
    if (lane == 0) full.arrive_expecting(kHopperKeys * kPanelsOfRow * 128);
    if constexpr (!kIsPaged) {
      if (lane < kPanelsOfRow)
        copy_box(address + lane * kNextPanel, map, full, lane * kPanel, now.kv_head,
                 now.start + tile * kHopperKeys);
    } else if constexpr (kPanelsMeet) {
      if (lane < kBoxes)
        copy_box(address + lane * kHopper.box * kDim * 2, map, full, 0, 0, 0, group_of(boxes),
                 now.kv_head);
    } else {
      const int group = group_of(boxes);
#pragma unroll
      for (int panel = 0; panel < kPanelsOfRow; ++panel) {
        if (lane < kBoxes)
          copy_box(address + panel * kNextPanel + lane * kHopper.box * 128, map, full,
                   panel * kPanel, 0, group, now.kv_head);
      }
    }
  }
  // Of eight rows, of all layers.
  __device__ __forceinline__ int group_of(const Boxes& boxes) const {
    return boxes.row[0] < 0 ? kOutside : pool_group + (boxes.row[0] >> 3);
  }
  // Some lanes a row, 16 bytes each, and its neighbours next. What does not exist becomes zero.
  template <int kDim>
  __device__ __forceinline__ void copy_rows(uint32_t to, const uint16_t* head,
                                            const Boxes& boxes) const {
    constexpr int kChunks = kDim / 8, kLanes = kChunks <= 8 ? 8 : kChunks <= 16 ? 16 : 32;
    constexpr int kRows = kHopperKeys / (32 / kLanes);  // of a lane, four at a time
    static_assert(kRows % 8 == 0, "rows of a lane must begin a swizzled group");
    const int lane = threadIdx.x & 31, chunk = lane % kLanes, first = lane / kLanes * kRows;
    const auto* from = reinterpret_cast<const uint8_t*>(head + chunk * 8);
    const auto row_bytes = static_cast<uint32_t>(params.p.num_kv_heads * kDim * 2);
    int* rows = s.rows[loader];
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kBoxesOfLane; ++i) rows[32 * i + lane] = boxes.row[i];
    __syncwarp();
    to += swizzled(kHopperKeys, first, chunk);
    if (chunk >= kChunks) return;
#pragma unroll
    for (int at = 0; at < kRows; at += 4) {
      const int4 four = *reinterpret_cast<const int4*>(rows + first + at);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int row = j == 0 ? four.x : j == 1 ? four.y : j == 2 ? four.z : four.w;
        copy_row_async((to ^ (at + j & 7) << 4) + (at + j) * 128,
                       from + uint64_t{static_cast<uint32_t>(max(row, 0))} * row_bytes, row);
      }
    }
  }

  __device__ __forceinline__ void copy_keys(const HopperItem& now, Step step, Step next,
                                            const Boxes& boxes) {
    if (!brings_keys()) return;
    const int stage = turn_k % kHopperStages;
    barrier(s.k_empty[stage]).wait((turn_k / kHopperStages & 1) ^ 1);
    if ((threadIdx.x & 31) == 0) {
      const int at = turn_k % (2 * kHopperStages);
#pragma unroll
      for (int i = 0; i < kBoxesOfLane; ++i) s.absent[at][i] = boxes.absent[i];
      if constexpr (kHasBlockMap) {
        const bool is_full =
            step.is_shown && step.tile >= now.full_begin && step.tile < now.full_end;
        s.steps[at] = encode_step(step.tile, !is_full, next.tile < now.last);
      }
    }
    copy<kHeadDim>(s.k[stage], params.k, layer.k, barrier(s.k_full[stage]), now, step.tile, boxes);
    ++turn_k;
  }
  __device__ __forceinline__ void copy_values(const HopperItem& now, int tile, const Boxes& boxes) {
    if (!brings_values()) return;
    const int stage = turn_v % kHopperStages;
    barrier(s.v_empty[stage]).wait((turn_v / kHopperStages & 1) ^ 1);
    copy<kHeadDimV>(s.v[stage], params.v, layer.v, barrier(s.v_full[stage]), now, tile, boxes);
    ++turn_v;
  }
};

}  // namespace jaxinfer
