// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// FFI targets of jaxinfer.update_kv_pages. The results are the cache operands.
#include "csrc/update_kv_pages.h"

#include <algorithm>

#include "xla_ffi/append_call.h"
#include "xla_ffi/kernel.h"
#include "xla_ffi/targets.h"

namespace jaxinfer {

void match_append(Matcher& m, const Buffers& buffers, size_t first_arg, size_t first_ret,
                  AppendSizes* sizes, UpdateKvPagesParams* p) {
  const auto arg = [&](size_t i) { return buffers.arg(first_arg + i); };
  const auto k_pages = arg(0);       // [L, P, page_size, K, H], or without L
  const auto v_pages = arg(1);       // [L, P, page_size, K, Hv], or without L
  const auto key = arg(2);           // [T, K, H]
  const auto value = arg(3);         // [T, K, Hv]
  const auto slot_mapping = arg(4);  // [T], or empty: by page_table
  const auto page_table = arg(5);    // [B, max_pages] or page_indices
  const auto page_indptr = arg(6);   // [B + 1], or empty
  const auto kv_lens = arg(7);       // [B]
  const auto cu_q_lens = arg(8);     // [B + 1], or empty: one token each
  const auto layer = arg(9);         // [], or empty: pages of one layer
  const auto k_out = buffers.ret(first_ret);
  const auto v_out = buffers.ret(first_ret + 1);
  int64_t L = -1, P = -1, page_size = -1, B = -1;
  auto& [T, K, H, Hv, type] = *sizes;
  ElementType other{};
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
    p->slot_mapping = int32s(slot_mapping);
  } else {
    m.match("kv_lens", kv_lens, ffi::S32, {&B});
    if (m.match_optional("cu_q_lens", cu_q_lens, ffi::S32, {B + 1})) {
      p->cu_q_lens = int32s(cu_q_lens);
    }
    if (m.match_optional("page_indptr", page_indptr, ffi::S32, {B + 1})) {
      p->num_page_indices = -1;
      m.match("page_indices", page_table, ffi::S32, {&p->num_page_indices});
      p->page_indptr = int32s(page_indptr);
      p->page_indices = int32s(page_table);
    } else {
      p->max_pages = -1;
      m.match("page_table", page_table, ffi::S32, {B, &p->max_pages});
      p->page_table = int32s(page_table);
    }
    p->kv_lens = int32s(kv_lens);
  }
  m.require(k_out.untyped_data() == k_pages.untyped_data(), "k_pages", "must alias its result")
      .require(v_out.untyped_data() == v_pages.untyped_data(), "v_pages", "must alias its result");
  p->num_tokens = T, p->num_seqs = B, p->num_layers = L, p->num_pages = P, p->page_size = page_size;
  p->k_row_bytes = K * H * element_bytes(type);
  p->v_row_bytes = K * Hv * element_bytes(type);
  p->key = key.untyped_data();
  p->value = value.untyped_data();
  p->k_pages = k_out.untyped_data();
  p->v_pages = v_out.untyped_data();
  p->layer = is_stacked ? int32s(layer) : nullptr;
}

namespace {

ffi::Error match(const Buffers& buffers, UpdateKvPagesParams* p) {
  if (!buffers.are(10, 2)) return ffi::Error::InvalidArgument("jaxinfer: 10 operands, 2 results");
  AppendSizes sizes;
  Matcher m;
  match_append(m, buffers, 0, 0, &sizes, p);
  return m.error();
}

ffi::Error update_on_cpu(ffi::RemainingArgs args, ffi::RemainingRets rets) {
  UpdateKvPagesParams p{};
  const ffi::Error error = match({args, rets}, &p);
  if (error.success()) update_kv_pages(p);
  return error;
}

ffi::Error update_on_cuda(CUstream stream, ffi::RemainingArgs args, ffi::RemainingRets rets,
                          ffi::Dictionary attributes) {
  UpdateKvPagesParams p{};
  const ffi::Error error = match({args, rets}, &p);
  if (error.failure() || p.num_tokens == 0) return error;
  Launch grid;
  grid.grid_x = p.num_tokens;
  grid.threads = append_threads(p);
  return launch(stream, attributes, "update_kv_pages", grid, &p);
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(UpdateKvPages, update_on_cpu,
                              ffi::Ffi::Bind().RemainingArgs().RemainingRets());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    UpdateKvPagesCuda, update_on_cuda,
    ffi::Ffi::Bind().Ctx<ffi::PlatformStream<CUstream>>().RemainingArgs().RemainingRets().Attrs(),
    {ffi::Traits::kCmdBufferCompatible});

JAXINFER_CUDA_INITIALIZE(UpdateKvPages, "update_kv_pages");

}  // namespace jaxinfer
