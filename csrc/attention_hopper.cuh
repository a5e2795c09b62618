// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// The prefill kernel for sm_90a (FlashAttention-3): one CTA per SM. In the first warpgroup a warp
// finds work items, and another one loads their queries, keys and values by tensor copies, or three
// do row by row; two more warpgroups hold 64 packed rows each:
//
//   S[64 x keys] = Q K^T    A = Q in registers, long ones in shared memory; B = K
//   O[64 x Hv] += P V       A = P, which the accumulators of S become; B = V
//
// A pair of barriers makes the two take turns, so that one multiplies, values with the weights of
// these keys and queries with the next keys, while the other one computes exponentials. Keys go
// from the last tile to the first, so that causal masks come first.
#pragma once

#include "csrc/hopper_consumer.cuh"
#include "csrc/hopper_loader.cuh"
#include "csrc/hopper_rows.cuh"
#include "csrc/hopper_scheduler.cuh"

extern "C" __global__ void __launch_bounds__(jaxinfer::kHopperThreads, 1)
    attention_hopper(const __grid_constant__ jaxinfer::HopperParams params) {
  using namespace jaxinfer;
  extern __shared__ __align__(1024) uint8_t shared[];
  HopperShared& s = *reinterpret_cast<HopperShared*>(shared);
  launch_dependents();
  if (threadIdx.x == 0) {
    prefetch(params.q);
    if (stores_boxes(kGroup)) prefetch(params.out);
    if (!kCopiesRows) prefetch(params.k), prefetch(params.v);
    init_barriers(s);
    publish_barriers();
  }
  __syncthreads();
  const int warpgroup = uniform(threadIdx.x >> 7);
  if (warpgroup == 0) {
    give_registers<40>();
    const int warp = uniform(threadIdx.x >> 5);
    if (warp < kLoaders) {
      if constexpr (kCopiesRows)
        HopperRows::make(params, s, warp).run();
      else
        HopperLoader::make(params, s).run();
    }
    if (warp == kLoaders) HopperScheduler::make(params, s).run();
    // What comes behind this kernel counts on the one before it as well.
    if (blockIdx.x == gridDim.x - 1) wait_for_previous();
  } else {
    take_registers<232>();
    run_consumer(params, s, warpgroup - 1);
  }
}
