// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// The tiles of a batch and their costs, for the planner on the host (csrc/plan.cc).
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "csrc/plan.h"

namespace jaxinfer {

// Rows of queries that a CTA holds at once, and the units its keys may be split at.
struct QueryTile {
  WorkItem item;  // all but the fields that depend on the split
  int first_unit, num_units;
  int unit_keys, unit_cost;
  int item_cost;     // of the tile besides its units: the first one is so much wider
  int64_t num_keys;  // visible to some row
  int64_t full_end;  // keys before it are visible to every row
};

// Keys that some row of a tile sees, [lo, hi), and those that every row sees, [0, full).
struct KeyRange {
  int64_t lo, hi, full;
};

inline KeyRange visible_keys(const PlanFacts& facts, int64_t kv_len, int64_t first_pos,
                             int64_t last_pos) {
  const int64_t right = facts.is_causal ? 0 : facts.window_right;
  const bool bounded_left = facts.window_left != kUnbounded;
  const int64_t lo = bounded_left ? first_pos - facts.window_left : 0;
  const int64_t hi = std::min(kv_len, last_pos + right + 1);
  const int64_t full = bounded_left ? 0 : std::min(kv_len, first_pos + right + 1);
  return {std::clamp<int64_t>(lo, 0, kv_len), std::max<int64_t>(hi, 0), std::max<int64_t>(full, 0)};
}

inline QueryTile query_tile(const PlanFacts& facts, int tile_class, int row_begin, int num_rows,
                            int row_mode, int seq, KeyRange keys) {
  const TileClass& tc = facts.tile_classes[tile_class];
  QueryTile tile{};
  tile.item.tile_class = tile_class;
  tile.item.row_begin = row_begin;
  tile.item.num_rows = num_rows;
  tile.item.row_mode = row_mode;
  tile.item.seq = seq;
  tile.item.page_row = std::max(seq, 0);
  tile.unit_keys = facts.batch_invariant ? facts.split_keys : tc.keys;
  tile.unit_cost = tc.cost;
  if (facts.batch_invariant) tile.unit_cost *= std::max(1, facts.split_keys / tc.keys);
  tile.item_cost = facts.item_cost(tile_class);
  tile.first_unit = static_cast<int>(keys.lo / tile.unit_keys);
  const int64_t units = (keys.hi + tile.unit_keys - 1) / tile.unit_keys - tile.first_unit;
  tile.num_units = static_cast<int>(std::max<int64_t>(units, 1));  // empty tiles count too
  tile.num_keys = std::max<int64_t>(keys.hi - keys.lo, 0);
  tile.full_end = keys.full;
  return tile;
}

// The tile class of a sequence: the smallest that holds its rows, else the largest.
inline int choose_tile_class(const PlanFacts& facts, int64_t q_len) {
  int c = 0;
  while (c + 1 < facts.num_tile_classes && q_len > facts.tile_tokens(c)) ++c;
  return c;
}

// Every row of 0 .. num_tokens is in exactly one tile, of one of the bands. Tiles of a sequence
// go from its last rows, which see the most keys, to its first.
inline std::array<std::vector<QueryTile>, kBands> query_tiles(const PlanFacts& facts,
                                                              const int32_t* cu_q_lens,
                                                              const int32_t* kv_lens) {
  std::array<std::vector<QueryTile>, kBands> bands;
  bands[0].reserve(facts.num_seqs + 1);
  int begin = 0;  // cu_q_lens[0] counts as 0
  for (int seq = 0; seq < facts.num_seqs; ++seq) {
    const int offset = cu_q_lens != nullptr ? cu_q_lens[seq + 1] : seq + 1;
    const int end = std::clamp(offset, begin, facts.num_tokens);
    const int q_len = end - begin;
    const int64_t kv_len = std::clamp(kv_lens[seq], 0, facts.max_kv_len);
    const int tile_class = choose_tile_class(facts, q_len);
    const int tokens = facts.tile_tokens(tile_class);
    std::vector<QueryTile>& tiles = bands[band_of(tile_class)];
    for (int row = q_len == 0 ? -1 : (q_len - 1) / tokens * tokens; row >= 0; row -= tokens) {
      const int rows = std::min(tokens, q_len - row);
      const int64_t first_pos = kv_len - q_len + row;
      const KeyRange keys = visible_keys(facts, kv_len, first_pos, first_pos + rows - 1);
      tiles.push_back(query_tile(facts, tile_class, begin + row, rows, kRowsOfOneSeq, seq, keys));
    }
    begin = end;
  }
  const int largest = facts.num_tile_classes - 1;
  for (int64_t next = begin; next < facts.num_tokens; next += facts.tile_tokens(largest)) {
    const int row = static_cast<int>(next);
    const int rows = std::min(facts.tile_tokens(largest), facts.num_tokens - row);
    bands[band_of(largest)].push_back(
        query_tile(facts, largest, row, rows, kPaddingRows, -1, {0, 0, 0}));
  }
  return bands;
}

}  // namespace jaxinfer
