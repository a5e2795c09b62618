// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// What the planner on a GPU is given: facts and lengths, and what the host can compute of them
// ahead. One cubin serves all facts.
#pragma once

#include "csrc/plan.h"

namespace jaxinfer {

// The planner keeps 16 bytes per range of the cost axis in shared memory.
constexpr int kMostPlannedCtas = 4096;
// More would leave a thread too few registers. There is always a multiple of 128.
constexpr int kMostPlanThreads = 512;
// Shared memory for what a thread keeps of a sequence, and for what a warp tells the others.
constexpr int kPlanSeqBytes = 32, kPlanRecordBytes = 64, kPlanBandBytes = 72;

// Divides numbers from 0 to 2^31 - 1 by a multiplication.
struct Divisor {
  uint32_t multiplier;
  int shift;
};

inline Divisor make_divisor(int divisor) {
  int shift = 0;
  while (int64_t{1} << shift < divisor) ++shift;
  const uint64_t power = uint64_t{1} << (31 + shift);
  return {static_cast<uint32_t>((power + divisor - 1) / divisor), shift};
}

// Only what the kernel reads: constants are slow at first touch.
struct MakePlanParams {
  const int32_t* cu_q_lens;  // [num_seqs + 1], or nullptr: one row a sequence
  const int32_t* kv_lens;    // [num_seqs]
  int32_t* buffer;           // [size], 16-byte aligned
  int num_tokens, num_seqs, max_kv_len;
  int window_left, window_right;  // 0 to the right of a causal mask
  int batch_invariant;            // 0 or 1
  int last_class;                 // of the tile classes
  int whole_tiles_from;
  struct {
    int tokens, unit_keys, unit_cost, item_cost;
    Divisor by_tokens, by_unit_keys, by_unit_cost;
  } tiles[kMaxTileClasses];
  int is_small;  // 0 or 1: sums of costs and of keys are below 2^30, as plain batches need them
  int tiles_per_thread, seqs_per_thread;
  struct {
    int bands;
    int costs, counts, seqs;  // what is before those of every thread
    int ranges, end;
  } at;  // in shared memory, bytes
  // The cuts: heads are inside in the first band, and outside in the second.
  int most_ranges[kBands];
  Divisor by_most_ranges[kBands];
  int min_cost;
  int64_t min_keys, enough_keys;  // of a range, and of most_ranges[0]; per row of the longest tile
  int head_groups, kv_heads_per_item;
  Divisor by_head_groups;
  // The buffer's sections.
  int first_cta, num_ctas;  // of the second band; of both
  int cta_indptr, items, merges, parts, size;
};

// At most so many tiles; sequences, where these are more.
inline int64_t most_plan_tiles(const PlanFacts& facts) {
  const int64_t tokens = facts.tile_tokens(facts.num_tile_classes - 1);
  int64_t tiles = facts.num_seqs + facts.num_tokens / tokens + 1;
  if (tiles > facts.num_tokens) tiles = facts.num_tokens;
  return tiles > facts.num_seqs ? tiles : facts.num_seqs;
}

// How the kernel is launched, with `at.end` bytes of shared memory. Every CTA plans the same and
// writes its share of the buffer: one for every CTA of the plan, and one for the header.
inline int plan_ctas(const PlanFacts& facts) {
  return facts.num_ctas() < 287 ? facts.num_ctas() + 1 : 288;
}
inline int plan_threads(const PlanFacts& facts) {
  int threads = 128;
  while (threads < kMostPlanThreads && threads < most_plan_tiles(facts)) threads *= 2;
  return threads;
}

// Pointers are left to the caller.
inline MakePlanParams make_plan_params(const PlanFacts& facts, const PlanLayout& layout,
                                       int threads) {
  MakePlanParams p{};
  p.num_tokens = facts.num_tokens;
  p.num_seqs = facts.num_seqs;
  p.max_kv_len = facts.max_kv_len;
  p.window_left = facts.window_left;
  p.window_right = facts.is_causal ? 0 : facts.window_right;
  p.batch_invariant = facts.batch_invariant;
  p.last_class = facts.num_tile_classes - 1;
  p.whole_tiles_from = facts.batch_invariant ? 0 : facts.whole_tiles_from;
  for (int c = 0; c < facts.num_tile_classes; ++c) {
    const TileClass& tile = facts.tile_classes[c];
    const int keys_of_split = facts.split_keys / tile.keys > 1 ? facts.split_keys / tile.keys : 1;
    auto& shape = p.tiles[c];
    shape.tokens = facts.tile_tokens(c);
    shape.unit_keys = facts.batch_invariant ? facts.split_keys : tile.keys;
    shape.unit_cost = facts.batch_invariant ? tile.cost * keys_of_split : tile.cost;
    shape.item_cost = facts.item_cost(c);
    shape.by_tokens = make_divisor(shape.tokens);
    shape.by_unit_keys = make_divisor(shape.unit_keys);
    shape.by_unit_cost = make_divisor(shape.unit_cost);
  }
  p.head_groups = facts.head_groups();
  p.kv_heads_per_item = facts.kv_heads_per_item;
  p.by_head_groups = make_divisor(p.head_groups);
  p.most_ranges[0] = facts.band_ctas[0] / p.head_groups;
  p.most_ranges[1] = facts.band_ctas[1];
  for (int band = 0; band < facts.num_bands(); ++band)
    p.by_most_ranges[band] = make_divisor(p.most_ranges[band]);
  p.min_cost = facts.min_cost;
  p.min_keys = int64_t{facts.min_keys_per_row} * facts.q_heads_per_kv_head();
  // More than one row a tile means few heads: its rows times this do not overflow.
  constexpr int64_t kMostKeys = int64_t{1} << 62;
  p.enough_keys =
      p.min_keys < kMostKeys / p.most_ranges[0] ? p.min_keys * p.most_ranges[0] : kMostKeys;
  p.first_cta = facts.first_cta(1);
  p.num_ctas = facts.num_ctas();
  p.cta_indptr = static_cast<int>(layout.cta_indptr);
  p.items = static_cast<int>(layout.items);
  p.merges = static_cast<int>(layout.merges);
  p.parts = static_cast<int>(layout.parts);
  p.size = static_cast<int>(layout.size);

  const int64_t tiles = most_plan_tiles(facts);
  int64_t most_cost = facts.max_kv_len;  // of a tile, or keys
  for (int c = 0; c < facts.num_tile_classes; ++c) {
    const int64_t units = facts.max_kv_len / p.tiles[c].unit_keys + int64_t{1};
    const int64_t cost = units * p.tiles[c].unit_cost + p.tiles[c].item_cost;
    if (most_cost < cost) most_cost = cost;
  }
  p.is_small = !facts.batch_invariant && most_cost < (int64_t{1} << 30) / tiles;
  p.tiles_per_thread = static_cast<int>((tiles + threads - 1) / threads);
  p.seqs_per_thread = static_cast<int>((int64_t{facts.num_seqs} + threads) / threads);
  // Behind two records of every warp. With 4096 ranges, less than the 99 KB of any GPU.
  p.at.bands = 2 * kPlanRecordBytes * kMostPlanThreads / 32;
  p.at.costs = p.at.bands + kBands * kPlanBandBytes;
  p.at.counts = p.at.costs + (threads + 2) * 8;
  p.at.seqs = p.at.counts + threads * 8;
  p.at.ranges = p.at.seqs + threads * kPlanSeqBytes;
  p.at.end = p.at.ranges + (facts.num_ctas() / 32 * 32 + 33) * 16;  // whole warps use them
  return p;
}

}  // namespace jaxinfer
