// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// The launch of the prefill kernel for sm_90a.
#pragma once

#include "csrc/attention.h"
#include "csrc/hopper_tiles.h"
#include "csrc/plan.h"
#include "xla_ffi/kernel.h"

namespace jaxinfer {

// Whether plans may be of whole tiles, which CTAs take as they become free.
inline bool draws_tickets(const PlanFacts& facts) {
  return facts.whole_tiles_from > 0 && !facts.batch_invariant;
}
// The tickets of calls with this workspace are kept apart from the counters of their merges, which
// other programs may have left anywhere.
inline const void* tickets_key(const AttentionParams& params) {
  return reinterpret_cast<const char*>(params.partial_lse) + 1;
}

// For the band of long tiles. That of short ones, if there is one, was launched last: this one
// takes the SMs that it has left.
ffi::Error launch_hopper(CUstream stream, ffi::Dictionary attributes, const AttentionParams& params,
                         const PlanFacts& facts, HopperTiles tiles);

}  // namespace jaxinfer
