// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// The planner: lengths -> work items, balanced over CTAs (FlashInfer, section 3.3.1).
#pragma once

#include "csrc/types.h"
#include "csrc/work_item.h"

namespace jaxinfer {

constexpr int kMaxTileClasses = 4;
constexpr int kBands = 2;
constexpr int kUnbounded = 0x7fffffff;

// How one kind of query tile is computed. Costs are integers so that every planner,
// on the host and on the device, computes the same plan.
struct TileClass {
  int rows;       // packed rows: tokens * q_heads_per_kv_head
  int keys;       // granularity at which the keys of a tile may be split
  int cost;       // cost of `keys` keys
  int item_cost;  // cost of a tile besides its keys
};

// The tiles of the first class (decode), and those of all others (prefill), are cut apart, each
// kind over a band of CTAs of its own: they want other orders, and may be other kernels' work.
constexpr int band_of(int tile_class) { return tile_class > 0 ? 1 : 0; }

// Everything about a plan that is known before the lengths are. Decoded from one
// int32 array, field by field in this order; PlanFacts.encode() in Python writes it.
struct PlanFacts {
  int num_tokens;
  int num_seqs;
  int max_kv_len;
  int num_q_heads;
  int num_kv_heads;
  int is_causal;
  int window_left;        // kUnbounded: none
  int window_right;       // kUnbounded: none
  int band_ctas[kBands];  // CTAs of the bands, one behind the other
  int kv_heads_per_item;
  int min_cost;          // least cost worth a CTA of its own
  int min_keys_per_row;  // fewest keys per packed decode row worth one: bounds partials
  int batch_invariant;   // 0 or 1
  int split_keys;        // chunk of the batch-invariant mode
  int ctas_per_sm;       // of the CUDA kernel of the first band; band_ctas counts them all
  int whole_tiles_from;  // a CTA's share in longest tiles, from which on none of the second band
                         // is split; 0: never
  int num_tile_classes;
  TileClass tile_classes[kMaxTileClasses];

  int num_bands() const { return num_tile_classes > 1 ? kBands : 1; }
  int num_ctas() const { return band_ctas[0] + band_ctas[1]; }
  int first_cta(int band) const { return band > 0 ? band_ctas[0] : 0; }
  int q_heads_per_kv_head() const { return num_q_heads / num_kv_heads; }
  int head_groups() const { return num_kv_heads / kv_heads_per_item; }
  int tile_tokens(int tile_class) const {
    const int tokens = tile_classes[tile_class].rows / q_heads_per_kv_head();
    return tokens > 0 ? tokens : 1;
  }
  // None in the batch-invariant mode: chunks are its units, and every one is an item.
  int item_cost(int tile_class) const {
    return batch_invariant ? 0 : tile_classes[tile_class].item_cost;
  }
};

// What a tile that is not split costs a CTA, to compare with its share. Too much if it is short:
// those are balanced by splitting them.
constexpr int whole_tile_cost(bool is_short, int item_cost, int unit_cost, int num_units) {
  constexpr int kMost = 1 << 30;
  const int64_t cost = item_cost + int64_t{unit_cost} * num_units;
  return is_short ? kUnbounded : cost < kMost ? static_cast<int>(cost) : kMost;
}

constexpr int kPlanFactsSize = sizeof(PlanFacts) / sizeof(int);

// Reads facts from an int32 array. Returns nullptr, or what is wrong with them.
const char* decode_plan_facts(const int32_t* values, int64_t size, PlanFacts* facts);

// Where the sections of a plan lie in its buffer, in int32 from its start, and how
// large the workspace of its partial results is. A function of the facts alone.
struct PlanLayout {
  int64_t max_items, max_merges, max_parts;
  int64_t cta_indptr;               // [num_ctas + 1] items of each CTA
  int64_t items;                    // [max_items] WorkItem
  int64_t merges;                   // [max_merges] MergeItem
  int64_t parts;                    // [max_parts] slots
  int64_t size;                     // of the whole buffer
  int64_t num_slots;                // partial results
  int64_t slot_tokens, slot_heads;  // query tokens and query heads of a slot
};
PlanLayout plan_layout(const PlanFacts& facts);

// Writes the plan of these lengths into `buffer` (plan_layout(facts).size int32).
//   cu_q_lens [num_seqs + 1], or nullptr: one row a sequence
//   kv_lens   [num_seqs]
// Lengths that cannot be are clamped: offsets to 0 .. num_tokens and to their
// predecessor, kv_lens to 0 .. max_kv_len.
void make_plan(const PlanFacts& facts, const int32_t* cu_q_lens, const int32_t* kv_lens,
               int32_t* buffer);

}  // namespace jaxinfer
