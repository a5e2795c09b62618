// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
#include "csrc/update_kv_pages.h"

#include <algorithm>
#include <cstring>

namespace jaxinfer {
namespace {

void write_token(const UpdateKvPagesParams& p, int64_t token, int64_t slot) {
  if (slot < 0 || slot >= p.num_pages * p.page_size) return;
  std::memcpy(static_cast<char*>(p.k_pages) + slot * p.k_row_bytes,
              static_cast<const char*>(p.key) + token * p.k_row_bytes, p.k_row_bytes);
  std::memcpy(static_cast<char*>(p.v_pages) + slot * p.v_row_bytes,
              static_cast<const char*>(p.value) + token * p.v_row_bytes, p.v_row_bytes);
}

// The slot of a position of a sequence, or -1 if no page of the cache holds it.
int64_t slot_of(const UpdateKvPagesParams& p, int64_t seq, int64_t position) {
  if (position < 0) return -1;
  const int64_t index = position / p.page_size;
  int64_t page = -1;
  if (p.page_table != nullptr) {
    if (index < p.max_pages) page = p.page_table[seq * p.max_pages + index];
  } else {
    const int64_t begin = std::max(p.page_indptr[seq], 0);
    const int64_t end = std::min<int64_t>(p.page_indptr[seq + 1], p.num_page_indices);
    if (begin + index < end) page = p.page_indices[begin + index];
  }
  if (page < 0 || page >= p.num_pages) return -1;
  return page * p.page_size + position % p.page_size;
}

}  // namespace

void update_kv_pages(const UpdateKvPagesParams& p) {
  if (p.slot_mapping != nullptr) {
    for (int64_t t = 0; t < p.num_tokens; ++t) write_token(p, t, p.slot_mapping[t]);
    return;
  }
  int64_t begin = 0;
  for (int64_t seq = 0; seq < p.num_seqs; ++seq) {
    const int64_t end = std::clamp<int64_t>(p.cu_q_lens[seq + 1], begin, p.num_tokens);
    const int64_t first = int64_t{p.kv_lens[seq]} - (end - begin);  // position of its first token
    for (int64_t t = begin; t < end; ++t) write_token(p, t, slot_of(p, seq, first + t - begin));
    begin = end;
  }
}

}  // namespace jaxinfer
