// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// Matches the operands of an FFI call against their documented shapes. Python has
// checked them already; these checks keep a hand-written call from reading out of bounds.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>

#include "csrc/attention.h"
#include "xla/ffi/api/ffi.h"

namespace jaxinfer {

namespace ffi = xla::ffi;

// Collects the first mismatch. A dimension is a number, or a variable: its first use
// binds it, later uses must agree.
class Matcher {
 public:
  struct Dim {
    Dim(int64_t value) : value(value) {}                // NOLINT: implicit on purpose
    Dim(int64_t* variable) : variable(variable) {}      // NOLINT
    int64_t value = 0;
    int64_t* variable = nullptr;
  };
  static constexpr int64_t kFree = -1;

  Matcher& match(const char* name, const ffi::AnyBuffer& buffer, ffi::DataType type,
                 std::initializer_list<Dim> dims) {
    if (buffer.element_type() != type) return fail(name, "has the wrong dtype");
    return shape(name, buffer, dims);
  }

  Matcher& shape(const char* name, const ffi::AnyBuffer& buffer, std::initializer_list<Dim> dims) {
    const auto shape = buffer.dimensions();
    if (shape.size() != dims.size()) {
      return fail(name, "must have rank " + std::to_string(dims.size()) + ", got " +
                            std::to_string(shape.size()));
    }
    size_t axis = 0;
    for (const Dim& dim : dims) {
      const int64_t got = shape[axis];
      if (dim.variable != nullptr && *dim.variable == kFree) *dim.variable = got;
      const int64_t want = dim.variable != nullptr ? *dim.variable : dim.value;
      if (got != want) {
        return fail(name, "axis " + std::to_string(axis) + " must be " + std::to_string(want) +
                              ", got " + std::to_string(got));
      }
      ++axis;
    }
    return *this;
  }

  // An operand that is absent has no elements; returns whether it is there.
  bool match_optional(const char* name, const ffi::AnyBuffer& buffer, ffi::DataType type,
                      std::initializer_list<Dim> dims) {
    if (buffer.element_count() == 0) return false;
    match(name, buffer, type, dims);
    return error_.empty();
  }

  Matcher& element_type(const char* name, const ffi::AnyBuffer& buffer, ElementType* type) {
    switch (buffer.element_type()) {
      case ffi::DataType::F32:
        *type = ElementType::kFloat32;
        return *this;
      case ffi::DataType::F16:
        *type = ElementType::kFloat16;
        return *this;
      case ffi::DataType::BF16:
        *type = ElementType::kBFloat16;
        return *this;
      default:
        return fail(name, "must be float32, float16 or bfloat16");
    }
  }

  Matcher& require(bool condition, const char* name, const char* what) {
    return condition ? *this : fail(name, what);
  }

  bool ok() const { return error_.empty(); }
  ffi::Error error() const {
    return ok() ? ffi::Error::Success() : ffi::Error::InvalidArgument("jaxinfer: " + error_);
  }

 private:
  Matcher& fail(const char* name, const std::string& what) {
    if (error_.empty()) error_ = std::string(name) + " " + what;
    return *this;
  }

  std::string error_;
};

inline const int32_t* int32s(const ffi::AnyBuffer& buffer) {
  return static_cast<const int32_t*>(buffer.untyped_data());
}
inline const float* floats(const ffi::AnyBuffer& buffer) {
  return static_cast<const float*>(buffer.untyped_data());
}
inline int64_t element_bytes(ElementType type) { return type == ElementType::kFloat32 ? 4 : 2; }

}  // namespace jaxinfer
