// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// Merges the partial results of split tiles, in the order of their keys: the same bits
// whatever finished first (FlashInfer, section 2.2).
//
// A call is over when this is, so latency is all that counts: what the plan says is read
// beforehand, all partial results are asked for at once, and their weights are computed
// apart from one another. Several threads share a quad of columns. Short calls merge in the
// CTA that brings the last part; others in a kernel behind them, which all CTAs share.
#pragma once

#include "csrc/attention_work.cuh"

namespace jaxinfer {

constexpr int kMergeQuads = kThreads < 128 ? 64 : 128;  // of columns, a CTA at a time
constexpr int kMergeGroups = kThreads / kMergeQuads;    // of parts
constexpr int kPartsAtOnce = 8;                         // loads of a thread in flight
constexpr int kPartsInShared = 256;

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
  int is_last;
  int slots[kPartsInShared];
  MergedQuad quads[kMergeGroups][kMergeQuads];
};

// Reads the slots of a merge item; those that no plan would have become -1.
JAXINFER_DEVICE int load_slot(const AttentionParams& p, int part) {
  const int slot = p.parts[part];
  return slot >= 0 && slot < p.num_slots ? slot : -1;
}

JAXINFER_DEVICE int count_parts(const AttentionParams& p, const MergeItem& merge) {
  return max(min(merge.parts_end, static_cast<int>(p.num_parts)) - merge.parts_begin, 0);
}

JAXINFER_DEVICE void load_slots(const AttentionParams& p, const MergeItem& merge,
                                MergeShared& shared) {
  for (int part = threadIdx.x; part < min(count_parts(p, merge), kPartsInShared); part += kThreads)
    shared.slots[part] = load_slot(p, merge.parts_begin + part);
}

// Merges quads `turn`, `turn` + `turns` ... of 64 each.
JAXINFER_DEVICE void run_merge(const AttentionParams& p, const MergeItem& merge,
                               MergeShared& shared, int turn, int turns) {
  constexpr int kQuads = kHeadDimV / 4;
  const int quad = threadIdx.x % kMergeQuads, group = threadIdx.x / kMergeQuads;
  const int heads = merge.num_kv_heads * kGroup, num_quads = merge.num_rows * heads * kQuads;
  const int num_parts = count_parts(p, merge);
  const int first = num_parts * group / kMergeGroups, last = num_parts * (group + 1) / kMergeGroups;
  // Without softmax every part counts as 1: its weight is 2^0.
  for (int begin = turn * kMergeQuads; begin < num_quads; begin += turns * kMergeQuads) {
    const int x = min(begin + quad, num_quads - 1);
    const int column = x % kQuads * 4, row = x / kQuads, token = row / heads, n = row % heads;
    MergedQuad merged;
    merged.clear();
    for (int at = first; at < last; at += kPartsAtOnce) {
      float lse2[kPartsAtOnce], sums[kPartsAtOnce];
      float4 values[kPartsAtOnce];
#pragma unroll
      for (int i = 0; i < kPartsAtOnce; ++i) {
        const int part = at + i;
        int slot = shared.slots[min(part, kPartsInShared - 1)];
        if (part >= kPartsInShared && part < last) slot = load_slot(p, merge.parts_begin + part);
        const bool is_part = part < last && slot >= 0;
        const int64_t from = ((is_part ? slot : 0) * p.slot_tokens + token) * p.slot_heads + n;
        // What a part without keys holds is zero, but what lies beyond the parts is not.
        lse2[i] = load_if(is_part, p.partial_lse + from, -infinity());
        values[i] = load_if(
            is_part, reinterpret_cast<const float4*>(p.partial_out + from * kHeadDimV + column));
        if (!Spec::kUseSoftmax) lse2[i] = is_part ? 0.0f : -infinity();
        sums[i] = 1.0f;
      }
      merged.add(lse2, values, sums);
    }
    if (begin != turn * kMergeQuads) __syncthreads();
    shared.quads[group][quad] = merged;
    __syncthreads();
    if (group > 0 || begin + quad >= num_quads) continue;
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
    const float factor = normalizer(merged.l) * sink_share(p, head, total * kLn2);
    const int64_t out_row = (merge.row_begin + token) * p.num_q_heads + head;
    *reinterpret_cast<uint2*>(static_cast<uint16_t*>(p.out) + out_row * kHeadDimV + column) =
        make_uint2(Type::pack(merged.acc.x * factor, merged.acc.y * factor),
                   Type::pack(merged.acc.z * factor, merged.acc.w * factor));
    if (column == 0) p.lse[out_row] = total * kLn2;
  }
}

// After the CTA has written a part of `merge`, whose counter is `index`: the last of them to
// arrive merges them all. The counter wraps to zero by itself, ready for the next call.
JAXINFER_DEVICE void merge_if_last(const AttentionParams& p, int index, const MergeItem& merge,
                                   MergeShared& shared) {
  __syncthreads();
  const unsigned last = merge.parts_end - merge.parts_begin - 1;
  if (threadIdx.x == 0) shared.is_last = arrive(p.arrivals + index, last) == last;
  __syncthreads();
  if (!shared.is_last) return;
  run_merge(p, merge, shared, 0, 1);
}

}  // namespace jaxinfer
