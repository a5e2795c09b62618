// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// Runs the CUDA handlers of one op on the host: launch() emulates the grid instead of asking
// the driver. A test source includes this, the op's handlers and its kernel.
#pragma once

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>

#include "xla/ffi/api/ffi.h"
#include "xla_ffi/check.h"
#include "xla_ffi/kernel.h"
// Behind everything of the host: it defines CUDA's keywords.
#include "cuda_emulation.h"

namespace jaxinfer {

struct Spec {};

// Calls the entry point for one thread. Defined by the test source.
void run_entry(const std::string& entry, const void* params);

constexpr size_t kSharedBytes = 99 * 1024;  // the least that any GPU since sm_80 has

}  // namespace jaxinfer

#include "csrc/vectors.cuh"

namespace jaxinfer {

Bytes16 shared_memory[kSharedBytes / sizeof(Bytes16) + 1];

inline bool emulate(const char* entry, const Launch& launch, uint64_t seed, const void* params) {
  static std::mutex running;
  std::lock_guard lock(running);
  std::memset(shared_memory, 0xa5, sizeof(shared_memory));  // dirty
  if (launch.shared_bytes > kSharedBytes || launch.threads > 1024 || launch.threads % 32 != 0 ||
      launch.threads == 0 || launch.grid_x == 0) {
    return false;
  }
  const bool ended = emulated::run_grid({launch.grid_x, launch.grid_y, launch.grid_z},
                                        launch.threads, seed, [=] { run_entry(entry, params); });
  const auto* bytes = reinterpret_cast<const unsigned char*>(shared_memory);
  for (size_t i = launch.shared_bytes; i < kSharedBytes; ++i) {
    if (bytes[i] != 0xa5) return false;  // written past what the launch asked for
  }
  return ended;
}

// There is nothing to load.
ffi::Error load_kernel(ffi::Dictionary, std::initializer_list<const char*>, KernelAttributes) {
  return ffi::Error::Success();
}

// The order of the threads is that of attribute `seed`.
ffi::Error launch(CUstream, ffi::Dictionary attributes, const char* entry, const Launch& launch,
                  const void* params, KernelAttributes) {
  const auto seed = attributes.get<int32_t>("seed");
  return emulate(entry, launch, seed.has_value() ? *seed : 0, params)
             ? ffi::Error::Success()
             : ffi::Error::Internal("the launch does not fit a GPU, or threads wait for ever");
}

}  // namespace jaxinfer

// A target on the host that calls the CUDA handler `handler`.
#define JAXINFER_EMULATED(Name, handler)                                          \
  static jaxinfer::ffi::Error call_##Name(jaxinfer::ffi::RemainingArgs args,      \
                                          jaxinfer::ffi::RemainingRets rets,      \
                                          jaxinfer::ffi::Dictionary attributes) { \
    return jaxinfer::handler(nullptr, args, rets, attributes);                    \
  }                                                                               \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(                                                  \
      Name, call_##Name, jaxinfer::ffi::Ffi::Bind().RemainingArgs().RemainingRets().Attrs())
