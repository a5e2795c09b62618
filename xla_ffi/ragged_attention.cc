// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// FFI targets of jaxinfer.ragged_attention: keys and values without pages.
#include "xla_ffi/attention_call.h"
#include "xla_ffi/targets.h"

namespace jaxinfer {
namespace {

ffi::Error match(const Buffers& buffers, ffi::Dictionary attributes, AttentionCall* call) {
  if (!buffers.are_at_least(10, 4))
    return ffi::Error::InvalidArgument("jaxinfer: 10 operands, 4 results");
  const auto query = buffers.arg(0);      // [T, N, H]
  const auto key = buffers.arg(1);        // [S, K, H]
  const auto value = buffers.arg(2);      // [S, K, Hv]
  const auto kv_starts = buffers.arg(3);  // [B]
  const auto kv_lens = buffers.arg(4);    // [B]
  const auto cu_q_lens = buffers.arg(5);  // [B + 1], or empty: one query each
  const auto k_scale = buffers.arg(6);    // [K], or empty
  const auto v_scale = buffers.arg(7);    // [K], or empty
  const auto sink = buffers.arg(8);       // [N], or empty
  int64_t T = -1, N = -1, H = -1, S = -1, K = -1, Hv = -1, B = -1, B1 = -1;
  AttentionParams& p = call->params;
  ElementType v_type{};
  Matcher m;
  m.shape("query", query, {&T, &N, &H})
      .shape("key", key, {&S, &K, &H})
      .shape("value", value, {&S, &K, &Hv})
      .match("kv_starts", kv_starts, ffi::S32, {&B})
      .match("kv_lens", kv_lens, ffi::S32, {&B})
      .element_type("query", query, &p.q_type)
      .element_type("key", key, &p.kv_type)
      .element_type("value", value, &v_type)
      .require(v_type == p.kv_type, "value", "must have the dtype of key")
      .require(T > 0 && N > 0 && K > 0 && N % K == 0, "query", "must have a multiple of K heads");
  if (m.match_optional("cu_q_lens", cu_q_lens, ffi::S32, {&B1})) {
    m.require(B1 == B + 1, "cu_q_lens", "must be one longer than kv_lens");
    p.cu_q_lens = int32s(cu_q_lens);
  }
  if (m.match_optional("k_scale", k_scale, ffi::F32, {K})) p.k_scale = floats(k_scale);
  if (m.match_optional("v_scale", v_scale, ffi::F32, {K})) p.v_scale = floats(v_scale);
  if (m.match_optional("attention_sink", sink, ffi::F32, {N})) p.sink = floats(sink);
  p.num_tokens = T, p.num_q_heads = N, p.num_kv_heads = K, p.num_seqs = B;
  p.head_dim = H, p.head_dim_v = Hv;
  if (m.ok()) match_call(m, buffers, 10, attributes, call);
  if (!m.ok()) return m.error();

  p.kv.kv_starts = int32s(kv_starts);
  p.kv.num_lists = B, p.kv.num_pages = S;
  p.q = query.untyped_data();
  p.k = key.untyped_data();
  p.v = value.untyped_data();
  p.kv_lens = int32s(kv_lens);
  return ffi::Error::Success();
}

}  // namespace

JAXINFER_ATTENTION_TARGETS(RaggedAttention, match);

}  // namespace jaxinfer
