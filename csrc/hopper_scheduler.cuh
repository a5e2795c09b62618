// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// The warp that finds work items for the others, ahead of them: what is known of an item takes a
// chain of reads of global memory, which neither copies nor products should wait for.
#pragma once

#include "csrc/hopper_shared.cuh"

namespace jaxinfer {

// Goes through the work items of its CTA, head by head.
struct HopperScheduler {
  const HopperParams& params;
  HopperShared& s;
  int index, end;  // of work items; of whole tiles: tickets
  int first_item;  // that tickets are for
  bool is_whole;   // any CTA may take any item

  JAXINFER_DEVICE HopperScheduler make(const HopperParams& params, HopperShared& s) {
    const AttentionParams& p = params.p;
    const int all = min64(max(p.header->num_items, 0), p.num_items);
    const int* indptr = p.cta_indptr + params.first_cta;
    const int first = min(max(*indptr, 0), all), count = all - first;
    const bool is_whole =
        params.tickets != nullptr && p.header->is_whole == 1 && count % params.num_head_groups == 0;
    if (is_whole) return {params, s, static_cast<int>(blockIdx.x), count, first, true};
    const int begin = max(indptr[blockIdx.x], 0), end = min(indptr[blockIdx.x + 1], all);
    return {params, s, begin, end, 0, false};
  }

  __device__ __forceinline__ void run() {
    for (int number = 0;; ++number) {
      const int slot = number % kItemSlots;
      barrier(s.item_empty[slot]).wait((number / kItemSlots & 1) ^ 1);
      const bool found = find_next_head(number) || find_next_item(number);
      if ((threadIdx.x & 31) == 0) {
        if (!found) s.items[slot].first = -1;
        barrier(s.item_full[slot]).arrive();
      }
      if (!found) return;
    }
  }

 private:
  // The next head of the item before.
  __device__ __forceinline__ bool find_next_head(int number) const {
    if (number == 0) return false;
    const HopperItem& before = s.items[(number - 1) % kItemSlots];
    const int kv_head = before.kv_head + 1;
    if (kv_head >= before.item.kv_head_begin + before.item.num_heads) return false;
    const int from = (number - 1) % kItemSlots, slot = number % kItemSlots;
    if ((threadIdx.x & 31) == 0) s.items[slot] = before, s.items[slot].kv_head = kv_head;
    for (int token = threadIdx.x & 31; token < kHopperTokens; token += 32)
      s.tokens[slot][token] = s.tokens[from][token];
    __syncwarp();
    return true;
  }

  __device__ __forceinline__ bool find_next_item(int number) {
    const AttentionParams& p = params.p;
    for (; static_cast<unsigned>(index) < static_cast<unsigned>(end); next_index()) {
      const int at = is_whole ? item_of_ticket() : index;
      const WorkItem work = load_item(p.items + at);
      const BoundsRead read = BoundsRead::load(p, work);
      Item item = find_item<kHopperRows>(p, at, work, read);
      if (item.num_rows == 0) continue;  // of a wrong plan
      int start = 0, seen_end = item.hi;
      if (work.row_mode == kRowsOfOneSeq) {
        const SeqRows rows = rows_of_seq(p, work.seq, read.lengths);
        const int64_t most = list_keys(p, work.page_row);
        seen_end = visible_keys(p, work, most, work.seq, rows, rows.end - 1).hi;
      }
      if constexpr (!kIsPaged) {
        // Keys before and behind the rows that there are do not exist.
        if (item.hi > item.lo) start = load_entry(p, item.page_row, 0);
        item.hi = min64(item.hi, p.kv.num_pages - start);
        item.lo = min64(max64(item.lo, -int64_t{start}), 0x7fffffff);
        item.all_lo = max(item.all_lo, item.lo), item.all_hi = min(item.all_hi, item.hi);
      }
      const bool has_keys = item.hi > item.lo, lacks = has_keys && lacks_pages(item);
      if ((threadIdx.x & 31) == 0) {
        HopperItem& to = s.items[number % kItemSlots];
        to.item = item;
        to.kv_head = item.kv_head_begin;
        to.first = has_keys ? (item.hi - 1) / kHopperKeys : 0;
        to.last = has_keys ? item.lo / kHopperKeys : 0;
        to.full_begin = lacks ? kNever : (max(item.all_lo, 0) + kHopperKeys - 1) / kHopperKeys;
        to.full_end = lacks ? kNever : max(item.all_hi, 0) / kHopperKeys;
        to.start = start;
        // Without keys a tile is read all the same, from wherever: no value of it may be used.
        to.seen_end = has_keys ? seen_end : 0;
      }
      describe_tokens(work, item, number);
      next_index();
      __syncwarp();
      return true;
    }
    return false;
  }

  // Whether some page that a row would see does not exist.
  __device__ __forceinline__ bool lacks_pages(const Item& item) const {
    bool lacks = false;
    if constexpr (kIsPaged) {
      const int first = item.lo / Spec::kPageSize * Spec::kPageSize;
#pragma unroll 4
      for (int key = first + (threadIdx.x & 31) * Spec::kPageSize; key < item.hi;
           key += 32 * Spec::kPageSize)
        lacks |= row_of_entry(params.p, load_entry(params.p, item.page_row, key), key) < 0;
    }
    return __any_sync(kWholeWarp, lacks);
  }

  // What each token sees, for the consumers.
  __device__ __forceinline__ void describe_tokens(const WorkItem& work, const Item& item,
                                                  int number) const {
    const AttentionParams& p = params.p;
    for (int token = threadIdx.x & 31; token < kHopperTokens; token += 32) {
      Row row{};
      if (token < work.num_rows && work.row_mode != kPaddingRows)
        row = visible_keys(p, work, work.seq, work.row_begin + token);
      auto& to = s.tokens[number % kItemSlots][token];
      to.lo = max(row.lo, item.lo), to.hi = min(row.hi, item.hi);
      if constexpr (kHasRowHook) to.seq = row.seq, to.position = row.position;
    }
  }

  // The counter is zero again once every ticket was followed by another request.
  __device__ __forceinline__ void next_index() {
    ++index;
    if (!is_whole) return;
    if ((threadIdx.x & 31) == 0) index = count_around(params.tickets, end - 1) + gridDim.x;
    index = uniform(index);
  }
  // Tickets go through a section of heads tile by tile, so that CTAs that run at the same time
  // share keys that fit the L2 cache. The plan has tiles head by head.
  __device__ __forceinline__ int item_of_ticket() const {
    const int heads = params.section_heads, tiles = end / params.num_head_groups;
    const int section = index / (tiles * heads), rest = index % (tiles * heads);
    return first_item + (section * heads + rest % heads) * tiles + rest / heads;
  }
};

}  // namespace jaxinfer
