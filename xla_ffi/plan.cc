// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// FFI targets of jaxinfer.plan inside jit: the same plan as on the host.
#include "csrc/plan.h"

#include "csrc/plan_device.h"
#include "xla_ffi/check.h"
#include "xla_ffi/kernel.h"
#include "xla_ffi/targets.h"

namespace jaxinfer {
namespace {

struct PlanCall {
  PlanFacts facts{};
  PlanLayout layout{};
  const int32_t* cu_q_lens = nullptr;  // stays so for one query each
  const int32_t* kv_lens = nullptr;
  int32_t* buffer = nullptr;
};

// Without reading any operand: these may lie on a GPU.
ffi::Error match(const Buffers& buffers, ffi::Dictionary attributes, PlanCall* call) {
  if (!buffers.are(2, 1)) return ffi::Error::InvalidArgument("jaxinfer: 2 operands, 1 result");
  const auto cu_q_lens = buffers.arg(0);  // [B + 1], or empty: one query each
  const auto kv_lens = buffers.arg(1);    // [B]
  const auto plan = buffers.ret(0);
  ffi::Span<const int32_t> encoded;
  Matcher m;
  m.attribute(attributes, "facts", &encoded);
  if (!m.ok()) return m.error();
  const char* wrong = decode_plan_facts(encoded.begin(), encoded.size(), &call->facts);
  if (wrong != nullptr) return ffi::Error::InvalidArgument(wrong);
  call->layout = plan_layout(call->facts);
  const int64_t num_seqs = call->facts.num_seqs;
  if (m.match_optional("cu_q_lens", cu_q_lens, ffi::S32, {num_seqs + 1})) {
    call->cu_q_lens = int32s(cu_q_lens);
  }
  m.match("kv_lens", kv_lens, ffi::S32, {num_seqs})
      .match("plan", plan, ffi::S32, {call->layout.size});
  call->kv_lens = int32s(kv_lens);
  call->buffer = static_cast<int32_t*>(plan.untyped_data());
  return m.error();
}

ffi::Error plan_on_cpu(ffi::RemainingArgs args, ffi::RemainingRets rets,
                       ffi::Dictionary attributes) {
  PlanCall call;
  const ffi::Error error = match({args, rets}, attributes, &call);
  if (error.success()) make_plan(call.facts, call.cu_q_lens, call.kv_lens, call.buffer);
  return error;
}

ffi::Error plan_on_cuda(CUstream stream, ffi::RemainingArgs args, ffi::RemainingRets rets,
                        ffi::Dictionary attributes) {
  PlanCall call;
  const ffi::Error error = match({args, rets}, attributes, &call);
  if (error.failure()) return error;
  if (call.facts.num_ctas() > kMostPlannedCtas) {
    return ffi::Error::InvalidArgument("plan facts: the CTAs of a plan must be at most " +
                                       std::to_string(kMostPlannedCtas) + " to plan on a GPU");
  }
  Launch grid;
  grid.grid_x = plan_ctas(call.facts);
  grid.threads = plan_threads(call.facts);
  MakePlanParams p = make_plan_params(call.facts, call.layout, grid.threads);
  grid.shared_bytes = p.at.end;
  p.cu_q_lens = call.cu_q_lens;
  p.kv_lens = call.kv_lens;
  p.buffer = call.buffer;
  return launch(stream, attributes, "make_plan", grid, &p);
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(Plan, plan_on_cpu,
                              ffi::Ffi::Bind().RemainingArgs().RemainingRets().Attrs());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    PlanCuda, plan_on_cuda,
    ffi::Ffi::Bind().Ctx<ffi::PlatformStream<CUstream>>().RemainingArgs().RemainingRets().Attrs(),
    {ffi::Traits::kCmdBufferCompatible});

JAXINFER_CUDA_INITIALIZE(Plan, "make_plan");

}  // namespace jaxinfer
