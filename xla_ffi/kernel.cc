// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
#include "xla_ffi/kernel.h"

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <shared_mutex>
#include <utility>

namespace jaxinfer {
namespace {

struct Kernel {
  std::string cubin;
  std::mutex loading;
  CUlibrary library = nullptr;  // of all devices
  std::map<std::string, CUkernel, std::less<>> entries;
  std::set<std::pair<int, std::string>> ready;  // devices and entries
};

// Grows only. Kernels are never unloaded: graphs that were captured refer to them.
struct Registry {
  std::shared_mutex mutex;
  std::map<std::string, std::unique_ptr<Kernel>, std::less<>> kernels;
  KernelResolver resolver;
};

Registry& registry() {
  static Registry& instance = *new Registry;  // outlives every thread of XLA
  return instance;
}

std::atomic<long> num_initialize_calls{0}, num_execute_calls{0};

ffi::Error failure(const char* what, CUresult result) {
  const char* text = nullptr;
  cuda_driver()->cuGetErrorString(result, &text);
  return ffi::Error::Internal(std::string("jaxinfer: ") + what + ": " +
                              (text ? text : "unknown CUDA error"));
}

Kernel* find(std::string_view digest) {
  Registry& r = registry();
  std::shared_lock lock(r.mutex);
  const auto it = r.kernels.find(digest);
  return it == r.kernels.end() ? nullptr : it->second.get();
}

// The kernel of a program that was not lowered here.
ffi::ErrorOr<Kernel*> resolve(std::string_view digest, ffi::Span<const int32_t> embedded) {
  if (embedded.size() > 1 && embedded[0] > 0 &&
      embedded[0] <= static_cast<int64_t>(4 * (embedded.size() - 1))) {
    register_kernel(std::string(digest),
                    std::string(reinterpret_cast<const char*>(embedded.begin() + 1), embedded[0]));
    return find(digest);
  }
  KernelResolver resolver;
  {
    std::shared_lock lock(registry().mutex);
    resolver = registry().resolver;
  }
  ResolvedKernel found{false, "jaxinfer: kernel " + std::string(digest) + " is not loaded"};
  if (resolver) found = resolver(std::string(digest));
  if (!found.ok)
    return ffi::Unexpected(ffi::Error(ffi::ErrorCode::kNotFound, found.cubin_or_error));
  register_kernel(std::string(digest), std::move(found.cubin_or_error));
  return find(digest);
}

ffi::Error load_library(const CudaDriver& driver, Kernel& kernel) {
  if (kernel.library != nullptr) return ffi::Error::Success();
  const CUresult result = driver.cuLibraryLoadData(&kernel.library, kernel.cubin.data(), nullptr,
                                                   nullptr, 0, nullptr, nullptr, 0);
  if (result == 0) return ffi::Error::Success();
  kernel.library = nullptr;
  return failure("a kernel does not load on this device", result);
}

// Loads code into the device's context now, and allows all of its shared memory.
ffi::Error make_ready(const CudaDriver& driver, Kernel& kernel, CUdevice device,
                      const char* entry) {
  if (kernel.ready.count({device, entry}) > 0) return ffi::Error::Success();
  CUkernel found;
  CUfunction function;
  int limit = 0, used = 0;
  CUresult result = driver.cuLibraryGetKernel(&found, kernel.library, entry);
  if (result != 0) return failure(entry, result);
  result = driver.cuKernelGetFunction(&function, found);
  if (result != 0) return failure("a kernel does not load on this device", result);
  driver.cuDeviceGetAttribute(&limit, kMaxSharedMemoryPerBlockOptin, device);
  driver.cuKernelGetAttribute(&used, kSharedSizeBytes, found, device);
  result = driver.cuKernelSetAttribute(kMaxDynamicSharedSizeBytes, limit - used, found, device);
  if (result != 0) return failure("setting the shared memory of a kernel", result);
  {
    std::unique_lock lock(registry().mutex);  // a launch on another device may be looking
    kernel.entries[entry] = found;
  }
  kernel.ready.insert({device, entry});
  return ffi::Error::Success();
}

}  // namespace

void register_kernel(std::string digest, std::string cubin) {
  auto kernel = std::make_unique<Kernel>();
  kernel->cubin = std::move(cubin);
  Registry& r = registry();
  std::unique_lock lock(r.mutex);
  r.kernels.try_emplace(std::move(digest), std::move(kernel));
}

void set_kernel_resolver(KernelResolver resolver) {
  std::unique_lock lock(registry().mutex);
  registry().resolver = std::move(resolver);
}

ffi::Error load_kernel(ffi::Dictionary attributes, std::initializer_list<const char*> entries,
                       KernelAttributes named) {
  ++num_initialize_calls;
  const CudaDriver* driver = cuda_driver();
  if (driver == nullptr) return ffi::Error::Internal("jaxinfer: libcuda.so.1 has no CUDA >= 12.0");
  const auto digest = attributes.get<std::string_view>(named.digest);
  const auto cubin = attributes.get<ffi::Span<const int32_t>>(named.cubin);
  if (digest.has_error()) return digest.error();
  if (cubin.has_error()) return cubin.error();
  Kernel* kernel = find(*digest);
  if (kernel == nullptr) {
    const auto resolved = resolve(*digest, *cubin);
    if (resolved.has_error()) return resolved.error();
    kernel = *resolved;
  }
  std::lock_guard lock(kernel->loading);
  CUdevice device;
  const CUresult result = driver->cuCtxGetDevice(&device);
  if (result != 0) return failure("no current CUDA context", result);
  ffi::Error error = load_library(*driver, *kernel);
  for (const char* entry : entries) {
    if (error.success()) error = make_ready(*driver, *kernel, device, entry);
  }
  return error;
}

ffi::Error launch(CUstream stream, ffi::Dictionary attributes, const char* entry,
                  const Launch& launch, const void* params, KernelAttributes named) {
  ++num_execute_calls;
  const auto digest = attributes.get<std::string_view>(named.digest);
  if (digest.has_error()) return digest.error();
  Kernel* kernel = find(*digest);
  if (kernel == nullptr) return ffi::Error::Internal("jaxinfer: kernel was not initialized");
  CUkernel function = nullptr;
  {
    std::shared_lock lock(registry().mutex);
    const auto it = kernel->entries.find(std::string_view(entry));
    if (it != kernel->entries.end()) function = it->second;
  }
  if (function == nullptr) {
    return ffi::Error::Internal(std::string("jaxinfer: not initialized: ") + entry);
  }
  CUlaunchAttribute overlap{};
  overlap.id = kProgrammaticStreamSerialization;
  overlap.value.programmatic_stream_serialization_allowed = 1;
  CUlaunchConfig config{};
  config.grid_x = launch.grid_x, config.grid_y = launch.grid_y, config.grid_z = launch.grid_z;
  config.block_x = launch.threads, config.block_y = 1, config.block_z = 1;
  config.shared_bytes = launch.shared_bytes;
  config.stream = stream;
  config.attributes = &overlap;
  config.num_attributes = launch.overlaps_previous ? 1 : 0;
  void* arguments[] = {const_cast<void*>(params)};
  const CUresult result = cuda_driver()->cuLaunchKernelEx(
      &config, reinterpret_cast<CUfunction>(function), arguments, nullptr);
  return result == 0 ? ffi::Error::Success() : failure("launching a kernel failed", result);
}

HandlerCalls handler_calls() { return {num_initialize_calls, num_execute_calls}; }

}  // namespace jaxinfer
