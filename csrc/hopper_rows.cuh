// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// The warps that bring queries, and keys and values of pages that are no groups of eight, which
// tensor copies do not take. They share every tile: each has some groups of 16 of its rows.
#pragma once

#include "csrc/hopper_steps.cuh"

namespace jaxinfer {

struct HopperRows {
  const HopperParams& params;
  HopperShared& s;
  int loader;  // of kLoaders warps; the first one brings queries
  Layer layer;
  Steps steps;
  // Of the item: its page list, keys that some row sees, its last tile, the lane's part of a head.
  const int32_t* pages = nullptr;
  int lo = 0, hi = 0, last = 0;
  const uint8_t *keys = nullptr, *values = nullptr;
  int turn_k = 0, turn_v = 0;  // tiles so far

  JAXINFER_DEVICE HopperRows make(const HopperParams& params, HopperShared& s, int loader) {
    return {params, s, loader, Layer::find(params.p), {params}};
  }

  __device__ __forceinline__ void run() {
    for (int turn = 0;; ++turn) {
      const int slot = turn % kItemSlots;
      const HopperItem& now = s.items[slot];
      barrier(s.item_full[slot]).wait(turn / kItemSlots & 1);
      if (now.first < 0) {
        if (loader == 0) end_queries(s, turn);
        return;
      }
      begin_item(now);
      // Keys are needed one tile ahead of values, and page numbers one ahead of keys.
      Step step = steps.find_first(now);
      Entries entries;
      look_up(step.tile, turn_k, entries);
      // Queries that stay are in use until the item before is nearly over.
      if (!kQueriesStay && loader == 0) copy_queries(params, s, now, turn);
      step = copy_keys(now, step, entries);
      if (kQueriesStay && loader == 0) copy_queries(params, s, now, turn);
      for (; step.tile >= last; copy_values()) step = copy_keys(now, step, entries);
      copy_values();
      __syncwarp();
      if ((threadIdx.x & 31) == 0) barrier(s.item_empty[slot]).arrive();
    }
  }

 private:
  __device__ __forceinline__ void begin_item(const HopperItem& now) {
    const int chunk = threadIdx.x % 8;
    lo = now.item.lo, hi = now.item.hi, last = now.last;
    if (lo < hi) pages = find_entries(params.p, now.item.page_row);
    keys = reinterpret_cast<const uint8_t*>(layer.k + now.kv_head * kHeadDim + chunk * 8);
    values = reinterpret_cast<const uint8_t*>(layer.v + now.kv_head * kHeadDimV + chunk * 8);
  }

  // The groups of this loader in a tile: every kLoaders-th from here on. Some loader has fewer of
  // them, another one each time.
  __device__ __forceinline__ int first_group(int turn) const { return (loader + turn) % kLoaders; }

  // Half a warp looks after a group of rows, a lane after one of them.
  using Entries = int[kEntries];  // of the page list
  __device__ __forceinline__ bool has_key(int tile, int turn, int i, int* key) const {
    const int lane = threadIdx.x & 31;
    const int group = first_group(turn) + (2 * i + lane / 16) * kLoaders;
    *key = tile * kHopperKeys + group * 16 + lane % 16;
    // All of them at once, without branches.
    return (group < kRowGroups) & (tile >= last) & (*key < hi) & (*key >= lo);
  }
  // What the page list says: it takes a while to come.
  __device__ __forceinline__ void look_up(int tile, int turn, Entries& entries) const {
#pragma unroll
    for (int i = 0; i < kEntries; ++i) {
      int key;
      entries[i] = has_key(tile, turn, i, &key) ? load_entry(pages, key) : 0;
    }
  }
  // Eight lanes bring a panel of a row, a warp four rows and then the next four: those of a lane
  // shall lie side by side in s.rows. `absent`: bits of those that do not exist, though some row
  // sees them.
  __device__ __forceinline__ void find_rows(int tile, const Entries& entries,
                                            uint32_t (&absent)[kEntries]) const {
    const int lane = threadIdx.x & 31;
    uint32_t* rows = s.rows[loader][turn_k % 2] + lane / 16 * 16 + lane % 4 * 4 + lane % 16 / 4;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kEntries; ++i) {
      int key;
      const bool exists = has_key(tile, turn_k, i, &key);
      const int row = exists ? row_of_entry(params.p, entries[i], key) : -1;
      rows[32 * i] = row < 0 ? 1 : 2 * static_cast<uint32_t>(row);
      absent[i] = __ballot_sync(kWholeWarp, exists && row < 0);
    }
    __syncwarp();
  }
  __device__ __forceinline__ void tell_absent(const uint32_t (&absent)[kEntries]) const {
    const int lane = threadIdx.x & 31;
    auto* groups = reinterpret_cast<uint16_t*>(s.absent[turn_k % (2 * kHopperStages)]);
#pragma unroll
    for (int i = 0; i < kEntries; ++i) {
      const int group = first_group(turn_k) + (2 * i + lane) * kLoaders;
      if (lane < 2 && group < kRowGroups) groups[group] = absent[i] >> 16 * lane & 0xffff;
    }
  }

  // Of the tile that is the turn_k-th or turn_v-th. What does not exist becomes zero.
  template <int kDim>
  __device__ __forceinline__ void copy(uint8_t* stage, const uint8_t* head, Barrier full,
                                       int turn) const {
    constexpr int kChunks = kDim / 8, kPanelsOfRow = panel_bytes(kDim) / 128;
    const int lane = threadIdx.x & 31, chunk = lane % 8, first = lane / 8;
    const auto half_row = static_cast<uint32_t>(params.p.num_kv_heads * kDim);  // in bytes
    const uint32_t* rows = s.rows[loader][turn % 2] + 4 * first;
    int group = first_group(turn);
    uint32_t to = shared_address(stage) + swizzled(kHopperKeys, first, chunk) + group * 16 * 128;
#pragma unroll
    for (int i = 0; i < kRowGroupsOfLoader; ++i) {
      if (group >= kRowGroups) break;
      const uint4 four = *reinterpret_cast<const uint4*>(rows + 16 * i);
      const uint32_t row[4] = {four.x, four.y, four.z, four.w};
      // All addresses first: a copy reads its registers late, and what writes them next waits.
      const uint8_t* from[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) from[j] = head + multiply_wide(row[j], half_row);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
#pragma unroll
        for (int panel = 0; panel < kPanelsOfRow; ++panel) {
          if (panel * 8 + 8 > kChunks && chunk >= kChunks % 8) continue;
          copy_async((to ^ (j & 1) << 6) + panel * kNextPanel + j * 4 * 128, from[j] + panel * 128,
                     (row[j] & 1) == 0);
        }
      }
      group += kLoaders, to += kLoaders * 16 * 128;
    }
    full.arrive_behind_copies();
  }

  // And finds the next step, and its entries.
  __device__ __forceinline__ Step copy_keys(const HopperItem& now, Step step, Entries& entries) {
    const int stage = turn_k % kHopperStages;
    uint32_t absent[kEntries];
    find_rows(step.tile, entries, absent);
    const Step next = steps.find(now, step.tile - 1);
    look_up(next.tile, turn_k + 1, entries);
    barrier(s.k_empty[stage]).wait((turn_k / kHopperStages & 1) ^ 1);
    tell_absent(absent);
    if (loader == 0 && (threadIdx.x & 31) == 0) tell_step(s, now, turn_k, step, next.tile < last);
    copy<kHeadDim>(s.k[stage], keys, barrier(s.k_full[stage]), turn_k);
    __syncwarp();
    // What is told is not a copy.
    if ((threadIdx.x & 31) == 0) barrier(s.k_full[stage]).arrive();
    ++turn_k;
    return next;
  }
  __device__ __forceinline__ void copy_values() {
    const int stage = turn_v % kHopperStages;
    barrier(s.v_empty[stage]).wait((turn_v / kHopperStages & 1) ^ 1);
    copy<kHeadDimV>(s.v[stage], values, barrier(s.v_full[stage]), turn_v);
    ++turn_v;
  }
};

}  // namespace jaxinfer
