// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// Merges the partial results of split tiles, in the order of their keys: the same bits
// whatever finished first (FlashInfer, section 2.2). A CTA takes one query head of one
// merge item; its warps share the parts among them and meet in shared memory.
#pragma once

#include "csrc/attention_work.cuh"

namespace jaxinfer {

constexpr int kMergeWarps = 4;
constexpr int kColumns = (kHeadDimV + 127) / 128 * 4;  // of a lane

struct MergeState {
  float m = -__int_as_float(0x7f800000), l = 0.0f;
  float acc[kColumns] = {};

  // Adds a part: weight 2^(lse2 - m).
  __device__ __forceinline__ void add(float lse2, const float* values) {
    if (!Spec::kUseSoftmax) {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) acc[c] += values[c];
      return;
    }
    if (lse2 == -infinity()) return;  // no visible key in this part
    const float m_new = fmaxf(m, lse2);
    const float base = m_new == -infinity() ? 0.0f : m_new;
    const float mine = exp2_approx(m - base), theirs = exp2_approx(lse2 - base);
    m = m_new, l = l * mine + theirs;
#pragma unroll
    for (int c = 0; c < kColumns; ++c) acc[c] = acc[c] * mine + theirs * values[c];
  }
};

JAXINFER_DEVICE void run_merge(const AttentionParams& p, const MergeItem& merge, int slot_head,
                               float* shared) {
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const int begin = merge.parts_begin;
  const int num_parts = min64(merge.parts_end, p.num_parts) - begin;
  // Each warp takes consecutive parts, so that the order is that of the keys.
  const int first = begin + num_parts * warp / kMergeWarps;
  const int last = begin + num_parts * (warp + 1) / kMergeWarps;
  const int head = merge.kv_head_begin * kGroup + slot_head;
  for (int t = 0; t < merge.num_rows; ++t) {
    MergeState state;
    constexpr int kAtOnce = 8;  // loads in flight
    for (int part = first; part < last; part += kAtOnce) {
      float lse2[kAtOnce];
      float values[kAtOnce][kColumns];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        lse2[i] = -infinity();
        const int slot = part + i < last ? p.parts[part + i] : -1;
        const bool valid = slot >= 0 && slot < p.num_slots;
        const int64_t row =
            valid ? (int64_t{slot} * p.slot_tokens + t) * p.slot_heads + slot_head : 0;
        if (valid) lse2[i] = __ldcg(p.partial_lse + row);
#pragma unroll
        for (int c = 0; c < kColumns; c += 4) {
          const int column = c * 32 + lane * 4;
          float4 v = make_float4(0, 0, 0, 0);
          if (valid && column < kHeadDimV)
            v = __ldcg(reinterpret_cast<const float4*>(p.partial_out + row * kHeadDimV + column));
          values[i][c] = v.x, values[i][c + 1] = v.y, values[i][c + 2] = v.z,
          values[i][c + 3] = v.w;
        }
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) state.add(lse2[i], values[i]);
    }
    if (num_parts > 1) {  // the warps' results, in order
      float* mine = shared + warp * (32 * kColumns + 2);
      if (t > 0) __syncthreads();
      if (lane == 0) mine[0] = state.m, mine[1] = state.l;
#pragma unroll
      for (int c = 0; c < kColumns; ++c) mine[2 + c * 32 + lane] = state.acc[c];
      __syncthreads();
      if (warp != 0) continue;
      float most = -infinity(), sum = 0.0f, acc[kColumns] = {};
      for (int w = 0; w < kMergeWarps; ++w) most = fmaxf(most, shared[w * (32 * kColumns + 2)]);
      for (int w = 0; w < kMergeWarps; ++w) {
        const float* other = shared + w * (32 * kColumns + 2);
        float f = exp2_approx(other[0] - (most == -infinity() ? 0.0f : most));
        if (!Spec::kUseSoftmax) f = 1.0f;
        sum += f * other[1];
#pragma unroll
        for (int c = 0; c < kColumns; ++c) acc[c] += f * other[2 + c * 32 + lane];
      }
      state.m = most, state.l = sum;
#pragma unroll
      for (int c = 0; c < kColumns; ++c) state.acc[c] = acc[c];
    }
    if (warp != 0) continue;
    const float lse2 = log2_sum(state.m, state.l);
    float factor = !Spec::kUseSoftmax ? 1.0f : state.l == 0.0f ? 0.0f : 1.0f / state.l;
    factor *= sink_share(p, head, lse2 * kLn2);
    const int64_t row = int64_t{merge.row_begin + t} * p.num_q_heads + head;
#pragma unroll
    for (int c = 0; c < kColumns; c += 4) {
      const int column = c * 32 + lane * 4;
      if (column >= kHeadDimV) continue;
      *reinterpret_cast<uint2*>(static_cast<uint16_t*>(p.out) + row * kHeadDimV + column) =
          make_uint2(Type::pack(state.acc[c] * factor, state.acc[c + 1] * factor),
                     Type::pack(state.acc[c + 2] * factor, state.acc[c + 3] * factor));
    }
    if (lane == 0) p.lse[row] = lse2 * kLn2;
  }
}

}  // namespace jaxinfer
