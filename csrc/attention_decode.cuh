// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// The decode tile: up to 16 packed rows of queries against any number of keys, at the speed
// of memory (FlashInfer, section 3.2.2; flash decoding).
//
// Every warp is on its own: of each step's keys it owns 16, loads them into a private ring
// and runs its own online softmax, so that no barrier stands between memory and the tensor
// cores. Warps meet only when a (work item, KV head) ends: there their partial results are
// merged. The ring runs ahead across heads and items.
//
// The products are transposed, so that 8 rows of queries, not 16, fill an instruction:
//   S^T[16 keys x 8 rows] = K[16 x H] Q^T      A = K, B = Q in registers
//   O^T[Hv x 8 rows]     += V^T[Hv x 16] P^T   A = V^T, B = P^T, a transpose of packed S^T
// Accumulator columns are query rows in both, so rescaling O needs no shuffle.
#pragma once

#include "csrc/attention_work.cuh"

namespace jaxinfer {

constexpr int kRowBlocks = kDecodeRows / 8;  // of 8 query rows
constexpr int kStages = kTiles.decode_stages;
constexpr int kStageBytes = kDecodeKeys * (kRowBytes + kRowBytesV);
constexpr int kStepKeys = kTiles.warps * kDecodeKeys;  // of the CTA
constexpr int kOutStride = kHeadDimV + kOutPad;
constexpr float kRescaleAbove = 8.0f;  // log2: smaller growth of the maximum is left standing

// Which 16 keys a warp loads next.
struct DecodeCursor {
  int item, head, step, num_steps;

  JAXINFER_DEVICE int steps_of(const Item& item) {
    if (item.hi <= item.lo) return 0;
    return (item.hi - (item.lo & ~(kDecodeKeys - 1)) + kStepKeys - 1) / kStepKeys;
  }
  // Goes to the first step at or after this position that has keys.
  __device__ __forceinline__ void settle(const Item* items, int last) {
    while (item < last && step >= num_steps) {
      step = 0;
      if (++head >= items[item].num_heads) {
        head = 0;
        if (++item < last) num_steps = steps_of(items[item]);
      }
    }
  }
};

JAXINFER_DEVICE int first_key(const Item& item, int step, int warp) {
  return (item.lo & ~(kDecodeKeys - 1)) + (step * kTiles.warps + warp) * kDecodeKeys;
}

// Computes items[first .. last) of the CTA.
JAXINFER_DEVICE void run_decode(const AttentionParams& p, const Item* items, int first, int last,
                                uint8_t* shared) {
  const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31;
  float* merge_out = reinterpret_cast<float*>(shared + kTiles.warps * kStages * kStageBytes);
  float* merge_ml = merge_out + kTiles.warps * 8 * kOutStride;  // [warps, 8 rows, (m, l)]
  const uint32_t ring = shared_address(shared) + warp * kStages * kStageBytes;
  const uint16_t* k_layer = layer_of(p, p.k, kHeadDim);
  const uint16_t* v_layer = layer_of(p, p.v, kHeadDimV);
  const int64_t k_stride = p.num_kv_heads * kHeadDim, v_stride = p.num_kv_heads * kHeadDimV;

  // ---- loader: S steps ahead; rows of the cache are looked up one step earlier still ----------
  DecodeCursor next{first, 0, 0, DecodeCursor::steps_of(items[first])};
  int list = 0, kv_head = 0, kv_row = -1;
  auto look_up = [&] {
    next.settle(items, last);
    if (next.item >= last) return;
    const Item& item = items[next.item];
    const WorkItem& work = p.items[item.index];
    if (next.step == 0) list = work.page_row, kv_head = work.kv_head_begin + next.head;
    const int key = first_key(item, next.step, warp) + (lane & 15);
    kv_row = key >= item.lo && key < item.hi ? find_kv_row(p, list, key) : -1;
  };
  // 16 bits a stage, the oldest lowest: which of its keys exist.
  uint64_t present = 0;
  auto load = [&](uint32_t stage, int position) {
    if (next.item < last) {
      const uint64_t bits = __ballot_sync(kWholeWarp, kv_row >= 0) & 0xffff;
      present |= bits << (16 * position);
      const uint16_t* k = k_layer + kv_head * kHeadDim;
      const uint16_t* v = v_layer + kv_head * kHeadDimV;
#pragma unroll
      for (int j = 0; j < kHeadDim / 16; ++j) {
        const int i = lane + 32 * j, row = i / (kHeadDim / 8), chunk = i % (kHeadDim / 8);
        const int from = __shfl_sync(kWholeWarp, kv_row, row);
        copy_async(stage + swizzled(kDecodeKeys, row, chunk),
                   k + (from < 0 ? 0 : from * k_stride) + chunk * 8, from >= 0);
      }
#pragma unroll
      for (int j = 0; j < kHeadDimV / 16; ++j) {
        const int i = lane + 32 * j, row = i / (kHeadDimV / 8), chunk = i % (kHeadDimV / 8);
        const int from = __shfl_sync(kWholeWarp, kv_row, row);
        copy_async(stage + kDecodeKeys * kRowBytes + swizzled(kDecodeKeys, row, chunk),
                   v + (from < 0 ? 0 : from * v_stride) + chunk * 8, from >= 0);
      }
      ++next.step;
      look_up();
    }
    commit_copies();
  };
  look_up();
#pragma unroll
  for (int s = 0; s < kStages; ++s) load(ring + s * kStageBytes, s);

  // ---- consumer
  // ----------------------------------------------------------------------------------
  uint32_t stage = ring;
  for (int i = first; i < last; ++i) {
    const Item item = items[i];
    const WorkItem& work = p.items[item.index];
    const int num_steps = DecodeCursor::steps_of(item);
    // All rows of a single token see the same keys, and loads have left out all others.
    const bool same_keys = item.lo == item.all_lo && item.hi == item.all_hi;
    for (int head = 0; head < item.num_heads; ++head) {
      const int h = work.kv_head_begin + head;
      const Scores scores = Scores::make(p, h);

      // Q^T: lane holds row lane / 4 of each block, columns 2 (lane % 4) of each 8.
      uint32_t q[kRowBlocks][kHeadDim / 16][2];
      int row_lo[kRowBlocks][2], row_hi[kRowBlocks][2];  // of this lane's columns of S^T
      DenseRow dense[kRowBlocks][2];
#pragma unroll
      for (int n = 0; n < kRowBlocks; ++n) {
        const int row = n * 8 + (lane >> 2);
        const bool valid = row < item.num_rows;
        const int64_t q_row = int64_t{work.row_begin + row / kGroup} * p.num_q_heads + h * kGroup;
        const auto* from = reinterpret_cast<const uint32_t*>(
            static_cast<const uint16_t*>(p.q) + (q_row + row % kGroup) * kHeadDim + 2 * (lane & 3));
#pragma unroll
        for (int k = 0; k < kHeadDim / 16; ++k) {
          q[n][k][0] = valid ? __ldg(from + k * 8) : 0;
          q[n][k][1] = valid ? __ldg(from + k * 8 + 4) : 0;
        }
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          const int column = n * 8 + 2 * (lane & 3) + c;
          row_lo[n][c] = item.lo, row_hi[n][c] = item.hi;
          if ((same_keys && !kDense) || column >= item.num_rows || item.hi <= item.lo) continue;
          const Row row = find_row(p, work, column / kGroup);
          row_lo[n][c] = row.lo, row_hi[n][c] = row.hi;
          if (kDense) dense[n][c] = DenseRow::make(p, row, h * kGroup + column % kGroup);
        }
      }
      float o[kRowBlocks][kHeadDimV / 16][4], m[kRowBlocks][2], l[kRowBlocks][2];
#pragma unroll
      for (int n = 0; n < kRowBlocks; ++n) {
        m[n][0] = m[n][1] = -infinity(), l[n][0] = l[n][1] = 0.0f;
#pragma unroll
        for (int v = 0; v < kHeadDimV / 16; ++v)
          o[n][v][0] = o[n][v][1] = o[n][v][2] = o[n][v][3] = 0;
      }

      for (int step = 0; step < num_steps; ++step) {
        wait_copies<kStages - 1>();
        __syncwarp();
        const unsigned keys = present & 0xffff;
        present >>= 16;
        if (keys != 0) {  // the last step leaves some warps without
          // S^T = K Q^T, in two chains
          float s[kRowBlocks][4], s_odd[kRowBlocks][4];
#pragma unroll
          for (int n = 0; n < kRowBlocks; ++n)
#pragma unroll
            for (int e = 0; e < 4; ++e) s[n][e] = s_odd[n][e] = 0.0f;
#pragma unroll
          for (int k = 0; k < kHeadDim / 16; ++k) {
            uint32_t a[4];
            load_matrices(a, stage + swizzled(kDecodeKeys, lane & 15, 2 * k + (lane >> 4)));
#pragma unroll
            for (int n = 0; n < kRowBlocks; ++n)
              Type::mma(k & 1 ? s_odd[n] : s[n], a, q[n][k][0], q[n][k][1]);
          }
          const int key = first_key(item, step, warp) + (lane >> 2);  // and 8 further
          const bool some_hidden = keys != 0xffff || !same_keys;
          uint32_t weights[kRowBlocks][2];
#pragma unroll
          for (int n = 0; n < kRowBlocks; ++n) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
              s[n][e] = scores(s[n][e] + s_odd[n][e]);
              if (kDense) s[n][e] = dense[n][e & 1](p, key + (e >> 1) * 8, s[n][e]);
            }
            if (some_hidden) {
#pragma unroll
              for (int e = 0; e < 4; ++e) {
                const int k = key + (e >> 1) * 8;
                const bool visible = (keys >> ((lane >> 2) + (e >> 1) * 8) & 1) &&
                                     k >= row_lo[n][e & 1] && k < row_hi[n][e & 1];
                if (!visible) s[n][e] = Spec::kUseSoftmax ? -infinity() : 0.0f;
              }
            }
            if constexpr (Spec::kUseSoftmax) {
              float m0 = max_over_lanes<4, 32>(fmaxf(s[n][0], s[n][2]));
              float m1 = max_over_lanes<4, 32>(fmaxf(s[n][1], s[n][3]));
              const float c = scores.log2_scale;
              if (__any_sync(kWholeWarp, (m0 - m[n][0]) * c > kRescaleAbove ||
                                             (m1 - m[n][1]) * c > kRescaleAbove)) {
                m0 = fmaxf(m0, m[n][0]), m1 = fmaxf(m1, m[n][1]);
                const float f0 = m0 == -infinity() ? 0.0f : exp2_approx((m[n][0] - m0) * c);
                const float f1 = m1 == -infinity() ? 0.0f : exp2_approx((m[n][1] - m1) * c);
                m[n][0] = m0, m[n][1] = m1;
                l[n][0] *= f0, l[n][1] *= f1;
#pragma unroll
                for (int v = 0; v < kHeadDimV / 16; ++v)
                  o[n][v][0] *= f0, o[n][v][1] *= f1, o[n][v][2] *= f0, o[n][v][3] *= f1;
              }
              const float b0 = m[n][0] == -infinity() ? 0.0f : m[n][0] * c;
              const float b1 = m[n][1] == -infinity() ? 0.0f : m[n][1] * c;
              s[n][0] = exp2_approx(fmaf(s[n][0], c, -b0)),
              s[n][2] = exp2_approx(fmaf(s[n][2], c, -b0));
              s[n][1] = exp2_approx(fmaf(s[n][1], c, -b1)),
              s[n][3] = exp2_approx(fmaf(s[n][3], c, -b1));
              l[n][0] += s[n][0] + s[n][2], l[n][1] += s[n][1] + s[n][3];
            }
            weights[n][0] = transpose8x8(Type::pack(s[n][0], s[n][1]));
            weights[n][1] = transpose8x8(Type::pack(s[n][2], s[n][3]));
          }
          // O^T += V^T P^T
          const int row = (lane & 7) + ((lane >> 4) << 3);
#pragma unroll
          for (int v = 0; v < kHeadDimV / 16; ++v) {
            uint32_t a[4];
            load_matrices_transposed(a, stage + kDecodeKeys * kRowBytes +
                                            swizzled(kDecodeKeys, row, 2 * v + ((lane >> 3) & 1)));
#pragma unroll
            for (int n = 0; n < kRowBlocks; ++n)
              Type::mma(o[n][v], a, weights[n][0], weights[n][1]);
          }
        }
        __syncwarp();
        load(stage, kStages - 1);
        stage += kStageBytes;
        if (stage == ring + kStages * kStageBytes) stage = ring;
      }

      // ---- the warps' partial results become one, 8 rows at a time ------------------------------
      for (int n = 0; n < kRowBlocks; ++n) {
        if (n * 8 >= item.num_rows) break;
        __syncthreads();
#pragma unroll
        for (int b = 0; b < kRowBlocks; ++b) {
          if (b != n) continue;  // a constant index keeps the accumulators in registers
          const float l0 = sum_over_lanes<4, 32>(l[b][0]), l1 = sum_over_lanes<4, 32>(l[b][1]);
          const int column = 2 * (lane & 3);
          float* to = merge_out + (warp * 8 + column) * kOutStride + (lane >> 2);
          if (lane < 4) {
            float* ml = merge_ml + (warp * 8 + column) * 2;
            ml[0] = m[b][0] * scores.log2_scale, ml[1] = l0;
            ml[2] = m[b][1] * scores.log2_scale, ml[3] = l1;
          }
#pragma unroll
          for (int v = 0; v < kHeadDimV / 16; ++v) {
            to[v * 16] = o[b][v][0], to[v * 16 + kOutStride] = o[b][v][1];
            to[v * 16 + 8] = o[b][v][2], to[v * 16 + 8 + kOutStride] = o[b][v][3];
          }
        }
        __syncthreads();
        constexpr int kQuads = kHeadDimV / 4;
        for (int x = tid; x < min(8, item.num_rows - n * 8) * kQuads; x += kThreads) {
          const int row = x / kQuads, column = x % kQuads * 4;
          float most = -infinity(), sum = 0.0f;
          float4 acc = make_float4(0, 0, 0, 0);
#pragma unroll
          for (int w = 0; w < kTiles.warps; ++w) most = fmaxf(most, merge_ml[(w * 8 + row) * 2]);
          if (!Spec::kUseSoftmax || most == -infinity()) most = 0.0f;
#pragma unroll
          for (int w = 0; w < kTiles.warps; ++w) {
            const float* ml = merge_ml + (w * 8 + row) * 2;
            const float f = Spec::kUseSoftmax ? exp2_approx(ml[0] - most) : 1.0f;
            const float4 v =
                *reinterpret_cast<const float4*>(merge_out + (w * 8 + row) * kOutStride + column);
            sum += f * ml[1];
            acc.x += f * v.x, acc.y += f * v.y, acc.z += f * v.z, acc.w += f * v.w;
          }
          const float lse2 = log2_sum(most, sum);
          const float factor = !Spec::kUseSoftmax ? 1.0f : sum == 0.0f ? 0.0f : 1.0f / sum;
          const OutRow out = OutRow::make(p, work, h, n * 8 + row, factor, lse2);
          out.write4(column, acc);
          if (column == 0) out.write_lse(lse2);
        }
      }
    }
  }
  wait_copies<0>();
}

}  // namespace jaxinfer
