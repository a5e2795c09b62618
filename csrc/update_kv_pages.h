// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// Appends the keys and values of new tokens to a paged cache, in place.
#pragma once

#include <cstdint>

namespace jaxinfer {

struct UpdateKvPagesParams {
  int64_t num_tokens, num_seqs, num_pages, page_size;
  int64_t k_row_bytes, v_row_bytes;  // one token: K * H elements
  const void* key;                   // [T, K, H]
  const void* value;                 // [T, K, Hv]
  void* k_pages;                     // [P, page_size, K, H]  the layer to write
  void* v_pages;                     // [P, page_size, K, Hv]
  // Where: a slot per token (page * page_size + offset, -1: skip) ...
  const int32_t* slot_mapping = nullptr;  // [T]
  // ... or the last q_len positions of each sequence.
  const int32_t* page_table = nullptr;   // [B, max_pages]
  const int32_t* page_indptr = nullptr;  // [B + 1]
  const int32_t* page_indices = nullptr;
  int64_t max_pages = 0, num_page_indices = 0;
  const int32_t* kv_lens = nullptr;    // [B]
  const int32_t* cu_q_lens = nullptr;  // [B + 1]
};

// Tokens without a page in the cache are dropped: nothing else is touched.
void update_kv_pages(const UpdateKvPagesParams& params);

}  // namespace jaxinfer
