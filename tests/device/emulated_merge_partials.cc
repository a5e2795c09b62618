// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
// clang-format off: what is emulated comes first
#include "emulated_launch.h"
#include "csrc/merge_partials.cuh"
#include "xla_ffi/merge_partials.cc"
// clang-format on

// The CPU's handler is not called here.
const jaxinfer::CpuKernels& jaxinfer::best_cpu_kernels() { abort(); }

void jaxinfer::run_entry(const std::string&, const void* params) {
  ::merge_partials(*static_cast<const MergePartialsLaunch*>(params));
}

JAXINFER_EMULATED(EmulatedMergePartials, merge_on_cuda);
