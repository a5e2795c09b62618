// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// The tiles of a batch and their costs, for the planner on a GPU (csrc/plan.cuh): its first steps.
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
  bool is_whole = false;  // ranges begin where tiles do
  Cost range_cost = 1;    // range_cost * num_ranges + remainder = its cost, once a group outside
  int remainder = 0;
  Divisor by_num_ranges{};

  // On its own cost axis.
  __device__ __forceinline__ Cost begin(int range) const {
    // Below 2^24: remainder < num_ranges <= 2^12.
    const int r = range - first_range;
    return range_cost * r + divide(remainder * r, by_num_ranges);
  }
};

static_assert(sizeof(Band<int64_t>) <= kPlanBandBytes, "");

// Costs are an int in a plain batch only.
template <typename Cost>
struct Planner {
  static constexpr bool kPlain = sizeof(Cost) == 4;

  const MakePlanParams& p;
  int num_rows = 0;                       // of sequences, in a plain batch; the others are padding
  int num_tiles = 0, num_ranges = 0;      // of both bands
  int short_tiles = 0, short_ranges = 0;  // of the first one
  Band<Cost> only{};                      // in a plain batch

  // Two of them would need too many registers.
  __device__ __forceinline__ const Band<Cost>& band(int index) const {
    if constexpr (kPlain) return only;
    return shared_at<Band<Cost>>(p.at.bands)[index];
  }
  __device__ __forceinline__ bool is_invariant() const { return !kPlain && p.batch_invariant; }
  // Threads that may have tiles.
  __device__ __forceinline__ int num_threads() const {
    return lower(static_cast<int>(blockDim.x), num_tiles);
  }
  __device__ __forceinline__ int band_of_tile(int tile) const {
    return !kPlain && tile >= short_tiles;
  }
  // Where all ranges end counts as the last band's.
  __device__ __forceinline__ int band_of_range(int range) const {
    return !kPlain && range >= short_ranges && num_tiles > short_tiles;
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
  return {index,       begin,
          q_len,       is_padding ? 0 : p.kv_lens[index],
          c,           num_tiles_of(p, q_len, c),
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
  planner.short_tiles = static_cast<int>(all);
  planner.num_tiles = planner.short_tiles + static_cast<int>(all >> 32);
  before.short_tiles = static_cast<int>(own);
  before.long_tiles = planner.short_tiles + static_cast<int>(own >> 32);
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
  if (tile == planner.short_tiles) s = find_seq(planner, tile);
#pragma unroll 1
  while (!s.has_tile(band, tile)) s = next_seq(planner.p, s);
}
JAXINFER_INLINE void seek(const Planner<int>& planner, Seq& s, int tile, Lengths lengths) {
  const MakePlanParams& p = planner.p;
  const int num_rows = planner.num_rows;
  s = tile < num_rows ? Seq{tile, tile, 1, lengths.kv_len, 0, 1, tile, 0}
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

// Of tiles before some point: of a plain batch, whose tiles are all short.
template <typename Cost>
struct alignas(16) TileSums {
  Cost cost, keys;
  int max_first_cost;  // the first unit of a tile counts with item_cost
  int most_rows;       // of a tile of a sequence
};
template <>
struct alignas(16) TileSums<int64_t> {
  int64_t cost, keys;             // keys of short tiles
  int max_first_cost, most_rows;  // of short tiles
  int max_first_of_long, max_cost_of_long;
  int64_t cost_of_long;
  Counts counts, counts_of_long;
};
constexpr int kNotPlain = 1 << 30;

// What a tile adds to the sums of a batch that is not plain, beside its cost.
JAXINFER_INLINE void add_tile(const MakePlanParams& p, const Seq& seq, const Tile& tile,
                              int64_t cost, TileSums<int64_t>& sums) {
  const auto& shape = p.tiles[seq.tile_class];
  sums.counts += count_of(tile.num_units);
  if (band_of(seq.tile_class) == 0) return;
  sums.cost_of_long += cost;
  sums.counts_of_long += count_of(tile.num_units);
  sums.max_first_of_long = upper(sums.max_first_of_long, shape.item_cost + shape.unit_cost);
  const bool is_short = seq.tile_class < p.last_class;
  const int whole = whole_tile_cost(is_short, shape.item_cost, shape.unit_cost, tile.num_units);
  sums.max_cost_of_long = upper(sums.max_cost_of_long, whole);
}

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
      const Cost cost = shape.item_cost + static_cast<Cost>(tile.num_units) * shape.unit_cost;
      own.cost += cost;
      if constexpr (!kPlain) add_tile(p, seq, tile, cost, own);
      if (kPlain || band_of(seq.tile_class) == 0) {
        own.keys += tile.num_keys;
        own.max_first_cost = upper(own.max_first_cost, shape.item_cost + shape.unit_cost);
        if (seq.index < p.num_seqs) own.most_rows = upper(own.most_rows, tile.num_rows);
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
  if constexpr (!kPlain) {
    warp.max_first_of_long = __reduce_max_sync(kAllLanes, own.max_first_of_long);
    warp.max_cost_of_long = __reduce_max_sync(kAllLanes, own.max_cost_of_long);
    warp.cost_of_long = join_to_lane(own.cost_of_long, add);
    if (p.batch_invariant) {
      warp.counts = join_to_lane(own.counts, add);
      warp.counts_of_long = join_to_lane(own.counts_of_long, add);
    }
  }
  const TileSums<Cost>* warps = exchange<0>(warp);
  Cost before = warp.cost - own.cost;
  Counts counts_before = 0;
  if constexpr (!kPlain) counts_before = warp.counts - own.counts;
  TileSums<Cost> sums{};
  int w = 0;
#pragma unroll 1
  do {
#pragma unroll
    for (int i = 0; i < 4; ++i, ++w) {
      const TileSums<Cost> other = warps[w];
      if (w < warp_index()) before += other.cost;
      sums.cost += other.cost;
      sums.keys += other.keys;
      sums.max_first_cost = upper(sums.max_first_cost, other.max_first_cost);
      sums.most_rows = upper(sums.most_rows, other.most_rows);
      if constexpr (!kPlain) {
        if (w < warp_index()) counts_before += other.counts;
        sums.max_first_of_long = upper(sums.max_first_of_long, other.max_first_of_long);
        sums.max_cost_of_long = upper(sums.max_cost_of_long, other.max_cost_of_long);
        sums.cost_of_long += other.cost_of_long;
        sums.counts += other.counts;
        sums.counts_of_long += other.counts_of_long;
      }
    }
  } while (w < static_cast<int>(blockDim.x / 32));
  Cost* costs = shared_at<Cost>(p.at.costs);
  costs[threadIdx.x] = before;
  if (threadIdx.x == blockDim.x - 1) costs[blockDim.x] = sums.cost;
  if (planner.is_invariant()) shared_at<Counts>(p.at.counts)[threadIdx.x] = counts_before;
  __syncthreads();
  return sums;
}

}  // namespace jaxinfer
