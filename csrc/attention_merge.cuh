// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// Merges the partial results of split tiles, in the order of their keys: the same bits
// whatever finished first (FlashInfer, section 2.2). A thread takes four columns of a row.
#pragma once

#include "csrc/attention_work.cuh"

namespace jaxinfer {

constexpr int kMergeThreads = 128;
constexpr int kPartsAtOnce = 8;  // loads in flight

// The slots of a merge item, read while the kernel before this one still runs.
struct PartList {
  int count;
  int slots[kMergeThreads];

  __device__ __forceinline__ void load(const AttentionParams& p, const MergeItem& merge,
                                       int begin) {
    count = min(min(merge.parts_end, static_cast<int>(p.num_parts)) - begin, kMergeThreads);
    if (threadIdx.x < count) {
      const int slot = p.parts[begin + threadIdx.x];
      slots[threadIdx.x] = slot >= 0 && slot < p.num_slots ? slot : -1;
    }
  }
};

// Running log2-sum-exp2 and weighted sum of four columns.
struct MergedQuad {
  float m = 0.0f, l = 0.0f;
  float4 acc = {0.0f, 0.0f, 0.0f, 0.0f};

  __device__ __forceinline__ void add(float lse2, float4 v) {
    float mine = 1.0f, theirs = 1.0f;
    if constexpr (Spec::kUseSoftmax) {
      if (lse2 == -infinity()) return;  // no visible key in this part
      if (l == 0.0f) m = lse2;
      const float m_new = fmaxf(m, lse2);
      mine = exp2_approx(m - m_new), theirs = exp2_approx(lse2 - m_new);
      m = m_new, l = l * mine + theirs;
    }
    acc.x = acc.x * mine + theirs * v.x, acc.y = acc.y * mine + theirs * v.y;
    acc.z = acc.z * mine + theirs * v.z, acc.w = acc.w * mine + theirs * v.w;
  }
};

// `parts` holds the first slots of the item.
JAXINFER_DEVICE void run_merge(const AttentionParams& p, const MergeItem& merge,
                               const PartList& parts) {
  constexpr int kQuads = kHeadDimV / 4;
  const int heads = merge.num_kv_heads * kGroup;
  const int num_parts = min(merge.parts_end, static_cast<int>(p.num_parts)) - merge.parts_begin;
  for (int x = blockIdx.y * kMergeThreads + threadIdx.x; x < merge.num_rows * heads * kQuads;
       x += gridDim.y * kMergeThreads) {
    const int column = x % kQuads * 4, token = x / kQuads / heads, slot_head = x / kQuads % heads;
    MergedQuad merged;
    for (int first = 0; first < num_parts; first += kPartsAtOnce) {
      float lse2[kPartsAtOnce];
      float4 values[kPartsAtOnce];
#pragma unroll
      for (int i = 0; i < kPartsAtOnce; ++i) {
        // No branch: all loads of a round are under way before the first is used.
        const int part = first + i;
        int slot = parts.slots[min(part, kMergeThreads - 1)];
        if (part >= kMergeThreads && part < num_parts) slot = p.parts[merge.parts_begin + part];
        const bool is_part = part < num_parts && slot >= 0 && slot < p.num_slots;
        const int64_t row =
            ((is_part ? slot : 0) * p.slot_tokens + token) * p.slot_heads + slot_head;
        lse2[i] = __ldcg(p.partial_lse + row);
        values[i] =
            __ldcg(reinterpret_cast<const float4*>(p.partial_out + row * kHeadDimV + column));
        if (!is_part) lse2[i] = -infinity(), values[i] = make_float4(0, 0, 0, 0);
      }
#pragma unroll
      for (int i = 0; i < kPartsAtOnce; ++i) merged.add(lse2[i], values[i]);
    }
    const int head = merge.kv_head_begin * kGroup + slot_head;
    const float lse2 = log2_sum(merged.m, merged.l);
    float factor = !Spec::kUseSoftmax ? 1.0f : merged.l == 0.0f ? 0.0f : 1.0f / merged.l;
    factor *= sink_share(p, head, lse2 * kLn2);
    const int64_t row = (merge.row_begin + token) * p.num_q_heads + head;
    *reinterpret_cast<uint2*>(static_cast<uint16_t*>(p.out) + row * kHeadDimV + column) =
        make_uint2(Type::pack(merged.acc.x * factor, merged.acc.y * factor),
                   Type::pack(merged.acc.z * factor, merged.acc.w * factor));
    if (column == 0) p.lse[row] = lse2 * kLn2;
  }
}

}  // namespace jaxinfer
