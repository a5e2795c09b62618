// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// Where things are: which keys a query row sees, where a key of a page list lies, and
// whether a work item is in bounds. One text for the CPU and the CUDA kernels.
#pragma once

#include "csrc/attention.h"

namespace jaxinfer {

constexpr int64_t kNoKey = int64_t{1} << 62;

JAXINFER_INLINE int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
JAXINFER_INLINE int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }
JAXINFER_INLINE int64_t clamp64(int64_t x, int64_t lo, int64_t hi) {
  return max64(lo, min64(x, hi));
}

struct Row {
  int64_t seq, index;  // sequence, and which of its queries
  int64_t lo, hi;      // visible keys of the item, counted along its page list
};

// Number of keys that the page list can hold.
JAXINFER_INLINE int64_t capacity(const AttentionParams& p, int64_t list) {
  if (p.kv.page_table) return p.kv.max_pages * p.kv.page_size;
  if (!p.kv.page_indptr) return p.kv.num_pages;
  const int64_t begin = clamp64(p.kv.page_indptr[list], 0, p.kv.num_page_indices);
  return max64(0, min64(p.kv.page_indptr[list + 1], p.kv.num_page_indices) - begin) *
         p.kv.page_size;
}

// Row of K and V at key `key` of the list, or -1 if its page is not in the cache.
JAXINFER_INLINE int64_t kv_row(const AttentionParams& p, int64_t list, int64_t key) {
  if (p.kv.kv_starts) {
    const int64_t row = p.kv.kv_starts[list] + key;
    return row >= 0 && row < p.kv.num_pages ? row : -1;
  }
  const int64_t page = key / p.kv.page_size;
  const int64_t id = p.kv.page_table ? p.kv.page_table[list * p.kv.max_pages + page]
                                     : p.kv.page_indices[max64(p.kv.page_indptr[list], 0) + page];
  if (id < 0 || id >= p.kv.num_pages) return -1;
  return id * p.kv.page_size + key % p.kv.page_size;
}

// Which keys query row `row` sees. `seq` is the sequence of the row before it, or the
// item's; rows that span sequences walk on from there.
JAXINFER_INLINE Row visible_keys(const AttentionParams& p, const WorkItem& item, int64_t seq,
                                 int64_t row) {
  int64_t end = clamp64(p.cu_q_lens[seq + 1], 0, p.num_tokens);
  while (item.row_mode == kRowsSpanSeqs && row >= end && seq + 1 < p.num_seqs) {
    end = clamp64(p.cu_q_lens[++seq + 1], 0, p.num_tokens);
  }
  const int64_t begin = seq == 0 ? 0 : clamp64(p.cu_q_lens[seq], 0, end);
  if (row < begin || row >= end) return {seq, 0, 0, 0};  // of another sequence: a wrong plan
  const int64_t kv_len = max64(p.kv_lens[seq], 0);
  const int64_t index = row - begin;
  const int64_t position = p.is_top_left ? index : kv_len - (end - begin) + index;
  int64_t lo = max64(0, position - p.window_left);
  int64_t hi = min64(kv_len, position + p.window_right + 1);
  if (p.is_causal) hi = min64(hi, position + 1);
  lo = max64(lo - item.key_base, max64(item.key_begin, 0));
  hi = min64(hi - item.key_base, item.key_end == kOpen ? kNoKey : item.key_end);
  return {seq, index, lo, min64(hi, capacity(p, item.page_row))};
}

JAXINFER_INLINE bool is_valid(const AttentionParams& p, const WorkItem& item) {
  return item.row_begin >= 0 && item.num_rows > 0 && item.num_rows <= p.slot_tokens &&
         item.row_begin + int64_t{item.num_rows} <= p.num_tokens && item.kv_head_begin >= 0 &&
         item.num_kv_heads > 0 &&
         item.kv_head_begin + int64_t{item.num_kv_heads} <= p.num_kv_heads &&
         item.num_kv_heads * (p.num_q_heads / p.num_kv_heads) <= p.slot_heads &&
         item.partial >= kWriteThrough && item.partial < p.num_slots && item.partial_row >= 0 &&
         item.partial_row + int64_t{item.num_rows} <= p.slot_tokens &&
         (item.row_mode == kPaddingRows ||
          (item.seq >= 0 && item.seq < p.num_seqs && item.page_row >= 0 &&
           item.page_row < p.kv.num_lists && item.key_base >= 0));
}

JAXINFER_INLINE bool is_valid(const AttentionParams& p, const MergeItem& merge) {
  return merge.row_begin >= 0 && merge.num_rows > 0 && merge.num_rows <= p.slot_tokens &&
         merge.row_begin + int64_t{merge.num_rows} <= p.num_tokens && merge.kv_head_begin >= 0 &&
         merge.num_kv_heads > 0 &&
         merge.num_kv_heads * (p.num_q_heads / p.num_kv_heads) <= p.slot_heads &&
         merge.kv_head_begin + int64_t{merge.num_kv_heads} <= p.num_kv_heads &&
         merge.parts_begin >= 0;
}

}  // namespace jaxinfer
