// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// The results of a work item, as the consumers write them: partial ones of a split tile, rows that
// a hook changes, or rows as they are. Little code: it runs once an item, so it has to be fetched
// each time.
#pragma once

#include "csrc/hopper_shared.cuh"

namespace jaxinfer {

// Where packed rows of a work item go, for one KV head.
struct ResultRows {
  int num_rows, kv_head;
  bool is_partial;
  int heads;      // of a token: of all, or of the slot
  int64_t first;  // row, counted in heads of tokens

  JAXINFER_DEVICE ResultRows make(const AttentionParams& p, const HopperItem& from) {
    ResultRows rows;
    rows.num_rows = uniform(from.item.num_rows);
    const int partial = uniform(from.item.partial);
    rows.kv_head = uniform(from.kv_head);
    rows.is_partial = partial != kWriteThrough;
    rows.heads = static_cast<int>(rows.is_partial ? p.slot_heads : p.num_q_heads);
    const int64_t token = rows.is_partial ? partial * p.slot_tokens + uniform(from.item.partial_row)
                                          : uniform(from.item.row_begin);
    const int head = rows.kv_head - (rows.is_partial ? uniform(from.item.kv_head_begin) : 0);
    rows.first = token * rows.heads + head * kGroup;
    return rows;
  }
  __device__ __forceinline__ int of(int packed) const {
    return packed / kGroup * heads + packed % kGroup;
  }
};

using Sums =
    float[kHeadDimV / 2];  // of a thread: those of rows lane / 4, and of 8 further, in turns

JAXINFER_DEVICE void write_partial(const AttentionParams& p, const ResultRows& rows, int own_row,
                                   uint32_t own, const float (&factor)[2], const Sums& o) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int packed = own_row + 8 * r;
    if (packed >= rows.num_rows) continue;
    float* to = p.partial_out + (rows.first + rows.of(packed)) * kHeadDimV + 2 * (own & 3);
#pragma unroll
    for (int n = 2 * r; n < kHeadDimV / 2; n += 4)
      *reinterpret_cast<float2*>(to + n / 4 * 8) =
          make_float2(o[n] * factor[r], o[n + 1] * factor[r]);
  }
}

// Through the hook, which may ask for any element of a row: some whole rows at a time.
JAXINFER_DEVICE void write_through_hook(const AttentionParams& p, HopperShared& s, int slot,
                                        const ResultRows& rows, int warp_row, uint32_t own,
                                        const float (&factor)[2], const Sums& o) {
  constexpr int kAtOnce = 16 / (2 * kPanelsV);
  uint16_t* out = static_cast<uint16_t*>(p.out) + rows.first * kHeadDimV;
  float* staged = reinterpret_cast<float*>(s.out + warp_row * kHopper.out_panels * 128);
#pragma unroll 1
  for (int begin = 0; begin < 16; begin += kAtOnce) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int at = static_cast<int>(own >> 2) + 8 * r - begin;
      if (at < 0 || at >= kAtOnce) continue;
#pragma unroll
      for (int n = 2 * r; n < kHeadDimV / 2; n += 4)
        *reinterpret_cast<float2*>(staged + at * kHeadDimV + n / 4 * 8 + 2 * (own & 3)) =
            make_float2(o[n] * factor[r], o[n + 1] * factor[r]);
    }
    __syncwarp();
#pragma unroll 1
    for (int i = own * 4; i < kAtOnce * kHeadDimV; i += 128) {
      const int packed = warp_row + begin + i / kHeadDimV, column = i % kHeadDimV;
      if (packed >= rows.num_rows) continue;
      const float* row = staged + i / kHeadDimV * kHeadDimV;
      const float4 made =
          place_of(s, slot, rows.kv_head, packed).output4(p, [&](int j) { return row[j]; }, column);
      *reinterpret_cast<uint2*>(out + rows.of(packed) * kHeadDimV + column) =
          make_uint2(Type::pack(made.x, made.y), Type::pack(made.z, made.w));
    }
    __syncwarp();
  }
}

// Accumulators of panel `panel`, as 16 swizzled rows of 128 bytes.
JAXINFER_DEVICE void stage_panel(uint32_t staged, int panel, uint32_t own, const float (&factor)[2],
                                 const Sums& o) {
#pragma unroll
  for (int i = 0; i < min(kHeadDimV - panel * kPanel, kPanel) / 16; ++i) {
    const float* of = o + panel * 32 + i * 8;
    const uint32_t quarters[4] = {Type::pack(of[0] * factor[0], of[1] * factor[0]),
                                  Type::pack(of[2] * factor[1], of[3] * factor[1]),
                                  Type::pack(of[4] * factor[0], of[5] * factor[0]),
                                  Type::pack(of[6] * factor[1], of[7] * factor[1])};
    store_matrices(staged + swizzled(16, own & 15, i * 2 + (own >> 4)), quarters);
  }
}

// All rows of the warp, by copies that go on meanwhile.
JAXINFER_DEVICE void write_boxes(const HopperParams& params, HopperShared& s, int slot,
                                 const ResultRows& rows, int warp_row, uint32_t own,
                                 const float (&factor)[2], const Sums& o) {
  const uint32_t staged = shared_address(s.out) + warp_row * kHopper.out_panels * 128;
  const int head = rows.kv_head * kGroup + warp_row % kGroup;
  const int token = uniform(s.items[slot].item.row_begin) + warp_row / kGroup;
#pragma unroll
  for (int begin = 0; begin < kPanelsV; begin += kHopper.out_panels) {
    if (begin > 0) {
      wait_stores_read();
      __syncwarp();
    }
#pragma unroll
    for (int i = 0; i < kHopper.out_panels; ++i)
      stage_panel(staged + i * 16 * 128, begin + i, own, factor, o);
    publish_shared();
    __syncwarp();
    if (own != 0) continue;
#pragma unroll
    for (int i = 0; i < kHopper.out_panels; ++i)
      store_box(params.out, staged + i * 16 * 128, (begin + i) * kPanel, head, token);
  }
}

// A panel at a time, through shared memory: whole rows of memory.
JAXINFER_DEVICE void write_whole(const AttentionParams& p, HopperShared& s, const ResultRows& rows,
                                 int warp_row, uint32_t own, const float (&factor)[2],
                                 const Sums& o) {
  const uint32_t staged = shared_address(s.out) + warp_row * kHopper.out_panels * 128;
  uint16_t* out = static_cast<uint16_t*>(p.out) + rows.first * kHeadDimV + (own & 7) * 8;
  const int out_row = warp_row + (own >> 3);  // and 4, 8, 12 further
#pragma unroll
  for (int panel = 0; panel < kPanelsV; ++panel) {
    stage_panel(staged, panel, own, factor, o);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int4 chunk = load_stored(staged + swizzled(16, i * 4 + (own >> 3), own & 7));
      const int packed = out_row + i * 4;
      const bool is_beyond = static_cast<int>(own & 7) * 8 >= kHeadDimV - panel * kPanel;
      if (packed >= rows.num_rows || is_beyond) continue;
      *reinterpret_cast<int4*>(out + rows.of(packed) * kHeadDimV + panel * kPanel) = chunk;
    }
    __syncwarp();
  }
}

// Of the item in slot `slot`, by a warp with 16 of its rows.
JAXINFER_DEVICE void write_results(const HopperParams& params, HopperShared& s, int slot,
                                   int warp_row, int lane, const Scores& scores,
                                   const float (&m)[2], const float (&l)[2], const Sums& o) {
  const AttentionParams& p = params.p;
  const HopperItem& from = s.items[slot];
  const ResultRows rows = ResultRows::make(p, from);
  uint32_t own = lane;  // what follows from it is not worth a register all the while
  settle(own);
  const int own_row = warp_row + (own >> 2);
  float factor[2], lse2[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int packed = own_row + 8 * r;
    const float sum = Spec::kUseSoftmax ? sum_over_lanes<1, 4>(l[r]) : 0.0f;
    lse2[r] = log2_sum(m[r] == -infinity() ? 0.0f : m[r] * scores.log2_scale, sum);
    factor[r] = normalizer(sum);
    if (Spec::kHasVScale) factor[r] *= p.v_scale[rows.kv_head];
    if (Spec::kHasSink && !rows.is_partial)
      factor[r] *= sink_share(p, rows.kv_head * kGroup + packed % kGroup, lse2[r] * kLn2);
  }
  wait_stores_read();
  __syncwarp();
  if (rows.is_partial) {
    write_partial(p, rows, own_row, own, factor, o);
  } else if (has_output_hook(from.item)) {
    write_through_hook(p, s, slot, rows, warp_row, own, factor, o);
  } else if (stores_boxes(kGroup) && warp_row + 16 <= rows.num_rows) {
    write_boxes(params, s, slot, rows, warp_row, own, factor, o);
  } else {
    write_whole(p, s, rows, warp_row, own, factor, o);
  }
  // Last, since copies out of shared memory wait for what was stored before.
  float* lse = (rows.is_partial ? p.partial_lse : p.lse) + rows.first;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int packed = own_row + 8 * r;
    if ((own & 3) == 0 && packed < rows.num_rows)
      lse[rows.of(packed)] = rows.is_partial ? lse2[r] : lse2[r] * kLn2;
  }
}

}  // namespace jaxinfer
