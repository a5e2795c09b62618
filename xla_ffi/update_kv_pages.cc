// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// FFI target of jaxinfer.update_kv_pages on CPU. The results are the cache operands.
#include "csrc/update_kv_pages.h"

#include "xla_ffi/check.h"
#include "xla_ffi/targets.h"

namespace jaxinfer {
namespace {

ffi::Error update(ffi::AnyBuffer k_pages,       // [L, P, page_size, K, H], or without L
                  ffi::AnyBuffer v_pages,       // [L, P, page_size, K, Hv], or without L
                  ffi::AnyBuffer key,           // [T, K, H]
                  ffi::AnyBuffer value,         // [T, K, Hv]
                  ffi::AnyBuffer slot_mapping,  // [T], or empty: by page_table
                  ffi::AnyBuffer page_table,    // [B, max_pages] or page_indices
                  ffi::AnyBuffer page_indptr,   // [B + 1], or empty
                  ffi::AnyBuffer kv_lens,       // [B]
                  ffi::AnyBuffer cu_q_lens,     // [B + 1]
                  ffi::AnyBuffer layer,         // [], or empty: pages of one layer
                  ffi::Result<ffi::AnyBuffer> k_out, ffi::Result<ffi::AnyBuffer> v_out) {
  int64_t T = -1, L = -1, P = -1, page_size = -1, K = -1, H = -1, Hv = -1, B = -1;
  UpdateKvPagesParams p;
  ElementType type{}, other{};
  Matcher m;
  const bool is_stacked = m.match_optional("layer", layer, ffi::S32, {});
  m.pages("k_pages", k_pages, is_stacked, &L, &P, &page_size, &K, &H)
      .pages("v_pages", v_pages, is_stacked, &L, &P, &page_size, &K, &Hv)
      .shape("key", key, {&T, &K, &H})
      .shape("value", value, {&T, &K, &Hv})
      .element_type("k_pages", k_pages, &type)
      .require(L > 0 && P > 0 && page_size > 0, "k_pages", "has an empty axis");
  for (const auto& [name, buffer] :
       {std::pair{"v_pages", v_pages}, {"key", key}, {"value", value}}) {
    m.element_type(name, buffer, &other)
        .require(other == type, name, "must have the cache's dtype");
  }
  if (m.match_optional("slot_mapping", slot_mapping, ffi::S32, {T})) {
    p.slot_mapping = int32s(slot_mapping);
  } else {
    m.match("kv_lens", kv_lens, ffi::S32, {&B});
    m.match("cu_q_lens", cu_q_lens, ffi::S32, {B + 1});
    if (m.match_optional("page_indptr", page_indptr, ffi::S32, {B + 1})) {
      p.num_page_indices = -1;
      m.match("page_indices", page_table, ffi::S32, {&p.num_page_indices});
      p.page_indptr = int32s(page_indptr);
      p.page_indices = int32s(page_table);
    } else {
      p.max_pages = -1;
      m.match("page_table", page_table, ffi::S32, {B, &p.max_pages});
      p.page_table = int32s(page_table);
    }
    p.kv_lens = int32s(kv_lens);
    p.cu_q_lens = int32s(cu_q_lens);
  }
  m.require(k_out->untyped_data() == k_pages.untyped_data(), "k_pages", "must alias result 0")
      .require(v_out->untyped_data() == v_pages.untyped_data(), "v_pages", "must alias result 1");
  if (!m.ok()) return m.error();

  p.num_tokens = T, p.num_seqs = B, p.num_pages = P, p.page_size = page_size;
  p.k_row_bytes = K * H * element_bytes(type);
  p.v_row_bytes = K * Hv * element_bytes(type);
  p.key = key.untyped_data();
  p.value = value.untyped_data();
  const int64_t clamped = is_stacked ? std::clamp<int64_t>(*int32s(layer), 0, L - 1) : 0;
  p.k_pages = static_cast<char*>(k_out->untyped_data()) + clamped * P * page_size * p.k_row_bytes;
  p.v_pages = static_cast<char*>(v_out->untyped_data()) + clamped * P * page_size * p.v_row_bytes;
  update_kv_pages(p);
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(UpdateKvPages, update,
                              ffi::Ffi::Bind()
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
                                  .Ret<ffi::AnyBuffer>());

}  // namespace jaxinfer
