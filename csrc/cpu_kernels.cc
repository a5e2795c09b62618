// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// Which of the compiled instruction sets this processor runs. JAXINFER_CPU_ISA
// (base, v3, v4) asks for a lower one, for tests.
#include <cstdlib>
#include <cstring>

#include "csrc/attention.h"

namespace jaxinfer {

extern const CpuKernels cpu_kernels_base;
#if defined(__x86_64__)
extern const CpuKernels cpu_kernels_v3;
extern const CpuKernels cpu_kernels_v4;
#endif

namespace {

const CpuKernels& choose() {
  const char* asked = std::getenv("JAXINFER_CPU_ISA");
  [[maybe_unused]] auto allowed = [&](const CpuKernels& kernels) {
    return asked == nullptr || std::strcmp(asked, kernels.name) >= 0;  // base < v3 < v4
  };
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                  __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("f16c");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                  __builtin_cpu_supports("avx512cd");
  if (v4 && allowed(cpu_kernels_v4)) return cpu_kernels_v4;
  if (v3 && allowed(cpu_kernels_v3)) return cpu_kernels_v3;
#endif
  return cpu_kernels_base;
}

}  // namespace

const CpuKernels& best_cpu_kernels() {
  static const CpuKernels& kernels = choose();
  return kernels;
}

}  // namespace jaxinfer
