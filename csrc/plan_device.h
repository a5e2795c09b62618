// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// What the planner on a GPU is given: facts and lengths, and what the host can compute of them
// ahead. One cubin serves all facts.
#pragma once

#include "csrc/plan.h"

namespace jaxinfer {

// The planner keeps some numbers per range of the cost axis in shared memory.
constexpr int kMostPlannedCtas = 4096;
// More would leave a thread too few registers.
constexpr int kMostPlanThreads = 512;

struct MakePlanParams {
  const int32_t* cu_q_lens;  // [num_seqs + 1]
  const int32_t* kv_lens;    // [num_seqs]
  int32_t* buffer;           // [layout.size], 16-byte aligned
  PlanFacts facts;
  PlanLayout layout;
  int q_heads_per_kv_head, head_groups;
  struct {
    int tokens, unit_keys, unit_cost;
  } tiles[kMaxTileClasses];
};

// Shared memory of the kernel: bytes from its start. Arrays of a chunk have an entry per
// thread.
struct PlanShared {
  int sums;                       // [2][32] of the warps
  int costs, tiles, pieces;       // of a chunk of tiles
  int seqs;                       // of a chunk of sequences
  int range_pieces, range_skips;  // of all ranges
  int range_splits, range_parts;  // of all ranges, if these are of one head group
  int bytes;

  PlanShared(int threads, int num_ctas, int head_groups) {
    const int ranges = num_ctas + 1,
              inner_ranges = head_groups > 1 ? num_ctas / head_groups + 1 : 0;
    sums = 0;
    costs = sums + 2 * 32 * 32;
    tiles = costs + threads * 8;
    seqs = tiles + threads * 48;
    pieces = seqs + threads * 16;
    range_pieces = pieces + (threads + 1) * 4;
    range_skips = range_pieces + ranges * 4;
    range_splits = range_skips + ranges * 4;
    range_parts = range_splits + inner_ranges * 4;
    bytes = range_parts + inner_ranges * 4;
  }
};

// How the kernel is launched. Every CTA plans the same and writes its share of the buffer.
struct PlanLaunch {
  int ctas, threads, shared_bytes;
};

inline MakePlanParams make_plan_params(const PlanFacts& facts, const PlanLayout& layout) {
  MakePlanParams p{};
  p.facts = facts;
  p.layout = layout;
  p.q_heads_per_kv_head = facts.q_heads_per_kv_head();
  p.head_groups = facts.head_groups();
  for (int c = 0; c < facts.num_tile_classes; ++c) {
    const TileClass& tile = facts.tile_classes[c];
    const int keys_of_split = facts.split_keys / tile.keys > 1 ? facts.split_keys / tile.keys : 1;
    p.tiles[c] = {facts.tile_tokens(c), facts.batch_invariant ? facts.split_keys : tile.keys,
                  facts.batch_invariant ? tile.cost * keys_of_split : tile.cost};
  }
  return p;
}

inline PlanLaunch plan_launch(const PlanFacts& facts, const PlanLayout& layout) {
  // Enough threads for one pass over the sequences, and over the tiles if these are few.
  const int64_t tokens = facts.tile_tokens(facts.num_tile_classes - 1);
  const int64_t seqs = facts.num_seqs + int64_t{1};
  int64_t tiles = seqs + facts.num_tokens / tokens;
  tiles = tiles < facts.num_tokens ? tiles : facts.num_tokens;
  const int most = kMostPlanThreads;
  const int64_t entries = tiles <= most && tiles > seqs ? tiles : seqs;
  PlanLaunch launch{};
  launch.threads = entries < 128 ? 128 : entries < most ? (entries + 63) / 64 * 64 : most;
  // A CTA stores 8 KB in the time that it takes to plan.
  const int64_t ctas = layout.size / 2048;
  launch.ctas = ctas < 1 ? 1 : ctas < 64 ? ctas : 64;
  launch.shared_bytes = PlanShared(launch.threads, facts.num_ctas, facts.head_groups()).bytes;
  return launch;
}

}  // namespace jaxinfer
