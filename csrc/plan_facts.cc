// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// What follows from the facts of a plan alone: whether they are valid, and its layout.
#include <algorithm>
#include <cstring>
#include <limits>

#include "csrc/plan.h"

namespace jaxinfer {
namespace {

int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

const char* decode_plan_facts(const int32_t* values, int64_t size, PlanFacts* facts) {
  if (size != kPlanFactsSize) return "plan facts have the wrong number of fields";
  std::memcpy(facts, values, sizeof(PlanFacts));
  const PlanFacts& f = *facts;
  if (f.num_tokens < 1 || f.num_seqs < 1 || f.max_kv_len < 0) return "plan facts: bad sizes";
  if (f.num_kv_heads < 1 || f.num_q_heads < 1 || f.num_q_heads % f.num_kv_heads != 0)
    return "plan facts: num_q_heads must be a multiple of num_kv_heads";
  if (f.window_left < 0 || f.window_right < 0) return "plan facts: negative window";
  if (f.kv_heads_per_item < 1 || f.num_kv_heads % f.kv_heads_per_item != 0)
    return "plan facts: kv_heads_per_item must divide num_kv_heads";
  if (f.min_cost < 1 || f.min_keys_per_row < 1 || f.split_keys < 1)
    return "plan facts: min_cost, min_keys_per_row and split_keys must be positive";
  if (f.ctas_per_sm != 1 && f.ctas_per_sm != 2) return "plan facts: ctas_per_sm must be 1 or 2";
  if (f.whole_tiles_from < 0 || f.whole_tiles_from > 65536)
    return "plan facts: whole_tiles_from must be between 0 and 65536";
  if (f.num_tile_classes < 1 || f.num_tile_classes > kMaxTileClasses)
    return "plan facts: between 1 and 4 tile classes";
  for (int band = 0; band < f.num_bands(); ++band) {
    if (f.band_ctas[band] < f.head_groups() || f.band_ctas[band] > 65536)
      return "plan facts: num_ctas must be between the number of head groups and 65536";
  }
  if (f.num_bands() == 1 && f.band_ctas[1] != 0)
    return "plan facts: a second band needs a second tile class";
  for (int c = 0; c < f.num_tile_classes; ++c) {
    const TileClass& tc = f.tile_classes[c];
    if (std::min({tc.rows, tc.keys, tc.cost}) < 1 || std::max({tc.rows, tc.keys, tc.cost}) > 65536)
      return "plan facts: rows, keys and cost of a tile class must be between 1 and 65536";
    if (tc.item_cost < 0 || tc.item_cost > 65536)
      return "plan facts: item_cost of a tile class must be between 0 and 65536";
    const int64_t chunk_cost = int64_t{tc.cost} * std::max(1, f.split_keys / tc.keys);
    if (chunk_cost > 1 << 30) return "plan facts: split_keys times cost is too large";
    if (c > 0 && tc.rows < f.tile_classes[c - 1].rows)
      return "plan facts: tile classes must be ordered by rows";
  }
  if (plan_layout(f).size > std::numeric_limits<int>::max())
    return "plan facts: the plan would exceed 2^31 int32; lower max_kv_len or raise split_keys";
  return nullptr;
}

PlanLayout plan_layout(const PlanFacts& f) {
  PlanLayout layout{};
  // Only the largest class needs several tiles for one sequence.
  const int64_t tokens = f.tile_tokens(f.num_tile_classes - 1);
  const int64_t tiles = std::min<int64_t>(
      f.num_tokens, std::min(f.num_seqs, f.num_tokens) + f.num_tokens / tokens + 1);
  // Limited, so that what follows cannot overflow: a buffer of so many items is refused.
  constexpr int64_t kMost = 1 << 28;
  const int64_t group_tiles = std::min(tiles * f.head_groups(), kMost);
  if (f.batch_invariant) {
    const int64_t chunks = std::min<int64_t>(f.max_kv_len / f.split_keys, kMost) + 1;
    layout.max_items = group_tiles * chunks;
    layout.max_merges = chunks > 1 ? group_tiles : 0;
    layout.max_parts = chunks > 1 ? layout.max_items : 0;
    layout.num_slots = layout.max_parts;
  } else {
    layout.max_items = group_tiles + f.num_ctas();
    layout.max_merges = f.num_ctas();
    layout.max_parts = 2 * f.num_ctas();
    layout.num_slots = 2 * f.num_ctas();
  }
  layout.cta_indptr = 16;
  layout.items = round_up(layout.cta_indptr + f.num_ctas() + 1, 16);
  layout.merges = layout.items + layout.max_items * 16;
  layout.parts = layout.merges + layout.max_merges * 8;
  layout.size = round_up(layout.parts + layout.max_parts, 16);
  layout.slot_tokens = std::min<int64_t>(f.num_tokens, tokens);
  layout.slot_heads = static_cast<int64_t>(f.kv_heads_per_item) * f.q_heads_per_kv_head();
  return layout;
}

}  // namespace jaxinfer
