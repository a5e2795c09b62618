// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// update_kv_pages on CUDA: one CTA a token. Each thread has its part of the rows of K and V
// on the way before it asks where they go. Any row size and alignment; 16 bytes at a time
// where both allow it.
#pragma once

#include "csrc/update_kv_pages.h"
#include "csrc/vectors.cuh"

namespace jaxinfer {

// A token's sequence: whose offset is the first to lie behind it. Offsets that descend
// count as their predecessors, so later ones never matter.
struct TokenSeq {
  int64_t seq;       // num_seqs: a padding row
  int64_t position;  // in its sequence
};

// Called by whole warps; the lanes look together, so that one round trip to memory is
// enough for a few hundred sequences.
JAXINFER_INLINE TokenSeq find_seq(const UpdateKvPagesParams& p, int64_t token) {
  if (p.cu_q_lens == nullptr) {  // one token each: nothing to look for
    if (token >= p.num_seqs) return {p.num_seqs, 0};
    return {token, int64_t{p.kv_lens[token]} - 1};
  }
  constexpr int kLooks = 4;  // of a lane, in flight
  const int lane = threadIdx.x % 32;
  int64_t found = p.num_seqs;
  int found_end = 0, found_kv_len = 0;
  for (int64_t first = 0; first < p.num_seqs && found == p.num_seqs; first += kLooks * 32) {
    int end[kLooks], kv_len[kLooks];
#pragma unroll
    for (int i = 0; i < kLooks; ++i) {
      const int64_t seq = first + i * 32 + lane;
      end[i] = seq < p.num_seqs ? p.cu_q_lens[seq + 1] : 0;
      kv_len[i] = seq < p.num_seqs ? p.kv_lens[seq] : 0;
    }
#pragma unroll
    for (int i = kLooks - 1; i >= 0; --i) {  // the first one is the last to be kept
      const unsigned behind = __ballot_sync(kAllLanes, end[i] > token);
      const int owner = behind == 0 ? 0 : __ffs(behind) - 1;
      const int owner_end = __shfl_sync(kAllLanes, end[i], owner);
      const int owner_kv_len = __shfl_sync(kAllLanes, kv_len[i], owner);
      if (behind == 0) continue;
      found = first + i * 32 + owner;
      found_end = owner_end;
      found_kv_len = owner_kv_len;
    }
  }
  const int64_t end = found_end < p.num_tokens ? found_end : p.num_tokens;
  return {found, found < p.num_seqs ? found_kv_len - end + token : 0};
}

// Row of the layer for a token, or -1. `seq` is used without a slot mapping.
JAXINFER_INLINE int64_t cache_slot(const UpdateKvPagesParams& p, int64_t token, TokenSeq seq) {
  int64_t slot = -1;
  if (p.slot_mapping != nullptr) {
    slot = p.slot_mapping[token];
  } else if (seq.seq < p.num_seqs) {
    slot = slot_of(p, seq.seq, seq.position);
  }
  return slot >= 0 && slot < p.num_pages * p.page_size ? slot : -1;
}

// The CTA's token, in units of V: those of its K row, then those of its V row.
template <typename V>
JAXINFER_INLINE void write_token(const UpdateKvPagesParams& p, int64_t token) {
  constexpr int kHeld = 4;  // units of a thread that are loaded before the slot is known
  const int64_t k_units = p.k_row_bytes / sizeof(V), v_units = p.v_row_bytes / sizeof(V);
  const V* key = static_cast<const V*>(p.key) + token * k_units;
  const V* value = static_cast<const V*>(p.value) + token * v_units;
  const int64_t units = k_units + v_units, step = blockDim.x;
  const int64_t first_row = first_row_of_layer(p);
  V held[kHeld];
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int64_t unit = threadIdx.x + i * step;
    if (unit < units) held[i] = *(unit < k_units ? key + unit : value + (unit - k_units));
  }
  const TokenSeq seq = p.slot_mapping != nullptr ? TokenSeq{} : find_seq(p, token);
  const int64_t slot = cache_slot(p, token, seq);
  if (slot < 0) return;
  V* k_row = static_cast<V*>(p.k_pages) + (first_row + slot) * k_units;
  V* v_row = static_cast<V*>(p.v_pages) + (first_row + slot) * v_units;
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int64_t unit = threadIdx.x + i * step;
    if (unit < units) *(unit < k_units ? k_row + unit : v_row + (unit - k_units)) = held[i];
  }
#pragma unroll 1
  for (int64_t unit = threadIdx.x + kHeld * step; unit < units; unit += step) {
    const bool is_key = unit < k_units;
    *(is_key ? k_row + unit : v_row + (unit - k_units)) =
        *(is_key ? key + unit : value + (unit - k_units));
  }
}

}  // namespace jaxinfer

extern "C" __global__ void __launch_bounds__(jaxinfer::kMostAppendThreads)
    update_kv_pages(const __grid_constant__ jaxinfer::UpdateKvPagesParams p) {
  using namespace jaxinfer;
  const uint64_t bits = address_of(p.key) | address_of(p.value) | address_of(p.k_pages) |
                        address_of(p.v_pages) | p.k_row_bytes | p.v_row_bytes;
  if (all_aligned(bits, 16)) {
    write_token<Bytes16>(p, blockIdx.x);
  } else if (all_aligned(bits, 4)) {
    write_token<uint32_t>(p, blockIdx.x);
  } else {
    write_token<uint16_t>(p, blockIdx.x);
  }
}
