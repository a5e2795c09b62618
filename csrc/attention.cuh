// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// Attention on CUDA, for every attention op: each CTA runs its work items of the plan with
// the tile that fits them, and a second kernel merges what was split.
//
// Preconditions: sm_80 or later; q, k and v of one 16-bit type; head dims multiples of 16,
// at most 256. Everything else that data decides (pages, lengths, rows of the plan) is
// checked here.
#pragma once

#include "csrc/attention_decode.cuh"
#include "csrc/attention_merge.cuh"
#include "csrc/attention_prefill.cuh"

using namespace jaxinfer;

extern "C" __global__ void __launch_bounds__(kThreads, 1)
    attention(const __grid_constant__ AttentionParams p) {
  extern __shared__ __align__(1024) uint8_t shared[];
  launch_dependents();  // the merge waits for the whole grid before it reads
  const int begin = max(p.cta_indptr[blockIdx.x], 0);
  const int end = min64(p.cta_indptr[blockIdx.x + 1], p.num_items);
  Item* items = reinterpret_cast<Item*>(shared + kSharedBytes - kItemsAtOnce * kItemBytes);
  for (int first = begin; first < end; first += kItemsAtOnce) {
    const int count = min(kItemsAtOnce, end - first);
    __syncthreads();
    if (threadIdx.x < count) items[threadIdx.x] = find_item(p, first + threadIdx.x);
    __syncthreads();
    for (int i = 0; i < count;) {
      int last = i;
      while (last < count && !(kHasPrefill && is_prefill(items[last]))) ++last;
      if (last > i) run_decode(p, items, i, last, shared);
      if (kHasPrefill && last < count) run_prefill(p, items[last++], shared);
      i = last;
    }
  }
}

extern "C" __global__ void __launch_bounds__(kMergeWarps * 32)
    merge_split(const __grid_constant__ AttentionParams p) {
  __shared__ float shared[kMergeWarps * (32 * kColumns + 2)];
  // The plan was complete before the attention kernel began: only its results are waited for.
  const MergeItem merge = p.merges[blockIdx.x];
  const bool is_used = blockIdx.x < p.header->num_merges && is_valid(p, merge) &&
                       blockIdx.y < merge.num_kv_heads * kGroup;
  wait_for_previous();  // without work too: this grid must not end before that one
  if (is_used) run_merge(p, merge, blockIdx.y, shared);
}
