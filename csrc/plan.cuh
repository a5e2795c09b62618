// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// The planner on a GPU: the same bits as make_plan() in csrc/plan.cc. What is a loop there is a
// prefix sum, a search or a closed form here. Every CTA plans everything and writes its share of
// the buffer, so that CTAs need not meet. Words and formulas are those of plan.cc.
//
//   1. tiles    rows of sequences -> tiles, those of the second band numbered behind the others
//   2. measure  every thread some tiles; prefix sums place them on the cost axis
//   3. cut      number of ranges of each band; its range r starts at begin(r) = r * total / ranges
//   4. ranges   the first tile and unit of each, by a search; what comes before it, by counting
//   5. write    a CTA the items of the CTA that has its index
//
// All of it runs once, in a few warps that wait for their own results: time is the number of
// instructions in the way of the last store, branches above all. So it is compiled twice: for
// plain batches (a row a sequence, as in decode, one band, and sums below 2^30), and for all
// others.
#pragma once

#include "csrc/plan_tiles.cuh"

namespace jaxinfer {

// ---- 3. cut ------------------------------------------------------------------------------------

// `all`: of all tiles.
template <int kBand, typename Cost>
JAXINFER_INLINE Band<Cost> cut_band(const Planner<Cost>& planner, const TileSums<Cost>& all) {
  const MakePlanParams& p = planner.p;
  constexpr bool kShort = kBand == 0;
  Band<Cost> band;
  band.num_tiles = planner.short_tiles, band.cost = all.cost;
  int max_first_cost = all.max_first_cost, max_cost = 0;
  if constexpr (!Planner<Cost>::kPlain) {
    const int64_t short_cost = all.cost - all.cost_of_long;
    if (kShort) {
      band.cost = short_cost, band.counts = all.counts - all.counts_of_long;
    } else {
      band.first_tile = planner.short_tiles, band.first_cost = short_cost;
      band.num_tiles = planner.num_tiles - planner.short_tiles;
      band.cost = all.cost_of_long, band.counts = all.counts_of_long;
      max_first_cost = all.max_first_of_long, max_cost = all.max_cost_of_long;
    }
    if (band.num_tiles == 0) return band;
  }
  const int rows = kShort && !planner.kPlain ? upper(all.most_rows, 1) : 1;
  const auto total = band.cost * (kShort ? 1 : p.head_groups);
  if (!kShort) {
    const auto share = quotient(total, p.num_ctas - p.first_cta);
    band.is_whole = p.whole_tiles_from > 0 && quotient(share, p.whole_tiles_from) >= max_cost;
  }
  // Mostly there is enough work for all CTAs, which no division is needed to see.
  int ranges = p.most_ranges[kBand];
  Divisor by = p.by_most_ranges[kBand];
  const int64_t cost_of_range = upper(max_first_cost, p.min_cost);
  const bool is_little = total < cost_of_range * ranges;
  const bool has_few_keys = kShort && (all.keys < p.enough_keys * rows) & (band.num_tiles < ranges);
  if (is_little | has_few_keys) {
    int64_t fewer = lower<int64_t>(ranges, quotient(total, cost_of_range));
    if (kShort) {
      const int64_t worth = quotient(all.keys, p.min_keys * rows);
      fewer = lower(fewer, upper<int64_t>(worth, band.num_tiles));
    }
    ranges = upper(static_cast<int>(fewer), 1);
    by = divisor_of_ranges(ranges);
  }
  band.num_ranges = ranges;
  band.by_num_ranges = by;
  band.range_cost = divide(total, by, ranges);
  band.remainder = static_cast<int>(total - band.range_cost * ranges);
  return band;
}

template <typename Cost>
JAXINFER_INLINE void choose_cut(Planner<Cost>& planner, const TileSums<Cost>& sums) {
  if constexpr (Planner<Cost>::kPlain) {
    planner.only = cut_band<0>(planner, sums);
    planner.num_ranges = planner.short_ranges = planner.only.num_ranges;
  } else {
    Band<Cost>* bands = shared_at<Band<Cost>>(planner.p.at.bands);
    if (threadIdx.x == 0) {
      const Band<Cost> first = cut_band<0>(planner, sums);
      Band<Cost> second = cut_band<1>(planner, sums);
      second.first_range = first.num_ranges;
      bands[0] = first, bands[1] = second;
    }
    __syncthreads();
    planner.short_ranges = bands[0].num_ranges;
    planner.num_ranges = planner.short_ranges + bands[1].num_ranges;
  }
}

// ---- 4. ranges ---------------------------------------------------------------------------------

// A range of a band's cost axis. In shared memory it is four words, which change their meaning:
//   find_ranges()   first tile, all outer heads counted on | start behind the cut | unit | 0
//   count_pieces()  pieces | cuts, splits | unit | first, last
//   batch-invariant, at once  pieces | start behind the cut | splits | parts
struct Range {
  int pieces, splits, parts;  // before it; splits and parts of the tiles that end before it
  int unit, cuts;             // of its first tile; cuts inside of tiles, up to its begin
  int first, last;            // first range of the tile it begins in; [first] knows the last
};

JAXINFER_INLINE Bytes16 words(uint32_t x, uint32_t y, uint32_t z, uint32_t w) {
  return {x, y, z, w};
}

template <typename Cost>
JAXINFER_INLINE Range range_at(const Planner<Cost>& planner, int index) {
  const Bytes16 r = shared_at<Bytes16>(planner.p.at.ranges)[index];
  Range range{};
  range.pieces = r.x;
  if (planner.is_invariant()) {
    range.splits = r.z, range.parts = r.w;
  } else {
    range.cuts = r.y & 0xffff, range.splits = r.y >> 16, range.unit = r.z;
    range.first = r.w & 0xffff, range.last = r.w >> 16;
    range.parts = range.cuts + range.splits - (index - range.first);
  }
  return range;
}

template <typename Cost>
JAXINFER_INLINE void find_ranges(const Planner<Cost>& planner) {
  const MakePlanParams& p = planner.p;
  constexpr bool kPlain = Planner<Cost>::kPlain;
  const Cost* costs = shared_at<Cost>(p.at.costs);
  const Counts* counts = shared_at<Counts>(p.at.counts);
  // The end of the last range is found like the others.
#pragma unroll 1
  for (int r = threadIdx.x; r <= planner.num_ranges; r += blockDim.x) {
    const int band_index = planner.band_of_range(r);
    const Band<Cost>& band = planner.band(band_index);
    Cost cost = band.begin(r);
    int group = 0;
    if (!kPlain && band_index == 1) {
      group = static_cast<int>(quotient(cost, band.cost));
      cost += band.first_cost - group * band.cost;
    }
    const int thread = last_of(planner.num_threads(), [&](int i) { return costs[i] <= cost; });
    int tile = thread * p.tiles_per_thread;
    int tile_class = 0;
    Cost begin = costs[thread], end = costs[thread + 1];
    Counts before = planner.is_invariant() ? counts[thread] : 0;
    if (!kPlain || p.tiles_per_thread > 1) {
      Seq seq = find_seq(planner, tile);
      for (; tile < planner.num_tiles; ++tile) {
        seek(planner, seq, tile, kPlain ? lengths_of(p, tile) : Lengths{});
        const int num_units = make_tile(p, seq, tile).num_units;
        tile_class = seq.tile_class;
        const auto& shape = p.tiles[tile_class];
        end = begin + shape.item_cost + static_cast<Cost>(num_units) * shape.unit_cost;
        if (cost < end) break;
        begin = end;
        before += count_of(num_units);
      }
    }
    const auto& shape = p.tiles[tile_class];
    // Units that start before the cut: the first with the tile, the others behind item_cost.
    const bool is_inside = begin < cost;
    const Cost behind = upper<Cost>(cost - begin - 1 - shape.item_cost, 0);
    int unit = divide(behind, shape.by_unit_cost, shape.unit_cost) + is_inside;
    begin += (is_inside ? shape.item_cost : 0) + static_cast<Cost>(unit) * shape.unit_cost;
    if (band.is_whole && is_inside) begin = end;
    const int skipped = static_cast<int>(begin - cost);
    if (begin == end) {  // it begins with the next tile
      before += count_of(unit);
      tile = lower(tile + 1, planner.num_tiles);
      unit = 0;
    }
    tile += group * band.num_tiles;
    Bytes16 range = words(tile, skipped, unit, 0);
    if (planner.is_invariant()) {
      before += group * band.counts;
      // Tiles that are not split have one piece each.
      const int pieces = pieces_of(before), splits = splits_of(before);
      range = words(pieces + unit, skipped, splits, pieces - (tile - splits));
    }
    shared_at<Bytes16>(p.at.ranges)[r] = range;
  }
  __syncthreads();
}

// What comes before every range, from the cuts that are inside of tiles: by one warp, 32 ranges at
// a time. Also the load of the most loaded one, for the header.
template <typename Cost>
JAXINFER_INLINE void count_pieces(const Planner<Cost>& planner) {
  Bytes16* ranges = shared_at<Bytes16>(planner.p.at.ranges);
  const int num_ranges = planner.num_ranges, lane = lane_index();
  Cost max_load = 0;
  int cuts = 0, splits = 0, first = 0, base = 0;  // up to the 32 before
#pragma unroll 1
  do {
    const int r = base + lane;
    // There is room behind the last.
    const Bytes16 before = ranges[upper(r - 1, 0)], range = ranges[r], next = ranges[r + 1];
    if (r < num_ranges) {
      const int skipped = static_cast<int>(next.y - range.y);
      const Band<Cost>& band = planner.band(planner.band_of_range(r));
      max_load = upper(max_load, band.begin(r + 1) - band.begin(r) + skipped);
    }
    if (planner.is_invariant()) continue;
    const int tile = range.x, unit = range.z;
    // The one before the first of 32 has been counted.
    const int tile_before = before.x - (lane == 0 ? before.y & 0xffff : 0);
    const bool is_cut = r < num_ranges && unit > 0;
    const bool is_first = is_cut && (tile_before != tile || before.z == 0);
    const bool is_last = is_cut && next.x != range.x;
    const unsigned all_cuts = __ballot_sync(kAllLanes, is_cut);
    const unsigned all_first = __ballot_sync(kAllLanes, is_first);
    const unsigned first_to_here = all_first & lanes_to_here();
    const int own_cuts = cuts + __popc(all_cuts & lanes_to_here());
    const int own_splits = splits + __popc(first_to_here) - is_cut;
    // A tile's first range is that before its first cut.
    int own_first = first_to_here != 0 ? base + 30 - __clz(first_to_here) : first;
    own_first = is_cut ? own_first : r;
    __syncwarp();  // all have read
    ranges[r] = words(tile + own_cuts, own_cuts | own_splits << 16, unit, own_first);
    __syncwarp();
    if (is_last) reinterpret_cast<uint16_t*>(&ranges[own_first].w)[1] = static_cast<uint16_t>(r);
    cuts += __popc(all_cuts);
    splits += __popc(all_first);
    first = all_first != 0 ? base + 30 - __clz(all_first) : first;
  } while ((base += 32) <= num_ranges);
  const int load = static_cast<int>(lower<int64_t>(max_load, kUnbounded));
  *shared_at<int>(0) = __reduce_max_sync(kAllLanes, load);
}

// ---- 5. write ----------------------------------------------------------------------------------

template <typename T>
JAXINFER_INLINE void store_whole(int32_t* to, const T& value) {
  Bytes16 bytes[sizeof(T) / 16];
  memcpy(bytes, &value, sizeof(T));
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(T) / 16); ++i) {
    reinterpret_cast<Bytes16*>(to)[i] = bytes[i];
  }
}

// A CTA of the plan, and what it is about.
struct PlannedCta {
  int index, band, range;
  int head_group;  // inside the range: of the first band
  int inner;       // head groups inside

  // Where something goes that is `rank`-th of its kind in the order of the tiles: kinds are written
  // range by range, head group by head group. `short_ones`: of the kind, in the first band.
  __device__ __forceinline__ int place(int before, int before_next, int rank,
                                       int short_ones) const {
    if (band == 1) return short_ones * (inner - 1) + rank;
    return inner * before + head_group * (before_next - before) + rank - before;
  }
};

// The item of a piece of the CTA's range.
template <typename Cost>
JAXINFER_INLINE void write_item(const Planner<Cost>& planner, const PlannedCta& cta,
                                const Range& range, const Range& next, const Range& second,
                                int piece) {
  const MakePlanParams& p = planner.p;
  constexpr bool kPlain = Planner<Cost>::kPlain;
  const Band<Cost>& band = planner.band(cta.band);
  const bool is_long = !kPlain && cta.band == 1;
  const bool is_invariant = planner.is_invariant();
  // The tile, and which of its units.
  int group = 0, tile_index = piece - range.cuts, rest = piece;
  Counts before = 0;
  if (is_invariant) {
    const int pieces = pieces_of(band.counts);
    if (is_long) group = static_cast<int>(quotient(piece - second.pieces, pieces));
    rest -= group * pieces;
    const Counts* counts = shared_at<Counts>(p.at.counts);
    const int thread =
        last_of(planner.num_threads(), [&](int i) { return pieces_of(counts[i]) <= rest; });
    tile_index = thread * p.tiles_per_thread;
    before = counts[thread];
  } else if (is_long) {
    group = static_cast<int>(quotient(tile_index - band.first_tile, band.num_tiles));
    tile_index -= group * band.num_tiles;
  }
  Seq seq = find_seq(planner, tile_index);
  Tile tile;
#pragma unroll 1
  for (;; ++tile_index) {
    seek(planner, seq, tile_index, kPlain ? lengths_of(p, tile_index) : Lengths{});
    tile = make_tile(p, seq, tile_index);
    if (!is_invariant || rest < pieces_of(before) + tile.num_units) break;
    before += count_of(tile.num_units);
  }
  int unit_begin = piece == range.pieces ? range.unit : 0;
  int unit_end = piece == next.pieces - 1 && next.unit > 0 ? next.unit : tile.num_units;
  if (is_invariant) unit_begin = rest - pieces_of(before), unit_end = unit_begin + 1;
  const bool is_first = unit_begin == 0, is_last = unit_end == tile.num_units;

  const int index = cta.place(range.pieces, next.pieces, piece, second.pieces);
  const int unit_keys = p.tiles[seq.tile_class].unit_keys;
  const bool is_padding = seq.index >= p.num_seqs;
  WorkItem item{};
  item.tile_class = seq.tile_class;
  item.row_begin = tile.row_begin;
  item.num_rows = tile.num_rows;
  item.row_mode = is_padding ? kPaddingRows : kRowsOfOneSeq;
  item.seq = is_padding ? -1 : seq.index;
  item.kv_head_begin = (group + cta.head_group) * p.kv_heads_per_item;
  item.num_kv_heads = p.kv_heads_per_item;
  item.key_begin = is_first ? kOpen : (tile.first_unit + unit_begin) * unit_keys;
  item.key_end = is_last ? kOpen : (tile.first_unit + unit_end) * unit_keys;
  item.page_row = is_padding ? 0 : seq.index;
  item.mask_mode = !is_last && item.key_end <= tile.full_end ? kMaskFull : kMaskOp;
  item.partial = kWriteThrough;
  if (!is_first || !is_last) {
    // The piece among those of its tile, and the tile among those that are split.
    const Range cut = is_first ? next : range;
    int place = cta.range - cut.first, last_range = range_at(planner, cut.first).last;
    int num_pieces = last_range - cut.first + 1;
    int merge = cut.splits, parts = cut.parts;
    item.partial = 2 * cta.index + is_first;
    if (is_invariant) {
      place = unit_begin, num_pieces = tile.num_units;
      const int last_piece = piece - place + num_pieces - 1;
      const Bytes16* ranges = shared_at<Bytes16>(p.at.ranges);
      last_range = last_of(planner.num_ranges, [&](int other) {
        return static_cast<int>(ranges[other].x) <= last_piece;
      });
      merge = splits_of(group * band.counts + before);
      parts = piece - place - (group * band.num_tiles + tile_index - merge);
      item.partial = index;
    }
    const Range last = range_at(planner, last_range), after = range_at(planner, last_range + 1);
    merge = cta.place(last.splits, after.splits, merge, second.splits);
    parts = cta.place(last.parts, after.parts, parts, second.parts);
    item.merge = merge;
    p.buffer[p.parts + parts + place] = item.partial;
    if (is_last) {
      const MergeItem merged{
          item.row_begin,     item.num_rows, item.kv_head_begin, item.num_kv_heads, parts,
          parts + num_pieces, {0, 0}};
      store_whole(p.buffer + p.merges + merge * 8, merged);
    }
  }
  store_whole(p.buffer + p.items + index * 16, item);
}

// Every CTA writes the items of those CTAs of the plan that have its index, from its first thread
// on, and its last warp a share of the rest.
template <typename Cost>
JAXINFER_INLINE void write_plan(const Planner<Cost>& planner) {
  const MakePlanParams& p = planner.p;
  constexpr bool kPlain = Planner<Cost>::kPlain;
  const int inner = p.head_groups, last_thread = blockDim.x - 1;
  // CTAs in use: of the first band, and up to the last.
  const int short_ctas = planner.short_ranges * inner;
  const int long_ranges = planner.num_ranges - planner.short_ranges;
  const int num_ctas = kPlain || long_ranges == 0 ? short_ctas : p.first_cta + long_ranges;
  const Range second = kPlain ? Range{} : range_at(planner, planner.short_ranges);
#pragma unroll 1
  for (int cta = blockIdx.x; cta < num_ctas; cta += gridDim.x) {
    PlannedCta at{cta, 0, 0, 0, inner};
    if (kPlain || cta < short_ctas) {
      at.range = divide(cta, p.by_head_groups);
      at.head_group = cta - at.range * inner;
    } else {
      if (cta < p.first_cta) continue;
      at.band = 1, at.range = planner.short_ranges + cta - p.first_cta;
    }
    const Range range = range_at(planner, at.range), next = range_at(planner, at.range + 1);
#pragma unroll 1
    for (int piece = range.pieces + threadIdx.x; piece < next.pieces; piece += blockDim.x) {
      write_item(planner, at, range, next, second, piece);
    }
    if (threadIdx.x == last_thread) {
      const int begin = at.place(range.pieces, next.pieces, range.pieces, second.pieces);
      p.buffer[p.cta_indptr + cta] = begin;
    }
  }
  if (warp_index() < last_thread / 32) return;
  const Range end = range_at(planner, planner.num_ranges);
  // Once for every head group inside, and those of the second band as they are.
  const Range short_end = kPlain ? end : second;
  const auto count = [&](int all, int of_short) { return all + of_short * (inner - 1); };
  const int num_items = count(end.pieces, short_end.pieces);
  const int num_merges = count(end.splits, short_end.splits);
  const int num_parts = count(end.parts, short_end.parts);
  const int lane = blockIdx.x * 32 + lane_index(), lanes = gridDim.x * 32;
#pragma unroll 1
  for (int cta = short_ctas + lane; cta < p.items - p.cta_indptr; cta += lanes) {
    if (!kPlain && cta >= p.first_cta && cta < num_ctas) continue;
    const int begin = cta < p.first_cta ? short_end.pieces * inner : num_items;
    p.buffer[p.cta_indptr + cta] = cta <= p.num_ctas ? begin : 0;
  }
  // Zeros where nothing is, 16 bytes at a time: behind the items, the merges and the parts.
  const int items = p.items + num_items * 16, merges = p.merges + num_merges * 8;
  const int parts = p.parts + num_parts;
#pragma unroll 1
  for (uint32_t at = items + lane * 4u; at < static_cast<uint32_t>(p.size); at += lanes * 4) {
    const uint32_t used = at < p.merges + 0u ? items : at < p.parts + 0u ? merges : parts;
    if (at >= used) store_whole(p.buffer + at, Bytes16{0, 0, 0, 0});
#pragma unroll 1
    for (uint32_t i = used; at < used && i < at + 4; ++i) p.buffer[i] = 0;
  }
  if (blockIdx.x == gridDim.x - 1 && threadIdx.x == last_thread) {
    const int max_load = *shared_at<int>(0), is_whole = !kPlain && planner.band(1).is_whole;
    store_whole(p.buffer,
                PlanHeader{num_items, num_merges, num_parts, num_ctas, max_load, is_whole, {}});
  }
}

// Returns false, with nothing written, if the batch was to be plain and is not.
template <typename Cost>
JAXINFER_INLINE bool plan_batch(const MakePlanParams& p, Lengths lengths) {
  Planner<Cost> planner{p};
  if constexpr (planner.kPlain) {
    planner.num_rows = p.cu_q_lens == nullptr ? lower(p.num_seqs, p.num_tokens)
                                              : clamp_to(p.cu_q_lens[p.num_seqs], 0, p.num_tokens);
    const int padding = num_tiles_of(p, p.num_tokens - planner.num_rows, p.last_class);
    if (band_of(p.last_class) == 1 && padding > 0) return false;
    planner.num_tiles = planner.short_tiles = planner.num_rows + padding;
  } else {
    count_tiles(planner);
  }
  const auto sums = measure(planner, lengths);
  if (planner.kPlain && sums.most_rows == kNotPlain) return false;
  choose_cut(planner, sums);
  find_ranges(planner);
  if (warp_index() == 0) count_pieces(planner);
  __syncthreads();
  write_plan(planner);
  return true;
}

}  // namespace jaxinfer

extern "C" __global__ void __launch_bounds__(jaxinfer::kMostPlanThreads)
    make_plan(const __grid_constant__ jaxinfer::MakePlanParams p) {
  using namespace jaxinfer;
  // Asked for before anything is waited for.
  const Lengths first = lengths_of(p, threadIdx.x * p.tiles_per_thread);
  const bool may_be_plain = p.cu_q_lens == nullptr || p.num_tokens / 2 < p.num_seqs;
  if (p.is_small && may_be_plain && plan_batch<int>(p, first)) return;
  plan_batch<int64_t>(p, first);
}
