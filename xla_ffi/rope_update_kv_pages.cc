// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// FFI target of jaxinfer.rope_update_kv_pages on CUDA.
#include "csrc/rope.h"
#include "xla_ffi/append_call.h"
#include "xla_ffi/kernel.h"
#include "xla_ffi/rope_call.h"
#include "xla_ffi/targets.h"

namespace jaxinfer {
namespace {

ffi::Error rope_update_on_cuda(CUstream stream, ffi::RemainingArgs args, ffi::RemainingRets rets,
                               ffi::Dictionary attributes) {
  const Buffers buffers(args, rets);
  if (!buffers.are(13, 3)) return ffi::Error::InvalidArgument("jaxinfer: 13 operands, 3 results");
  const auto query = buffers.arg(0);  // [T, N, H]
  // 1 to 10: the operands of update_kv_pages
  const auto positions = buffers.arg(11);    // [T], or empty: by kv_lens and cu_q_lens
  const auto frequencies = buffers.arg(12);  // [R / 2]
  const auto out = buffers.ret(0);           // [T, N, H]
  // 1 and 2: the cache
  RopeUpdateKvPagesParams p{};
  AppendSizes sizes;
  Matcher m;
  match_append(m, buffers, 1, 1, &sizes, &p.append);
  match_rope(m, query, positions, frequencies, out, p.append.slot_mapping != nullptr, attributes,
             &p.query);
  m.require(p.query.num_tokens == sizes.T && p.query.head_dim == sizes.H, "query",
            "must have the tokens and the head_dim of key")
      .require(p.query.type == sizes.type, "query", "must have the cache's dtype");
  if (!m.ok() || sizes.T == 0) return m.error();
  p.num_kv_heads = sizes.K, p.head_dim_v = sizes.Hv;
  p.query.width = rope_width(p.query, address(p.query.x) | address(p.query.out) |
                                          address(p.append.key) | address(p.append.value) |
                                          address(p.append.k_pages) | address(p.append.v_pages) |
                                          static_cast<uint64_t>(p.append.v_row_bytes));
  const int64_t value_steps = sizes.K * sizes.Hv / p.query.width;
  Launch grid;
  grid.grid_x = sizes.T;
  grid.threads =
      rope_threads(p.query, (p.query.num_heads + sizes.K) * rope_head_steps(p.query) + value_steps);
  grid.shared_bytes = p.query.rotary_dim * sizeof(float);
  return launch(stream, attributes, "rope_update_kv_pages", grid, &p);
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    RopeUpdateKvPagesCuda, rope_update_on_cuda,
    ffi::Ffi::Bind().Ctx<ffi::PlatformStream<CUstream>>().RemainingArgs().RemainingRets().Attrs(),
    {ffi::Traits::kCmdBufferCompatible});

JAXINFER_CUDA_INITIALIZE(RopeUpdateKvPages, "rope_update_kv_pages");

}  // namespace jaxinfer
