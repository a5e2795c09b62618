// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// FFI targets of jaxinfer.ragged_paged_attention.
#include "xla_ffi/attention_call.h"
#include "xla_ffi/targets.h"

namespace jaxinfer {
namespace {

ffi::Error match(const Buffers& buffers, ffi::Dictionary attributes, AttentionCall* call) {
  if (!buffers.are_at_least(12, 4))
    return ffi::Error::InvalidArgument("jaxinfer: 12 operands, 4 results");
  const auto query = buffers.arg(0);        // [T, N, H]
  const auto k_pages = buffers.arg(1);      // [L, P, page_size, K, H], or without L
  const auto v_pages = buffers.arg(2);      // [L, P, page_size, K, Hv], or without L
  const auto page_table = buffers.arg(3);   // [B, max_pages] or page_indices
  const auto page_indptr = buffers.arg(4);  // [B + 1], or empty
  const auto kv_lens = buffers.arg(5);      // [B]
  const auto cu_q_lens = buffers.arg(6);    // [B + 1], or empty: one query each
  const auto layer = buffers.arg(7);        // [], or empty: pages of one layer
  const auto k_scale = buffers.arg(8);      // [K], or empty
  const auto v_scale = buffers.arg(9);      // [K], or empty
  const auto sink = buffers.arg(10);        // [N], or empty
  int64_t T = -1, N = -1, H = -1, L = -1, P = -1, page_size = -1, K = -1, Hv = -1, B = -1;
  int64_t max_pages = -1, num_page_indices = -1, B1 = -1;
  AttentionParams& p = call->params;
  ElementType v_type{};
  Matcher m;
  const bool is_stacked = m.match_optional("layer", layer, ffi::S32, {});
  m.shape("query", query, {&T, &N, &H})
      .pages("k_pages", k_pages, is_stacked, &L, &P, &page_size, &K, &H)
      .pages("v_pages", v_pages, is_stacked, &L, &P, &page_size, &K, &Hv)
      .match("kv_lens", kv_lens, ffi::S32, {&B})
      .element_type("query", query, &p.q_type)
      .element_type("k_pages", k_pages, &p.kv_type)
      .element_type("v_pages", v_pages, &v_type)
      .require(v_type == p.kv_type, "v_pages", "must have the dtype of k_pages")
      .require(T > 0 && N > 0 && K > 0 && N % K == 0, "query", "must have a multiple of K heads")
      .require(L > 0 && page_size > 0, "k_pages", "has an empty axis");
  if (m.match_optional("cu_q_lens", cu_q_lens, ffi::S32, {&B1})) {
    m.require(B1 == B + 1, "cu_q_lens", "must be one longer than kv_lens");
    p.cu_q_lens = int32s(cu_q_lens);
  }
  if (m.match_optional("page_indptr", page_indptr, ffi::S32, {B + 1})) {
    m.match("page_indices", page_table, ffi::S32, {&num_page_indices});
    p.kv.page_indptr = int32s(page_indptr);
    p.kv.page_indices = int32s(page_table);
    p.kv.num_page_indices = num_page_indices;
  } else {
    m.match("page_table", page_table, ffi::S32, {B, &max_pages});
    p.kv.page_table = int32s(page_table);
    p.kv.max_pages = max_pages;
  }
  if (m.match_optional("k_scale", k_scale, ffi::F32, {K})) p.k_scale = floats(k_scale);
  if (m.match_optional("v_scale", v_scale, ffi::F32, {K})) p.v_scale = floats(v_scale);
  if (m.match_optional("attention_sink", sink, ffi::F32, {N})) p.sink = floats(sink);
  p.num_tokens = T, p.num_q_heads = N, p.num_kv_heads = K, p.num_seqs = B;
  p.head_dim = H, p.head_dim_v = Hv;
  if (m.ok()) match_call(m, buffers, 12, attributes, call);
  if (!m.ok()) return m.error();

  p.kv.num_lists = B, p.kv.num_pages = P, p.kv.page_size = page_size;
  p.layer = is_stacked ? int32s(layer) : nullptr;
  p.num_layers = L;
  p.q = query.untyped_data();
  p.k = k_pages.untyped_data();
  p.v = v_pages.untyped_data();
  p.kv_lens = int32s(kv_lens);
  return ffi::Error::Success();
}

}  // namespace

JAXINFER_ATTENTION_TARGETS(RaggedPagedAttention, match);

}  // namespace jaxinfer
