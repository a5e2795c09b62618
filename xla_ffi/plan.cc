// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// FFI target of jaxinfer.plan inside jit, on CPU: the same planner as on the host.
#include "csrc/plan.h"

#include "xla_ffi/check.h"
#include "xla_ffi/targets.h"

namespace jaxinfer {
namespace {

ffi::Error plan(ffi::AnyBuffer cu_q_lens,  // [B + 1]
                ffi::AnyBuffer kv_lens,    // [B]
                ffi::Result<ffi::AnyBuffer> buffer, ffi::Span<const int32_t> encoded_facts) {
  PlanFacts facts;
  const char* wrong = decode_plan_facts(encoded_facts.begin(), encoded_facts.size(), &facts);
  if (wrong != nullptr) return ffi::Error::InvalidArgument(wrong);
  Matcher m;
  m.match("cu_q_lens", cu_q_lens, ffi::S32, {int64_t{facts.num_seqs} + 1})
      .match("kv_lens", kv_lens, ffi::S32, {facts.num_seqs})
      .match("plan", *buffer, ffi::S32, {plan_layout(facts).size});
  if (!m.ok()) return m.error();
  make_plan(facts, int32s(cu_q_lens), int32s(kv_lens),
            static_cast<int32_t*>(buffer->untyped_data()));
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(Plan, plan,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<ffi::Span<const int32_t>>("facts"));

}  // namespace jaxinfer
