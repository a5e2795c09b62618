// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// Attention on CUDA, for every attention op: each CTA runs its work items of the plan with
// the tile that fits them. What was split is merged here or by merge_split.
//
// Preconditions: sm_80 or later; q, k and v of one 16-bit type; head dims multiples of 16,
// at most 256. Everything else that data decides (pages, lengths, rows of the plan) is
// checked here.
#pragma once

#include "csrc/attention_decode.cuh"
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
  WorkItem work = load_item(p.items + min64(cta, p.num_items - 1));
  const int begin = max(p.cta_indptr[cta], 0);
  const int end = min64(p.cta_indptr[cta + 1], p.num_items);
  const bool is_counted = kMergesItself && p.arrivals != nullptr && threadIdx.x == 0;
  const uint64_t ticket = is_counted ? begin_call(p) : 0;  // on its way until a merge needs it
  // Everything that is small is asked for ahead of the first keys, or it would wait for these.
  FirstSteps first_steps;
  DecodeQueries queries;
  BoundsRead read{};
  if (begin < end) {
    if (begin != cta) work = load_item(p.items + begin);
    const WorkItem first = work;
    if (threadIdx.x > 0 && begin + static_cast<int>(threadIdx.x) < min(end, begin + kItemsAtOnce))
      work = load_item(p.items + begin + threadIdx.x);
    read = BoundsRead::load(p, work);
    if (!kHasPrefill) first_steps = make_loader(p, layer, shared).load_first(first, queries);
  }
  Item* items = reinterpret_cast<Item*>(shared + kSharedBytes - kItemsAtOnce * kItemBytes);
  if (static_cast<int>(threadIdx.x) < min(end - begin, kItemsAtOnce))
    items[threadIdx.x] = find_item(p, begin + threadIdx.x, work, read);
  for (int batch = begin; batch < end; batch += kItemsAtOnce) {
    const int count = min(kItemsAtOnce, end - batch);
    if (batch > begin) {
      __syncthreads();
      if (threadIdx.x < count) find_later_item(p, batch + threadIdx.x, items + threadIdx.x);
    }
    __syncthreads();
    for (int i = 0; i < count;) {
      int last = i;
      while (last < count && !(kHasPrefill && is_prefill(items[last]))) ++last;
      if (last > i) run_decode(p, layer, first_steps, queries, items, i, last, ticket, shared);
      first_steps.are_loading = false;  // they were of the first item
      if (kHasPrefill && last < count) run_prefill(p, layer, items[last++], shared);
      i = last;
    }
  }
  if (is_counted) number_next_call(p, ticket);
}
