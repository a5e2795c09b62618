// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// csrc/hopper.cuh with others in the place of its instructions.
#pragma once

#define Barrier PtxBarrier
#define copy_box ptx_copy_box
#define copy_async ptx_copy_async
#define multiply_wide ptx_multiply_wide
#include "csrc/hopper.cuh"
#undef Barrier
#undef copy_box
#undef copy_async
#undef multiply_wide

namespace jaxinfer {

struct Barrier {
  uint32_t address;

  void init(int arrivals) const {
    const auto count = static_cast<uint16_t>(arrivals);
    const emulated::Phase phase{count, count, 0};
    memcpy(emulated::shared_bytes + address, &phase, 8);
  }
  void arrive() const { emulated::arrive(address); }
  // Tensor copies come at once here.
  void arrive_expecting(int) const { emulated::arrive(address); }
  void arrive_behind_copies() const { emulated::start({address, nullptr, true}); }
  void wait(int parity) const { emulated::wait(address, parity); }
};
inline void copy_box(uint32_t, const TensorMap&, Barrier, int, int, int) {}
inline uint64_t multiply_wide(uint32_t a, uint32_t b) { return uint64_t{a} * b; }

}  // namespace jaxinfer
