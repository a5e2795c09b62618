// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// Which keys of a tile the rows of a lane see: a bit a score, for one instruction makes predicates
// of several, where two comparisons would each make one.
#pragma once

#include "csrc/hopper_shared.cuh"

namespace jaxinfer {

// Columns of a lane in a row of scores, a bit each: 0, 1, 8, 9, 16, 17 ... from its first one on.
constexpr int kColumns = kHopperKeys / 4;
struct Columns {
  uint32_t words[(kColumns + 31) / 32];

  // Those from `lo` to `hi`.
  JAXINFER_DEVICE Columns between(int lo, int hi) {
    const int begin = count_below(lo), end = count_below(hi);
    Columns columns;
#pragma unroll
    for (int i = 0; i < (kColumns + 31) / 32; ++i)
      columns.words[i] = ones_from(begin - 32 * i) & ~ones_from(end - 32 * i);
    return columns;
  }
  __device__ __forceinline__ bool has(int at) const { return (words[at / 32] >> at % 32 & 1) != 0; }
  __device__ __forceinline__ void drop(int at) { words[at / 32] &= ~(1u << at % 32); }

 private:
  JAXINFER_DEVICE int count_below(int column) {
    const int bounded = max(min(column, 8 * kColumns), 0);
    return 2 * (bounded >> 3) + min(bounded & 7, 2);
  }
  // The bits from `begin` on, of 32.
  JAXINFER_DEVICE uint32_t ones_from(int begin) {
    return __funnelshift_lc(0, ~0u, static_cast<unsigned>(max(begin, 0)));
  }
};

// Which keys of a tile do not exist, for the columns of a lane.
struct AbsentKeys {
  uint32_t words[kBoxesOfLane];  // a bit a box

  JAXINFER_DEVICE AbsentKeys load(const uint32_t (&from)[kBoxesOfLane], int lane) {
    AbsentKeys absent;
#pragma unroll
    for (int i = 0; i < kBoxesOfLane; ++i)
      absent.words[i] = from[i] >> (kCopiesRows ? 2 * (lane & 3) : 0);
    return absent;
  }
  __device__ __forceinline__ bool some() const {
    uint32_t all = 0;
#pragma unroll
    for (uint32_t word : words) all |= word;
    return all != 0;
  }
  // `column`: from the lane's first one on.
  __device__ __forceinline__ bool has(int column) const {
    const int box = column / kHopper.box;
    return (words[box / 32] >> box % 32 & 1) != 0;
  }
};

}  // namespace jaxinfer
