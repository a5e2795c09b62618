// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// What the small kernels share: loads and stores of 16 bytes, and the element types.
// The text also compiles for the host, where tests emulate a grid (tests/device).
#pragma once

#include "csrc/attention.h"

namespace jaxinfer {

constexpr unsigned kAllLanes = 0xffffffffu;

// Dynamic shared memory, as much as the launch asks for.
struct alignas(16) Bytes16 {
  uint32_t x, y, z, w;
};
extern __shared__ Bytes16 shared_memory[];

// ---- elements ------------------------------------------------------------------------------

// Storage, and exact or correctly rounded conversions to and from float.
template <ElementType>
struct Float;

template <>
struct Float<ElementType::kFloat32> {
  using Storage = float;
  JAXINFER_INLINE float widen(float x) { return x; }
  JAXINFER_INLINE float narrow(float x) { return x; }
};

#ifdef __CUDACC__
template <>
struct Float<ElementType::kFloat16> {
  using Storage = uint16_t;
  JAXINFER_INLINE float widen(uint16_t x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
  }
  JAXINFER_INLINE uint16_t narrow(float x) {
    uint16_t y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
  }
};
template <>
struct Float<ElementType::kBFloat16> {
  using Storage = uint16_t;
  JAXINFER_INLINE float widen(uint16_t x) { return __uint_as_float(uint32_t{x} << 16); }
  JAXINFER_INLINE uint16_t narrow(float x) {
    uint16_t y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
  }
};
#else
template <>
struct Float<ElementType::kFloat16> {
  using Storage = uint16_t;
  JAXINFER_INLINE float widen(uint16_t x) { return emulated::widen_f16(x); }
  JAXINFER_INLINE uint16_t narrow(float x) { return emulated::narrow_f16(x); }
};
template <>
struct Float<ElementType::kBFloat16> {
  using Storage = uint16_t;
  JAXINFER_INLINE float widen(uint16_t x) { return emulated::widen_bf16(x); }
  JAXINFER_INLINE uint16_t narrow(float x) { return emulated::narrow_bf16(x); }
};
#endif

// ---- vectors -------------------------------------------------------------------------------

// N elements that are loaded and stored at once; aligned to their size.
template <typename T, int N>
struct alignas(sizeof(T) * N) Vector {
  T at[N];
};

template <typename V>
JAXINFER_INLINE V load_vector(const void* from) {
  if constexpr (sizeof(V) == 16) {
    // By name: arrays of 16-bit elements are otherwise loaded one by one.
    const Bytes16 bytes = *static_cast<const Bytes16*>(from);
    V v;
    memcpy(&v, &bytes, 16);
    return v;
  } else {
    return *static_cast<const V*>(from);
  }
}

template <typename V>
JAXINFER_INLINE void store_vector(void* to, const V& v) {
  if constexpr (sizeof(V) == 16) {
    Bytes16 bytes;
    memcpy(&bytes, &v, 16);
    *static_cast<Bytes16*>(to) = bytes;
  } else {
    *static_cast<V*>(to) = v;
  }
}

// Whether addresses and sizes, or-ed together, are multiples of `bytes`.
JAXINFER_INLINE bool all_aligned(uint64_t bits, uint64_t bytes) {
  return (bits & (bytes - 1)) == 0;
}
JAXINFER_INLINE uint64_t address_of(const void* p) { return reinterpret_cast<uint64_t>(p); }

}  // namespace jaxinfer
