// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
#include "csrc/plan.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace jaxinfer {
namespace {

// Rows of queries that a CTA holds at once, and the units its keys may be split at.
struct QueryTile {
  WorkItem item;  // all but the fields that depend on the split
  int first_unit, num_units;
  int unit_keys, unit_cost;
  int64_t full_end;  // keys before it are visible to every row
};


// Keys that some row of a tile sees, [lo, hi), and those that every row sees, [0, full).
struct KeyRange {
  int64_t lo, hi, full;
};

KeyRange visible_keys(const PlanFacts& facts, int64_t kv_len, int64_t first_pos, int64_t last_pos) {
  const int64_t right = facts.is_causal ? 0 : facts.window_right;
  const bool bounded_left = facts.window_left != kUnbounded;
  const int64_t lo = bounded_left ? first_pos - facts.window_left : 0;
  const int64_t hi = std::min(kv_len, last_pos + right + 1);
  const int64_t full = bounded_left ? 0 : std::min(kv_len, first_pos + right + 1);
  return {std::clamp<int64_t>(lo, 0, kv_len), std::max<int64_t>(hi, 0), std::max<int64_t>(full, 0)};
}

QueryTile query_tile(const PlanFacts& facts, int tile_class, int row_begin, int num_rows,
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
  tile.first_unit = static_cast<int>(keys.lo / tile.unit_keys);
  const int64_t units = (keys.hi + tile.unit_keys - 1) / tile.unit_keys - tile.first_unit;
  tile.num_units = static_cast<int>(std::max<int64_t>(units, 1));  // empty tiles count too
  tile.full_end = keys.full;
  return tile;
}

// The tile class of a sequence: the smallest that holds its rows, else the largest.
int choose_tile_class(const PlanFacts& facts, int64_t q_len) {
  int c = 0;
  while (c + 1 < facts.num_tile_classes && q_len > facts.tile_tokens(c)) ++c;
  return c;
}

// Every row of 0 .. num_tokens is in exactly one tile. Tiles of a sequence go from its
// last rows, which see the most keys, to its first.
std::vector<QueryTile> query_tiles(const PlanFacts& facts, const int32_t* cu_q_lens,
                                   const int32_t* kv_lens) {
  std::vector<QueryTile> tiles;
  tiles.reserve(facts.num_seqs + 1);
  int begin = 0;  // cu_q_lens[0] counts as 0
  for (int seq = 0; seq < facts.num_seqs; ++seq) {
    const int end = std::clamp(cu_q_lens[seq + 1], begin, facts.num_tokens);
    const int q_len = end - begin;
    const int64_t kv_len = std::clamp(kv_lens[seq], 0, facts.max_kv_len);
    const int tile_class = choose_tile_class(facts, q_len);
    const int tokens = facts.tile_tokens(tile_class);
    for (int row = q_len == 0 ? -1 : (q_len - 1) / tokens * tokens; row >= 0; row -= tokens) {
      const int rows = std::min(tokens, q_len - row);
      const int64_t first_pos = kv_len - q_len + row;
      const KeyRange keys = visible_keys(facts, kv_len, first_pos, first_pos + rows - 1);
      tiles.push_back(
          query_tile(facts, tile_class, begin + row, rows, kRowsOfOneSeq, seq, keys));
    }
    begin = end;
  }
  const int largest = facts.num_tile_classes - 1;
  for (int row = begin; row < facts.num_tokens; row += facts.tile_tokens(largest)) {
    const int rows = std::min(facts.tile_tokens(largest), facts.num_tokens - row);
    tiles.push_back(query_tile(facts, largest, row, rows, kPaddingRows, -1, {0, 0, 0}));
  }
  return tiles;
}

// How the cost axis (tiles one after the other, once per outer head group) is cut into
// equal ranges. CTA = range * inner + head group.
struct Cut {
  int outer, inner;
  int64_t total;
  int64_t num_ranges;

  int64_t begin(int64_t range) const { return range * total / num_ranges; }
};

// Short tiles only (decode): the KV heads of a range sit on neighbouring CTAs, so that
// whole token rows are read together. Otherwise heads are outermost, so that CTAs that
// run at the same time share keys.
Cut choose_cut(const PlanFacts& facts, const std::vector<QueryTile>& tiles) {
  bool decode = true;
  int64_t cost = 0, keys = 0, max_unit_cost = 1, decode_rows = 1;
  for (const QueryTile& tile : tiles) {
    cost += static_cast<int64_t>(tile.num_units) * tile.unit_cost;
    keys += static_cast<int64_t>(tile.num_units) * tile.unit_keys;
    max_unit_cost = std::max<int64_t>(max_unit_cost, tile.unit_cost);
    if (tile.item.row_mode == kPaddingRows) continue;
    decode = decode && tile.item.tile_class == 0;
    const int64_t rows = static_cast<int64_t>(tile.item.num_rows) * facts.q_heads_per_kv_head();
    decode_rows = std::max(decode_rows, rows);
  }
  const int groups = facts.head_groups();
  Cut cut{decode ? 1 : groups, decode ? groups : 1, 0, 0};
  cut.total = cost * cut.outer;
  int64_t ranges = facts.num_ctas / cut.inner;
  // Every range must hold a unit of every tile it crosses (parts are then consecutive),
  // be worth a CTA, and read far more keys than the partial results it may write.
  ranges = std::min(ranges, cut.total / max_unit_cost);
  ranges = std::min(ranges, cut.total / facts.min_cost);
  if (decode) ranges = std::min(ranges, keys / (facts.min_keys_per_row * decode_rows));
  cut.num_ranges = std::max<int64_t>(ranges, 1);
  return cut;
}

// Fills the sections of the buffer, item by item in the order of the CTAs.
class PlanWriter {
 public:
  PlanWriter(const PlanFacts& facts, int32_t* buffer)
      : facts_(facts), layout_(plan_layout(facts)), buffer_(buffer) {
    std::memset(buffer, 0, layout_.size * sizeof(int32_t));
    slots_.resize(facts.head_groups());
  }

  // The items of one CTA: `pieces` of tiles, for one head group.
  struct Piece {
    const QueryTile* tile;
    int unit_begin, unit_end;
    int head_group;

    bool is_first() const { return unit_begin == 0; }
    bool is_last() const { return unit_end == tile->num_units; }
  };

  void begin_cta(int cta) { buffer_[layout_.cta_indptr + cta] = header().num_items; }

  void add(const Piece& piece, int cta) {
    const QueryTile& tile = *piece.tile;
    WorkItem item = tile.item;
    item.kv_head_begin = piece.head_group * facts_.kv_heads_per_item;
    item.num_kv_heads = facts_.kv_heads_per_item;
    item.key_begin = kOpen;
    item.key_end = kOpen;
    item.mask_mode = kMaskOp;
    item.partial = kWriteThrough;
    if (!piece.is_first()) {
      item.key_begin = (tile.first_unit + piece.unit_begin) * tile.unit_keys;
    }
    if (!piece.is_last()) {
      item.key_end = (tile.first_unit + piece.unit_end) * tile.unit_keys;
      if (item.key_end <= tile.full_end) item.mask_mode = kMaskFull;
    }
    const int index = header().num_items++;
    if (!piece.is_first() || !piece.is_last()) {
      // At most one split tile enters a range and one leaves it: two slots per CTA.
      item.partial = facts_.batch_invariant ? index : 2 * cta + (piece.is_first() ? 1 : 0);
      slots_[piece.head_group].push_back(item.partial);
      if (piece.is_last()) add_merge(item, piece.head_group);
    }
    std::memcpy(buffer_ + layout_.items + index * 16, &item, sizeof(item));
    load_ += static_cast<int64_t>(piece.unit_end - piece.unit_begin) * tile.unit_cost;
  }

  void end_cta(int cta) {
    header().num_ctas = cta + 1;
    header().max_load = static_cast<int>(std::min<int64_t>(
        std::max<int64_t>(header().max_load, load_), std::numeric_limits<int>::max()));
    load_ = 0;
  }

  void finish() {
    for (int cta = header().num_ctas; cta <= facts_.num_ctas; ++cta) begin_cta(cta);
  }

 private:
  PlanHeader& header() { return *reinterpret_cast<PlanHeader*>(buffer_); }

  void add_merge(const WorkItem& item, int head_group) {
    std::vector<int>& slots = slots_[head_group];
    const int begin = header().num_parts;
    std::copy(slots.begin(), slots.end(), buffer_ + layout_.parts + begin);
    header().num_parts += static_cast<int>(slots.size());
    const MergeItem merge{item.row_begin,    item.num_rows, item.kv_head_begin,
                          item.num_kv_heads, begin,         header().num_parts,
                          {0, 0}};
    std::memcpy(buffer_ + layout_.merges + header().num_merges++ * 8, &merge, sizeof(merge));
    slots.clear();
  }

  const PlanFacts& facts_;
  const PlanLayout layout_;
  int32_t* buffer_;
  int64_t load_ = 0;
  std::vector<std::vector<int>> slots_;  // of the tile being split, per head group
};

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
  if (f.num_ctas < f.head_groups() || f.num_ctas > 65536)
    return "plan facts: num_ctas must be between the number of head groups and 65536";
  if (f.min_cost < 1 || f.min_keys_per_row < 1 || f.split_keys < 1)
    return "plan facts: min_cost, min_keys_per_row and split_keys must be positive";
  if (f.num_tile_classes < 1 || f.num_tile_classes > kMaxTileClasses)
    return "plan facts: between 1 and 4 tile classes";
  for (int c = 0; c < f.num_tile_classes; ++c) {
    const TileClass& tc = f.tile_classes[c];
    if (tc.rows < 1 || tc.keys < 1 || tc.cost < 1 || tc.cost > 1 << 16)
      return "plan facts: rows, keys and cost of a tile class must be positive";
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
  const int64_t group_tiles = tiles * f.head_groups();
  if (f.batch_invariant) {
    const int64_t chunks = std::max(1, f.max_kv_len / f.split_keys + 1);
    layout.max_items = group_tiles * chunks;
    layout.max_merges = chunks > 1 ? group_tiles : 0;
    layout.max_parts = chunks > 1 ? layout.max_items : 0;
    layout.num_slots = layout.max_parts;
  } else {
    layout.max_items = group_tiles + f.num_ctas;
    layout.max_merges = f.num_ctas;
    layout.max_parts = 2 * f.num_ctas;
    layout.num_slots = 2 * f.num_ctas;
  }
  layout.cta_indptr = 16;
  layout.items = round_up(layout.cta_indptr + f.num_ctas + 1, 16);
  layout.merges = layout.items + layout.max_items * 16;
  layout.parts = layout.merges + layout.max_merges * 8;
  layout.size = round_up(layout.parts + layout.max_parts, 16);
  layout.slot_tokens = std::min<int64_t>(f.num_tokens, tokens);
  layout.slot_heads = static_cast<int64_t>(f.kv_heads_per_item) * f.q_heads_per_kv_head();
  return layout;
}

void make_plan(const PlanFacts& facts, const int32_t* cu_q_lens, const int32_t* kv_lens,
               int32_t* buffer) {
  const std::vector<QueryTile> tiles = query_tiles(facts, cu_q_lens, kv_lens);
  const Cut cut = choose_cut(facts, tiles);
  PlanWriter writer(facts, buffer);
  std::vector<PlanWriter::Piece> pieces;
  int64_t cost = 0;  // where the current unit starts on the cost axis
  size_t tile = 0;
  int group = 0, unit = 0;
  for (int64_t range = 0; range < cut.num_ranges; ++range) {
    const int64_t end = cut.begin(range + 1);
    pieces.clear();
    while (cost < end) {
      const QueryTile& t = tiles[tile];
      const int64_t fitting = (end - cost + t.unit_cost - 1) / t.unit_cost;
      const int units = static_cast<int>(
          std::min<int64_t>(facts.batch_invariant ? 1 : fitting, t.num_units - unit));
      pieces.push_back({&t, unit, unit + units, group});
      cost += static_cast<int64_t>(units) * t.unit_cost;
      unit += units;
      if (unit == t.num_units) {
        unit = 0;
        if (++tile == tiles.size()) tile = 0, ++group;
      }
    }
    for (int inner = 0; inner < cut.inner; ++inner) {
      const int cta = static_cast<int>(range) * cut.inner + inner;
      writer.begin_cta(cta);
      for (PlanWriter::Piece piece : pieces) {
        piece.head_group += inner;
        writer.add(piece, cta);
      }
      writer.end_cta(cta);
    }
  }
  writer.finish();
}

}  // namespace jaxinfer
