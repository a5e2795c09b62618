// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// The prefill tile: up to 16 packed rows of queries a warp, all warps against the same keys
// (FlashAttention-2). K and V come through a double buffer, 64 keys at a time; the rows of
// the cache that they lie in are looked up two steps ahead.
//
//   S[16 x 64] = Q K^T    A = Q, B = K
//   O[16 x Hv] += P V     A = P, which the accumulators of S already are; B = V
#pragma once

#include "csrc/attention_variant.cuh"

namespace jaxinfer {

constexpr int kPrefillKeys = kTiles.prefill_keys;
constexpr int kKeyBlocks = kPrefillKeys / 8;

struct PrefillShared {
  uint32_t q;            // [rows, H] swizzled
  uint32_t kv;           // two stages of [64, H], [64, Hv]
  int *row_lo, *row_hi;  // [rows] visible keys
  int* kv_rows;          // [4 steps, 64]

  JAXINFER_DEVICE PrefillShared carve(uint8_t* shared) {
    PrefillShared s;
    uint8_t* ints =
        shared + kTiles.prefill_rows * kRowBytes + 2 * kPrefillKeys * (kRowBytes + kRowBytesV);
    s.q = shared_address(shared);
    s.kv = s.q + kTiles.prefill_rows * kRowBytes;
    s.row_lo = reinterpret_cast<int*>(ints);
    s.row_hi = s.row_lo + kTiles.prefill_rows;
    s.kv_rows = s.row_hi + kTiles.prefill_rows;
    return s;
  }
  __device__ __forceinline__ uint32_t k(int turn) const {
    return kv + (turn & 1) * kPrefillKeys * (kRowBytes + kRowBytesV);
  }
  __device__ __forceinline__ uint32_t v(int turn) const {
    return k(turn) + kPrefillKeys * kRowBytes;
  }
};

// Copies rows of one head to shared memory: row r comes from `row_of(r)`, zeros if negative.
template <int kDim, typename RowOf>
JAXINFER_DEVICE void load_rows(uint32_t to, int rows, const uint16_t* head, int64_t stride,
                               RowOf row_of) {
  constexpr int kChunks = kDim / 8;
  for (int i = threadIdx.x; i < rows * kChunks; i += kThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    const int64_t from = row_of(row);
    copy_async(to + swizzled(rows, row, chunk), head + (from < 0 ? 0 : from * stride) + chunk * 8,
               from >= 0);
  }
}

// Writes row r of this lane's two through the hook, which may ask for any of its elements: four
// lanes hold a row, and put it where keys and values were.
JAXINFER_DEVICE void write_modified(const AttentionParams& p, const Item& item, int kv_head,
                                    int row, OutRow out, const PrefillShared& s,
                                    const float (&o)[kHeadDimV / 8][4], int r, uint8_t* shared) {
  const int lane = threadIdx.x & 31;
  const unsigned four = 0xfu << (lane & ~3);
  constexpr int kStride = kHeadDimV + 8;
  static_assert(kTiles.warps * 8 * kStride * 4 <= 2 * kPrefillKeys * (kRowBytes + kRowBytesV),
                "rows of O fit where K and V were");
  float* to = reinterpret_cast<float*>(shared + (s.kv - s.q)) + (threadIdx.x >> 2) * kStride;
#pragma unroll
  for (int v = 0; v < kHeadDimV / 8; ++v) {
    *reinterpret_cast<float2*>(to + v * 8 + 2 * (lane & 3)) =
        make_float2(o[v][2 * r] * out.factor, o[v][2 * r + 1] * out.factor);
  }
  __syncwarp(four);
  out.factor = 1.0f;
  const Place place = Place::of(p, item, kv_head, row);
#pragma unroll 1
  for (int i = 4 * (lane & 3); i < kHeadDimV; i += 16)
    out.write4(i, place.output4(p, [&](int j) { return to[j]; }, i));
  __syncwarp(four);
}

// Packed rows from `first` on, as many as the tile has.
JAXINFER_DEVICE void run_rows(const AttentionParams& p, const Layer& layer, const Item& item,
                              int first, uint8_t* shared) {
  const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31;
  const PrefillShared s = PrefillShared::carve(shared);
  const int num_steps =
      item.hi > item.lo ? (item.hi - item.lo + kPrefillKeys - 1) / kPrefillKeys : 0;

  // 64 keys, and what the block map says of them. Turns count the steps that are computed.
  struct Step {
    int number, state;
  };
  auto look_up = [&](int turn, Step step) {
    const int key = item.lo + step.number * kPrefillKeys + tid;
    if (tid < kPrefillKeys)
      s.kv_rows[(turn & 3) * kPrefillKeys + tid] =
          key < item.hi ? row_of_entry(p, load_entry(p, item.page_row, key), key) : -1;
  };
  __syncthreads();  // whoever used this memory before is done
  for (int r = tid; r < kTiles.prefill_rows; r += kThreads) {
    Row row{};
    if (first + r < item.num_rows && num_steps > 0)
      row = find_row(p, item.index, (first + r) / kGroup);
    s.row_lo[r] = row.lo, s.row_hi[r] = row.hi;
  }

  for (int head = 0; head < item.num_heads; ++head) {
    const int h = item.kv_head_begin + head;
    const Scores scores = Scores::make(p, h);
    // The first step from `number` on that some row may see.
    auto find_step = [&](int number) {
      Step step{number, kBlockMixed};
      if constexpr (kHasBlockMap) {
        for (; step.number < num_steps; ++step.number) {
          const int key = item.lo + step.number * kPrefillKeys;
          step.state = block_state(p, item, h, key, min(kPrefillKeys, item.hi - key));
          if (step.state != kBlockHidden) break;
        }
      }
      return step;
    };
    auto load = [&](int turn, Step step) {
      if (step.number < num_steps) {
        const int* rows = s.kv_rows + (turn & 3) * kPrefillKeys;
        auto row_of = [&](int r) -> int64_t { return rows[r]; };
        load_rows<kHeadDim>(s.k(turn), kPrefillKeys, layer.k + h * kHeadDim,
                            p.num_kv_heads * kHeadDim, row_of);
        load_rows<kHeadDimV>(s.v(turn), kPrefillKeys, layer.v + h * kHeadDimV,
                             p.num_kv_heads * kHeadDimV, row_of);
      }
      commit_copies();
    };
    if (head > 0) __syncthreads();
    load_rows<kHeadDim>(s.q, kTiles.prefill_rows, static_cast<const uint16_t*>(p.q), kHeadDim,
                        [&](int r) -> int64_t {
                          const int packed = first + r;
                          if (packed >= item.num_rows) return -1;
                          return int64_t{item.row_begin + packed / kGroup} * p.num_q_heads +
                                 h * kGroup + packed % kGroup;
                        });
    Step step = find_step(0), next = find_step(step.number + 1);
    look_up(0, step);
    look_up(1, next);
    __syncthreads();
    load(0, step);

    // This lane's rows of the accumulators: lane / 4 and 8 further.
    const int first_row = warp * 16 + (lane >> 2);
    const int lo[2] = {s.row_lo[first_row], s.row_lo[first_row + 8]};
    const int hi[2] = {s.row_hi[first_row], s.row_hi[first_row + 8]};
    const int warp_hi = __reduce_max_sync(kWholeWarp, max(hi[0], hi[1]));
    const int warp_lo = __reduce_min_sync(
        kWholeWarp, min(lo[0] < hi[0] ? lo[0] : 0x7fffffff, lo[1] < hi[1] ? lo[1] : 0x7fffffff));
    const int full_lo = __reduce_max_sync(kWholeWarp, max(lo[0], lo[1]));
    const int full_hi = __reduce_min_sync(kWholeWarp, min(hi[0], hi[1]));
    DenseRow dense[2];
    if (kDense && num_steps > 0) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = min(first + first_row + r * 8, item.num_rows - 1);
        dense[r] =
            DenseRow::make(p, find_row(p, item.index, row / kGroup), h * kGroup + row % kGroup);
      }
    }
    Place places[2];
    if constexpr (kHasScoreHook) {
#pragma unroll
      for (int r = 0; r < 2; ++r) places[r] = Place::of(p, item, h, first + first_row + r * 8);
    }
    if constexpr (Variant::kHasQueryMod) {
      // A warp reads its own 16 rows alone.
      wait_copies<0>();
      __syncthreads();
#pragma unroll 1
      for (int row = warp * 16; row < warp * 16 + 16; row += 4) {
        const int packed = first + row;
        const Place place = Place::of(p, item, h, packed + lane / 8);  // where modify_rows has it
        modify_rows<kHeadDim, 4>(
            shared, kTiles.prefill_rows, row, [&](int r) { return packed + r < item.num_rows; },
            [&](const auto& vector, int, int i) { return place.query(p, vector, i); });
      }
      __syncwarp();
    }
    float o[kHeadDimV / 8][4], m[2] = {-infinity(), -infinity()}, l[2] = {0.0f, 0.0f};
#pragma unroll
    for (int v = 0; v < kHeadDimV / 8; ++v) o[v][0] = o[v][1] = o[v][2] = o[v][3] = 0.0f;

    for (int turn = 0; step.number < num_steps; ++turn) {
      load(turn + 1, next);
      const Step after = find_step(next.number + 1);
      look_up(turn + 2, after);
      wait_copies<1>();
      bool absent = false;
      if (tid < kPrefillKeys) absent = s.kv_rows[(turn & 3) * kPrefillKeys + tid] < 0;
      const bool some_absent = __syncthreads_or(absent);
      const int begin = item.lo + step.number * kPrefillKeys, end = begin + kPrefillKeys;
      if constexpr (kHasVectorHook) {
        uint8_t* keys = shared + (s.k(turn) - s.q);
        const int* rows = s.kv_rows + (turn & 3) * kPrefillKeys;
#pragma unroll 1
        for (int row = warp * 4; row < kPrefillKeys; row += kTiles.warps * 4) {
          modify_keys<4>(p, item, h, keys, keys + kPrefillKeys * kRowBytes, kPrefillKeys, row,
                         begin + row + item.key_base, [&](int r) { return rows[row + r] >= 0; });
        }
        __syncthreads();
      }
      if (begin < warp_hi && end > warp_lo) {
        // S = Q K^T
        float x[kKeyBlocks][4];
#pragma unroll
        for (int n = 0; n < kKeyBlocks; ++n) x[n][0] = x[n][1] = x[n][2] = x[n][3] = 0.0f;
#pragma unroll
        for (int k = 0; k < kHeadDim / 16; ++k) {
          uint32_t a[4];
          load_matrices(
              a, s.q + swizzled(kTiles.prefill_rows, warp * 16 + (lane & 15), 2 * k + (lane >> 4)));
#pragma unroll
          for (int n = 0; n < kKeyBlocks; n += 2) {
            uint32_t b[4];
            const int row = n * 8 + (lane & 7) + ((lane >> 4) << 3);
            load_matrices(b, s.k(turn) + swizzled(kPrefillKeys, row, 2 * k + ((lane >> 3) & 1)));
            Type::mma(x[n], a, b[0], b[1]);
            Type::mma(x[n + 1], a, b[2], b[3]);
          }
        }
        // mask
        const bool some_hidden = some_absent || begin < full_lo || end > full_hi ||
                                 (Variant::kHasMaskMod && step.state != kBlockShown);
#pragma unroll
        for (int n = 0; n < kKeyBlocks; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int column = n * 8 + 2 * (lane & 3) + (e & 1);
            x[n][e] = scores(x[n][e]);
            if (kDense) x[n][e] = dense[e >> 1](p, begin + column, x[n][e]);
            if (kHasScoreHook)
              x[n][e] = places[e >> 1].score(p, begin + column + item.key_base, x[n][e]);
            if (some_hidden) {
              const int key = begin + column;
              const bool visible = key >= lo[e >> 1] && key < hi[e >> 1] &&
                                   s.kv_rows[(turn & 3) * kPrefillKeys + column] >= 0 &&
                                   places[e >> 1].sees(p, key + item.key_base);
              if (!visible) x[n][e] = Spec::kUseSoftmax ? -infinity() : 0.0f;
            }
          }
        }
        // P = exp(S - m)
        if constexpr (Spec::kUseSoftmax) {
          const float c = scores.log2_scale;
          float m_new[2] = {-infinity(), -infinity()};
#pragma unroll
          for (int n = 0; n < kKeyBlocks; ++n) {
            m_new[0] = fmaxf(m_new[0], fmaxf(x[n][0], x[n][1]));
            m_new[1] = fmaxf(m_new[1], fmaxf(x[n][2], x[n][3]));
          }
          m_new[0] = max_over_lanes<1, 4>(m_new[0]), m_new[1] = max_over_lanes<1, 4>(m_new[1]);
          if (__any_sync(kWholeWarp, (m_new[0] - m[0]) * c > kRescaleAbove ||
                                         (m_new[1] - m[1]) * c > kRescaleAbove)) {
            float f[2];
#pragma unroll
            for (int r = 0; r < 2; ++r) {
              m_new[r] = fmaxf(m_new[r], m[r]);
              f[r] = m_new[r] == -infinity() ? 0.0f : exp2_approx((m[r] - m_new[r]) * c);
              m[r] = m_new[r], l[r] *= f[r];
            }
#pragma unroll
            for (int v = 0; v < kHeadDimV / 8; ++v)
              o[v][0] *= f[0], o[v][1] *= f[0], o[v][2] *= f[1], o[v][3] *= f[1];
          }
          const float bias[2] = {m[0] == -infinity() ? 0.0f : m[0] * c,
                                 m[1] == -infinity() ? 0.0f : m[1] * c};
#pragma unroll
          for (int n = 0; n < kKeyBlocks; ++n) {
#pragma unroll
            for (int e = 0; e < 4; ++e) x[n][e] = exp2_approx(fmaf(x[n][e], c, -bias[e >> 1]));
            l[0] += x[n][0] + x[n][1], l[1] += x[n][2] + x[n][3];
          }
        }
        // O += P V
#pragma unroll
        for (int n = 0; n < kKeyBlocks; n += 2) {
          const uint32_t a[4] = {Type::pack(x[n][0], x[n][1]), Type::pack(x[n][2], x[n][3]),
                                 Type::pack(x[n + 1][0], x[n + 1][1]),
                                 Type::pack(x[n + 1][2], x[n + 1][3])};
#pragma unroll
          for (int v = 0; v < kHeadDimV / 8; v += 2) {
            uint32_t b[4];
            const int row = n * 8 + (lane & 7) + (((lane >> 3) & 1) << 3);
            load_matrices_transposed(b, s.v(turn) + swizzled(kPrefillKeys, row, v + (lane >> 4)));
            Type::mma(o[v], a, b[0], b[1]);
            Type::mma(o[v + 1], a, b[2], b[3]);
          }
        }
      }
      step = next, next = after;
      __syncthreads();  // before the next load overwrites this stage
    }
    wait_copies<0>();

    // O / l
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = first + first_row + r * 8;
      const float sum = sum_over_lanes<1, 4>(l[r]);
      if (row >= item.num_rows) continue;
      const float lse2 = log2_sum(m[r] == -infinity() ? 0.0f : m[r] * scores.log2_scale, sum);
      const OutRow out = OutRow::make(p, item, h, row, normalizer(sum), lse2);
      if (has_output_hook(item)) {
        write_modified(p, item, h, row, out, s, o, r, shared);
      } else {
#pragma unroll
        for (int v = 0; v < kHeadDimV / 8; ++v)
          out.write2(v * 8 + 2 * (lane & 3), o[v][2 * r], o[v][2 * r + 1]);
      }
      if ((lane & 3) == 0) out.write_lse(lse2);
    }
  }
}

// Plans for sm_90a have tiles of 128 rows for all head dims, whatever kernel computes them.
JAXINFER_DEVICE void run_prefill(const AttentionParams& p, const Layer& layer, const Item& item,
                                 uint8_t* shared) {
  if constexpr (Spec::kTileRows <= kTiles.prefill_rows) {
    run_rows(p, layer, item, 0, shared);
  } else {
#pragma unroll 1
    for (int first = 0; first < item.num_rows; first += kTiles.prefill_rows)
      run_rows(p, layer, item, first, shared);
  }
}

}  // namespace jaxinfer
