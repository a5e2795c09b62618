// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// FFI target of jaxinfer.ragged_attention on CPU: keys and values without pages.
#include "xla_ffi/attention_call.h"
#include "xla_ffi/targets.h"

namespace jaxinfer {
namespace {

ffi::Future ragged_attention(ffi::ThreadPool pool,
                             ffi::AnyBuffer query,      // [T, N, H]
                             ffi::AnyBuffer key,        // [S, K, H]
                             ffi::AnyBuffer value,      // [S, K, Hv]
                             ffi::AnyBuffer kv_starts,  // [B]
                             ffi::AnyBuffer kv_lens,    // [B]
                             ffi::AnyBuffer cu_q_lens,  // [B + 1]
                             ffi::AnyBuffer k_scale,    // [K], or empty
                             ffi::AnyBuffer v_scale,    // [K], or empty
                             ffi::AnyBuffer sink,       // [N], or empty
                             ffi::AnyBuffer plan, ffi::Result<ffi::AnyBuffer> out,
                             ffi::Result<ffi::AnyBuffer> lse,
                             ffi::Result<ffi::AnyBuffer> partial_out,
                             ffi::Result<ffi::AnyBuffer> partial_lse, AttentionOptions options) {
  int64_t T = -1, N = -1, H = -1, S = -1, K = -1, Hv = -1, B = -1, B1 = -1;
  AttentionCall call;
  AttentionParams& p = call.params;
  ElementType v_type{};
  Matcher m;
  m.shape("query", query, {&T, &N, &H})
      .shape("key", key, {&S, &K, &H})
      .shape("value", value, {&S, &K, &Hv})
      .match("kv_starts", kv_starts, ffi::S32, {&B})
      .match("kv_lens", kv_lens, ffi::S32, {&B})
      .match("cu_q_lens", cu_q_lens, ffi::S32, {&B1})
      .element_type("query", query, &p.q_type)
      .element_type("key", key, &p.kv_type)
      .element_type("value", value, &v_type)
      .require(v_type == p.kv_type, "value", "must have the dtype of key")
      .require(B1 == B + 1, "cu_q_lens", "must be one longer than kv_lens")
      .require(T > 0 && N > 0 && K > 0 && N % K == 0, "query", "must have a multiple of K heads");
  if (m.match_optional("k_scale", k_scale, ffi::F32, {K})) p.k_scale = floats(k_scale);
  if (m.match_optional("v_scale", v_scale, ffi::F32, {K})) p.v_scale = floats(v_scale);
  if (m.match_optional("attention_sink", sink, ffi::F32, {N})) p.sink = floats(sink);
  p.num_tokens = T, p.num_q_heads = N, p.num_kv_heads = K, p.num_seqs = B;
  p.head_dim = H, p.head_dim_v = Hv;
  AttentionResults results{out, lse, partial_out, partial_lse};
  if (m.ok()) match_call(m, options, plan, results, &call);
  if (!m.ok()) return failed(m.error());

  p.kv.kv_starts = int32s(kv_starts);
  p.kv.num_lists = B, p.kv.num_pages = S;
  p.q = query.untyped_data();
  p.k = key.untyped_data();
  p.v = value.untyped_data();
  p.kv_lens = int32s(kv_lens);
  p.cu_q_lens = int32s(cu_q_lens);
  return run_attention(pool, call);
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(RaggedAttention, ragged_attention,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attrs<AttentionOptions>());

}  // namespace jaxinfer
