// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// merge_partials on CUDA: a few threads a row, each with 16 bytes of it, which merge the parts
// in their order: merge_row() of csrc/attention_cpu.cc. Any head_dim, f32, f16 and bf16.
//
//   m = max lse_i,  l = sum e^(lse_i - m),  out = sum e^(lse_i - m) out_i / l,  lse = m + log l
#pragma once

#include "csrc/merge_partials.h"
#include "csrc/vectors.cuh"

namespace jaxinfer {

JAXINFER_INLINE float no_keys() { return -__int_as_float(0x7f800000); }

template <ElementType kType, int kWidth>
JAXINFER_INLINE void merge_columns(const MergePartialsParams& p, int row, int column) {
  using Type = Float<kType>;
  using Elements = Vector<typename Type::Storage, kWidth>;
  constexpr int kAtOnce = 4;  // parts on the way
  const int64_t num_rows = p.num_rows * p.num_heads;
  const int num_splits = static_cast<int>(p.num_splits);
  const int64_t first = row * p.head_dim + column, stride = num_rows * p.head_dim;
  const auto* outs = static_cast<const typename Type::Storage*>(p.outs) + first;
  const float* lses = p.lses + row;
  Elements parts[kAtOnce];
  float part_lses[kAtOnce];
  const auto load_parts = [&](int begin) {
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (begin + i >= num_splits) break;
      parts[i] = load_vector<Elements>(outs + (begin + i) * stride);
      part_lses[i] = lses[(begin + i) * num_rows];
    }
  };
  load_parts(0);
  float m = no_keys(), l = 0.0f;
#pragma unroll 4
  for (int i = 0; i < num_splits; ++i) m = fmaxf(m, lses[i * num_rows]);
  float acc[kWidth] = {};
  for (int begin = 0; begin < num_splits; begin += kAtOnce) {
    if (begin > 0) load_parts(begin);
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (begin + i >= num_splits) break;
      float weight = 1.0f;
      if (p.use_softmax) {
        if (part_lses[i] == no_keys()) continue;  // what it holds never matters
        weight = expf(part_lses[i] - m);
      }
      l += weight;
#pragma unroll
      for (int c = 0; c < kWidth; ++c) acc[c] += weight * Type::widen(parts[i].at[c]);
    }
  }
  float lse = 0.0f, factor = 1.0f;
  if (p.use_softmax) {
    lse = m;
    if (m != no_keys()) {
      lse = m + logf(l);
      factor = 1.0f / l;
      if (p.sink != nullptr && lse != no_keys()) {
        factor = 1.0f / (1.0f + expf(p.sink[row % static_cast<int>(p.num_heads)] - lse)) / l;
      }
    }
  }
  Elements out;
#pragma unroll
  for (int c = 0; c < kWidth; ++c) out.at[c] = Type::narrow(acc[c] * factor);
  store_vector(static_cast<typename Type::Storage*>(p.out) + first, out);
  if (column == 0) p.lse[row] = lse;
}

template <ElementType kType, int kWidth>
JAXINFER_INLINE void merge_rows(const MergePartialsLaunch& launch) {
  const MergePartialsParams& p = launch.params;
  const int local = threadIdx.x / launch.lanes, lane = threadIdx.x - local * launch.lanes;
  const int64_t row = int64_t{blockIdx.x} * launch.rows_per_cta + local;  // below 2^31
  if (local >= launch.rows_per_cta || row >= p.num_rows * p.num_heads) return;
#pragma unroll 1
  for (int column = lane * kWidth; column < p.head_dim; column += launch.lanes * kWidth) {
    merge_columns<kType, kWidth>(p, static_cast<int>(row), column);
  }
}

template <ElementType kType>
JAXINFER_INLINE void merge_rows(const MergePartialsLaunch& launch) {
  if (launch.width > 1) {
    merge_rows<kType, 16 / sizeof(typename Float<kType>::Storage)>(launch);
  } else {
    merge_rows<kType, 1>(launch);
  }
}

}  // namespace jaxinfer

extern "C" __global__ void __launch_bounds__(jaxinfer::kMergePartialsThreads)
    merge_partials(const __grid_constant__ jaxinfer::MergePartialsLaunch launch) {
  using namespace jaxinfer;
  switch (launch.params.type) {
    case ElementType::kFloat32:
      return merge_rows<ElementType::kFloat32>(launch);
    case ElementType::kFloat16:
      return merge_rows<ElementType::kFloat16>(launch);
    case ElementType::kBFloat16:
      return merge_rows<ElementType::kBFloat16>(launch);
  }
}
