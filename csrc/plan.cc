// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
#include "csrc/plan.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

namespace jaxinfer {
namespace {

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
  tile.item_cost = facts.item_cost(tile_class);
  tile.first_unit = static_cast<int>(keys.lo / tile.unit_keys);
  const int64_t units = (keys.hi + tile.unit_keys - 1) / tile.unit_keys - tile.first_unit;
  tile.num_units = static_cast<int>(std::max<int64_t>(units, 1));  // empty tiles count too
  tile.num_keys = std::max<int64_t>(keys.hi - keys.lo, 0);
  tile.full_end = keys.full;
  return tile;
}

// The tile class of a sequence: the smallest that holds its rows, else the largest.
int choose_tile_class(const PlanFacts& facts, int64_t q_len) {
  int c = 0;
  while (c + 1 < facts.num_tile_classes && q_len > facts.tile_tokens(c)) ++c;
  return c;
}

// Every row of 0 .. num_tokens is in exactly one tile, of one of the bands. Tiles of a sequence
// go from its last rows, which see the most keys, to its first.
std::array<std::vector<QueryTile>, kBands> query_tiles(const PlanFacts& facts,
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

// How the cost axis of a band (its tiles one after the other, once per outer head group) is cut
// into equal ranges. CTA = first_cta + range * inner + head group.
struct Cut {
  int first_cta;
  int outer, inner;
  int64_t total;
  int64_t num_ranges;
  bool is_whole;  // ranges begin where tiles do

  // range * total / num_ranges, which could overflow.
  int64_t begin(int64_t range) const {
    return total / num_ranges * range + total % num_ranges * range / num_ranges;
  }
};

// In the first band (decode) the KV heads of a range sit on neighbouring CTAs, so that whole token
// rows are read together. In the second one heads are outermost, so that CTAs that run at the same
// time share keys.
Cut choose_cut(const PlanFacts& facts, int band, const std::vector<QueryTile>& tiles) {
  const bool decode = band == 0;
  int64_t cost = 0, keys = 0, max_first_cost = 1, decode_rows = 1;
  int max_cost = 0;
  for (const QueryTile& tile : tiles) {
    cost += tile.item_cost + static_cast<int64_t>(tile.num_units) * tile.unit_cost;
    const bool is_short = tile.item.tile_class < facts.num_tile_classes - 1;
    max_cost = std::max(max_cost,
                        whole_tile_cost(is_short, tile.item_cost, tile.unit_cost, tile.num_units));
    keys += tile.num_keys;
    max_first_cost = std::max<int64_t>(max_first_cost, tile.item_cost + tile.unit_cost);
    if (tile.item.row_mode == kPaddingRows) continue;
    const int64_t rows = static_cast<int64_t>(tile.item.num_rows) * facts.q_heads_per_kv_head();
    decode_rows = std::max(decode_rows, rows);
  }
  const int groups = facts.head_groups();
  Cut cut{facts.first_cta(band), decode ? 1 : groups, decode ? groups : 1, 0, 0, false};
  cut.total = cost * cut.outer;
  int64_t ranges = facts.band_ctas[band] / cut.inner;
  // Every range must hold a unit of every tile it crosses (parts are then consecutive), be
  // worth a CTA, and read far more keys than the partial results it may write; unless there
  // are so few keys that all that counts is how many tiles a CTA does one after the other.
  ranges = std::min(ranges, cut.total / max_first_cost);
  ranges = std::min(ranges, cut.total / facts.min_cost);
  if (decode) {
    const int64_t worth = keys / (facts.min_keys_per_row * decode_rows);
    ranges = std::min(ranges, std::max(worth, static_cast<int64_t>(tiles.size())));
  }
  cut.num_ranges = std::max<int64_t>(ranges, 1);
  cut.is_whole = !decode && facts.whole_tiles_from > 0 && !facts.batch_invariant &&
                 cut.total / facts.band_ctas[band] / facts.whole_tiles_from >= max_cost;
  return cut;
}

// Some units of one tile, for one head group (and, with inner > 1, those after it).
struct Piece {
  const QueryTile* tile;
  int unit_begin, unit_end;
  int head_group;

  bool is_first() const { return unit_begin == 0; }
  bool is_last() const { return unit_end == tile->num_units; }
  bool is_split() const { return !is_first() || !is_last(); }
};

// The work item of a piece, but for its first head and its slot.
WorkItem make_item(const PlanFacts& facts, const Piece& piece) {
  const QueryTile& tile = *piece.tile;
  WorkItem item = tile.item;
  item.key_begin = kOpen;
  item.key_end = kOpen;
  item.num_kv_heads = facts.kv_heads_per_item;
  item.mask_mode = kMaskOp;
  item.partial = kWriteThrough;
  if (!piece.is_first()) item.key_begin = (tile.first_unit + piece.unit_begin) * tile.unit_keys;
  if (!piece.is_last()) {
    item.key_end = (tile.first_unit + piece.unit_end) * tile.unit_keys;
    if (item.key_end <= tile.full_end) item.mask_mode = kMaskFull;
  }
  return item;
}

// Fills the sections of the buffer, CTA by CTA.
class PlanWriter {
 public:
  PlanWriter(const PlanFacts& facts, int32_t* buffer)
      : facts_(facts),
        layout_(plan_layout(facts)),
        buffer_(buffer),
        items_(reinterpret_cast<WorkItem*>(buffer + layout_.items)),
        parts_(facts.head_groups()) {
    // Items are written at once; all other bytes start as zero.
    std::memset(buffer, 0, layout_.items * sizeof(int32_t));
    std::memset(buffer + layout_.merges, 0, (layout_.size - layout_.merges) * sizeof(int32_t));
  }

  void set_whole() { header_.is_whole = 1; }

  // Writes the items of one CTA, behind those before; `inner` is added to the head groups of the
  // pieces.
  void write_cta(int cta, int inner, const std::vector<Piece>& pieces,
                 const std::vector<WorkItem>& items) {
    start_ctas_to(cta);
    int64_t load = 0;
    for (size_t i = 0; i < pieces.size(); ++i) {
      const Piece& piece = pieces[i];
      const int head_group = piece.head_group + inner;
      const int index = header_.num_items++;
      WorkItem& item = items_[index];
      item = items[i];
      item.kv_head_begin = head_group * facts_.kv_heads_per_item;
      if (piece.is_split()) {
        // At most one split tile enters a range and one leaves it: two slots per CTA.
        const int slot = facts_.batch_invariant ? index : 2 * cta + (piece.is_first() ? 1 : 0);
        item.partial = slot;
        parts_[head_group].push_back(index);
        if (piece.is_last()) write_merge(parts_[head_group]);
      }
      load += static_cast<int64_t>(piece.unit_end - piece.unit_begin) * piece.tile->unit_cost;
      if (piece.is_first()) load += piece.tile->item_cost;
    }
    header_.max_load =
        static_cast<int>(std::min<int64_t>(std::max<int64_t>(header_.max_load, load), kUnbounded));
  }

  void finish() {
    const int used = header_.num_ctas;
    start_ctas_to(facts_.num_ctas());
    header_.num_ctas = used;
    std::memset(items_ + header_.num_items, 0,
                (layout_.max_items - header_.num_items) * sizeof(WorkItem));
    std::memcpy(buffer_, &header_, sizeof(header_));
  }

 private:
  // The items of this CTA begin here; the ones before it without any do as well.
  void start_ctas_to(int cta) {
    for (; header_.num_ctas <= cta; ++header_.num_ctas) {
      buffer_[layout_.cta_indptr + header_.num_ctas] = header_.num_items;
    }
  }

  // The rows of a split tile, whose pieces are the items `parts`.
  void write_merge(std::vector<int>& parts) {
    const int begin = header_.num_parts;
    for (const int part : parts) {
      items_[part].merge = header_.num_merges;
      buffer_[layout_.parts + header_.num_parts++] = items_[part].partial;
    }
    const WorkItem& item = items_[parts.back()];
    const MergeItem merge{
        item.row_begin,    item.num_rows, item.kv_head_begin, item.num_kv_heads, begin,
        header_.num_parts, {0, 0}};
    std::memcpy(buffer_ + layout_.merges + header_.num_merges++ * 8, &merge, sizeof(merge));
    parts.clear();
  }

  const PlanFacts& facts_;
  const PlanLayout layout_;
  int32_t* buffer_;
  WorkItem* items_;
  PlanHeader header_{};
  std::vector<std::vector<int>> parts_;  // items of the tile being split, per head group
};

// Cuts the tiles of a band, of which there are some, and writes what each CTA gets.
void plan_band(const PlanFacts& facts, const Cut& cut, const std::vector<QueryTile>& tiles,
               PlanWriter& writer) {
  std::vector<Piece> pieces;    // of one range
  std::vector<WorkItem> items;  // theirs
  int64_t cost = 0;             // where the current unit starts on the cost axis
  size_t tile = 0;
  int group = 0, unit = 0;
  for (int64_t range = 0; range < cut.num_ranges; ++range) {
    const int64_t end = cut.begin(range + 1);
    pieces.clear();
    items.clear();
    while (cost < end) {
      const QueryTile& t = tiles[tile];
      // The next unit starts here, and those after it behind what the tile itself costs.
      const int64_t item_cost = unit == 0 ? t.item_cost : 0;
      const int64_t starting = (end - cost - item_cost + t.unit_cost - 1) / t.unit_cost;
      const int64_t fitting = facts.batch_invariant ? 1
                              : cut.is_whole        ? t.num_units
                                                    : std::max<int64_t>(starting, 1);
      const int units = static_cast<int>(std::min<int64_t>(fitting, t.num_units - unit));
      pieces.push_back({&t, unit, unit + units, group});
      items.push_back(make_item(facts, pieces.back()));
      cost += item_cost + static_cast<int64_t>(units) * t.unit_cost;
      unit += units;
      if (unit == t.num_units) {
        unit = 0;
        if (++tile == tiles.size()) tile = 0, ++group;
      }
    }
    for (int inner = 0; inner < cut.inner; ++inner) {
      const int cta = cut.first_cta + static_cast<int>(range) * cut.inner + inner;
      writer.write_cta(cta, inner, pieces, items);
    }
  }
}

}  // namespace

void make_plan(const PlanFacts& facts, const int32_t* cu_q_lens, const int32_t* kv_lens,
               int32_t* buffer) {
  const auto bands = query_tiles(facts, cu_q_lens, kv_lens);
  PlanWriter writer(facts, buffer);
  for (int band = 0; band < kBands; ++band) {
    if (bands[band].empty()) continue;
    const Cut cut = choose_cut(facts, band, bands[band]);
    if (cut.is_whole) writer.set_whole();
    plan_band(facts, cut, bands[band], writer);
  }
  writer.finish();
}

}  // namespace jaxinfer
