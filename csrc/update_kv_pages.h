// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// Appends the keys and values of new tokens to a paged cache, in place.
#pragma once

#include "csrc/types.h"

namespace jaxinfer {

struct UpdateKvPagesParams {
  int64_t num_tokens, num_seqs, num_layers, num_pages, page_size;
  int64_t k_row_bytes, v_row_bytes;  // one token: K * H elements
  const void* key;                   // [T, K, H]
  const void* value;                 // [T, K, Hv]
  void* k_pages;                     // [L, P, page_size, K, H]
  void* v_pages;                     // [L, P, page_size, K, Hv]
  const int32_t* layer = nullptr;    // [], which of the L to write
  // Where: a slot per token (page * page_size + offset, -1: skip) ...
  const int32_t* slot_mapping = nullptr;  // [T]
  // ... or the last q_len positions of each sequence.
  const int32_t* page_table = nullptr;   // [B, max_pages]
  const int32_t* page_indptr = nullptr;  // [B + 1]
  const int32_t* page_indices = nullptr;
  int64_t max_pages = 0, num_page_indices = 0;
  const int32_t* kv_lens = nullptr;    // [B]
  const int32_t* cu_q_lens = nullptr;  // [B + 1], or nullptr: one token a sequence
};

// On the CPU. Tokens without a page in the cache are dropped: nothing else is touched.
void update_kv_pages(const UpdateKvPagesParams& params);

// Row of the stacked cache at which the layer starts.
JAXINFER_INLINE int64_t first_row_of_layer(const UpdateKvPagesParams& p) {
  int64_t layer = p.layer != nullptr ? *p.layer : 0;
  if (layer >= p.num_layers) layer = p.num_layers - 1;
  return layer > 0 ? layer * p.num_pages * p.page_size : 0;
}

// The slot of a position of a sequence, or -1 if no page of the cache holds it.
JAXINFER_INLINE int64_t slot_of(const UpdateKvPagesParams& p, int64_t seq, int64_t position) {
  if (position < 0) return -1;
  const int64_t index = position / p.page_size;
  int64_t page = -1;
  if (p.page_table != nullptr) {
    if (index < p.max_pages) page = p.page_table[seq * p.max_pages + index];
  } else {
    const int64_t begin = p.page_indptr[seq] > 0 ? p.page_indptr[seq] : 0;
    const int64_t end = p.page_indptr[seq + 1];
    if (begin + index < end && begin + index < p.num_page_indices) {
      page = p.page_indices[begin + index];
    }
  }
  if (page < 0 || page >= p.num_pages) return -1;
  return page * p.page_size + (position - index * p.page_size);
}

// Threads of the CTA that copies a token: one for every 16 bytes, up to a limit.
constexpr int kMostAppendThreads = 256;
JAXINFER_INLINE int append_threads(const UpdateKvPagesParams& p) {
  const int64_t vectors = (p.k_row_bytes + p.v_row_bytes + 15) / 16;
  return vectors < kMostAppendThreads ? (vectors + 31) / 32 * 32 + (vectors == 0) * 32
                                      : kMostAppendThreads;
}

}  // namespace jaxinfer
