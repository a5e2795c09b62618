// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
#include "csrc/update_kv_pages.h"

#include <algorithm>
#include <cstring>

namespace jaxinfer {
namespace {

// `first_row`: of the layer, in the cache.
void write_token(const UpdateKvPagesParams& p, int64_t first_row, int64_t token, int64_t slot) {
  if (slot < 0 || slot >= p.num_pages * p.page_size) return;
  const int64_t row = first_row + slot;
  std::memcpy(static_cast<char*>(p.k_pages) + row * p.k_row_bytes,
              static_cast<const char*>(p.key) + token * p.k_row_bytes, p.k_row_bytes);
  std::memcpy(static_cast<char*>(p.v_pages) + row * p.v_row_bytes,
              static_cast<const char*>(p.value) + token * p.v_row_bytes, p.v_row_bytes);
}

}  // namespace

void update_kv_pages(const UpdateKvPagesParams& p) {
  const int64_t row = first_row_of_layer(p);
  if (p.slot_mapping != nullptr) {
    for (int64_t t = 0; t < p.num_tokens; ++t) write_token(p, row, t, p.slot_mapping[t]);
    return;
  }
  int64_t begin = 0;
  for (int64_t seq = 0; seq < p.num_seqs; ++seq) {
    const int64_t last = p.cu_q_lens != nullptr ? p.cu_q_lens[seq + 1] : seq + 1;
    const int64_t end = std::clamp<int64_t>(last, begin, p.num_tokens);
    const int64_t first = int64_t{p.kv_lens[seq]} - (end - begin);  // position of its first token
    for (int64_t t = begin; t < end; ++t)
      write_token(p, row, t, slot_of(p, seq, first + t - begin));
    begin = end;
  }
}

}  // namespace jaxinfer
