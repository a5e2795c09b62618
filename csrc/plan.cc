// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
#include "csrc/plan.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "csrc/plan_tiles.h"

namespace jaxinfer {
namespace {

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
    begin_ctas(cta + 1);
    header_.num_ctas = cta + 1;
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
    begin_ctas(facts_.num_ctas() + 1);
    std::memset(items_ + header_.num_items, 0,
                (layout_.max_items - header_.num_items) * sizeof(WorkItem));
    std::memcpy(buffer_, &header_, sizeof(header_));
  }

 private:
  // The next items are those of the last of these CTAs; the others have none.
  void begin_ctas(int end) {
    for (int cta = header_.num_ctas; cta < end; ++cta) {
      buffer_[layout_.cta_indptr + cta] = header_.num_items;
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
