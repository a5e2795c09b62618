// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// FFI target of jaxinfer.merge_partials on CPU.
#include "csrc/attention.h"
#include "xla_ffi/check.h"
#include "xla_ffi/targets.h"

namespace jaxinfer {
namespace {

ffi::Error merge(ffi::AnyBuffer outs,  // [S, T, N, H]
                 ffi::AnyBuffer lses,  // [S, T, N]
                 ffi::AnyBuffer sink,  // [N], or empty
                 ffi::Result<ffi::AnyBuffer> out, ffi::Result<ffi::AnyBuffer> lse,
                 bool use_softmax) {
  int64_t S = -1, T = -1, N = -1, H = -1;
  MergePartialsParams p{};
  ElementType out_type{};
  Matcher m;
  m.shape("outs", outs, {&S, &T, &N, &H})
      .match("lses", lses, ffi::F32, {&S, &T, &N})
      .shape("out", *out, {T, N, H})
      .match("lse", *lse, ffi::F32, {T, N})
      .element_type("outs", outs, &p.type)
      .element_type("out", *out, &out_type)
      .require(out_type == p.type, "out", "must have the dtype of outs")
      .require(S > 0 && S <= 64, "outs", "must hold 1 to 64 partial results")
      .require(H > 0 && H % 16 == 0 && H <= 256, "outs",
               "must have a head_dim that is a multiple of 16 and at most 256");
  if (m.match_optional("attention_sink", sink, ffi::F32, {N})) p.sink = floats(sink);
  if (!m.ok()) return m.error();
  p.num_splits = S, p.num_rows = T, p.num_heads = N, p.head_dim = H;
  p.outs = outs.untyped_data();
  p.lses = floats(lses);
  p.use_softmax = use_softmax;
  p.out = out->untyped_data();
  p.lse = static_cast<float*>(lse->untyped_data());
  best_cpu_kernels().merge_partials(p, 0, T);
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(MergePartials, merge,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<bool>("use_softmax"));

}  // namespace jaxinfer
