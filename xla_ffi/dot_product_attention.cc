// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// FFI target of jaxinfer.dot_product_attention on CPU: dense batches, bias and mask.
#include "xla_ffi/attention_call.h"
#include "xla_ffi/targets.h"

namespace jaxinfer {
namespace {

// Strides of a [B|1, N|1, T|1, S|1] operand, 0 along the axes that it is broadcast over.
void match_broadcast(Matcher& m, const char* name, const ffi::AnyBuffer& buffer,
                     const int64_t (&shape)[4], int64_t (&strides)[4]) {
  int64_t stride = 1;
  for (int axis = 3; axis >= 0 && m.ok(); --axis) {
    const int64_t size = buffer.dimensions()[axis];
    m.require(size == 1 || size == shape[axis], name, "does not broadcast to [B, N, T, S]");
    strides[axis] = size == 1 ? 0 : stride;
    stride *= size;
  }
}

ffi::Future dot_product_attention(ffi::ThreadPool pool,
                                  ffi::AnyBuffer query,      // [B, T, N, H]
                                  ffi::AnyBuffer key,        // [B, S, K, H]
                                  ffi::AnyBuffer value,      // [B, S, K, Hv]
                                  ffi::AnyBuffer bias,       // [B|1, N|1, T|1, S|1], or empty
                                  ffi::AnyBuffer mask,       // [B|1, N|1, T|1, S|1], or empty
                                  ffi::AnyBuffer kv_starts,  // [B] b * S
                                  ffi::AnyBuffer kv_lens,    // [B]
                                  ffi::AnyBuffer cu_q_lens,  // [B + 1] b * T
                                  ffi::AnyBuffer plan, ffi::Result<ffi::AnyBuffer> out,
                                  ffi::Result<ffi::AnyBuffer> lse,
                                  ffi::Result<ffi::AnyBuffer> partial_out,
                                  ffi::Result<ffi::AnyBuffer> partial_lse,
                                  AttentionOptions options) {
  int64_t B = -1, T = -1, N = -1, H = -1, S = -1, K = -1, Hv = -1;
  AttentionCall call;
  AttentionParams& p = call.params;
  ElementType v_type{};
  Matcher m;
  m.shape("query", query, {&B, &T, &N, &H})
      .shape("key", key, {&B, &S, &K, &H})
      .shape("value", value, {&B, &S, &K, &Hv});
  m.match("kv_starts", kv_starts, ffi::S32, {B})
      .match("kv_lens", kv_lens, ffi::S32, {B})
      .match("cu_q_lens", cu_q_lens, ffi::S32, {B + 1})
      .element_type("query", query, &p.q_type)
      .element_type("key", key, &p.kv_type)
      .element_type("value", value, &v_type)
      .require(v_type == p.kv_type, "value", "must have the dtype of key")
      .require(B > 0 && T > 0 && N > 0 && K > 0 && N % K == 0, "query",
               "must have a multiple of K heads");
  int64_t free[4] = {-1, -1, -1, -1}, free_mask[4] = {-1, -1, -1, -1};
  const int64_t shape[4] = {B, N, T, S};
  if (m.match_optional("bias", bias, ffi::F32, {&free[0], &free[1], &free[2], &free[3]})) {
    match_broadcast(m, "bias", bias, shape, p.bias_strides);
    p.bias = floats(bias);
  }
  if (m.match_optional("mask", mask, ffi::PRED,
                       {&free_mask[0], &free_mask[1], &free_mask[2], &free_mask[3]})) {
    match_broadcast(m, "mask", mask, shape, p.mask_strides);
    p.mask = static_cast<const bool*>(mask.untyped_data());
  }
  p.num_tokens = B * T, p.num_q_heads = N, p.num_kv_heads = K, p.num_seqs = B;
  p.head_dim = H, p.head_dim_v = Hv;
  AttentionResults results{out, lse, partial_out, partial_lse};
  if (m.ok()) match_call(m, options, plan, results, &call);
  // Positions of bias and mask come from the lengths; only these keep them in bounds.
  for (int64_t b = 0; b < B && m.ok(); ++b) {
    m.require(int32s(cu_q_lens)[b + 1] == (b + 1) * T && int32s(kv_starts)[b] == b * S &&
                  int32s(kv_lens)[b] <= S,
              "cu_q_lens, kv_starts and kv_lens", "must be those of dense batches");
  }
  if (!m.ok()) return failed(m.error());

  p.is_top_left = true;
  p.kv.kv_starts = int32s(kv_starts);
  p.kv.num_lists = B, p.kv.num_pages = B * S;
  p.q = query.untyped_data();
  p.k = key.untyped_data();
  p.v = value.untyped_data();
  p.kv_lens = int32s(kv_lens);
  p.cu_q_lens = int32s(cu_q_lens);
  return run_attention(pool, call);
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(DotProductAttention, dot_product_attention,
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
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attrs<AttentionOptions>());

}  // namespace jaxinfer
