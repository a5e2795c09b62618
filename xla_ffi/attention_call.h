// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// The part that the attention ops share: options, plan and results of a call, and the
// run of its work items on XLA's thread pool.
#pragma once

#include "csrc/attention.h"
#include "csrc/plan.h"
#include "xla_ffi/check.h"

namespace jaxinfer {

// The static options of a call, one FFI attribute each.
struct AttentionOptions {
  ffi::Span<const int32_t> facts;  // PlanFacts
  float scale;
  float logits_soft_cap;  // 0: none
  bool is_causal;
  int32_t window_left, window_right;  // INT32_MAX: unbounded
  bool use_softmax;
};

struct AttentionResults {
  ffi::Result<ffi::AnyBuffer> out;          // [T, N, Hv]
  ffi::Result<ffi::AnyBuffer> lse;          // [T, N] f32
  ffi::Result<ffi::AnyBuffer> partial_out;  // [slots, slot_tokens, slot_heads, Hv] f32
  ffi::Result<ffi::AnyBuffer> partial_lse;  // [slots, slot_tokens, slot_heads] f32
};

// A call ready to run: the parameters, and which items each CTA has.
struct AttentionCall {
  AttentionParams params{};
  const int32_t* cta_indptr = nullptr;
  int64_t num_ctas = 0;
};

// Fills what all ops have in common. `call.params` must hold the shapes already.
void match_call(Matcher& matcher, const AttentionOptions& options, const ffi::AnyBuffer& plan,
                AttentionResults& results, AttentionCall* call);

// Runs the items of every CTA, then the merges.
ffi::Future run_attention(ffi::ThreadPool pool, const AttentionCall& call);

// For handlers that find an operand they cannot use.
ffi::Future failed(const ffi::Error& error);

}  // namespace jaxinfer

XLA_FFI_REGISTER_STRUCT_ATTR_DECODING(
    jaxinfer::AttentionOptions, ::xla::ffi::StructMember<::xla::ffi::Span<const int32_t>>("facts"),
    ::xla::ffi::StructMember<float>("scale"), ::xla::ffi::StructMember<float>("logits_soft_cap"),
    ::xla::ffi::StructMember<bool>("is_causal"), ::xla::ffi::StructMember<int32_t>("window_left"),
    ::xla::ffi::StructMember<int32_t>("window_right"),
    ::xla::ffi::StructMember<bool>("use_softmax"));
