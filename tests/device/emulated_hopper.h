// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// What the warps of the kernel for sm_90a need of CUDA on the host: types and intrinsics of the
// attention kernels, barriers in shared memory, and asynchronous copies, which come late. A test
// defines struct Spec behind this, and includes emulated_hopper_ptx.h.
#pragma once

#include <algorithm>
#include <deque>
#include <map>

#include "cuda_emulation.h"

#define __noinline__
#define __builtin_assume(x) (void)(x)
using std::max, std::min;
struct uint2 {
  unsigned x, y;
};
struct int4 {
  int x, y, z, w;
};
struct uint4 {
  unsigned x, y, z, w;
};
struct float2 {
  float x, y;
};
struct float4 {
  float x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
template <typename T>
T __ldg(const T* from) {
  return *from;
}
template <typename T>
T __shfl_xor_sync(unsigned, T value, int by) {
  return emulated::exchange(value, [&](auto of) { return of(emulated::own_lane() ^ by); });
}
inline int __any_sync(unsigned mask, int x) { return __ballot_sync(mask, x) != 0; }
inline int __all_sync(unsigned mask, int x) { return __ballot_sync(mask, x) == ~0u; }
inline float __uint_as_float(unsigned bits) { return emulated::from_bits(bits); }

namespace emulated {

// Addresses of shared memory count from here. Set by the test, and so is how many warps wait at a
// barrier as one, for one instruction asks for all lanes; others have threads on their own.
inline uint8_t* shared_bytes;
inline int warps_as_one;

// ---- barriers in shared memory -----------------------------------------------------------------

struct Phase {
  uint16_t expected, pending;
  uint32_t number;
};
inline std::map<uint32_t, std::vector<int>> waiting;  // threads, by barrier

inline void wake(std::vector<int>& threads) {
  for (int thread : threads) cta.ready.push_back(thread);
  threads.clear();
}

inline void arrive(uint32_t address) {
  Phase phase;
  memcpy(&phase, shared_bytes + address, 8);
  if (--phase.pending == 0) {
    phase.pending = phase.expected, ++phase.number;
    wake(waiting[address]);
  }
  memcpy(shared_bytes + address, &phase, 8);
}

inline void wait(uint32_t address, int parity) {
  for (;;) {
    Phase phase;
    memcpy(&phase, shared_bytes + address, 8);
    if (static_cast<int>(phase.number & 1) != parity) break;
    waiting[address].push_back(cta.current);
    sleep();
  }
  if (cta.current / 32 < warps_as_one) __syncwarp();
}

// ---- asynchronous copies -----------------------------------------------------------------------

struct Copy {
  uint32_t to;
  const uint8_t* from;  // 16 bytes; nullptr: zeros
  bool arrives;         // at barrier `to`, in place of a copy
};
inline std::vector<std::deque<Copy>> copies;  // of each thread
inline std::vector<int> idle_movers;
inline bool copies_end;

inline void start(Copy copy) {
  copies[cta.current].push_back(copy);
  wake(idle_movers);
}
inline void end_copies() {
  copies_end = true;
  wake(idle_movers);
}

// What one thread of the CTA does for the others: some copies of some thread at a time, those of a
// thread in their order.
inline void move_copies() {
  for (;;) {
    std::vector<int> busy;
    for (size_t thread = 0; thread < copies.size(); ++thread)
      if (!copies[thread].empty()) busy.push_back(thread);
    if (busy.empty()) {
      if (copies_end) return;
      idle_movers.push_back(cta.current);
      sleep();
      continue;
    }
    auto& queue = copies[busy[(cta.random >> 40) % busy.size()]];
    for (uint64_t i = 0; i <= (cta.random >> 50) % 32 && !queue.empty(); ++i) {
      const Copy copy = queue.front();
      queue.pop_front();
      if (copy.arrives) {
        arrive(copy.to);
      } else if (copy.from == nullptr) {
        memset(shared_bytes + copy.to, 0, 16);
      } else {
        memcpy(shared_bytes + copy.to, copy.from, 16);
      }
    }
    cta.ready.push_back(cta.current);
    sleep();
  }
}

inline void begin(void* shared, int threads, int as_one) {
  shared_bytes = static_cast<uint8_t*>(shared);
  warps_as_one = as_one;
  copies.assign(threads, {});
  waiting.clear(), idle_movers.clear();
  copies_end = false;
}

}  // namespace emulated

inline size_t __cvta_generic_to_shared(const void* p) {
  return static_cast<const uint8_t*>(p) - emulated::shared_bytes;
}
