// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// Merges the partial results of split tiles, in the order of their keys: the same bits
// whatever finished first (FlashInfer, section 2.2).
//
// A call is over when this is, so latency is all that counts: what the plan says is read
// beforehand, all partial results are asked for at once, and their weights are computed
// apart from one another. Several threads share a quad of columns. Short calls merge in the
// CTA that brings the last part; others in a kernel behind them, which all CTAs share. It is
// compiled with the decode kernel, or alone where all tiles are left to the prefill kernel for
// sm_90a.
#pragma once

#include "csrc/attention_variant.cuh"

namespace jaxinfer {

constexpr int kMergeQuads = kThreads < 128 ? 64 : 128;  // of columns, a CTA at a time
constexpr int kMergeGroups = kThreads / kMergeQuads;    // of parts
// Of these, those that are used: whole rows, if a hook reads them.
constexpr int kMergeStep =
    Variant::kHasOutputMod ? kMergeQuads / (kHeadDimV / 4) * (kHeadDimV / 4) : kMergeQuads;
constexpr int kPartsAtOnce = 8;  // loads of a thread in flight

// ---- who comes last ----------------------------------------------------------------------------

// p.arrivals outlives calls. Word 0 holds the number of the call and how many of its CTAs have
// begun; word 1 + m the same for merge m: a call, and how many parts came in it. Counts of
// earlier calls are worth nothing, whatever a wrong plan left there.
constexpr int kCountBits = 20;  // 44 bits of calls last for years

// The number of this call, in place above the count. One thread of every CTA asks, once.
JAXINFER_DEVICE uint64_t begin_call(const AttentionParams& p) {
  return count_up_relaxed(p.arrivals, 1);
}
// Once all CTAs have it; the CTA whose ticket was the last one does this before it ends.
JAXINFER_DEVICE void number_next_call(const AttentionParams& p, uint64_t ticket) {
  const uint64_t count = ticket & ((1 << kCountBits) - 1);
  if (count + 1 == gridDim.x) count_up_relaxed(p.arrivals, (1 << kCountBits) - gridDim.x);
}

// ---- what is merged ----------------------------------------------------------------------------

// log2-sum-exp2 and weighted sum of some parts, for four columns.
struct MergedQuad {
  float m, l;
  float4 acc;

  __device__ __forceinline__ void clear() {
    m = -infinity(), l = 0.0f;
    acc = make_float4(0, 0, 0, 0);
  }
  // Adds parts of which each counts as `lse2`, or not at all if that is -inf.
  template <int kCount>
  __device__ __forceinline__ void add(const float (&lse2)[kCount], const float4 (&values)[kCount],
                                      const float (&sums)[kCount]) {
    float most = m;
#pragma unroll
    for (int i = 0; i < kCount; ++i) most = fmaxf(most, lse2[i]);
    const float base = most == -infinity() ? 0.0f : most;
    const float mine = exp2_approx(m - base);
    l *= mine, acc.x *= mine, acc.y *= mine, acc.z *= mine, acc.w *= mine;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float w = exp2_approx(lse2[i] - base);
      l += w * sums[i];
      acc.x += w * values[i].x, acc.y += w * values[i].y;
      acc.z += w * values[i].z, acc.w += w * values[i].w;
    }
    m = most;
  }
};

// In both places the same number of threads, and so the same bits.
struct MergeShared {
  MergedQuad quads[kMergeGroups][kMergeQuads];
  int is_last;
};

// The parts of a merge that this thread's group reads, and the slots of the first of them.
struct Parts {
  int first, last;
  int slots[kPartsAtOnce];

  JAXINFER_DEVICE Parts make(const AttentionParams& p, int begin, int end) {
    const int group = threadIdx.x / kMergeQuads;
    begin = max(begin, 0);
    const int count = max(min(end, static_cast<int>(p.num_parts)) - begin, 0);
    Parts parts;
    parts.first = begin + count * group / kMergeGroups;
    parts.last = begin + count * (group + 1) / kMergeGroups;
    load_slots(p, parts.first, parts.last, parts.slots);
    return parts;
  }
  JAXINFER_DEVICE void load_slots(const AttentionParams& p, int from, int last,
                                  int (&slots)[kPartsAtOnce]) {
#pragma unroll
    for (int i = 0; i < kPartsAtOnce; ++i)
      slots[i] = from + i < last ? __ldg(p.parts + from + i) : -1;
  }
};

// Adds the parts in these slots, for columns `column` to + 3 of row `row` of a slot.
JAXINFER_DEVICE void add_parts(const AttentionParams& p, const int (&slots)[kPartsAtOnce], int row,
                               int column, MergedQuad& merged) {
  const int slot_rows = static_cast<int>(p.slot_tokens * p.slot_heads);
  float lse2[kPartsAtOnce], sums[kPartsAtOnce];
  float4 values[kPartsAtOnce];
#pragma unroll
  for (int i = 0; i < kPartsAtOnce; ++i) {
    // Slots that no plan would have are left out.
    const bool is_part = static_cast<unsigned>(slots[i]) < static_cast<unsigned>(p.num_slots);
    const int from = slots[i] * slot_rows + row;  // no memory holds 2^31 rows
    // What a part without keys holds is zero, but what lies beyond the parts is not.
    lse2[i] = load_if(is_part, p.partial_lse + from, -infinity());
    values[i] = load_if(is_part, reinterpret_cast<const float4*>(
                                     p.partial_out + int64_t{from} * kHeadDimV + column));
    // Without softmax every part counts as 1: its weight is 2^0.
    if (!Spec::kUseSoftmax) lse2[i] = is_part ? 0.0f : -infinity();
    sums[i] = 1.0f;
  }
  merged.add(lse2, values, sums);
}

// Merges quads `turn`, `turn` + `turns` ... of kMergeStep each.
JAXINFER_DEVICE void run_merge(const AttentionParams& p, const MergeItem& merge, const Parts& parts,
                               MergeShared& shared, int turn, int turns) {
  constexpr int kQuads = kHeadDimV / 4;
  const int quad = threadIdx.x % kMergeQuads, group = threadIdx.x / kMergeQuads;
  const int heads = merge.num_kv_heads * kGroup, num_quads = merge.num_rows * heads * kQuads;
  for (int begin = turn * kMergeStep; begin < num_quads; begin += turns * kMergeStep) {
    const int x = min(begin + quad, num_quads - 1);
    const int column = x % kQuads * 4, row = x / kQuads;
    // Dividing by a constant where it can be one: this is between the last part and the result.
    const int token = merge.num_kv_heads == 1 ? row / kGroup : row / heads, n = row - token * heads;
    const int slot_row = token * static_cast<int>(p.slot_heads) + n;
    MergedQuad merged;
    merged.clear();
    add_parts(p, parts.slots, slot_row, column, merged);
    for (int at = parts.first + kPartsAtOnce; at < parts.last; at += kPartsAtOnce) {
      int slots[kPartsAtOnce];
      Parts::load_slots(p, at, parts.last, slots);
      add_parts(p, slots, slot_row, column, merged);
    }
    if (begin != turn * kMergeStep) __syncthreads();
    shared.quads[group][quad] = merged;
    __syncthreads();
    const bool is_writing = group == 0 && quad < kMergeStep && begin + quad < num_quads;
    if (!Variant::kHasOutputMod && !is_writing) continue;
    float lse2[kMergeGroups], sums[kMergeGroups];
    float4 values[kMergeGroups];
#pragma unroll
    for (int i = 0; i < kMergeGroups; ++i) {
      const MergedQuad& other = shared.quads[i][quad];
      lse2[i] = other.m, sums[i] = other.l, values[i] = other.acc;
    }
    merged.clear();
    merged.add(lse2, values, sums);
    const int head = merge.kv_head_begin * kGroup + n;
    const float total = log2_sum(merged.m, merged.l);
    float factor = normalizer(merged.l) * sink_share(p, head, total * kLn2);
    const int64_t out_row = (merge.row_begin + token) * p.num_q_heads + head;
    if constexpr (Variant::kHasOutputMod) {
      __syncthreads();  // all have read what is overwritten
      const float4 acc = merged.acc;
      if (is_writing)
        shared.quads[0][quad].acc =
            make_float4(acc.x * factor, acc.y * factor, acc.z * factor, acc.w * factor);
      __syncthreads();
      if (!is_writing) continue;
      const MergedQuad* quads = shared.quads[0] + quad - column / 4;
      merged.acc =
          Place::of_token(p, merge.row_begin + token, head)
              .output4(
                  p,
                  [&](int i) { return reinterpret_cast<const float*>(&quads[i / 4].acc)[i % 4]; },
                  column);
      factor = 1.0f;
    }
    *reinterpret_cast<uint2*>(static_cast<uint16_t*>(p.out) + out_row * kHeadDimV + column) =
        make_uint2(Type::pack(merged.acc.x * factor, merged.acc.y * factor),
                   Type::pack(merged.acc.z * factor, merged.acc.w * factor));
    if (column == 0) p.lse[out_row] = total * kLn2;
  }
}

// After the CTA has written a part of `item`'s merge, in call `call`: the CTA that brings the
// last part merges them all.
JAXINFER_DEVICE void merge_if_last(const AttentionParams& p, const Item& item, const Parts& parts,
                                   uint64_t call, MergeShared& shared) {
  __syncthreads();
  const uint64_t last = call + (item.parts_end - item.parts_begin - 1);
  if (threadIdx.x == 0) shared.is_last = count_up(p.arrivals + 1 + item.merge, 1) == last;
  __syncthreads();
  if (!shared.is_last) return;
  const MergeItem merge{item.row_begin, item.num_rows / kGroup, item.kv_head_begin, item.num_heads};
  run_merge(p, merge, parts, shared, 0, 1);
}

}  // namespace jaxinfer

extern "C" __global__ void __launch_bounds__(jaxinfer::kThreads)
    merge_split(const __grid_constant__ jaxinfer::AttentionParams p) {
  using namespace jaxinfer;
  __shared__ MergeShared shared;
  // The plan was complete before the attention kernel began: only its results are waited for.
  const MergeItem merge = p.merges[blockIdx.x];
  const bool is_used = blockIdx.x < p.header->num_merges && is_valid(p, merge);
  Parts parts;
  if (is_used) parts = Parts::make(p, merge.parts_begin, merge.parts_end);
  wait_for_previous();  // without work too: this grid must not end before that one
  if (is_used) run_merge(p, merge, parts, shared, blockIdx.y, gridDim.y);
}
