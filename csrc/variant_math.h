// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// Functions of floats for the hooks of variants: exact on the host, where texts are tested, fast
// on the device. Members of a struct, so that they hide the names of the C library.
#pragma once

#include "csrc/types.h"
#ifndef __CUDACC__
#include <math.h>
#endif

namespace jaxinfer {

#define JAXINFER_HOOK JAXINFER_INLINE

struct VariantBits {
  template <typename To, typename From>
  JAXINFER_HOOK To same_bits(From x) {
    static_assert(sizeof(To) == sizeof(From), "one width");
    union {
      From from;
      To to;
    } bits = {x};
    return bits.to;
  }
};

#ifdef __CUDACC__

// Nothing here calls a function or needs local memory: hooks run once a score.
struct VariantFloats : VariantBits {
  JAXINFER_HOOK float exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }
  JAXINFER_HOOK float log2(float x) {
    float y;
    asm("lg2.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }
  JAXINFER_HOOK float reciprocal(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }
  JAXINFER_HOOK float divide(float x, float by) {
    float y;
    asm("div.full.f32 %0, %1, %2;" : "=f"(y) : "f"(x), "f"(by));
    return y;
  }
  // By a literal whose reciprocal is a normal number: the compiler computes it.
  JAXINFER_HOOK float divide_by(float x, float by) { return x * (1.0f / by); }
  JAXINFER_HOOK float sqrt(float x) {
    float y;
    asm("sqrt.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }
  JAXINFER_HOOK float rsqrt(float x) {
    float y;
    asm("rsqrt.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }
  JAXINFER_HOOK float maximum(float x, float y) {
    float z;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(z) : "f"(x), "f"(y));
    return z;
  }
  JAXINFER_HOOK float minimum(float x, float y) {
    float z;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(z) : "f"(x), "f"(y));
    return z;
  }

  JAXINFER_HOOK float exp(float x) { return exp2(x * 1.44269504088896340736f); }
  JAXINFER_HOOK float log(float x) { return log2(x) * 0.69314718055994530942f; }
  JAXINFER_HOOK float expm1(float x) { return ::expm1f(x); }
  JAXINFER_HOOK float log1p(float x) { return ::log1pf(x); }
  JAXINFER_HOOK float logistic(float x) {
    return reciprocal(1.0f + exp2(x * -1.44269504088896340736f));
  }
  // size * tanh(factor * x); tanh errs by 5e-7 at most. Of literals, both are free.
  JAXINFER_HOOK float tanh(float x, float factor = 1.0f, float size = 1.0f) {
    const float rest = reciprocal(1.0f + exp2(x * (2.88539008177792681472f * factor)));
    return ::fmaf(-2.0f * size, rest, size);
  }

  // To [-pi, pi], by 2 pi in two parts: exact for angles of a million. The library's reduction
  // of larger ones would need local memory.
  JAXINFER_HOOK float reduced_angle(float x) {
    // Floats of this size are integers, so that the sum is rounded to one.
    constexpr float kRound = 12582912.0f;
    const float turns = ::fmaf(x, 0.15915494309189533577f, kRound) - kRound;
    const float rest = ::fmaf(turns, -6.28318548202514648438f, x);
    return ::fmaf(turns, 1.7484555314695172e-7f, rest);
  }
  JAXINFER_HOOK float sin(float x) {
    float y;
    asm("sin.approx.f32 %0, %1;" : "=f"(y) : "f"(reduced_angle(x)));
    return y;
  }
  JAXINFER_HOOK float cos(float x) {
    float y;
    asm("cos.approx.f32 %0, %1;" : "=f"(y) : "f"(reduced_angle(x)));
    return y;
  }
  JAXINFER_HOOK float tan(float x) { return divide(sin(x), cos(x)); }

  JAXINFER_HOOK float pow(float x, float y) {
    const float size = exp2(y * log2(::fabsf(x)));
    const bool is_integer = ::rintf(y) == y;
    const float half = 0.5f * y;
    const bool is_odd = is_integer && ::rintf(half) != half;
    const float root = x < 0.0f && !is_integer ? same_bits<float>(0x7fc00000) : size;
    const float value = is_odd ? ::copysignf(root, x) : root;
    return y == 0.0f || x == 1.0f ? 1.0f : value;
  }

  JAXINFER_HOOK uint16_t half_bits(float x) {
    uint16_t y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
  }
  JAXINFER_HOOK float half_from_bits(uint16_t x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
  }
  JAXINFER_HOOK uint16_t bfloat16_bits(float x) {
    uint16_t y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
  }

  template <typename T>
  JAXINFER_HOOK T read(const T* from) {
    return __ldg(from);
  }
  JAXINFER_HOOK int ones(uint64_t x) { return __popcll(x); }
  JAXINFER_HOOK int leading_zeros(uint64_t x) { return __clzll(x); }
  JAXINFER_HOOK int ones(uint32_t x) { return __popc(x); }
  JAXINFER_HOOK int leading_zeros(uint32_t x) { return __clz(x); }
};

#else

struct VariantFloats : VariantBits {
  JAXINFER_HOOK float exp2(float x) { return ::exp2f(x); }
  JAXINFER_HOOK float divide(float x, float by) { return x / by; }
  JAXINFER_HOOK float divide_by(float x, float by) { return x / by; }
  JAXINFER_HOOK float sqrt(float x) { return ::sqrtf(x); }
  JAXINFER_HOOK float rsqrt(float x) { return 1.0f / ::sqrtf(x); }
  JAXINFER_HOOK float maximum(float x, float y) { return x > y || x != x ? x : y; }
  JAXINFER_HOOK float minimum(float x, float y) { return x < y || x != x ? x : y; }
  JAXINFER_HOOK float exp(float x) { return ::expf(x); }
  JAXINFER_HOOK float log(float x) { return ::logf(x); }
  JAXINFER_HOOK float expm1(float x) { return ::expm1f(x); }
  JAXINFER_HOOK float log1p(float x) { return ::log1pf(x); }
  JAXINFER_HOOK float logistic(float x) { return 1.0f / (1.0f + ::expf(-x)); }
  JAXINFER_HOOK float tanh(float x, float factor = 1.0f, float size = 1.0f) {
    return size * ::tanhf(factor * x);
  }
  JAXINFER_HOOK float sin(float x) { return ::sinf(x); }
  JAXINFER_HOOK float cos(float x) { return ::cosf(x); }
  JAXINFER_HOOK float tan(float x) { return ::tanf(x); }
  JAXINFER_HOOK float pow(float x, float y) { return ::powf(x, y); }

  JAXINFER_HOOK uint16_t half_bits(float x) {
    const uint32_t bits = same_bits<uint32_t>(x), sign = bits >> 16 & 0x8000u;
    const float size = ::fabsf(x);
    if (x != x) return static_cast<uint16_t>(sign | 0x7e00u);
    if (size >= 65520.0f) return static_cast<uint16_t>(sign | 0x7c00u);
    // Below the normal numbers steps are 2^-24, and rintf rounds to even as well.
    if (size < 0x1p-14f) return static_cast<uint16_t>(sign | uint32_t(::rintf(size * 0x1p24f)));
    const uint32_t low = bits & 0x7fffffffu;
    return static_cast<uint16_t>(sign | ((low + 0xfffu + (low >> 13 & 1u) - 0x38000000u) >> 13));
  }
  JAXINFER_HOOK float half_from_bits(uint16_t x) {
    const uint32_t sign = (x & 0x8000u) << 16, rest = x & 0x7fffu;
    if (rest >= 0x7c00u) return same_bits<float>(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
    const float size =
        rest < 0x400u ? rest * 0x1p-24f : same_bits<float>((rest << 13) + 0x38000000u);
    return sign ? -size : size;
  }
  JAXINFER_HOOK uint16_t bfloat16_bits(float x) {
    const uint32_t bits = same_bits<uint32_t>(x);
    if (x != x) return static_cast<uint16_t>(bits >> 16 | 0x40u);
    return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
  }

  template <typename T>
  JAXINFER_HOOK T read(const T* from) {
    return *from;
  }
  JAXINFER_HOOK int ones(uint64_t x) { return __builtin_popcountll(x); }
  JAXINFER_HOOK int leading_zeros(uint64_t x) { return x ? __builtin_clzll(x) : 64; }
  JAXINFER_HOOK int ones(uint32_t x) { return __builtin_popcount(x); }
  JAXINFER_HOOK int leading_zeros(uint32_t x) { return x ? __builtin_clz(x) : 32; }
};

#endif

}  // namespace jaxinfer
