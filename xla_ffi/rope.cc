// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// FFI target of jaxinfer.rope on CUDA.
#include "csrc/rope.h"

#include "xla_ffi/kernel.h"
#include "xla_ffi/rope_call.h"
#include "xla_ffi/targets.h"

namespace jaxinfer {
namespace {

ffi::Error rope_on_cuda(CUstream stream, ffi::RemainingArgs args, ffi::RemainingRets rets,
                        ffi::Dictionary attributes) {
  const Buffers buffers(args, rets);
  if (!buffers.are(3, 1)) return ffi::Error::InvalidArgument("jaxinfer: 3 operands, 1 result");
  RopeParams p{};
  Matcher m;
  match_rope(m, buffers.arg(0), buffers.arg(1), buffers.arg(2), buffers.ret(0), true, attributes,
             &p);
  if (!m.ok() || p.num_tokens * p.num_heads == 0) return m.error();
  p.width = rope_width(p, address(p.x) | address(p.out));
  Launch grid;
  grid.grid_x = p.num_tokens;
  grid.threads = rope_threads(p, p.num_heads * rope_head_steps(p));
  grid.shared_bytes = p.rotary_dim * sizeof(float);
  return launch(stream, attributes, "rope", grid, &p);
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    RopeCuda, rope_on_cuda,
    ffi::Ffi::Bind().Ctx<ffi::PlatformStream<CUstream>>().RemainingArgs().RemainingRets().Attrs(),
    {ffi::Traits::kCmdBufferCompatible});

JAXINFER_CUDA_INITIALIZE(Rope, "rope");

}  // namespace jaxinfer
