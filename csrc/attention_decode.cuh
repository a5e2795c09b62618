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

namespace jaxinfer {

constexpr int kRowBlocks = kDecodeRows / 8;  // of 8 query rows
constexpr int kStages = kTiles.decode_stages;
constexpr int kStageBytes = kDecodeKeys * (kRowBytes + kRowBytesV);
constexpr int kRingBytes = kStages * kStageBytes;      // of a warp
constexpr int kStepKeys = kTiles.warps * kDecodeKeys;  // of the CTA
constexpr int kOutStride = kHeadDimV + kOutPad;
constexpr int kMeetBytes = kTiles.warps * 8 * (kOutStride + 2) * 4;  // where warps meet
static_assert(sizeof(MergeShared) <= kMeetBytes, "a merge takes the place of a meeting");

// Whose turn it is: the 16 keys of a CTA's items go round its warps, from item to item, so that
// many short ones keep all warps busy. Where results must not depend on the rest of the batch,
// every item begins with warp 0.
struct Turns {
  int first = 0;  // warp of the first 16 keys
  int keys = 0;   // first of this warp's first 16
  int steps = 0;  // of this warp

  __device__ __forceinline__ void next(const AttentionParams& p, const Item& item) {
    const int begin = item.lo & ~(kDecodeKeys - 1);
    const int units = item.hi <= item.lo ? 0 : (item.hi - begin + kDecodeKeys - 1) / kDecodeKeys;
    const int before = (threadIdx.x / 32 - first) & (kTiles.warps - 1);  // of them, for others
    keys = begin + before * kDecodeKeys;
    steps = units > before ? (units - before + kTiles.warps - 1) / kTiles.warps : 0;
    if (!p.is_batch_invariant) first += units;
  }
};

// ---- 16 keys of a step ------------------------------------------------------------------------

// In whole pages, all lanes know the row of the first key; else each of 16 lanes knows that of its
// own.
constexpr bool kWholePages = Spec::kPageSize > 0 && Spec::kPageSize % kDecodeKeys == 0;

JAXINFER_DEVICE int own_key(int first) { return kWholePages ? first : first + (threadIdx.x & 15); }

// The entry of the page list for this lane's key, or for another if that is not in [0, hi): of a
// wrong plan it may even have wrapped.
JAXINFER_DEVICE int load_step_entry(const AttentionParams& p, int list, int first, int hi) {
  return load_entry(p, list, clamp32(own_key(first), 0, hi - 1));
}

// Bit i: key first + i is in [lo, hi) and in the cache; `row`: from its entry, or -1.
JAXINFER_DEVICE unsigned present_keys(int row, int first, int lo, int hi) {
  const int key = own_key(first);
  if (!kWholePages) return __ballot_sync(kWholeWarp, row >= 0 && key >= lo && key < hi) & 0xffff;
  const int begin = clamp32(lo - key, 0, kDecodeKeys), end = clamp32(hi - key, 0, kDecodeKeys);
  return row < 0 ? 0 : ((1u << end) - 1) & ~((1u << begin) - 1);
}

// Copies rows of one head to shared memory, if there is any; those of keys that are not present
// may hold anything.
template <int kDim>
JAXINFER_DEVICE void copy_rows(uint32_t to, const uint16_t* head, int64_t stride, int step_row,
                               unsigned present) {
  constexpr int kChunks = kDim / 8;
  const int lane = threadIdx.x & 31;
  if (present == 0) return;
  if constexpr (kWholePages && 32 % kChunks == 0) {
    constexpr int kRows = 32 / kChunks;  // at a time
    const int row = lane / kChunks, chunk = lane % kChunks;
    const uint16_t* from = head + (step_row + row) * stride + chunk * 8;
    const uint32_t first = to + swizzled(kDecodeKeys, row, chunk);
#pragma unroll
    for (int j = 0; j < kDecodeKeys; j += kRows, from += kRows * stride)
      copy_async((first ^ ((j & 7) << 4)) + j * 128, from, true);
  } else {
#pragma unroll
    for (int j = 0; j < kDim / 16; ++j) {
      const int i = lane + 32 * j, row = i / kChunks, chunk = i % kChunks;
      const bool valid = kWholePages || (present >> row & 1);
      const int kv = kWholePages ? step_row + row : __shfl_sync(kWholeWarp, step_row, row);
      copy_async(to + swizzled(kDecodeKeys, row, chunk),
                 head + (valid ? kv : 0) * stride + chunk * 8, valid);
    }
  }
}

// Values that are not present must not be NaN: they are multiplied with weights of zero.
JAXINFER_DEVICE void clear_absent_values(uint32_t values, unsigned present) {
  constexpr int kChunks = kHeadDimV / 8;
#pragma unroll
  for (int j = 0; j < kHeadDimV / 16; ++j) {
    const int i = (threadIdx.x & 31) + 32 * j, row = i / kChunks;
    if (!(present >> row & 1)) store_zeros(values + swizzled(kDecodeKeys, row, i % kChunks));
  }
  __syncwarp();
}

// ---- queries ---------------------------------------------------------------------------------

// Q^T of one KV head: a lane holds row lane / 4 of each block of 8, columns 2 (lane % 4) of
// each 8; and the bounds of the rows that are its columns of S^T.
struct DecodeQueries {
  uint32_t q[kRowBlocks][kHeadDim / 16][2];
  int lo[kRowBlocks][2], hi[kRowBlocks][2];
  DenseRow dense[kRowBlocks][2];
  Place places[kRowBlocks][2];
  bool same_keys;  // all rows see the same keys: loads have left out all others
  Scores scores;

  // Of any work item, a wrong one too.
  __device__ __forceinline__ void load(const AttentionParams& p, int row_begin, int num_rows,
                                       int kv_head) {
    if constexpr (Variant::kHasQueryMod) return;  // modify() loads them, once it can
    const int lane = threadIdx.x & 31;
    const int h = clamp32(kv_head, 0, static_cast<int>(p.num_kv_heads) - 1);
#pragma unroll
    for (int n = 0; n < kRowBlocks; ++n) {
      const int row = n * 8 + (lane >> 2);
      const bool valid = row < num_rows;
      const int token = clamp32(row_begin + row / kGroup, 0, static_cast<int>(p.num_tokens) - 1);
      const int64_t q_row = token * p.num_q_heads + h * kGroup + row % kGroup;
      const auto* from = reinterpret_cast<const uint32_t*>(static_cast<const uint16_t*>(p.q) +
                                                           q_row * kHeadDim + 2 * (lane & 3));
#pragma unroll
      for (int k = 0; k < kHeadDim / 16; ++k) {
        q[n][k][0] = valid ? __ldg(from + k * 8) : 0;
        q[n][k][1] = valid ? __ldg(from + k * 8 + 4) : 0;
      }
    }
  }

  __device__ __forceinline__ void bound(const AttentionParams& p, const Item& item, int head) {
    const int lane = threadIdx.x & 31, h = item.kv_head_begin + head;
    scores = Scores::make(p, h);
    if constexpr (Variant::kHasQueryMod) modify(p, item, h);
    same_keys = item.lo == item.all_lo && item.hi == item.all_hi;
#pragma unroll
    for (int n = 0; n < kRowBlocks; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int column = n * 8 + 2 * (lane & 3) + c;
        lo[n][c] = item.lo, hi[n][c] = item.hi;
        if constexpr (kHasScoreHook) places[n][c] = Place::of(p, item, h, column);
        if ((same_keys && !kDense) || column >= item.num_rows || item.hi <= item.lo) continue;
        const Row row = find_row(p, item.index, column / kGroup);
        lo[n][c] = row.lo, hi[n][c] = row.hi;
        if (kDense) dense[n][c] = DenseRow::make(p, row, h * kGroup + column % kGroup);
      }
    }
  }

 private:
  __device__ __forceinline__ void modify(const AttentionParams& p, const Item& item, int kv_head) {
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int n = 0; n < kRowBlocks; ++n) {
      const int row = n * 8 + (lane >> 2);
      const bool valid = row < item.num_rows;
      const Place place = Place::of(p, item, kv_head, row);
      const int token = item.row_begin + (valid ? row / kGroup : 0);
      const int64_t q_row = int64_t{token} * p.num_q_heads + place.h;
      const GlobalVector vector{static_cast<const uint16_t*>(p.q) + q_row * kHeadDim};
#pragma unroll
      for (int k = 0; k < kHeadDim / 16; ++k) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int i = k * 16 + half * 8 + 2 * (lane & 3);
          const uint32_t made =
              Type::pack(place.query(p, vector, i), place.query(p, vector, i + 1));
          q[n][k][half] = valid ? made : 0;
        }
      }
    }
  }
};

// ---- loader: runs ahead of the products by the stages of the ring, across heads and items ----

// The keys of a CTA's first steps, asked for before the lengths are known: some may turn out
// not to exist.
struct FirstSteps {
  bool are_loading = false;
  int rows[kStages];  // of their keys
  int next_entry;     // of the page list, for the step behind them
};

struct DecodeLoader {
  const AttentionParams& p;
  const Layer& layer;
  uint32_t ring;
  const Item* items;
  int item, last, head;
  Turns turns;
  int key, steps_left;    // of this warp's next step: the first of 16 keys
  int entry;              // of the page list for them, asked for a step ahead
  const uint16_t *k, *v;  // row 0 of the KV head
  uint64_t present;       // 16 bits a stage, the oldest lowest: which keys exist

  // Of the first item of a CTA, before its bounds are known; and its queries, for what is asked
  // for later has to wait for those keys.
  __device__ __forceinline__ FirstSteps load_first(const WorkItem& work, DecodeQueries& queries) {
    FirstSteps first;
    // What no valid plan says is read all the same, within the lists, and looked at afterwards.
    const int list = clamp32(work.page_row, 0, static_cast<int>(p.kv.num_lists) - 1);
    const int end = work.key_end == kOpen ? 0x7fffffff : work.key_end;
    const int hi = static_cast<int>(min64(list_keys(p, list), end));
    // Where a window begins is known with the length only.
    if (hi <= 0 || p.window_left != 0x7fffffff) return first;
    const int warp = threadIdx.x >> 5;
    key = (max(work.key_begin, 0) & ~(kDecodeKeys - 1)) + warp * kDecodeKeys;
    point_to(work.kv_head_begin);
    int entries[kStages];
#pragma unroll
    for (int s = 0; s < kStages; ++s)
      entries[s] = load_step_entry(p, list, key + s * kStepKeys, hi);
    first.next_entry = load_step_entry(p, list, key + kStages * kStepKeys, hi);
    queries.load(p, work.row_begin, work.num_rows * kGroup, work.kv_head_begin);
    first.are_loading = is_valid(p, work) & (work.num_rows * kGroup <= kDecodeRows) &
                        (work.row_mode != kPaddingRows);
#pragma unroll
    for (int s = 0; s < kStages; ++s) {
      const int at = key + s * kStepKeys;
      first.rows[s] = row_of_entry(p, entries[s], own_key(at));
      const unsigned bits = present_keys(first.rows[s], at, 0, first.are_loading ? hi : 0);
      copy_step(ring + s * kStageBytes, first.rows[s], bits);
      if (first.are_loading) commit_copies();
    }
    return first;
  }

  // Fills the ring from items[begin] on, or what is missing of it.
  __device__ __forceinline__ void start(const Item* all, int begin, int end,
                                        const FirstSteps& first) {
    items = all, item = begin, last = end, head = 0, present = 0;
    settle();
    int loaded = 0;
    if (first.are_loading && item == begin && item < last && head == 0) {
      const Item& at = items[item];
      loaded = min(steps_left, kStages);
#pragma unroll
      for (int s = 0; s < kStages; ++s) {
        const uint64_t bits = present_keys(first.rows[s], key + s * kStepKeys, at.lo, at.hi);
        present |= (s < loaded ? bits : 0) << (16 * s);
      }
      key += loaded * kStepKeys;
      steps_left -= loaded;
      entry = first.next_entry;
      if (steps_left == 0) ++head, settle(), look_up();
    } else {
      look_up();
    }
    // What was loaded in vain has to arrive before anything is loaded in its place.
    if (first.are_loading && loaded < kStages && item < last) wait_copies<0>(), __syncwarp();
#pragma unroll 1
    for (int s = loaded; s < kStages; ++s) load(ring + s * kStageBytes, s);
  }

  // Asks for the next 16 keys and values. `position`: stages that will be read before it.
  __device__ __forceinline__ void load(uint32_t stage, int position) {
    if (item < last) {
      const Item& at = items[item];
      const int row = row_of_entry(p, entry, own_key(key));
      const unsigned bits = present_keys(row, key, at.lo, at.hi);
      present |= uint64_t{bits} << (16 * position);
      copy_step(stage, row, bits);
      key += kStepKeys;
      if (--steps_left == 0) ++head, settle();
      look_up();
    }
    commit_copies();
  }

 private:
  __device__ __forceinline__ void point_to(int kv_head) {
    k = layer.k + kv_head * kHeadDim;
    v = layer.v + kv_head * kHeadDimV;
  }
  // Goes to the first (item, head) at or after this one that has keys for this warp.
  __device__ __forceinline__ void settle() {
    for (; item < last; ++item, head = 0) {
      const Item& at = items[item];
      for (; head < at.num_heads; ++head) {
        turns.next(p, at);
        key = turns.keys, steps_left = turns.steps;
        if (steps_left > 0) return point_to(at.kv_head_begin + head);
      }
    }
  }
  __device__ __forceinline__ void look_up() {
    if (item < last) entry = load_step_entry(p, items[item].page_row, key, items[item].hi);
  }
  __device__ __forceinline__ void copy_step(uint32_t stage, int row, unsigned bits) const {
    copy_rows<kHeadDim>(stage, k, p.num_kv_heads * kHeadDim, row, bits);
    copy_rows<kHeadDimV>(stage + kDecodeKeys * kRowBytes, v, p.num_kv_heads * kHeadDimV, row, bits);
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
  // `key_base`: position of key 0.
  __device__ __forceinline__ void add_keys(const AttentionParams& p, const DecodeQueries& queries,
                                           uint32_t stage, int first, unsigned present,
                                           int key_base) {
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
    const uint32_t values = stage + kDecodeKeys * kRowBytes;
    if (present != 0xffff) clear_absent_values(values, present);
#pragma unroll
    for (int n = 0; n < kRowBlocks; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int i = (lane >> 2) + (e >> 1) * 8, key = first + i, c = e & 1;
        s[n][e] = queries.scores(s[n][e] + s_odd[n][e]);
        if (kDense) s[n][e] = queries.dense[n][c](p, key, s[n][e]);
        if (kHasScoreHook) s[n][e] = queries.places[n][c].score(p, key + key_base, s[n][e]);
        if (some_hidden || Variant::kHasMaskMod) {
          bool visible = (present >> i & 1) && key >= queries.lo[n][c] && key < queries.hi[n][c];
          // Of hidden keys too: behind a branch each, what a mask reads comes one after the other.
          visible &= queries.places[n][c].sees(p, key + key_base);
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
      load_matrices_transposed(a, values + swizzled(kDecodeKeys, row, 2 * v + ((lane >> 3) & 1)));
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
        if (!has_output_hook(item)) {
          out.write4(column, acc);
        } else {
          // Nobody else has read, or will read, these columns of these rows.
          const float f = out.factor;
          *reinterpret_cast<float4*>(shared + row * kOutStride + column) =
              make_float4(acc.x * f, acc.y * f, acc.z * f, acc.w * f);
        }
        if (column == 0) out.write_lse(lse2);
      }
      if constexpr (Variant::kHasOutputMod) {
        if (!has_output_hook(item)) continue;
        __syncthreads();
        for (int x = tid; x < min(8, item.num_rows - n * 8) * kQuads; x += kThreads) {
          const int row = x / kQuads, column = x % kQuads * 4, h = item.kv_head_begin + head;
          OutRow out = OutRow::make(p, item, h, n * 8 + row, 1.0f, 0.0f);
          out.factor = 1.0f;
          const Place place = Place::of(p, item, h, n * 8 + row);
          const float* from = shared + row * kOutStride;
          out.write4(column, place.output4(p, [&](int i) { return from[i]; }, column));
        }
      }
    }
  }
};

// Keys and values of a stage that are present become what their hooks make of them.
JAXINFER_DEVICE void modify_stage(const AttentionParams& p, const Item& item, int head,
                                  uint8_t* shared, uint32_t stage, int first, unsigned present) {
  uint8_t* keys = shared + (stage - shared_address(shared));
  modify_keys<kDecodeKeys>(p, item, item.kv_head_begin + head, keys, keys + kDecodeKeys * kRowBytes,
                           kDecodeKeys, 0, first + item.key_base,
                           [&](int r) { return (present >> r & 1) != 0; });
  __syncwarp();
}

JAXINFER_DEVICE DecodeLoader make_loader(const AttentionParams& p, const Layer& layer,
                                         uint8_t* shared) {
  return {p, layer, shared_address(shared) + (threadIdx.x >> 5) * kRingBytes};
}

// Computes items[begin .. last) of the CTA. `queries`: of the first of them if `first` is loading.
// `ticket`: thread 0's, of begin_call().
JAXINFER_DEVICE void run_decode(const AttentionParams& p, const Layer& layer,
                                const FirstSteps& first, DecodeQueries& queries, const Item* items,
                                int begin, int last, uint64_t ticket, uint8_t* shared) {
  float* meet = reinterpret_cast<float*>(shared + kTiles.warps * kRingBytes);
  auto& merge_shared = *reinterpret_cast<MergeShared*>(meet);
  const uint64_t call = ticket >> kCountBits << kCountBits;
  DecodeLoader loader = make_loader(p, layer, shared);
  loader.start(items, begin, last, first);

  DecodeSums sums;
  Turns turns;
  uint32_t stage = loader.ring;
  int i = begin, head = 0;
  while (i < last && items[i].num_heads == 0) ++i;  // of a wrong plan
  const auto ask = [&]() {
    const Item& at = items[i];
    queries.load(p, at.row_begin, at.num_rows, at.kv_head_begin + head);
    queries.bound(p, at, head);
  };
  if (first.are_loading && i == begin) {
    queries.bound(p, items[i], 0);
  } else if (i < last) {
    ask();
  }
  while (i < last) {
    const Item& item = items[i];
    turns.next(p, item);
    sums.clear();
    // A part that this CTA may have to merge.
    const bool is_part =
        kMergesItself && item.parts_end > item.parts_begin && head + 1 == item.num_heads;
    if (is_part && threadIdx.x == 0) raise_to(p.arrivals + 1 + item.merge, call);
    for (int step = 0; step < turns.steps; ++step) {
      wait_copies<kStages - 1>();
      __syncwarp();
      const unsigned present = loader.present & 0xffff;
      loader.present >>= 16;
      const int key = turns.keys + step * kStepKeys;
      if (kHasVectorHook && present != 0) modify_stage(p, item, head, shared, stage, key, present);
      if (present != 0) sums.add_keys(p, queries, stage, key, present, item.key_base);
      __syncwarp();
      loader.load(stage, kStages - 1);
      stage = stage + kStageBytes == loader.ring + kRingBytes ? loader.ring : stage + kStageBytes;
    }
    const float scale = queries.scores.log2_scale;
    const int done = head;
    if (++head == item.num_heads) {
      head = 0;
      do ++i;
      while (i < last && items[i].num_heads == 0);
    }
    if (i < last) ask();  // on their way while the warps meet
    Parts parts;
    if (is_part) parts = Parts::make(p, item.parts_begin, item.parts_end);
    sums.write(p, item, done, scale, meet);
    if (is_part) merge_if_last(p, item, parts, call, merge_shared);
  }
  wait_copies<0>();
}

}  // namespace jaxinfer
