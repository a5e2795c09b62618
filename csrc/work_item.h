// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// The contents of a Plan: which CTA computes which rows against which keys.
// Plain C++ without includes, so that CPU kernels, the planner and run-time
// compiled device code read the same layout.
#pragma once

namespace jaxinfer {

// Key range bounds that follow the lengths at run time.
constexpr int kOpen = -1;
// WorkItem::partial of an item that owns its rows and writes the result itself.
constexpr int kWriteThrough = -1;

enum RowMode : int {
  kRowsOfOneSeq = 0,  // all rows belong to `seq`
  kRowsSpanSeqs = 1,  // rows belong to `seq` and the sequences after it (shared prefix)
  kPaddingRows = 2,   // rows past the last sequence: out = 0, lse = -inf
};

// What a kernel may assume about the keys of an item. A promise, never a request:
// evaluating the mask of the op on every item is always correct.
enum MaskMode : int {
  kMaskFull = 0,  // every key of the item is visible to every row of it
  kMaskOp = 1,    // apply the op's causal and window mask
};

// One row of the plan: a tile of queries against a chunk of keys, for some KV heads.
// Keys are counted along the page list `page_row`; key j is position key_base + j.
struct WorkItem {
  int tile_class;     // index into the tile classes of the configuration
  int row_begin;      // first query row (token)
  int num_rows;       // tokens; each stands for q_heads_per_kv_head rows of a tile
  int row_mode;       // RowMode
  int seq;            // sequence of the first row, -1 for padding rows
  int kv_head_begin;  // first KV head
  int num_kv_heads;   // KV heads
  int key_begin;      // first key, or kOpen: from the first visible one
  int key_end;        // one past the last key, or kOpen: to the causal limit
  int key_base;       // position of key 0 of the page list
  int page_row;       // row of the page table or of page_indptr
  int mask_mode;      // MaskMode
  int partial;        // slot of the partial result, or kWriteThrough
  int partial_row;    // where in the slot its first row goes: items of other rows may
                      // share a slot that a merge reads as one
  int merge;          // which MergeItem its slot is a part of; 0 if it writes through
  int spare;          // zero
};
static_assert(sizeof(WorkItem) == 64, "a work item is 16 int32");

// Rows whose keys were split: their partial results are merged in the order of
// parts[parts_begin .. parts_end), which is the order of the keys.
struct MergeItem {
  int row_begin;
  int num_rows;
  int kv_head_begin;
  int num_kv_heads;
  int parts_begin;
  int parts_end;
  int spare[2];  // zero
};
static_assert(sizeof(MergeItem) == 32, "a merge item is 8 int32");

// The first 16 int32 of the buffer: how much of each section is in use.
struct PlanHeader {
  int num_items;
  int num_merges;
  int num_parts;
  int num_ctas;  // CTAs up to the last that has items; the others have an empty range
  int max_load;  // cost of the most loaded CTA
  int is_whole;  // 1: no tile of the second band is split, so its CTAs may take them in any order
  int spare[10];
};
static_assert(sizeof(PlanHeader) == 64, "a plan header is 16 int32");

}  // namespace jaxinfer
