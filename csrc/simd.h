// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// Vectors of floats as the compiler's own vector type: the same source for every
// instruction set. Each translation unit that includes this is compiled once per
// instruction set, so everything here has internal linkage.
#pragma once

#include <stdint.h>
#include <string.h>

namespace jaxinfer {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float vfloat __attribute__((vector_size(4 * kLanes)));
typedef int32_t vint __attribute__((vector_size(4 * kLanes)));
typedef uint32_t vuint __attribute__((vector_size(4 * kLanes)));
typedef uint16_t vhalf __attribute__((vector_size(2 * kLanes)));

template <typename V, typename T>
inline V load(const T* p) {
  V v;
  memcpy(&v, p, sizeof(V));
  return v;
}
template <typename V, typename T>
inline void store(T* p, V v) {
  memcpy(p, &v, sizeof(V));
}
inline vfloat broadcast(float x) { return x - vfloat{}; }
inline vfloat select(vint mask, vfloat a, vfloat b) {
  return (vfloat)((mask & (vint)a) | (~mask & (vint)b));
}
inline vfloat max(vfloat a, vfloat b) { return select(a > b, a, b); }

inline float sum(vfloat v) {
  float s[kLanes];
  store(s, v);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) s[i] += s[i + width];
  }
  return s[0];
}

// Halves of two vectors, exchanged at distance D and added: after it, lanes whose index
// has bit D clear hold sums of a, the others sums of b.
template <int D>
inline vfloat fold(vfloat a, vfloat b) {
  vint take_a, take_b;
  for (int i = 0; i < kLanes; ++i) {
    take_a[i] = i & D ? kLanes + (i ^ D) : i;  // a's own half, b's other half
    take_b[i] = i & D ? kLanes + i : i ^ D;
  }
  return __builtin_shuffle(a, b, take_a) + __builtin_shuffle(a, b, take_b);
}
template <int N, int D>
inline vfloat fold_all(vfloat* v) {
  if constexpr (N == 1) {
    vfloat r = v[0];
    if constexpr (D < kLanes) {
      vfloat same[1] = {fold<D>(r, r)};
      return fold_all<1, D * 2>(same);
    }
    return r;
  } else {
    vfloat half[N / 2];
    for (int i = 0; i < N / 2; ++i) half[i] = fold<D>(v[2 * i], v[2 * i + 1]);
    return fold_all<N / 2, D * 2>(half);
  }
}
// Lane i of the result is the sum of v[i]; N is a power of two, at most kLanes.
template <int N>
inline vfloat sums(vfloat (&v)[N]) {
  return fold_all<N, 1>(v);
}
inline float max_lane(vfloat v) {
  float s[kLanes];
  store(s, v);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) s[i] = s[i] > s[i + width] ? s[i] : s[i + width];
  }
  return s[0];
}

// e^x to 2 ulp: 0 below -87, NaN stays NaN. Softmax needs x <= 0; tanh a little more.
inline vfloat exp(vfloat x) {
  const vint underflow = x < -87.0f;
  const vfloat magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds
  vfloat n = x * 1.44269504088896341f + magic;
  // Of a NaN the bits mean nothing: it must reach the result as it is.
  const vuint exponent = (((vuint)n - (vuint)magic) << 23) & (vuint)(x == x);
  n -= magic;
  const vfloat f = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  vfloat p = broadcast(1.9875691500e-4f);
  p = p * f + 1.3981999507e-3f;
  p = p * f + 8.3334519073e-3f;
  p = p * f + 4.1665795894e-2f;
  p = p * f + 1.6666665459e-1f;
  p = p * f + 5.0000001201e-1f;
  p = p * f * f + f + 1.0f;
  return select(underflow, vfloat{}, (vfloat)((vuint)p + exponent));
}

// tanh by exp(-2|x|), which cannot overflow; near 0 by its series, which cannot cancel.
inline vfloat tanh(vfloat x) {
  const vint sign = (vint)x & (int32_t)0x80000000;
  const vfloat a = (vfloat)((vint)x & 0x7fffffff);
  const vfloat e = exp(-2.0f * a);
  const vfloat large = (1.0f - e) / (1.0f + e);
  const vfloat t = a * a;
  const vfloat small =
      a + a * t * (-0.333333333f + t * (0.133333333f - t * (0.0539682540f - t * 0.0218694885f)));
  return (vfloat)((vint)select(a < 0.25f, small, large) | sign);
}

// Element types, all widened to float. Rounding back is to nearest even.
struct Float32 {
  using storage = float;
  static vfloat widen(const float* p) { return load<vfloat>(p); }
  static float narrow(float x) { return x; }
};
struct BFloat16 {
  using storage = uint16_t;
  static vfloat widen(const uint16_t* p) {
    return (vfloat)(__builtin_convertvector(load<vhalf>(p), vuint) << 16);
  }
  static uint16_t narrow(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    if ((u & 0x7fffffff) > 0x7f800000) return (uint16_t)((u >> 16) | 0x40);  // NaN
    return (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
  }
};
struct Float16 {
  using storage = uint16_t;
  static vfloat widen(const uint16_t* p) {
    const vuint h = __builtin_convertvector(load<vhalf>(p), vuint);
    const vuint magnitude = (h & 0x7fff) << 13;
    const vuint special = (vuint)((h & 0x7c00) == 0x7c00);  // Inf and NaN
    const vuint normal = magnitude + (special & 0x70000000) + (~special & 0x38000000);
    // Subnormals by their value: as float bits they would be flushed, as XLA's threads do.
    const vfloat subnormal = __builtin_convertvector((vint)(h & 0x3ff), vfloat) * 0x1p-24f;
    const vint is_small = (h & 0x7c00) == 0;
    return (vfloat)((vuint)select(is_small, subnormal, (vfloat)normal) | ((h & 0x8000) << 16));
  }
  static uint16_t narrow(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    const uint16_t sign = (uint16_t)((u >> 16) & 0x8000);
    u &= 0x7fffffff;
    if (u > 0x7f800000) return sign | 0x7e00;   // NaN
    if (u >= 0x477ff000) return sign | 0x7c00;  // rounds to infinity
    if (u < 0x38800000) {                       // subnormal: let float addition round it
      float magnitude;
      memcpy(&magnitude, &u, 4);
      magnitude += 0.5f;
      memcpy(&u, &magnitude, 4);
      return sign | (uint16_t)(u - 0x3f000000);
    }
    return sign | (uint16_t)((u - 0x38000000 + 0xfff + ((u >> 13) & 1)) >> 13);
  }
};

// Widens n elements; n must be a multiple of kLanes.
template <typename T>
inline void widen_row(const typename T::storage* src, float* dst, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) store(dst + i, T::widen(src + i));
}

}  // namespace
}  // namespace jaxinfer
