// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// Where the hooks of a variant meet the tiles (FlashInfer, section 3.2.3): what a hook is told of
// a row, and vectors in shared memory that a hook replaces.
#pragma once

#include "csrc/attention_work.cuh"

namespace jaxinfer {

// ---- of a query row --------------------------------------------------------------------------

struct Place {
  int b, h, q_idx;

  // Packed row `packed` of a work item.
  JAXINFER_DEVICE Place of(const AttentionParams& p, const Item& item, int kv_head, int packed) {
    const int row = min(packed, item.num_rows - 1), token = row / kGroup;
    const int head = kv_head * kGroup + row % kGroup;
    if (item.seq >= 0) return {item.seq, head, item.position + token};
    if (item.seq == kPaddingSeq) return {0, head, 0};
    const Row found = find_row(p, item.index, token);
    return {found.seq, head, found.position};
  }

  // A token of the batch, of no known work item: the last sequence that begins at or before it.
  JAXINFER_DEVICE Place of_token(const AttentionParams& p, int token, int head) {
    int seq = min(token, static_cast<int>(p.num_seqs) - 1);
    if (p.cu_q_lens != nullptr) {
      int end = static_cast<int>(p.num_seqs);
      seq = 0;
      while (end - seq > 1) {
        const int middle = (seq + end) / 2;
        if (__ldg(p.cu_q_lens + middle) <= token) {
          seq = middle;
        } else {
          end = middle;
        }
      }
    }
    const SeqRows rows = rows_of_seq(p, seq, load_lengths(p, seq));
    return {seq, head, position_of(p, rows, token - rows.begin)};
  }

  // Hooks are spared what jnp does with negative indices. Only where there is one: what no hook
  // reads is not even set.
  __device__ __forceinline__ void assume_indices(int key) const {
    __builtin_assume(b >= 0), __builtin_assume(h >= 0), __builtin_assume(key >= 0);
  }
  // `key`: its position in the sequence.
  template <typename Score>
  __device__ __forceinline__ float score(const AttentionParams& p, int key, Score x) const {
    if constexpr (kHasScoreMod) {
      assume_indices(key);
      return Variant::score_mod(p.variant, x, b, h, q_idx, key);
    }
    return x;
  }
  __device__ __forceinline__ Line line(const AttentionParams& p, int key) const {
    assume_indices(key);
    return Variant::line_mod(p.variant, b, h, q_idx, key);
  }
  __device__ __forceinline__ bool sees(const AttentionParams& p, int key) const {
    if constexpr (Variant::kHasMaskMod) {
      assume_indices(key);
      return Variant::mask_mod(p.variant, b, h, q_idx, key);
    }
    return true;
  }
  template <typename Vector>
  __device__ __forceinline__ float query(const AttentionParams& p, const Vector& vector,
                                         int i) const {
    return Variant::query_mod(p.variant, vector, b, h, q_idx, i);
  }
  template <typename Vector>
  __device__ __forceinline__ float4 output4(const AttentionParams& p, const Vector& vector,
                                            int i) const {
    return make_float4(Variant::output_mod(p.variant, vector, b, h, q_idx, i),
                       Variant::output_mod(p.variant, vector, b, h, q_idx, i + 1),
                       Variant::output_mod(p.variant, vector, b, h, q_idx, i + 2),
                       Variant::output_mod(p.variant, vector, b, h, q_idx, i + 3));
  }
};

// Partial results are modified once they are merged, and padding never.
JAXINFER_DEVICE bool has_output_hook(const Item& item) {
  return Variant::kHasOutputMod && item.partial == kWriteThrough && item.seq != kPaddingSeq;
}

// What the block map says of keys from `key` of the page list on: of its blocks number `first`,
// `first` + `step` ...
struct SeenBlocks {
  bool some, every;

  JAXINFER_DEVICE SeenBlocks look(const AttentionParams& p, const Item& item, int kv_head, int key,
                                  int num_keys, int first, int step) {
    constexpr BlockMap kMap = Variant::kBlockMap;
    if (item.seq < 0) return {true, false};
    const int position = item.position, tokens = (item.num_rows + kGroup - 1) / kGroup;
    key += item.key_base;
    const int row = position / kMap.block_q, last_row = (position + tokens - 1) / kMap.block_q;
    const int column = key / kMap.block_kv, last_column = (key + num_keys - 1) / kMap.block_kv;
    const int seq = kMap.seqs == 0 ? 0 : item.seq, head_end = (kv_head + 1) * kGroup;
    const bool is_known = position >= 0 && last_row < kMap.rows && last_column < kMap.keys &&
                          (kMap.seqs == 0 || seq < kMap.seqs) &&
                          (kMap.heads == 0 || head_end <= kMap.heads);
    if (!is_known) return {true, false};
    const int heads = kMap.heads == 0 ? 1 : kGroup, columns = last_column - column + 1;
    const auto* states = static_cast<const uint8_t*>(p.variant.data[kMap.operand]);
    SeenBlocks seen{false, true};
    for (int i = first; i < heads * (last_row - row + 1) * columns; i += step) {
      const int head = kMap.heads == 0 ? 0 : kv_head * kGroup + i % heads, rest = i / heads;
      const int64_t at =
          (int64_t{seq} * max(kMap.heads, 1) + head) * kMap.rows + row + rest / columns;
      const int state = __ldg(states + at * kMap.keys + column + rest % columns);
      seen.some |= state != kBlockHidden, seen.every &= state == kBlockShown;
    }
    return seen;
  }
};

// A BlockState of these keys. All lanes ask.
JAXINFER_DEVICE int block_state(const AttentionParams& p, const Item& item, int kv_head, int key,
                                int num_keys) {
  const auto seen = SeenBlocks::look(p, item, kv_head, key, num_keys, threadIdx.x & 31, 32);
  const bool some = __any_sync(kWholeWarp, seen.some), every = __all_sync(kWholeWarp, seen.every);
  return every ? kBlockShown : some ? kBlockMixed : kBlockHidden;
}

// ---- vectors ---------------------------------------------------------------------------------

// 16 bytes of shared memory. Plain reads would be taken apart into their words, which meet in
// banks. The compiler makes one of two reads of an address, and knows of no writes: settle() fences
// them.
JAXINFER_DEVICE uint4 load_shared(uint32_t from) {
  uint4 x;
  asm("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
      : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
      : "r"(from));
  return x;
}
// What x is computed from is read before this, and what is computed from x behind it.
template <typename T>
JAXINFER_DEVICE void settle(T& x) {
  asm volatile("" : "+r"(x)::"memory");
}

// Row `row` of a swizzled tile of `rows` rows, of which this lane has elements 8 own .. + 8.
// Counted from there, the compiler knows where in which chunk of 8 another element lies.
struct SharedVector {
  uint32_t tile;
  int rows, row, own;

  __device__ __forceinline__ float operator()(int i) const {
    const int from_own = i - 8 * own, e = from_own & 7;
    const uint4 chunk = load_shared(tile + swizzled(rows, row, own + (from_own >> 3)));
    const uint32_t even = e & 4 ? chunk.z : chunk.x, odd = e & 4 ? chunk.w : chunk.y;
    const uint32_t pair = e & 2 ? odd : even;
    return Type::widen(static_cast<uint16_t>(e & 1 ? pair >> 16 : pair));
  }
};

struct GlobalVector {
  const uint16_t* elements;

  __device__ __forceinline__ float operator()(int i) const {
    return Type::widen(__ldg(elements + i));
  }
};

// One warp replaces rows `first` + r of a tile in shared memory, r < kRows, by hook(vector, r, i).
// Rows that exists(r) denies stay as they are, but are computed like all others: a branch around
// each would have them wait for one another.
// A few lanes share a row, 8 of them if it has 128 elements: several rows are under way at once. A
// lane has a chunk of 8 elements in each part of a row, and halves consist of parts. So what a
// hook computes for both of a pair that it rotates is computed once, and a hook that treats halves
// apart knows at compile time which one it is in.
template <int kDim, int kRows, typename Exists, typename Hook>
JAXINFER_DEVICE void modify_rows(uint8_t* tile, int rows, int first, Exists exists, Hook hook) {
  // Of a half, in chunks, the largest power of two that divides it.
  constexpr int kHalf = kDim / 16, kPower = kHalf & -kHalf;
  constexpr int kChunks = kPower < 8 ? kPower : 8, kParts = kDim / 8 / kChunks;
  constexpr int kLanes = kChunks > 32 / kRows ? kChunks : 32 / kRows;
  static_assert(kDim % 16 == 0 && kRows % (32 / kLanes) == 0, "whole turns of a warp");
  const int lane = threadIdx.x & 31, chunk = lane % kChunks;
#pragma unroll 1
  for (int r = lane / kLanes; r < kRows; r += 32 / kLanes) {
    SharedVector vector{shared_address(tile), rows, first + r, chunk};
    settle(vector.tile);
    uint32_t made[kParts][4];
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int i = 8 * chunk + (8 * kChunks * part + 2 * e);
        made[part][e] = Type::pack(hook(vector, r, i), hook(vector, r, i + 1));
        settle(made[part][e]);
      }
    }
    __syncwarp();
    if (!exists(r)) continue;
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      uint8_t* to = tile + swizzled(rows, first + r, part * kChunks + chunk);
      *reinterpret_cast<uint4*>(to) =
          make_uint4(made[part][0], made[part][1], made[part][2], made[part][3]);
    }
  }
}

// The keys and values of rows `first` .. + kRows of two tiles; the first is at `position`.
template <int kRows, typename Exists>
JAXINFER_DEVICE void modify_keys(const AttentionParams& p, const Item& item, int kv_head,
                                 uint8_t* keys, uint8_t* values, int rows, int first, int position,
                                 Exists exists) {
  const int b = item.page_row;
  if constexpr (Variant::kHasKeyMod) {
    modify_rows<kHeadDim, kRows>(keys, rows, first, exists, [&](const auto& vector, int r, int i) {
      return Variant::key_mod(p.variant, vector, b, kv_head, position + r, i);
    });
  }
  if constexpr (Variant::kHasValueMod) {
    modify_rows<kHeadDimV, kRows>(
        values, rows, first, exists, [&](const auto& vector, int r, int i) {
          return Variant::value_mod(p.variant, vector, b, kv_head, position + r, i);
        });
  }
}

}  // namespace jaxinfer
