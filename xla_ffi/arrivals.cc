// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
#include "xla_ffi/arrivals.h"

#include <map>
#include <mutex>
#include <utility>

#include "csrc/cuda_driver.h"

namespace jaxinfer {
namespace {

constexpr size_t kChunkBytes = 1 << 20;
constexpr int kMostChunks = 16;  // of a device: about 8,000 addresses

struct Counters {
  uint64_t* first;
  size_t count;
};

// Counters are never moved or freed: graphs that were captured refer to them.
struct Device {
  std::map<const void*, Counters> by_workspace;
  unsigned long long chunk = 0;
  size_t used = kChunkBytes;
  int num_chunks = 0;
};

std::mutex mutex;
std::map<CUdevice, Device>& devices() {
  static auto& instance = *new std::map<CUdevice, Device>;  // outlives the threads of XLA
  return instance;
}

// The current device, or -1.
CUdevice current_device() {
  CUdevice device;
  const CudaDriver* driver = cuda_driver();
  return driver != nullptr && driver->cuCtxGetDevice(&device) == 0 ? device : -1;
}

}  // namespace

void reserve_arrivals(const void* workspace, size_t count) {
  const CUdevice ordinal = current_device();
  const size_t bytes = (count * sizeof(uint64_t) + 127) / 128 * 128;
  if (ordinal < 0 || bytes > kChunkBytes) return;
  std::lock_guard lock(mutex);
  Device& device = devices()[ordinal];
  const auto found = device.by_workspace.find(workspace);
  if (found != device.by_workspace.end() && found->second.count >= count) return;
  if (device.used + bytes > kChunkBytes) {
    const CudaDriver& driver = *cuda_driver();
    unsigned long long chunk;
    if (device.num_chunks == kMostChunks || driver.cuMemAlloc_v2(&chunk, kChunkBytes) != 0) return;
    // Of the default stream, which others do not wait for.
    if (driver.cuMemsetD8_v2(chunk, 0, kChunkBytes) != 0) return;
    if (driver.cuStreamSynchronize(nullptr) != 0) return;
    device.chunk = chunk, device.used = 0, ++device.num_chunks;
  }
  auto* first = reinterpret_cast<uint64_t*>(device.chunk + device.used);
  device.used += bytes;
  device.by_workspace[workspace] = {first, count};
}

uint64_t* find_arrivals(const void* workspace, size_t count) {
  const CUdevice ordinal = current_device();
  std::lock_guard lock(mutex);
  const auto device = devices().find(ordinal);
  if (device == devices().end()) return nullptr;
  const auto found = device->second.by_workspace.find(workspace);
  if (found == device->second.by_workspace.end() || found->second.count < count) return nullptr;
  return found->second.first;
}

}  // namespace jaxinfer
