// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// FFI targets of jaxinfer.dot_product_attention: dense batches, bias and mask.
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

ffi::Error match(const Buffers& buffers, ffi::Dictionary attributes, AttentionCall* call) {
  if (!buffers.are(9, 4)) return ffi::Error::InvalidArgument("jaxinfer: 9 operands, 4 results");
  const auto query = buffers.arg(0);      // [B, T, N, H]
  const auto key = buffers.arg(1);        // [B, S, K, H]
  const auto value = buffers.arg(2);      // [B, S, K, Hv]
  const auto bias = buffers.arg(3);       // [B|1, N|1, T|1, S|1], or empty
  const auto mask = buffers.arg(4);       // [B|1, N|1, T|1, S|1], or empty
  const auto kv_starts = buffers.arg(5);  // [B] b * S
  const auto kv_lens = buffers.arg(6);    // [B]
  const auto cu_q_lens = buffers.arg(7);  // [B + 1] b * T, or empty: b
  int64_t B = -1, T = -1, N = -1, H = -1, S = -1, K = -1, Hv = -1;
  AttentionParams& p = call->params;
  ElementType v_type{};
  Matcher m;
  m.shape("query", query, {&B, &T, &N, &H})
      .shape("key", key, {&B, &S, &K, &H})
      .shape("value", value, {&B, &S, &K, &Hv});
  m.match("kv_starts", kv_starts, ffi::S32, {B})
      .match("kv_lens", kv_lens, ffi::S32, {B})
      .element_type("query", query, &p.q_type)
      .element_type("key", key, &p.kv_type)
      .element_type("value", value, &v_type)
      .require(v_type == p.kv_type, "value", "must have the dtype of key")
      .require(B > 0 && T > 0 && N > 0 && K > 0 && N % K == 0, "query",
               "must have a multiple of K heads");
  if (m.match_optional("cu_q_lens", cu_q_lens, ffi::S32, {B + 1})) p.cu_q_lens = int32s(cu_q_lens);
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
  if (m.ok()) match_call(m, buffers, 9, attributes, call);
  if (!m.ok()) return m.error();

  p.dense_q_len = T, p.dense_kv_len = S;
  p.is_top_left = true;
  p.kv.kv_starts = int32s(kv_starts);
  p.kv.num_lists = B, p.kv.num_pages = B * S;
  p.q = query.untyped_data();
  p.k = key.untyped_data();
  p.v = value.untyped_data();
  p.kv_lens = int32s(kv_lens);
  return ffi::Error::Success();
}

}  // namespace

JAXINFER_ATTENTION_TARGETS(DotProductAttention, match);

}  // namespace jaxinfer
