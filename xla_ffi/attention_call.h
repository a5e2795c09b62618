// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// What the attention ops share: options, plan and results of a call, and its run on XLA's
// thread pool or on a CUDA stream.
#pragma once

#include "csrc/attention.h"
#include "csrc/hopper_tiles.h"
#include "csrc/plan.h"
#include "xla_ffi/check.h"
#include "xla_ffi/kernel.h"

namespace jaxinfer {

// A call ready to run.
struct AttentionCall {
  AttentionParams params{};
  PlanFacts facts{};
  size_t num_operands = 0;  // of the op; behind them come those of a variant
  HopperTiles hopper{};     // CUDA: of the kernel for sm_90a, if the long tiles are left to it

  bool uses_hopper() const { return hopper.keys > 0; }
  // Whether all tiles are: then of the other kernel only what merges is compiled.
  bool is_all_long() const { return uses_hopper() && facts.num_bands() == 1; }
};

// Matches the operands and results of one op against their documented shapes and fills
// the parameters, without reading any operand: these may lie on a GPU.
using MatchAttention = ffi::Error (*)(const Buffers&, ffi::Dictionary, AttentionCall*);

// The part of it that all ops share: plan, workspace, results (the four of every attention
// target) and options. `call->params` must hold the shapes already. The plan is the last of the
// op's `num_operands`; behind it come those of a variant.
void match_call(Matcher& matcher, const Buffers& buffers, size_t num_operands,
                ffi::Dictionary attributes, AttentionCall* call);

// Runs the items of every CTA on XLA's thread pool, then the merges.
ffi::Future run_on_cpu(ffi::ThreadPool pool, AttentionCall call);

// Before any run of it: loads the kernels, and reserves what it counts with.
ffi::Error prepare_on_cuda(ffi::Dictionary attributes, const AttentionCall& call);

// Launches csrc/attention.cuh, csrc/attention_hopper.cuh or both and, if they do not merge, what
// does.
ffi::Error run_on_cuda(CUstream stream, ffi::Dictionary attributes, const AttentionCall& call);

template <MatchAttention match>
ffi::Future attention_on_cpu(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets,
                             ffi::Dictionary attributes) {
  AttentionCall call;
  const ffi::Error error = match({args, rets}, attributes, &call);
  if (error.failure()) return failed(error);
  if (args.size() != call.num_operands) {  // a variant has no kernel on CPUs
    const std::string number = std::to_string(call.num_operands);
    return failed(ffi::Error::InvalidArgument("jaxinfer: " + number + " operands, 4 results"));
  }
  return run_on_cpu(pool, std::move(call));
}

template <MatchAttention match>
ffi::Error prepare_attention_on_cuda(ffi::RemainingArgs args, ffi::RemainingRets rets,
                                     ffi::Dictionary attributes) {
  AttentionCall call;
  const ffi::Error error = match({args, rets}, attributes, &call);
  return error.failure() ? error : prepare_on_cuda(attributes, call);
}

template <MatchAttention match>
ffi::Error attention_on_cuda(CUstream stream, ffi::RemainingArgs args, ffi::RemainingRets rets,
                             ffi::Dictionary attributes) {
  AttentionCall call;
  const ffi::Error error = match({args, rets}, attributes, &call);
  return error.failure() ? error : run_on_cuda(stream, attributes, call);
}

}  // namespace jaxinfer

// The targets of an attention op.
#define JAXINFER_ATTENTION_TARGETS(Name, match)                                         \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(                                                        \
      Name, attention_on_cpu<match>,                                                    \
      ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().RemainingArgs().RemainingRets().Attrs()); \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(                                                        \
      Name##CudaInitialize, prepare_attention_on_cuda<match>,                           \
      ffi::Ffi::BindInitialize().RemainingArgs().RemainingRets().Attrs());              \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(Name##Cuda, attention_on_cuda<match>,                   \
                                ffi::Ffi::Bind()                                        \
                                    .Ctx<ffi::PlatformStream<CUstream>>()               \
                                    .RemainingArgs()                                    \
                                    .RemainingRets()                                    \
                                    .Attrs(),                                           \
                                {ffi::Traits::kCmdBufferCompatible})
