// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// Enough of CUDA to run the small kernels of csrc on the host, for tests without a GPU. The
// threads of a CTA are fibers. A thread runs until it waits for others, and which one runs
// next is random: a barrier that is missing shows as a wrong result.
#pragma once

#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>

#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__
#define __grid_constant__
#define __launch_bounds__(...)

namespace emulated {

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
};

// Threads that wait for each other. Those that returned are not waited for.
struct Barrier {
  int members = 0;
  std::vector<int> waiting;
};

struct Fiber {
  ucontext_t context;
  jmp_buf resume;
  std::unique_ptr<char[]> stack;
  bool started = false;
  uint64_t given = 0;  // to the other lanes, or to the CTA
};

struct Cta {
  std::vector<Fiber> fibers;
  std::vector<int> ready;
  Barrier all;
  std::vector<Barrier> warps;
  std::function<void()> body;
  jmp_buf scheduler;
  int current = 0;
  uint64_t random = 1;
};
inline Cta cta;

constexpr size_t kStackBytes = 65536;

}  // namespace emulated

inline emulated::Dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulated {

inline void release_if_complete(Barrier& barrier) {
  if (barrier.members == 0 || static_cast<int>(barrier.waiting.size()) < barrier.members) return;
  for (int fiber : barrier.waiting) cta.ready.push_back(fiber);
  barrier.waiting.clear();
}

// Until something makes the thread ready again.
inline void sleep() {
  if (!_setjmp(cta.fibers[cta.current].resume)) _longjmp(cta.scheduler, 1);
}

inline void wait_at(Barrier& barrier) {
  barrier.waiting.push_back(cta.current);
  release_if_complete(barrier);
  sleep();
}

inline void run_fiber() {
  cta.body();
  Barrier& warp = cta.warps[cta.current / 32];
  --cta.all.members, --warp.members;
  release_if_complete(cta.all);
  release_if_complete(warp);
  _longjmp(cta.scheduler, 1);
}

// Runs a thread until it waits or returns.
__attribute__((noinline)) inline void run_on(int thread) {
  Fiber& fiber = cta.fibers[thread];
  cta.current = thread;
  threadIdx.x = thread, threadIdx.y = threadIdx.z = 0;
  if (_setjmp(cta.scheduler)) return;
  if (fiber.started) _longjmp(fiber.resume, 1);
  fiber.started = true;
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, run_fiber, 0);
  setcontext(&fiber.context);
}

// Returns false if some threads wait for ever.
inline bool run_cta(int num_threads) {
  if (static_cast<int>(cta.fibers.size()) < num_threads) cta.fibers.resize(num_threads);
  cta.all = Barrier{num_threads, {}};
  cta.warps.assign((num_threads + 31) / 32, Barrier{});
  cta.ready.clear();
  for (int i = 0; i < num_threads; ++i) {
    Fiber& fiber = cta.fibers[i];
    if (!fiber.stack) fiber.stack.reset(new char[kStackBytes]);
    fiber.started = false;
    ++cta.warps[i / 32].members;
    cta.ready.push_back(i);
  }
  while (!cta.ready.empty()) {
    cta.random = cta.random * 6364136223846793005u + 1442695040888963407u;
    int& picked = cta.ready[(cta.random >> 33) % cta.ready.size()];
    const int thread = picked;
    picked = cta.ready.back();
    cta.ready.pop_back();
    run_on(thread);
  }
  return cta.all.members == 0;
}

// Runs a grid, CTA by CTA in random order. `seed` decides every order.
inline bool run_grid(Dim3 grid, int num_threads, uint64_t seed, std::function<void()> body) {
  cta.body = std::move(body);
  cta.random = seed * 2 + 1;
  gridDim = grid;
  blockDim = {static_cast<unsigned>(num_threads), 1, 1};
  const unsigned total = grid.x * grid.y * grid.z;
  for (unsigned i = 0; i < total; ++i) {
    const unsigned at = (seed + i) % total;
    blockIdx = {at % grid.x, at / grid.x % grid.y, at / grid.x / grid.y};
    if (!run_cta(num_threads)) return false;
  }
  return true;
}

inline Barrier& own_warp() { return cta.warps[cta.current / 32]; }
inline Fiber& lane(int i) { return cta.fibers[cta.current / 32 * 32 + i]; }

// Gives a value to the other lanes, and calls `take` when all have given theirs.
template <typename T, typename Take>
auto exchange(T value, Take take) {
  static_assert(sizeof(T) <= 8);
  memcpy(&cta.fibers[cta.current].given, &value, sizeof(T));
  wait_at(own_warp());
  const auto taken = take([](int i) {
    T other;
    memcpy(&other, &lane(i).given, sizeof(T));
    return other;
  });
  wait_at(own_warp());
  return taken;
}

inline int own_lane() { return cta.current % 32; }

// ---- element types -------------------------------------------------------------------------

inline float from_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}
inline float widen_bf16(uint16_t x) { return from_bits(uint32_t{x} << 16); }
inline uint16_t narrow_bf16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if (x != x) return 0x7fff;  // as the hardware does
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline float widen_f16(uint16_t x) {
  const uint32_t sign = uint32_t{x} >> 15 << 31, exponent = x >> 10 & 31, fraction = x & 1023;
  if (exponent == 31) return from_bits(sign | 0x7f800000 | fraction << 13);
  if (exponent > 0) return from_bits(sign | (exponent + 112) << 23 | fraction << 13);
  const float small = ldexpf(static_cast<float>(fraction), -24);
  return sign ? -small : small;
}
inline uint16_t narrow_f16(float x) {
  const uint16_t sign = signbit(x) ? 0x8000 : 0;
  if (x != x) return 0x7fff;
  const float size = fabsf(x);
  if (size >= 65520.0f) return sign | 0x7c00;
  if (size < 6.103515625e-05f) return sign | static_cast<uint16_t>(nearbyintf(ldexpf(size, 24)));
  int exponent;
  const float fraction = frexpf(size, &exponent);  // [0.5, 1)
  const uint32_t rounded = static_cast<uint32_t>(nearbyintf(ldexpf(fraction, 11)));
  return sign | static_cast<uint16_t>(((exponent + 13) << 10) + rounded);
}

}  // namespace emulated

// ---- what kernels call -----------------------------------------------------------------------

inline void __syncthreads() { emulated::wait_at(emulated::cta.all); }
inline void __syncwarp(unsigned = ~0u) { emulated::wait_at(emulated::own_warp()); }

inline int __syncthreads_or(int predicate) {
  using namespace emulated;
  cta.fibers[cta.current].given = predicate != 0;
  wait_at(cta.all);
  int any = 0;
  for (unsigned i = 0; i < blockDim.x; ++i) any |= static_cast<int>(cta.fibers[i].given);
  wait_at(cta.all);
  return any;
}

template <typename T>
T __shfl_sync(unsigned, T value, int from) {
  return emulated::exchange(value, [&](auto of) { return of(from % 32); });
}
template <typename T>
T __shfl_up_sync(unsigned, T value, unsigned by) {
  const int from = emulated::own_lane() - static_cast<int>(by);
  return emulated::exchange(value, [&](auto of) { return from >= 0 ? of(from) : value; });
}
inline unsigned __ballot_sync(unsigned, int predicate) {
  return emulated::exchange(predicate, [](auto of) {
    unsigned ballot = 0;
    for (int i = 0; i < 32; ++i) ballot |= (of(i) != 0 ? 1u : 0u) << i;
    return ballot;
  });
}
template <typename T>
T __reduce_max_sync(unsigned, T value) {
  return emulated::exchange(value, [](auto of) {
    T most = of(0);
    for (int i = 1; i < 32; ++i) most = of(i) > most ? of(i) : most;
    return most;
  });
}
inline unsigned __reduce_add_sync(unsigned, unsigned value) {
  return emulated::exchange(value, [](auto of) {
    unsigned sum = 0;
    for (int i = 0; i < 32; ++i) sum += of(i);
    return sum;
  });
}
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(unsigned x) { return x == 0 ? 32 : __builtin_clz(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return uint64_t{a} * b >> 32; }
inline float __int_as_float(int bits) { return emulated::from_bits(bits); }
inline float __fmul_rn(float a, float b) { return a * b; }
