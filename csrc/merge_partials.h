// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// How merge_partials is spread over the threads of a GPU.
#pragma once

#include "csrc/attention.h"

namespace jaxinfer {

constexpr int kMergePartialsThreads = 128;  // of a CTA

struct MergePartialsLaunch {
  MergePartialsParams params;
  int width;         // elements of a row that a thread holds: 16 bytes, or one element
  int lanes;         // threads of a row; those left over in a CTA do nothing
  int rows_per_cta;  // a row is a token and a head
};

inline MergePartialsLaunch merge_partials_launch(const MergePartialsParams& p) {
  const int64_t size = p.type == ElementType::kFloat32 ? 4 : 2, width = 16 / size;
  const uint64_t bits = reinterpret_cast<uint64_t>(p.outs) | reinterpret_cast<uint64_t>(p.out) |
                        static_cast<uint64_t>(p.head_dim * size);
  MergePartialsLaunch launch{p, bits % 16 == 0 ? static_cast<int>(width) : 1, 0, 0};
  const int64_t lanes = p.head_dim / launch.width;
  launch.lanes = lanes < kMergePartialsThreads ? lanes : kMergePartialsThreads;
  launch.rows_per_cta = kMergePartialsThreads / launch.lanes;
  return launch;
}

}  // namespace jaxinfer
