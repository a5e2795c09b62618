// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// Kernels that were compiled at lowering: from the digest in the program to a launch.
#pragma once

#include <functional>
#include <initializer_list>
#include <string>
#include <string_view>

#include "csrc/cuda_driver.h"
#include "xla/ffi/api/ffi.h"

namespace jaxinfer {

namespace ffi = xla::ffi;

// Keeps a cubin under its digest. Called while a program is lowered.
void register_kernel(std::string digest, std::string cubin);

// Asked for the cubin of a digest that nothing was registered under: the program was
// exported, or came from a compilation cache. Returns the cubin or, with `ok` false, a
// text that says what to do.
struct ResolvedKernel {
  bool ok;
  std::string cubin_or_error;
};
using KernelResolver = std::function<ResolvedKernel(const std::string& digest)>;
void set_kernel_resolver(KernelResolver resolver);

// The attributes that name a kernel: its digest, and the cubin ([0], or the number of bytes and the
// bytes themselves).
struct KernelAttributes {
  const char* digest;
  const char* cubin;
};
constexpr KernelAttributes kOwnKernel{"kernel", "cubin"};
constexpr KernelAttributes kHopperKernel{"hopper_kernel", "hopper_cubin"};

// Stage "initialize" of every CUDA target: loads entry points of a kernel on the current device.
// Execute may run during capture, when nothing can be loaded.
ffi::Error load_kernel(ffi::Dictionary attributes, std::initializer_list<const char*> entries,
                       KernelAttributes named = kOwnKernel);

struct Launch {
  unsigned grid_x = 1, grid_y = 1, grid_z = 1;
  unsigned threads = 1;
  unsigned shared_bytes = 0;
  bool overlaps_previous = false;  // starts while the kernel before it still runs (PDL)
};

// Launches entry point `entry` of the loaded kernel; its only parameter is a struct.
ffi::Error launch(CUstream stream, ffi::Dictionary attributes, const char* entry,
                  const Launch& launch, const void* params, KernelAttributes named = kOwnKernel);

// That stage for an op that needs nothing but one entry point.
template <const auto& kEntry>
ffi::Error load_entry(ffi::RemainingArgs, ffi::RemainingRets, ffi::Dictionary attributes) {
  return load_kernel(attributes, {kEntry});
}

// How many times the host has called any CUDA handler, by stage. XLA initializes before every
// execution of a program, and executes only while it captures: not on graph replay.
struct HandlerCalls {
  long initialize, execute;
};
HandlerCalls handler_calls();

}  // namespace jaxinfer

// Stage "initialize" of op `Name`, whose kernel is `entry`.
#define JAXINFER_CUDA_INITIALIZE(Name, entry)           \
  static constexpr char k##Name##Entry[] = entry;       \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(                        \
      Name##CudaInitialize, load_entry<k##Name##Entry>, \
      ffi::Ffi::BindInitialize().RemainingArgs().RemainingRets().Attrs())
