// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// What the text of a variant (jaxinfer/variant) is written in: the hooks that it overrides, and
// the operations of XLA on one element, with the results that XLA defines for every input.
#pragma once

#include "csrc/attention.h"
#include "csrc/variant_facts.h"
#include "csrc/variant_math.h"

namespace jaxinfer {

template <int kBytes>
struct UnsignedOf;
template <>
struct UnsignedOf<1> {
  using Type = uint8_t;
};
template <>
struct UnsignedOf<2> {
  using Type = uint16_t;
};
template <>
struct UnsignedOf<4> {
  using Type = uint32_t;
};
template <>
struct UnsignedOf<8> {
  using Type = uint64_t;
};

struct VariantMath : VariantFloats {
  template <typename T>
  using Bits = typename UnsignedOf<sizeof(T)>::Type;
  // In which sums wrap: what is smaller would be promoted to int.
  template <typename T>
  using Wide = typename UnsignedOf<sizeof(T) == 8 ? 8 : 4>::Type;
  template <typename T>
  static constexpr bool kIsSigned = static_cast<T>(-1) < static_cast<T>(0);
  template <typename T>
  static constexpr int kNumBits = 8 * sizeof(T);
  template <typename T>
  static constexpr T kLowest =
      kIsSigned<T> ? static_cast<T>(Bits<T>{1} << (kNumBits<T> - 1)) : T{0};
  template <typename T>
  static constexpr T kHighest = static_cast<T>(~static_cast<Bits<T>>(kLowest<T>));

  // ---- operands ------------------------------------------------------------------------------

  template <typename T, typename Index>
  JAXINFER_HOOK T load(const VariantOperands& at, int operand, Index index) {
    return read(static_cast<const T*>(at.data[operand]) + index);
  }
  template <typename Index>
  JAXINFER_HOOK bool load_bool(const VariantOperands& at, int operand, Index index) {
    return load<uint8_t>(at, operand, index) != 0;
  }
  template <typename Index>
  JAXINFER_HOOK float load_half(const VariantOperands& at, int operand, Index index) {
    return half_from_bits(load<uint16_t>(at, operand, index));
  }
  template <typename Index>
  JAXINFER_HOOK float load_bfloat16(const VariantOperands& at, int operand, Index index) {
    return bfloat16_from_bits(load<uint16_t>(at, operand, index));
  }

  template <typename T, typename Last>
  JAXINFER_HOOK bool in_range(T x, Last last) {
    using W = typename UnsignedOf<sizeof(T) == 8 || sizeof(Last) == 8 ? 8 : 4>::Type;
    if constexpr (kIsSigned<T>) {
      if (x < 0) return false;
    }
    return static_cast<W>(x) <= static_cast<W>(last);
  }
  template <typename T, typename Last>
  JAXINFER_HOOK Last clamp_index(T x, Last last) {
    if constexpr (kIsSigned<T>) {
      if (x < 0) return 0;
    }
    return in_range(x, last) ? static_cast<Last>(x) : last;
  }

  // ---- integers ------------------------------------------------------------------------------

  template <typename T>
  JAXINFER_HOOK T add(T x, T y) {
    return static_cast<T>(static_cast<Wide<T>>(x) + static_cast<Wide<T>>(y));
  }
  template <typename T>
  JAXINFER_HOOK T subtract(T x, T y) {
    return static_cast<T>(static_cast<Wide<T>>(x) - static_cast<Wide<T>>(y));
  }
  template <typename T>
  JAXINFER_HOOK T multiply(T x, T y) {
    return static_cast<T>(static_cast<Wide<T>>(x) * static_cast<Wide<T>>(y));
  }
  JAXINFER_HOOK float multiply(float x, float y) { return x * y; }
  template <typename T>
  JAXINFER_HOOK T negate(T x) {
    return subtract(T{0}, x);
  }
  template <typename T>
  JAXINFER_HOOK T quotient(T x, T by) {
    if (by == 0) return static_cast<T>(-1);
    if constexpr (kIsSigned<T>) {
      if (by == -1) return negate(x);
    }
    return static_cast<T>(x / by);
  }
  template <typename T>
  JAXINFER_HOOK T remainder(T x, T by) {
    if (by == 0) return x;
    if constexpr (kIsSigned<T>) {
      if (by == -1) return 0;
    }
    return static_cast<T>(x % by);
  }
  template <typename T>
  JAXINFER_HOOK T absolute(T x) {
    return x < 0 ? negate(x) : x;
  }
  template <typename T>
  JAXINFER_HOOK T maximum(T x, T y) {
    return x > y ? x : y;
  }
  template <typename T>
  JAXINFER_HOOK T minimum(T x, T y) {
    return x < y ? x : y;
  }
  using VariantFloats::maximum;
  using VariantFloats::minimum;
  template <typename T>
  JAXINFER_HOOK T clamp(T low, T x, T high) {
    return minimum(maximum(x, low), high);
  }

  template <typename T>
  JAXINFER_HOOK T shift_left(T x, T by) {
    const auto n = static_cast<Wide<T>>(by);
    return n < kNumBits<T> ? static_cast<T>(static_cast<Wide<T>>(x) << n) : T{0};
  }
  template <typename T>
  JAXINFER_HOOK T shift_right_logical(T x, T by) {
    const auto n = static_cast<Wide<T>>(by);
    const auto bits = static_cast<Wide<T>>(static_cast<Bits<T>>(x));
    return n < kNumBits<T> ? static_cast<T>(bits >> n) : T{0};
  }
  template <typename T>
  JAXINFER_HOOK T shift_right_arithmetic(T x, T by) {
    const auto n = static_cast<Wide<T>>(by);
    const T logical = shift_right_logical(x, by);
    const bool is_negative = (static_cast<Bits<T>>(x) >> (kNumBits<T> - 1)) != 0;
    // The bits that came in from the left; all of them from the width on.
    const T ones = n < kNumBits<T> ? static_cast<T>(~shift_right_logical(static_cast<T>(-1), by))
                                   : static_cast<T>(-1);
    return is_negative ? static_cast<T>(logical | ones) : logical;
  }
  template <typename T>
  JAXINFER_HOOK T population_count(T x) {
    return static_cast<T>(ones(static_cast<Wide<T>>(static_cast<Bits<T>>(x))));
  }
  template <typename T>
  JAXINFER_HOOK T count_leading_zeros(T x) {
    const int wide = leading_zeros(static_cast<Wide<T>>(static_cast<Bits<T>>(x)));
    return static_cast<T>(wide - (kNumBits<Wide<T>> - kNumBits<T>));
  }

  template <int kPower, typename T>
  JAXINFER_HOOK T integer_pow(T x) {
    if constexpr (kPower < 0) {
      return divide(1.0f, integer_pow<-kPower>(x));
    } else if constexpr (kPower == 0) {
      return T{1};
    } else if constexpr (kPower == 1) {
      return x;
    } else {
      const T half = integer_pow<kPower / 2>(x);
      const T even = multiply(half, half);
      return kPower % 2 ? multiply(even, x) : even;
    }
  }

  template <typename T>
  JAXINFER_HOOK T sign(T x) {
    return static_cast<T>(x > 0 ? 1 : x < 0 ? -1 : 0);
  }

  // ---- conversions -----------------------------------------------------------------------------

  // Saturates; 0 for what is no number.
  template <typename T>
  JAXINFER_HOOK T to_int(float x) {
    if (x != x) return 0;
    // One past the highest is a power of two, and exact.
    constexpr float kEnd = 2.0f * static_cast<float>(static_cast<Bits<T>>(kHighest<T> / 2 + 1));
    if (x >= kEnd) return kHighest<T>;
    if (x <= static_cast<float>(kLowest<T>)) return kLowest<T>;
    return static_cast<T>(x);
  }
  JAXINFER_HOOK float bfloat16_from_bits(uint16_t x) {
    return same_bits<float>(static_cast<uint32_t>(x) << 16);
  }
  JAXINFER_HOOK float round_to_half(float x) { return half_from_bits(half_bits(x)); }
  JAXINFER_HOOK float round_to_bfloat16(float x) { return bfloat16_from_bits(bfloat16_bits(x)); }

  // As XLA: too large becomes infinite, too small becomes zero.
  template <int kExponentBits, int kMantissaBits>
  JAXINFER_HOOK float reduce_precision(float x) {
    uint32_t bits = same_bits<uint32_t>(x);
    const uint32_t sign = bits & 0x80000000u;
    if (x != x) return x;
    if constexpr (kMantissaBits < 23) {
      constexpr uint32_t kLastBit = 1u << (23 - kMantissaBits);
      const uint32_t bias = (kLastBit >> 1) - 1u + (bits / kLastBit & 1u);
      bits = (bits + bias) & ~(kLastBit - 1u);
    }
    if constexpr (kExponentBits < 8) {
      constexpr uint32_t kBias = (1u << (kExponentBits - 1)) - 1u;
      const uint32_t exponent = bits & 0x7f800000u;
      if (exponent > (127u + kBias) << 23) bits = sign | 0x7f800000u;
      if (exponent <= (127u - kBias) << 23) bits = sign;
    }
    return same_bits<float>(bits);
  }

  // ---- the rest of floats ----------------------------------------------------------------------

  // Of angles, factor * x, up to 0.5: a polynomial that errs by 6e-7 of the result at most, where
  // an exponential and a reciprocal would wait for the one unit that has them.
  using VariantFloats::tanh;
  JAXINFER_HOOK float tanh(SmallScore x, float factor = 1.0f, float size = 1.0f) {
    factor *= x.scale;
    const float a = size * factor, square = factor * factor, u = x.raw * x.raw;
    const float third = a * square, fifth = third * square, seventh = fifth * square;
    float y = ::fmaf(u, seventh * -0.04440223f, fifth * 0.13190297f);
    y = ::fmaf(u, y, third * -0.33326318f);
    return x.raw * ::fmaf(u, y, a * 0.99999946f);
  }

  JAXINFER_HOOK float infinity() { return same_bits<float>(0x7f800000u); }
  JAXINFER_HOOK float not_a_number() { return same_bits<float>(0x7fc00000u); }
  // Has no derivative; its value is x.
  template <typename T>
  JAXINFER_HOOK T stop_gradient(T x) {
    return x;
  }
  JAXINFER_HOOK bool is_finite(float x) { return ::fabsf(x) < infinity(); }
  JAXINFER_HOOK float sign(float x) { return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x; }
  JAXINFER_HOOK float remainder(float x, float by) { return ::fmodf(x, by); }
};

// Attention without a variant.
struct NoVariant : VariantMath {
  static constexpr bool kHasScoreMod = false, kHasMaskMod = false, kHasQueryMod = false,
                        kHasKeyMod = false, kHasValueMod = false, kHasOutputMod = false;
  static constexpr BlockMap kBlockMap = {};
  // score_mod is faster for a SmallScore up to this size; 0: it is not.
  static constexpr float kSmallScores = 0.0f;
  static constexpr SoftCap kSoftCap = {};
  // score_mod reads something else for every key.
  static constexpr bool kReadsForScores = false;
  // mask_mod reads something else for every pair of a query and a key.
  static constexpr bool kReadsForPairs = false;
  // score_mod adds line_mod, which begins at that key, and does nothing else.
  static constexpr bool kAddsLine = false;

  JAXINFER_HOOK float score_mod(const VariantOperands&, float score, int, int, int, int) {
    return score;
  }
  JAXINFER_HOOK Line line_mod(const VariantOperands&, int, int, int, int) { return {0.0f, 0.0f}; }
  JAXINFER_HOOK bool mask_mod(const VariantOperands&, int, int, int, int) { return true; }
  // Element i of the result, from elements vector(j).
  template <typename Vector>
  JAXINFER_HOOK float query_mod(const VariantOperands&, const Vector& vector, int, int, int,
                                int i) {
    return vector(i);
  }
  template <typename Vector>
  JAXINFER_HOOK float key_mod(const VariantOperands&, const Vector& vector, int, int, int, int i) {
    return vector(i);
  }
  template <typename Vector>
  JAXINFER_HOOK float value_mod(const VariantOperands&, const Vector& vector, int, int, int,
                                int i) {
    return vector(i);
  }
  template <typename Vector>
  JAXINFER_HOOK float output_mod(const VariantOperands&, const Vector& vector, int, int, int,
                                 int i) {
    return vector(i);
  }
};

}  // namespace jaxinfer
