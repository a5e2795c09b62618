// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// FFI targets of jaxinfer.merge_partials.
#include "csrc/merge_partials.h"

#include <limits>

#include "xla_ffi/check.h"
#include "xla_ffi/kernel.h"
#include "xla_ffi/targets.h"

namespace jaxinfer {
namespace {

ffi::Error match(const Buffers& buffers, ffi::Dictionary attributes, MergePartialsParams* p) {
  if (!buffers.are(3, 2)) return ffi::Error::InvalidArgument("jaxinfer: 3 operands, 2 results");
  const auto outs = buffers.arg(0);  // [S, T, N, H]
  const auto lses = buffers.arg(1);  // [S, T, N]
  const auto sink = buffers.arg(2);  // [N], or empty
  const auto out = buffers.ret(0);   // [T, N, H]
  const auto lse = buffers.ret(1);   // [T, N]
  int64_t S = -1, T = -1, N = -1, H = -1;
  ElementType out_type{};
  Matcher m;
  m.shape("outs", outs, {&S, &T, &N, &H})
      .match("lses", lses, ffi::F32, {&S, &T, &N})
      .shape("out", out, {T, N, H})
      .match("lse", lse, ffi::F32, {T, N})
      .element_type("outs", outs, &p->type)
      .element_type("out", out, &out_type)
      .require(out_type == p->type, "out", "must have the dtype of outs")
      .require(S > 0 && S <= 64, "outs", "must hold 1 to 64 partial results")
      .require(H > 0, "outs", "must have a head_dim of at least 1")
      .attribute(attributes, "use_softmax", &p->use_softmax);
  if (m.match_optional("attention_sink", sink, ffi::F32, {N})) p->sink = floats(sink);
  p->num_splits = S, p->num_rows = T, p->num_heads = N, p->head_dim = H;
  p->outs = outs.untyped_data();
  p->lses = floats(lses);
  p->out = out.untyped_data();
  p->lse = static_cast<float*>(lse.untyped_data());
  return m.error();
}

ffi::Error merge_on_cpu(ffi::RemainingArgs args, ffi::RemainingRets rets,
                        ffi::Dictionary attributes) {
  MergePartialsParams p{};
  ffi::Error error = match({args, rets}, attributes, &p);
  if (error.failure()) return error;
  Matcher m;
  m.require(p.head_dim % 16 == 0 && p.head_dim <= 256, "outs",
            "must have a head_dim that is a multiple of 16 and at most 256");
  if (m.ok()) best_cpu_kernels().merge_partials(p, 0, p.num_rows);
  return m.error();
}

ffi::Error merge_on_cuda(CUstream stream, ffi::RemainingArgs args, ffi::RemainingRets rets,
                         ffi::Dictionary attributes) {
  MergePartialsParams p{};
  const ffi::Error error = match({args, rets}, attributes, &p);
  const int64_t rows = p.num_rows * p.num_heads;
  if (error.failure() || rows == 0) return error;
  if (rows > std::numeric_limits<int32_t>::max()) {
    return ffi::Error::InvalidArgument("jaxinfer: outs must have fewer than 2^31 rows and heads");
  }
  const MergePartialsLaunch params = merge_partials_launch(p);
  Launch grid;
  grid.grid_x = (rows + params.rows_per_cta - 1) / params.rows_per_cta;
  grid.threads = kMergePartialsThreads;
  return launch(stream, attributes, "merge_partials", grid, &params);
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(MergePartials, merge_on_cpu,
                              ffi::Ffi::Bind().RemainingArgs().RemainingRets().Attrs());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    MergePartialsCuda, merge_on_cuda,
    ffi::Ffi::Bind().Ctx<ffi::PlatformStream<CUstream>>().RemainingArgs().RemainingRets().Attrs(),
    {ffi::Traits::kCmdBufferCompatible});

JAXINFER_CUDA_INITIALIZE(MergePartials, "merge_partials");

}  // namespace jaxinfer
