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

#include "csrc/attention_merge.cuh"
#include "csrc/attention_work.cuh"

namespace jaxinfer {

constexpr int kRowBlocks = kDecodeRows / 8;  // of 8 query rows
constexpr int kStages = kTiles.decode_stages;
constexpr int kStageBytes = kDecodeKeys * (kRowBytes + kRowBytesV);
constexpr int kStepKeys = kTiles.warps * kDecodeKeys;  // of the CTA
constexpr int kOutStride = kHeadDimV + kOutPad;
static_assert(sizeof(MergeShared) <= kMergeBytes, "attention_tiles.h counts on it");

JAXINFER_DEVICE int num_steps(const Item& item) {
  if (item.hi <= item.lo) return 0;
  return (item.hi - (item.lo & ~(kDecodeKeys - 1)) + kStepKeys - 1) / kStepKeys;
}
JAXINFER_DEVICE int first_key(const Item& item, int step, int warp) {
  return (item.lo & ~(kDecodeKeys - 1)) + (step * kTiles.warps + warp) * kDecodeKeys;
}

// The cache row of this lane's first key of a work item, asked for before the lengths are
// known: used if the key turns out to be the first to load.
struct RowGuess {
  int key, kv_row;
};
JAXINFER_DEVICE RowGuess guess_row(const AttentionParams& p, const WorkItem& work) {
  if constexpr (Spec::kPageSize == 0 || Spec::kIsCsr) return {-1, -1};
  const int begin = max(work.key_begin, 0) & ~(kDecodeKeys - 1);
  const int key = begin + (threadIdx.x >> 5) * kDecodeKeys + (threadIdx.x & 15);
  const bool exists = static_cast<unsigned>(work.page_row) < p.kv.num_lists &&
                      key < p.kv.max_pages * p.kv.page_size;
  return {key, exists ? find_kv_row(p, work.page_row, key) : -1};
}

// ---- loader: runs ahead of the products by the stages of the ring, across heads and items ----

struct DecodeLoader {
  const AttentionParams& p;
  const Layer& layer;
  const Item* items;
  int item, last, head;
  int key, key_end, steps_left;  // this lane's (of 16) next key
  int kv_row;                    // where it lies, asked for a step ahead
  const uint16_t *k, *v;         // row 0 of the KV head
  uint64_t present;              // 16 bits a stage, the oldest lowest: which keys exist

  // Goes to the first (item, head) at or after this one that has keys.
  __device__ __forceinline__ void settle() {
    for (; item < last; ++item, head = 0) {
      const Item& at = items[item];
      steps_left = num_steps(at);
      if (steps_left == 0 || head >= at.num_heads) continue;
      key = first_key(at, 0, threadIdx.x >> 5) + (threadIdx.x & 15);
      key_end = at.hi;
      k = layer.k + (at.kv_head_begin + head) * kHeadDim;
      v = layer.v + (at.kv_head_begin + head) * kHeadDimV;
      return;
    }
  }
  __device__ __forceinline__ void look_up() {
    const Item& at = items[item];
    kv_row = key >= at.lo && key < key_end ? find_kv_row(p, at.page_row, key) : -1;
  }
  // Asks for the next 16 keys and values. `position`: stages that will be read before it.
  __device__ __forceinline__ void load(uint32_t stage, int position) {
    if (item < last) {
      const int lane = threadIdx.x & 31;
      const uint64_t bits = __ballot_sync(kWholeWarp, kv_row >= 0) & 0xffff;
      present |= bits << (16 * position);
      load_rows<kHeadDim>(stage, k, p.num_kv_heads * kHeadDim, lane);
      load_rows<kHeadDimV>(stage + kDecodeKeys * kRowBytes, v, p.num_kv_heads * kHeadDimV, lane);
      key += kStepKeys;
      if (--steps_left == 0) ++head, settle();
      if (item < last) look_up();
    }
    commit_copies();
  }

 private:
  template <int kDim>
  __device__ __forceinline__ void load_rows(uint32_t to, const uint16_t* from, int64_t stride,
                                            int lane) const {
    constexpr int kChunks = kDim / 8;
#pragma unroll
    for (int j = 0; j < kDim / 16; ++j) {
      const int i = lane + 32 * j, row = i / kChunks, chunk = i % kChunks;
      const int kv = __shfl_sync(kWholeWarp, kv_row, row);
      copy_async(to + swizzled(kDecodeKeys, row, chunk), from + max(kv, 0) * stride + chunk * 8,
                 kv >= 0);
    }
  }
};

// ---- queries ---------------------------------------------------------------------------------

// Q^T of one KV head: a lane holds row lane / 4 of each block of 8, columns 2 (lane % 4) of
// each 8; and the bounds of the rows that are its columns of S^T.
struct DecodeQueries {
  uint32_t q[kRowBlocks][kHeadDim / 16][2];
  int lo[kRowBlocks][2], hi[kRowBlocks][2];
  DenseRow dense[kRowBlocks][2];
  bool same_keys;  // all rows see the same keys: loads have left out all others
  Scores scores;

  __device__ __forceinline__ void load(const AttentionParams& p, const Item& item, int head) {
    const int lane = threadIdx.x & 31, h = item.kv_head_begin + head;
    scores = Scores::make(p, h);
    same_keys = item.lo == item.all_lo && item.hi == item.all_hi;
#pragma unroll
    for (int n = 0; n < kRowBlocks; ++n) {
      const int row = n * 8 + (lane >> 2);
      const bool valid = row < item.num_rows;
      const int64_t q_row = (item.row_begin + row / kGroup) * p.num_q_heads + h * kGroup;
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
        lo[n][c] = item.lo, hi[n][c] = item.hi;
        if ((same_keys && !kDense) || column >= item.num_rows || item.hi <= item.lo) continue;
        const Row row = find_row(p, item.index, column / kGroup);
        lo[n][c] = row.lo, hi[n][c] = row.hi;
        if (kDense) dense[n][c] = DenseRow::make(p, row, h * kGroup + column % kGroup);
      }
    }
  }
};

// ---- online softmax ----------------------------------------------------------------------------

struct DecodeSums {
  float o[kRowBlocks][kHeadDimV / 16][4], m[kRowBlocks][2], l[kRowBlocks][2];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int n = 0; n < kRowBlocks; ++n) {
      m[n][0] = m[n][1] = -infinity(), l[n][0] = l[n][1] = 0.0f;
#pragma unroll
      for (int v = 0; v < kHeadDimV / 16; ++v)
        o[n][v][0] = o[n][v][1] = o[n][v][2] = o[n][v][3] = 0.0f;
    }
  }

  // Scores of block n, in raw units, become weights; the sums are rescaled if a maximum grew.
  __device__ __forceinline__ void exponentiate(int n, float (&s)[4], float scale) {
    float m0 = max_over_lanes<4, 32>(fmaxf(s[0], s[2]));
    float m1 = max_over_lanes<4, 32>(fmaxf(s[1], s[3]));
    if (__any_sync(kWholeWarp, (m0 - m[n][0]) * scale > kRescaleAbove ||
                                   (m1 - m[n][1]) * scale > kRescaleAbove)) {
      m0 = fmaxf(m0, m[n][0]), m1 = fmaxf(m1, m[n][1]);
      const float f0 = m0 == -infinity() ? 0.0f : exp2_approx((m[n][0] - m0) * scale);
      const float f1 = m1 == -infinity() ? 0.0f : exp2_approx((m[n][1] - m1) * scale);
      m[n][0] = m0, m[n][1] = m1;
      l[n][0] *= f0, l[n][1] *= f1;
#pragma unroll
      for (int v = 0; v < kHeadDimV / 16; ++v)
        o[n][v][0] *= f0, o[n][v][1] *= f1, o[n][v][2] *= f0, o[n][v][3] *= f1;
    }
    const float b0 = m[n][0] == -infinity() ? 0.0f : m[n][0] * scale;
    const float b1 = m[n][1] == -infinity() ? 0.0f : m[n][1] * scale;
    s[0] = exp2_approx(fmaf(s[0], scale, -b0)), s[2] = exp2_approx(fmaf(s[2], scale, -b0));
    s[1] = exp2_approx(fmaf(s[1], scale, -b1)), s[3] = exp2_approx(fmaf(s[3], scale, -b1));
    l[n][0] += s[0] + s[2], l[n][1] += s[1] + s[3];
  }

  // Adds 16 keys, the first of them `first`; bit i of `present`: key first + i exists.
  __device__ __forceinline__ void add_keys(const AttentionParams& p, const DecodeQueries& queries,
                                           uint32_t stage, int first, unsigned present) {
    const int lane = threadIdx.x & 31;
    // S^T = K Q^T, in two chains
    float s[kRowBlocks][4] = {}, s_odd[kRowBlocks][4] = {};
#pragma unroll
    for (int k = 0; k < kHeadDim / 16; ++k) {
      uint32_t a[4];
      load_matrices(a, stage + swizzled(kDecodeKeys, lane & 15, 2 * k + (lane >> 4)));
#pragma unroll
      for (int n = 0; n < kRowBlocks; ++n)
        Type::mma(k & 1 ? s_odd[n] : s[n], a, queries.q[n][k][0], queries.q[n][k][1]);
    }
    uint32_t weights[kRowBlocks][2];
    const bool some_hidden = present != 0xffff || !queries.same_keys;
#pragma unroll
    for (int n = 0; n < kRowBlocks; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int i = (lane >> 2) + (e >> 1) * 8, key = first + i, c = e & 1;
        s[n][e] = queries.scores(s[n][e] + s_odd[n][e]);
        if (kDense) s[n][e] = queries.dense[n][c](p, key, s[n][e]);
        if (some_hidden) {
          const bool visible =
              (present >> i & 1) && key >= queries.lo[n][c] && key < queries.hi[n][c];
          if (!visible) s[n][e] = Spec::kUseSoftmax ? -infinity() : 0.0f;
        }
      }
      if constexpr (Spec::kUseSoftmax) exponentiate(n, s[n], queries.scores.log2_scale);
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
      for (int n = 0; n < kRowBlocks; ++n) Type::mma(o[n][v], a, weights[n][0], weights[n][1]);
    }
  }

  // The warps' sums become one result, 8 rows at a time; all warps must call this.
  __device__ __forceinline__ void write(const AttentionParams& p, const Item& item, int head,
                                        float scale, float* shared) {
    const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31;
    float* shared_ml = shared + kTiles.warps * 8 * kOutStride;  // [warps, 8 rows, (m, l)]
#pragma unroll
    for (int n = 0; n < kRowBlocks; ++n) {
      if (n * 8 >= item.num_rows) break;
      const float l0 = sum_over_lanes<4, 32>(l[n][0]), l1 = sum_over_lanes<4, 32>(l[n][1]);
      const int column = 2 * (lane & 3);
      __syncthreads();
      float* to = shared + (warp * 8 + column) * kOutStride + (lane >> 2);
      if (lane < 4) {
        float* ml = shared_ml + (warp * 8 + column) * 2;
        ml[0] = m[n][0] * scale, ml[1] = l0;
        ml[2] = m[n][1] * scale, ml[3] = l1;
      }
#pragma unroll
      for (int v = 0; v < kHeadDimV / 16; ++v) {
        to[v * 16] = o[n][v][0], to[v * 16 + kOutStride] = o[n][v][1];
        to[v * 16 + 8] = o[n][v][2], to[v * 16 + 8 + kOutStride] = o[n][v][3];
      }
      __syncthreads();
      constexpr int kQuads = kHeadDimV / 4;
      for (int x = tid; x < min(8, item.num_rows - n * 8) * kQuads; x += kThreads) {
        const int row = x / kQuads, column = x % kQuads * 4;
        float most = -infinity(), sum = 0.0f;
        float4 acc = make_float4(0, 0, 0, 0);
#pragma unroll
        for (int w = 0; w < kTiles.warps; ++w) most = fmaxf(most, shared_ml[(w * 8 + row) * 2]);
        if (!Spec::kUseSoftmax || most == -infinity()) most = 0.0f;
#pragma unroll
        for (int w = 0; w < kTiles.warps; ++w) {
          const float* ml = shared_ml + (w * 8 + row) * 2;
          const float f = Spec::kUseSoftmax ? exp2_approx(ml[0] - most) : 1.0f;
          const float4 v =
              *reinterpret_cast<const float4*>(shared + (w * 8 + row) * kOutStride + column);
          sum += f * ml[1];
          acc.x += f * v.x, acc.y += f * v.y, acc.z += f * v.z, acc.w += f * v.w;
        }
        const float lse2 = log2_sum(most, sum);
        const OutRow out =
            OutRow::make(p, item, item.kv_head_begin + head, n * 8 + row, normalizer(sum), lse2);
        out.write4(column, acc);
        if (column == 0) out.write_lse(lse2);
      }
    }
  }
};

// Computes items[first .. last) of the CTA.
JAXINFER_DEVICE void run_decode(const AttentionParams& p, const Layer& layer, RowGuess guess,
                                const Item* items, int first, int last, uint8_t* shared) {
  const int warp = threadIdx.x >> 5;
  float* merge_buffer = reinterpret_cast<float*>(shared + kTiles.warps * kStages * kStageBytes);
  auto& merge_shared =
      *reinterpret_cast<MergeShared*>(merge_buffer + kTiles.warps * 8 * (kOutStride + 2));
  const uint32_t ring = shared_address(shared) + warp * kStages * kStageBytes;

  DecodeLoader loader{p, layer, items, first, last, 0, 0, 0, 0, -1, nullptr, nullptr, 0};
  loader.settle();
  if (loader.item == first && loader.key == guess.key) {
    loader.kv_row =
        loader.key >= items[first].lo && loader.key < loader.key_end ? guess.kv_row : -1;
  } else if (loader.item < last) {
    loader.look_up();
  }
#pragma unroll 1
  for (int s = 0; s < kStages; ++s) loader.load(ring + s * kStageBytes, s);

  DecodeQueries queries;
  DecodeSums sums;
  uint32_t stage = ring;
  int i = first, head = 0;
  while (i < last && items[i].num_heads == 0) ++i;  // of a wrong plan
  if (i < last) queries.load(p, items[i], 0);
  while (i < last) {
    const Item item = items[i];
    const int steps = num_steps(item);
    sums.clear();
    // Of what this item is a part, if its CTA is to merge; asked for long before it is used.
    const bool is_part = p.arrivals != nullptr && item.partial != kWriteThrough;
    MergeItem merge{item.row_begin, item.num_rows / kGroup, item.kv_head_begin, item.num_heads};
    if (is_part) {
      merge.parts_begin = __ldg(&p.merges[item.merge].parts_begin);
      merge.parts_end = __ldg(&p.merges[item.merge].parts_end);
    }
    for (int step = 0; step < steps; ++step) {
      wait_copies<kStages - 1>();
      __syncwarp();
      const unsigned present = loader.present & 0xffff;
      loader.present >>= 16;
      // The last step leaves some warps without keys.
      if (present != 0) sums.add_keys(p, queries, stage, first_key(item, step, warp), present);
      __syncwarp();
      loader.load(stage, kStages - 1);
      stage = stage + kStageBytes == ring + kStages * kStageBytes ? ring : stage + kStageBytes;
    }
    const float scale = queries.scores.log2_scale;
    const int done = head;
    const bool is_arrival = is_part && head + 1 == item.num_heads && count_parts(p, merge) > 0;
    if (is_arrival) load_slots(p, merge, merge_shared);
    if (++head == item.num_heads) {
      head = 0;
      do ++i;
      while (i < last && items[i].num_heads == 0);
    }
    if (i < last) queries.load(p, items[i], head);  // on its way while the warps meet
    sums.write(p, item, done, scale, merge_buffer);
    if (is_arrival) merge_if_last(p, item.merge, merge, merge_shared);
  }
  wait_copies<0>();
}

}  // namespace jaxinfer
