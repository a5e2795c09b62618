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

extern "C" __global__ void __launch_bounds__(kThreads, Spec::kCtasPerSm)
    attention(const __grid_constant__ AttentionParams p) {
  extern __shared__ __align__(1024) uint8_t shared[];
  launch_dependents();  // the merge waits for the whole grid before it reads
  const Layer layer = Layer::find(p);
  // Where every CTA has one item it is that of its own number: asking for it beforehand
  // saves the first of a chain of dependent reads, most of what a short call takes.
  const int cta = blockIdx.x;
  const WorkItem guess = load_item(p.items + min64(cta, p.num_items - 1));
  const int begin = max(p.cta_indptr[cta], 0);
  const int end = min64(p.cta_indptr[cta + 1], p.num_items);
  RowGuess row_guess = guess_row(p, guess);
  if (begin != cta) row_guess.key = -1;
  Item* items = reinterpret_cast<Item*>(shared + kSharedBytes - kItemsAtOnce * kItemBytes);
  for (int first = begin; first < end; first += kItemsAtOnce) {
    const int count = min(kItemsAtOnce, end - first);
    if (first > begin) __syncthreads();
    if (threadIdx.x < count) {
      const int index = first + threadIdx.x;
      WorkItem work = guess;
      if (index != cta) work = load_item(p.items + index);
      items[threadIdx.x] = find_item(p, index, work);
    }
    __syncthreads();
    for (int i = 0; i < count;) {
      int last = i;
      while (last < count && !(kHasPrefill && is_prefill(items[last]))) ++last;
      if (last > i) run_decode(p, layer, row_guess, items, i, last, shared);
      row_guess.key = -1;  // it was of the first item
      if (kHasPrefill && last < count) run_prefill(p, layer, items[last++], shared);
      i = last;
    }
  }
}

extern "C" __global__ void __launch_bounds__(kThreads)
    merge_split(const __grid_constant__ AttentionParams p) {
  __shared__ MergeShared shared;
  // The plan was complete before the attention kernel began: only its results are waited for.
  const MergeItem merge = p.merges[blockIdx.x];
  const bool is_used = blockIdx.x < p.header->num_merges && is_valid(p, merge);
  if (is_used) load_slots(p, merge, shared);
  __syncthreads();
  wait_for_previous();  // without work too: this grid must not end before that one
  if (is_used) run_merge(p, merge, shared, blockIdx.y, gridDim.y);
}
