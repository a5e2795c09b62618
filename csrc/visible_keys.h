// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// Which keys a query row sees, and whether a work item is in bounds. One text for the CPU
// and the CUDA kernels.
#pragma once

#include "csrc/attention.h"

namespace jaxinfer {

JAXINFER_INLINE int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
JAXINFER_INLINE int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }
JAXINFER_INLINE int min32(int a, int b) { return a < b ? a : b; }
JAXINFER_INLINE int max32(int a, int b) { return a > b ? a : b; }
JAXINFER_INLINE int clamp32(int x, int lo, int hi) { return max32(lo, min32(x, hi)); }
// Wraps. Numbers of a valid plan are far from where it does; those of a wrong one may be any.
JAXINFER_INLINE int minus(int a, int b) {
  return static_cast<int>(static_cast<unsigned>(a) - static_cast<unsigned>(b));
}
JAXINFER_INLINE int64_t clamp64(int64_t x, int64_t lo, int64_t hi) {
  return max64(lo, min64(x, hi));
}

struct Row {
  int seq, index;  // sequence, and which of its queries
  int lo, hi;      // visible keys of the item, counted along its page list
  int position;    // in the sequence
};

// Number of keys that the page list can hold.
JAXINFER_INLINE int64_t capacity(const AttentionParams& p, int list) {
  if (p.kv.page_table) return p.kv.max_pages * p.kv.page_size;
  if (!p.kv.page_indptr) return p.kv.num_pages;
  const int64_t begin = clamp64(p.kv.page_indptr[list], 0, p.kv.num_page_indices);
  return max64(0, min64(p.kv.page_indptr[list + 1], p.kv.num_page_indices) - begin) *
         p.kv.page_size;
}

// What the operands say of a sequence: all of it at once, one trip to memory.
struct SeqLengths {
  int first, last, kv_len;
};
JAXINFER_INLINE SeqLengths load_lengths(const AttentionParams& p, int seq) {
  if (!p.cu_q_lens) return {seq, seq + 1, p.kv_lens[seq]};
  return {p.cu_q_lens[seq], p.cu_q_lens[seq + 1], p.kv_lens[seq]};
}

// The query rows of sequence `seq`, of `num_tokens`, and its keys.
struct SeqRows {
  int begin, end, kv_len;
};
JAXINFER_INLINE SeqRows rows_of_seq(const AttentionParams& p, int seq, SeqLengths lengths) {
  const int end = clamp32(lengths.last, 0, static_cast<int>(p.num_tokens));
  return {seq == 0 ? 0 : clamp32(lengths.first, 0, end), end, max32(lengths.kv_len, 0)};
}

// Where query `index` of a sequence stands in it.
JAXINFER_INLINE int position_of(const AttentionParams& p, SeqRows rows, int index) {
  return p.is_top_left ? index : rows.kv_len - (rows.end - rows.begin) + index;
}

// Which keys query row `row` of sequence `seq` sees; `list_keys`: those its page list can hold.
// 32 bits, for a GPU computes this before it can use a key: every sum stays within them.
JAXINFER_INLINE Row visible_keys(const AttentionParams& p, const WorkItem& item, int64_t list_keys,
                                 int seq, SeqRows rows, int row) {
  if (row < rows.begin || row >= rows.end) return {seq, 0, 0, 0, 0};  // not its row: a wrong plan
  const int index = row - rows.begin;
  const int position = position_of(p, rows, index);
  const int left = static_cast<int>(p.window_left), right = static_cast<int>(p.window_right);
  int lo = position > left ? position - left : 0;
  int hi = p.is_causal ? min32(rows.kv_len, position + 1) : rows.kv_len;
  if (right < hi - position) hi = position + right + 1;
  lo = max32(minus(lo, item.key_base), max32(item.key_begin, 0));
  hi = minus(hi, item.key_base);
  if (item.key_end != kOpen) hi = min32(hi, item.key_end);
  return {seq, index, lo, static_cast<int>(min64(hi, list_keys)), position};
}

// The same with `seq` that of the row before it, or the item's: rows that span sequences walk
// on from there.
JAXINFER_INLINE Row visible_keys(const AttentionParams& p, const WorkItem& item, int seq, int row) {
  SeqRows rows = rows_of_seq(p, seq, load_lengths(p, seq));
  while (item.row_mode == kRowsSpanSeqs && row >= rows.end && seq + 1 < p.num_seqs) {
    ++seq;
    rows = rows_of_seq(p, seq, load_lengths(p, seq));
  }
  return visible_keys(p, item, capacity(p, item.page_row), seq, rows, row);
}

// All conditions are evaluated (&, not &&): branches would cost a GPU more than they save.
JAXINFER_INLINE bool is_valid(const AttentionParams& p, const WorkItem& item) {
  const int slot_tokens = static_cast<int>(p.slot_tokens);
  const int num_kv_heads = static_cast<int>(p.num_kv_heads);
  const int most_heads = static_cast<int>(p.slot_kv_heads);
  const bool has_rows = (item.num_rows > 0) & (item.num_rows <= slot_tokens) &
                        (item.row_begin >= 0) &
                        (item.row_begin <= minus(static_cast<int>(p.num_tokens), item.num_rows));
  const bool has_heads = (item.num_kv_heads > 0) & (item.num_kv_heads <= most_heads) &
                         (item.kv_head_begin >= 0) &
                         (item.kv_head_begin <= minus(num_kv_heads, item.num_kv_heads));
  const bool has_slot = (item.partial >= kWriteThrough) &
                        (item.partial < static_cast<int>(p.num_slots)) & (item.partial_row >= 0) &
                        (item.partial_row <= minus(slot_tokens, item.num_rows));
  const bool has_keys = (item.seq >= 0) & (item.seq < static_cast<int>(p.num_seqs)) &
                        (item.page_row >= 0) & (item.page_row < static_cast<int>(p.kv.num_lists)) &
                        (item.key_base >= 0);
  return has_rows & has_heads & has_slot & (has_keys | (item.row_mode == kPaddingRows));
}

JAXINFER_INLINE bool is_valid(const AttentionParams& p, const MergeItem& merge) {
  const int num_kv_heads = static_cast<int>(p.num_kv_heads);
  return merge.num_rows > 0 && merge.num_rows <= static_cast<int>(p.slot_tokens) &&
         merge.row_begin >= 0 &&
         merge.row_begin <= static_cast<int>(p.num_tokens) - merge.num_rows &&
         merge.num_kv_heads > 0 && merge.num_kv_heads <= num_kv_heads && merge.kv_head_begin >= 0 &&
         merge.kv_head_begin <= num_kv_heads - merge.num_kv_heads &&
         merge.num_kv_heads <= static_cast<int>(p.slot_kv_heads) && merge.parts_begin >= 0;
}

}  // namespace jaxinfer
