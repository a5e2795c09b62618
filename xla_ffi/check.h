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

// The operands and results of a call, by position.
class Buffers {
 public:
  Buffers(ffi::RemainingArgs args, ffi::RemainingRets rets) : args_(args), rets_(rets) {}

  bool are(size_t num_args, size_t num_rets) const {
    return args_.size() == num_args && rets_.size() == num_rets;
  }
  // More operands than those of the op are what the hooks of a variant read.
  bool are_at_least(size_t num_args, size_t num_rets) const {
    return args_.size() >= num_args && rets_.size() == num_rets;
  }
  size_t num_args() const { return args_.size(); }
  ffi::AnyBuffer arg(size_t i) const { return *args_.get<ffi::AnyBuffer>(i); }
  ffi::AnyBuffer ret(size_t i) const { return **rets_.get<ffi::AnyBuffer>(i); }

 private:
  ffi::RemainingArgs args_;
  ffi::RemainingRets rets_;
};

// For asynchronous handlers that find an operand they cannot use.
inline ffi::Future failed(const ffi::Error& error) {
  ffi::Promise promise;
  ffi::Future future(promise);
  promise.SetError(error);
  return future;
}

// Collects the first mismatch. A dimension is a number, or a variable: its first use
// binds it, later uses must agree.
class Matcher {
 public:
  struct Dim {
    Dim(int64_t value) : value(value) {}            // NOLINT: implicit on purpose
    Dim(int64_t* variable) : variable(variable) {}  // NOLINT
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
      int64_t want = dim.value;
      bind(name, ("axis " + std::to_string(axis)).c_str(), shape[axis],
           dim.variable != nullptr ? dim.variable : &want);
      ++axis;
    }
    return *this;
  }

  // A paged cache: [L, P, page_size, K, H] if it is stacked, else [..., page_size, K, H],
  // in which all leading axes together count pages.
  Matcher& pages(const char* name, const ffi::AnyBuffer& buffer, bool is_stacked, int64_t* L,
                 int64_t* P, int64_t* page_size, int64_t* K, int64_t* H) {
    const auto shape = buffer.dimensions();
    const size_t rank = shape.size();
    if (is_stacked ? rank != 5 : rank < 4) {
      return fail(name, is_stacked ? "must have rank 5" : "must have rank 4 or more");
    }
    int64_t pages = is_stacked ? shape[1] : 1;
    for (size_t axis = 0; !is_stacked && axis < rank - 3; ++axis) pages *= shape[axis];
    bind(name, "number of layers", is_stacked ? shape[0] : 1, L);
    bind(name, "number of pages", pages, P);
    bind(name, "page size", shape[rank - 3], page_size);
    bind(name, "number of KV heads", shape[rank - 2], K);
    return bind(name, "head_dim", shape[rank - 1], H);
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

  template <typename T, typename V>
  Matcher& attribute(ffi::Dictionary attributes, const char* name, V* value) {
    const auto found = attributes.get<T>(name);
    if (found.has_error()) return fail(name, "is missing among the attributes, or of another type");
    *value = *found;
    return *this;
  }
  template <typename T>
  Matcher& attribute(ffi::Dictionary attributes, const char* name, T* value) {
    return attribute<T, T>(attributes, name, value);
  }

  Matcher& require(bool condition, const char* name, const char* what) {
    return condition ? *this : fail(name, what);
  }

  bool ok() const { return error_.empty(); }
  ffi::Error error() const {
    return ok() ? ffi::Error::Success() : ffi::Error::InvalidArgument("jaxinfer: " + error_);
  }

 private:
  Matcher& bind(const char* name, const char* what, int64_t got, int64_t* variable) {
    if (*variable == kFree) *variable = got;
    if (got == *variable) return *this;
    return fail(name, std::string(what) + " must be " + std::to_string(*variable) + ", got " +
                          std::to_string(got));
  }

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
