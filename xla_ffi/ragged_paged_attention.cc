// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// FFI target of jaxinfer.ragged_paged_attention on CPU.
#include "xla_ffi/attention_call.h"
#include "xla_ffi/targets.h"

namespace jaxinfer {
namespace {

ffi::Future ragged_paged_attention(
    ffi::ThreadPool pool,
    ffi::AnyBuffer query,        // [T, N, H]
    ffi::AnyBuffer k_pages,      // [L, P, page_size, K, H], or without L
    ffi::AnyBuffer v_pages,      // [L, P, page_size, K, Hv], or without L
    ffi::AnyBuffer page_table,   // [B, max_pages] or page_indices
    ffi::AnyBuffer page_indptr,  // [B + 1], or empty
    ffi::AnyBuffer kv_lens,      // [B]
    ffi::AnyBuffer cu_q_lens,    // [B + 1]
    ffi::AnyBuffer layer,        // [], or empty: pages of one layer
    ffi::AnyBuffer k_scale,      // [K], or empty
    ffi::AnyBuffer v_scale,      // [K], or empty
    ffi::AnyBuffer sink,         // [N], or empty
    ffi::AnyBuffer plan, ffi::Result<ffi::AnyBuffer> out, ffi::Result<ffi::AnyBuffer> lse,
    ffi::Result<ffi::AnyBuffer> partial_out, ffi::Result<ffi::AnyBuffer> partial_lse,
    AttentionOptions options) {
  int64_t T = -1, N = -1, H = -1, L = -1, P = -1, page_size = -1, K = -1, Hv = -1, B = -1;
  int64_t max_pages = -1, num_page_indices = -1, B1 = -1;
  AttentionCall call;
  AttentionParams& p = call.params;
  ElementType v_type{};
  Matcher m;
  const bool is_stacked = m.match_optional("layer", layer, ffi::S32, {});
  m.shape("query", query, {&T, &N, &H})
      .pages("k_pages", k_pages, is_stacked, &L, &P, &page_size, &K, &H)
      .pages("v_pages", v_pages, is_stacked, &L, &P, &page_size, &K, &Hv)
      .match("kv_lens", kv_lens, ffi::S32, {&B})
      .match("cu_q_lens", cu_q_lens, ffi::S32, {&B1})
      .element_type("query", query, &p.q_type)
      .element_type("k_pages", k_pages, &p.kv_type)
      .element_type("v_pages", v_pages, &v_type)
      .require(v_type == p.kv_type, "v_pages", "must have the dtype of k_pages")
      .require(B1 == B + 1, "cu_q_lens", "must be one longer than kv_lens")
      .require(T > 0 && N > 0 && K > 0 && N % K == 0, "query", "must have a multiple of K heads")
      .require(L > 0 && page_size > 0, "k_pages", "has an empty axis");
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
  AttentionResults results{out, lse, partial_out, partial_lse};
  if (m.ok()) match_call(m, options, plan, results, &call);
  if (!m.ok()) return failed(m.error());

  p.kv.num_lists = B, p.kv.num_pages = P, p.kv.page_size = page_size;
  const int64_t clamped = is_stacked ? std::clamp<int64_t>(*int32s(layer), 0, L - 1) : 0;
  const int64_t bytes = P * page_size * K * element_bytes(p.kv_type);  // per head dim element
  p.q = query.untyped_data();
  p.k = static_cast<const char*>(k_pages.untyped_data()) + clamped * bytes * H;
  p.v = static_cast<const char*>(v_pages.untyped_data()) + clamped * bytes * Hv;
  p.kv_lens = int32s(kv_lens);
  p.cu_q_lens = int32s(cu_q_lens);
  return run_attention(pool, call);
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(RaggedPagedAttention, ragged_paged_attention,
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
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attrs<AttentionOptions>());

}  // namespace jaxinfer
