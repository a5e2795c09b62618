// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
#include "csrc/cuda_driver.h"

#include <dlfcn.h>

#include <optional>

namespace jaxinfer {
namespace {

std::optional<CudaDriver> open_driver() {
  void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) return std::nullopt;
  CudaDriver driver;
  bool complete = true;
  auto find = [&](const char* name, auto* function) {
    *function =
        reinterpret_cast<std::remove_reference_t<decltype(*function)>>(dlsym(library, name));
    complete = complete && *function != nullptr;
  };
  find("cuGetErrorString", &driver.cuGetErrorString);
  find("cuCtxGetDevice", &driver.cuCtxGetDevice);
  find("cuDeviceGetAttribute", &driver.cuDeviceGetAttribute);
  find("cuLibraryLoadData", &driver.cuLibraryLoadData);
  find("cuLibraryGetKernel", &driver.cuLibraryGetKernel);
  find("cuKernelGetFunction", &driver.cuKernelGetFunction);
  find("cuKernelGetAttribute", &driver.cuKernelGetAttribute);
  find("cuKernelSetAttribute", &driver.cuKernelSetAttribute);
  find("cuMemAlloc_v2", &driver.cuMemAlloc_v2);
  find("cuMemsetD8_v2", &driver.cuMemsetD8_v2);
  find("cuStreamSynchronize", &driver.cuStreamSynchronize);
  find("cuTensorMapEncodeTiled", &driver.cuTensorMapEncodeTiled);
  find("cuLaunchKernelEx", &driver.cuLaunchKernelEx);
  if (!complete) return std::nullopt;
  return driver;
}

}  // namespace

const CudaDriver* cuda_driver() {
  static const std::optional<CudaDriver> driver = open_driver();
  return driver ? &*driver : nullptr;
}

}  // namespace jaxinfer
