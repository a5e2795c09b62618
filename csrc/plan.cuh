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
// plain batches (a row a sequence, as in decode, one band, and sums below 2^30), and for all others.
#pragma once

#include "csrc/plan_device.h"
#include "csrc/vectors.cuh"

namespace jaxinfer {

// ---- numbers and lanes ---------------------------------------------------------------------

template <typename T>
JAXINFER_INLINE T lower(T a, T b) {
  return a < b ? a : b;
}
template <typename T>
JAXINFER_INLINE T upper(T a, T b) {
  return a < b ? b : a;
}
JAXINFER_INLINE int clamp_to(int x, int lo, int hi) { return upper(lower(x, hi), lo); }

JAXINFER_INLINE int divide(int x, Divisor by, int = 0) {
  return static_cast<int>(__umulhi(2u * x, by.multiplier) >> by.shift);
}
JAXINFER_INLINE int64_t divide(int64_t x, Divisor by, int by_number) {
  return x >> 31 == 0 ? divide(static_cast<int>(x), by) : x / by_number;
}

// Neither is negative.
JAXINFER_INLINE int64_t quotient(int64_t a, int64_t b) {
  if (((a | b) >> 32) == 0) return static_cast<uint32_t>(a) / static_cast<uint32_t>(b);
  return a / b;
}

// As make_divisor() has it, for few ranges and without divisions of 64 bits.
JAXINFER_INLINE Divisor divisor_of_ranges(uint32_t ranges) {
  const int shift = 32 - __clz(ranges - 1);
  const uint32_t power = 1u << 31, whole = power / ranges, rest = power - whole * ranges;
  return {(whole << shift) + ((rest << shift) + ranges - 1) / ranges, shift};
}

template <typename T>
JAXINFER_INLINE T* shared_at(int offset) {
  return reinterpret_cast<T*>(reinterpret_cast<char*>(shared_memory) + offset);
}

JAXINFER_INLINE int lane_index() { return threadIdx.x % 32; }
JAXINFER_INLINE int warp_index() { return threadIdx.x / 32; }
JAXINFER_INLINE unsigned lanes_to_here() { return kAllLanes >> (31 - lane_index()); }

// x of all lanes up to this one, joined.
template <typename T, typename Join>
JAXINFER_INLINE T join_to_lane(T x, Join join) {
#pragma unroll
  for (int d = 1; d < 32; d *= 2) {
    const T other = __shfl_up_sync(kAllLanes, x, d);
    if (lane_index() >= d) x = join(other, x);
  }
  return x;
}

// Last of 0 .. count - 1 that `is_at_most` holds for, an ascending number; for 0 it does. Four at
// a time: a step takes as long as a load from shared memory, however many there are.
template <typename IsAtMost>
JAXINFER_INLINE int last_of(int count, IsAtMost is_at_most) {
  int last = 0;
  int stride = count > 1 ? 1 << ((31 - __clz(count - 1)) & ~1) : 0;
#pragma unroll 1
  for (; stride > 0; stride >>= 2) {
    const int a = lower(last + stride, count - 1), b = lower(last + 2 * stride, count - 1);
    const int c = lower(last + 3 * stride, count - 1);
    const bool at_a = is_at_most(a), at_b = is_at_most(b), at_c = is_at_most(c);
    last = at_a ? a : last;
    last = at_b ? b : last;
    last = at_c ? c : last;
  }
  return last;
}

// ---- what all threads know -------------------------------------------------------------------

// What is counted of tiles where every unit is a piece: pieces, and above them split tiles.
using Counts = uint64_t;
JAXINFER_INLINE Counts count_of(int num_units) {
  return (uint64_t{num_units > 1} << 32) + num_units;
}
JAXINFER_INLINE int pieces_of(Counts counts) { return static_cast<int>(counts); }
JAXINFER_INLINE int splits_of(Counts counts) { return static_cast<int>(counts >> 32); }

// Tiles, and how they are cut; the second one's come behind those of the first.
template <typename Cost>
struct Band {
  int first_tile = 0, num_tiles = 0;
  Cost first_cost = 0, cost = 0;  // of all tiles before, and of its own
  Counts counts = 0;
  int first_range = 0, num_ranges = 0;
  Cost range_cost = 1;  // range_cost * num_ranges + remainder = its cost, once a group outside
  int remainder = 0;
  Divisor by_num_ranges{};

  // On its own cost axis.
  __device__ __forceinline__ Cost begin(int range) const {
    // Below 2^24: remainder < num_ranges <= 2^12.
    const int r = range - first_range;
    return range_cost * r + divide(remainder * r, by_num_ranges);
  }
};

// Costs are an int in a plain batch only.
template <typename Cost>
struct Planner {
  static constexpr bool kPlain = sizeof(Cost) == 4;

  const MakePlanParams& p;
  int num_rows = 0;   // of sequences, in a plain batch; the others are padding
  int num_tiles = 0;  // of both bands
  int num_ranges = 0;
  Band<Cost> bands[kPlain ? 1 : kBands];
  bool is_whole = false;  // ranges of the second band begin where tiles do

  __device__ __forceinline__ bool is_invariant() const { return !kPlain && p.batch_invariant; }
  // Threads that may have tiles.
  __device__ __forceinline__ int num_threads() const {
    return lower(static_cast<int>(blockDim.x), num_tiles);
  }
  __device__ __forceinline__ int band_of_tile(int tile) const {
    return !kPlain && tile >= bands[0].num_tiles;
  }
  // Where all ranges end counts as the last band's.
  __device__ __forceinline__ int band_of_range(int range) const {
    return !kPlain && range >= bands[0].num_ranges && num_tiles > bands[0].num_tiles;
  }
};

// What the warps tell each other at a barrier. One barrier is enough, since two exchanges one
// after the other have different slots.
template <int kSlot, typename Record>
JAXINFER_INLINE const Record* exchange(const Record& mine) {
  static_assert(sizeof(Record) <= kPlanRecordBytes, "");
  Record* records = shared_at<Record>(kSlot * kPlanRecordBytes * kMostPlanThreads / 32);
  if (lane_index() == 31) records[warp_index()] = mine;
  __syncthreads();
  return records;
}

// x of all threads before this one, joined, and of all. 0 joins as nothing.
template <int kSlot, typename T, typename Join>
JAXINFER_INLINE T join_before(T x, Join join, T* all) {
  T before = join_to_lane(x, join), sum = 0;
  const T* warps = exchange<kSlot>(before);
  before = __shfl_up_sync(kAllLanes, before, 1);
  if (lane_index() == 0) before = 0;
#pragma unroll 1
  for (int w = 0; w < static_cast<int>(blockDim.x / 32); ++w) {
    if (w == warp_index()) before = join(sum, before);
    sum = join(sum, warps[w]);
  }
  *all = sum;
  return before;
}

// ---- 1. tiles ----------------------------------------------------------------------------------

// The rows of a sequence, and its tiles. Sequence num_seqs stands for the padding rows.
struct Seq {
  int index, begin, q_len, kv_len, tile_class, num_tiles;
  int short_tiles, long_tiles;  // of the bands, before its own; the long ones behind all short

  __device__ __forceinline__ int first_tile() const {
    return band_of(tile_class) == 0 ? short_tiles : long_tiles;
  }
  __device__ __forceinline__ bool has_tile(int band, int tile) const {
    return band == band_of(tile_class) && tile < first_tile() + num_tiles;
  }
};
static_assert(sizeof(Seq) <= kPlanSeqBytes, "");

JAXINFER_INLINE int num_tiles_of(const MakePlanParams& p, int q_len, int tile_class) {
  return q_len > 0 ? divide(q_len - 1, p.tiles[tile_class].by_tokens) + 1 : 0;
}

// Offsets count as at least those before them.
JAXINFER_INLINE int end_of(const MakePlanParams& p, int seq, int begin) {
  const int end = p.cu_q_lens != nullptr ? p.cu_q_lens[seq + 1] : seq + 1;
  return upper(lower(end, p.num_tokens), begin);
}

JAXINFER_INLINE Seq next_seq(const MakePlanParams& p, const Seq& s) {
  const int index = s.index + 1, begin = s.begin + s.q_len;
  const bool is_padding = index >= p.num_seqs;
  const int q_len = (is_padding ? p.num_tokens : end_of(p, index, begin)) - begin;
  // The smallest class that holds the rows, else the largest.
  int c = is_padding ? p.last_class : 0;
  while (c < p.last_class && q_len > p.tiles[c].tokens) ++c;
  const bool was_short = band_of(s.tile_class) == 0;
  const int short_tiles = s.short_tiles + (was_short ? s.num_tiles : 0);
  const int long_tiles = s.long_tiles + (was_short ? 0 : s.num_tiles);
  return {index,      begin,
          q_len,      is_padding ? 0 : p.kv_lens[index],
          c,          num_tiles_of(p, q_len, c),
          short_tiles, long_tiles};
}

// What is before every thread's sequences, as a sequence without tiles.
JAXINFER_INLINE void count_tiles(Planner<int64_t>& planner) {
  const MakePlanParams& p = planner.p;
  const int first = threadIdx.x * p.seqs_per_thread, last = first + p.seqs_per_thread;
  int row = 0, rows;
#pragma unroll 1
  for (int i = first; i < last && i < p.num_seqs; ++i) row = end_of(p, i, row);
  row = join_before<0>(row, [](int a, int b) { return upper(a, b); }, &rows);
  Seq before{first - 1, row, 0, 0, 0, 0, 0, 0}, s = before;
  uint64_t own = 0, all;  // tiles, the long ones above the others
#pragma unroll 1
  for (int i = first; i < last && i <= p.num_seqs; ++i) {
    s = next_seq(p, s);
    own += static_cast<uint64_t>(s.num_tiles) << 32 * band_of(s.tile_class);
  }
  own = join_before<1>(own, [](uint64_t a, uint64_t b) { return a + b; }, &all);
  const int num_short = static_cast<int>(all), num_long = static_cast<int>(all >> 32);
  planner.num_tiles = num_short + num_long;
  planner.bands[0].num_tiles = planner.bands[1].first_tile = num_short;
  planner.bands[1].num_tiles = num_long;
  before.short_tiles = static_cast<int>(own);
  before.long_tiles = num_short + static_cast<int>(own >> 32);
  shared_at<Seq>(p.at.seqs)[threadIdx.x] = before;
  __syncthreads();
}

// A sequence that is not behind that of the tile.
JAXINFER_INLINE Seq find_seq(const Planner<int64_t>& planner, int tile) {
  const Seq* seqs = shared_at<Seq>(planner.p.at.seqs);
  const bool is_short = planner.band_of_tile(tile) == 0;
  return seqs[last_of(blockDim.x, [&](int i) {
    return (is_short ? seqs[i].short_tiles : seqs[i].long_tiles) <= tile;
  })];
}
JAXINFER_INLINE Seq find_seq(const Planner<int>&, int) { return {}; }

// What is read of a sequence of a plain batch. Without branches, also behind the last.
struct Lengths {
  int end, kv_len;
};
JAXINFER_INLINE Lengths lengths_of(const MakePlanParams& p, int seq) {
  const int index = lower(seq, p.num_seqs - 1);
  return {p.cu_q_lens != nullptr ? p.cu_q_lens[index + 1] : 0, p.kv_lens[index]};
}

// From there to the sequence of the tile; its lengths are given in a plain batch.
JAXINFER_INLINE void seek(const Planner<int64_t>& planner, Seq& s, int tile, Lengths) {
  const int band = planner.band_of_tile(tile);
  // The long tiles begin with the first sequences again.
  if (tile == planner.bands[1].first_tile) s = find_seq(planner, tile);
#pragma unroll 1
  while (!s.has_tile(band, tile)) s = next_seq(planner.p, s);
}
JAXINFER_INLINE void seek(const Planner<int>& planner, Seq& s, int tile, Lengths lengths) {
  const MakePlanParams& p = planner.p;
  const int num_rows = planner.num_rows;
  s = tile < num_rows
          ? Seq{tile, tile, 1, lengths.kv_len, 0, 1, tile, 0}
          : Seq{p.num_seqs, num_rows, p.num_tokens - num_rows, 0, 0, 0, num_rows, 0};
}

struct Tile {
  int row_begin, num_rows;
  int first_unit, num_units, num_keys, full_end;
};

// Tile `index` is one of the sequence's: its last rows come first. Padding rows ascend.
JAXINFER_INLINE Tile make_tile(const MakePlanParams& p, const Seq& s, int index) {
  const auto& shape = p.tiles[s.tile_class];
  const int place = index - s.first_tile();
  const int row = (s.index >= p.num_seqs ? place : s.num_tiles - 1 - place) * shape.tokens;
  Tile tile;
  tile.row_begin = s.begin + row;
  tile.num_rows = lower(shape.tokens, s.q_len - row);
  // A row has the position of a key, and `behind` it are so many more. Keys [lo, hi) are seen by
  // some row of the tile, those before full_end by all. Padding rows are without keys.
  const int length = clamp_to(s.kv_len, 0, p.max_kv_len);
  const int behind_first = s.q_len - row, behind_last = behind_first - tile.num_rows;
  const int lo = upper(upper(length - behind_first, 0) - p.window_left, 0);
  const int hi = upper(length - upper(behind_last - p.window_right, 0), 0);
  const int full_end = upper(length - upper(behind_first - 1 - p.window_right, 0), 0);
  tile.first_unit = divide(lo, shape.by_unit_keys);
  tile.num_units = divide(upper(hi - 1, 0), shape.by_unit_keys) - tile.first_unit + 1;
  tile.num_keys = hi - lo;
  tile.full_end = p.window_left == kUnbounded ? full_end : 0;
  return tile;
}

// ---- 2. measure --------------------------------------------------------------------------------

// Of tiles before some point.
template <typename Cost>
struct alignas(16) TileSums {
  Cost cost, keys;        // keys of short tiles
  int max_first_cost;     // of short tiles; the first unit of a tile counts with item_cost
  int most_rows;          // of a short tile of a sequence
  int max_first_of_long;  // and the others of no use in a plain batch
  int max_cost;           // of a long tile
  Counts counts;
  Cost cost_of_long;
  Counts counts_of_long;
};
constexpr int kNotPlain = 1 << 30;

// Costs before every thread's tiles. `lengths` are those of its first one, if the batch is plain.
template <typename Cost>
JAXINFER_INLINE auto measure(Planner<Cost>& planner, Lengths lengths) {
  const MakePlanParams& p = planner.p;
  constexpr bool kPlain = Planner<Cost>::kPlain;
  TileSums<Cost> own{};
  int tile_index = threadIdx.x * p.tiles_per_thread;
  const int last = tile_index + p.tiles_per_thread - 1;
  Seq seq = find_seq(planner, tile_index);
#pragma unroll 1
  while (true) {
    if (tile_index < planner.num_tiles) {
      seek(planner, seq, tile_index, lengths);
      const Tile tile = make_tile(p, seq, tile_index);
      const auto& shape = p.tiles[seq.tile_class];
      const int first_cost = shape.item_cost + shape.unit_cost;
      const Cost cost = shape.item_cost + static_cast<Cost>(tile.num_units) * shape.unit_cost;
      own.cost += cost;
      own.counts += count_of(tile.num_units);
      if (kPlain || band_of(seq.tile_class) == 0) {
        own.keys += tile.num_keys;
        own.max_first_cost = upper(own.max_first_cost, first_cost);
        if (seq.index < p.num_seqs) own.most_rows = upper(own.most_rows, tile.num_rows);
      } else {
        own.cost_of_long += cost;
        own.counts_of_long += count_of(tile.num_units);
        own.max_first_of_long = upper(own.max_first_of_long, first_cost);
        own.max_cost =
            upper(own.max_cost, whole_tile_cost(seq.tile_class < p.last_class, shape.item_cost,
                                                shape.unit_cost, tile.num_units));
      }
    }
    if (kPlain && p.cu_q_lens != nullptr && tile_index < p.num_seqs &&
        lengths.end != lower(tile_index + 1, planner.num_rows)) {
      own.most_rows = kNotPlain;
    }
    if (tile_index++ == last) break;
    if (kPlain) lengths = lengths_of(p, tile_index);
  }
  const auto add = [](auto a, auto b) { return a + b; };
  TileSums<Cost> warp{};
  warp.cost = join_to_lane(own.cost, add);
  warp.keys = join_to_lane(own.keys, add);
  warp.max_first_cost = __reduce_max_sync(kAllLanes, own.max_first_cost);
  warp.most_rows = __reduce_max_sync(kAllLanes, own.most_rows);
  if (!kPlain) {
    warp.max_first_of_long = __reduce_max_sync(kAllLanes, own.max_first_of_long);
    warp.max_cost = __reduce_max_sync(kAllLanes, own.max_cost);
    warp.cost_of_long = join_to_lane(own.cost_of_long, add);
    if (planner.is_invariant()) warp.counts_of_long = join_to_lane(own.counts_of_long, add);
  }
  if (planner.is_invariant()) warp.counts = join_to_lane(own.counts, add);
  const TileSums<Cost>* warps = exchange<0>(warp);
  Cost before = warp.cost - own.cost;
  Counts counts_before = warp.counts - own.counts;
  TileSums<Cost> sums{};
  int w = 0;
#pragma unroll 1
  do {
#pragma unroll
    for (int i = 0; i < 4; ++i, ++w) {
      const TileSums<Cost> other = warps[w];
      if (w < warp_index()) before += other.cost, counts_before += other.counts;
      sums.cost += other.cost;
      sums.keys += other.keys;
      sums.max_first_cost = upper(sums.max_first_cost, other.max_first_cost);
      sums.most_rows = upper(sums.most_rows, other.most_rows);
      sums.counts += other.counts;
      if (kPlain) continue;
      sums.max_first_of_long = upper(sums.max_first_of_long, other.max_first_of_long);
      sums.max_cost = upper(sums.max_cost, other.max_cost);
      sums.cost_of_long += other.cost_of_long;
      sums.counts_of_long += other.counts_of_long;
    }
  } while (w < static_cast<int>(blockDim.x / 32));
  Cost* costs = shared_at<Cost>(p.at.costs);
  costs[threadIdx.x] = before;
  if (threadIdx.x == blockDim.x - 1) costs[blockDim.x] = sums.cost;
  if (planner.is_invariant()) shared_at<Counts>(p.at.counts)[threadIdx.x] = counts_before;
  auto& first = planner.bands[0];
  first.cost = sums.cost - sums.cost_of_long;
  first.counts = sums.counts - sums.counts_of_long;
  if constexpr (!kPlain) {
    auto& second = planner.bands[1];
    second.first_cost = first.cost, second.cost = sums.cost_of_long;
    second.counts = sums.counts_of_long;
  }
  __syncthreads();
  return sums;
}

// ---- 3. cut ------------------------------------------------------------------------------------

template <int kBand, typename Cost>
JAXINFER_INLINE void choose_cut(Planner<Cost>& planner, const TileSums<Cost>& sums) {
  const MakePlanParams& p = planner.p;
  Band<Cost>& band = planner.bands[kBand];
  band.first_range = planner.num_ranges;
  if (band.num_tiles == 0) return;
  constexpr bool kShort = kBand == 0;
  const int rows = kShort && !planner.kPlain ? upper(sums.most_rows, 1) : 1;
  const auto total = band.cost * (kShort ? 1 : p.head_groups);
  if (!kShort) {
    planner.is_whole = p.whole_tiles_from > 0 &&
                       quotient(quotient(total, p.num_ctas - p.first_cta), p.whole_tiles_from) >=
                           sums.max_cost;
  }
  // Mostly there is enough work for all CTAs, which no division is needed to see.
  int ranges = p.most_ranges[kBand];
  Divisor by = p.by_most_ranges[kBand];
  const int64_t cost_of_range =
      upper(kShort ? sums.max_first_cost : sums.max_first_of_long, p.min_cost);
  const bool is_little = total < cost_of_range * ranges;
  const bool has_few_keys =
      kShort && (sums.keys < p.enough_keys * rows) & (band.num_tiles < ranges);
  if (is_little | has_few_keys) {
    int64_t fewer = lower<int64_t>(ranges, quotient(total, cost_of_range));
    if (kShort) {
      const int64_t worth = quotient(sums.keys, p.min_keys * rows);
      fewer = lower(fewer, upper<int64_t>(worth, band.num_tiles));
    }
    ranges = upper(static_cast<int>(fewer), 1);
    by = divisor_of_ranges(ranges);
  }
  band.num_ranges = ranges;
  band.by_num_ranges = by;
  band.range_cost = divide(total, by, ranges);
  band.remainder = static_cast<int>(total - band.range_cost * ranges);
  planner.num_ranges += ranges;
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
    const Band<Cost>& band = planner.bands[band_index];
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
    if (planner.is_whole && band_index == 1 && is_inside) begin = end;
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
      const Band<Cost>& band = planner.bands[planner.band_of_range(r)];
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
  shared_at<int>(0)[0] = __reduce_max_sync(kAllLanes, load);
  shared_at<int>(0)[1] = planner.is_whole;  // there, lest it need a register
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
  const Band<Cost>& band = planner.bands[cta.band];
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
  const int short_ctas = planner.bands[0].num_ranges * inner;
  const int long_ranges = planner.num_ranges - planner.bands[0].num_ranges;
  const int num_ctas = kPlain || long_ranges == 0 ? short_ctas : p.first_cta + long_ranges;
  const Range second = range_at(planner, planner.bands[0].num_ranges);
#pragma unroll 1
  for (int cta = blockIdx.x; cta < num_ctas; cta += gridDim.x) {
    PlannedCta at{cta, 0, 0, 0, inner};
    if (kPlain || cta < short_ctas) {
      at.range = divide(cta, p.by_head_groups);
      at.head_group = cta - at.range * inner;
    } else {
      if (cta < p.first_cta) continue;
      at.band = 1, at.range = planner.bands[0].num_ranges + cta - p.first_cta;
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
  const auto count = [&](int all, int of_first) { return all + of_first * (inner - 1); };
  const int num_items = count(end.pieces, second.pieces);
  const int num_merges = count(end.splits, second.splits);
  const int num_parts = count(end.parts, second.parts);
  const int lane = blockIdx.x * 32 + lane_index(), lanes = gridDim.x * 32;
#pragma unroll 1
  for (int cta = short_ctas + lane; cta < p.items - p.cta_indptr; cta += lanes) {
    if (!kPlain && cta >= p.first_cta && cta < num_ctas) continue;
    const int begin = cta < p.first_cta ? second.pieces * inner : num_items;
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
    const int *kept = shared_at<int>(0), max_load = kept[0], is_whole = kept[1];
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
    planner.num_tiles = planner.bands[0].num_tiles = planner.num_rows + padding;
  } else {
    count_tiles(planner);
  }
  const auto sums = measure(planner, lengths);
  if (planner.kPlain && sums.most_rows == kNotPlain) return false;
  choose_cut<0>(planner, sums);
  if constexpr (!planner.kPlain) choose_cut<1>(planner, sums);
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
