// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// The planner on a GPU: the same bits as make_plan() in csrc/plan.cc. What is a loop there is a
// prefix sum or a closed form here. Every CTA plans everything and writes its share of the
// buffer, so that CTAs need not meet. Words and formulas are those of plan.cc.
//
//   1. tiles     sequences -> tiles, a chunk of one per thread
//   2. measure   cost = sum of the units' costs; prefix sums place tiles on the cost axis
//   3. cut       number of ranges; range r starts at begin(r) = r * total / ranges
//   4. place     pieces of a tile = ranges that hold the start of one of its units
//   5. ranges    per range, what comes before it
//   6. write     pieces -> items, parts, merges
//
// A chunk is all there is in most plans. Otherwise steps 4 to 6 make the tiles again, chunk by
// chunk, with running sums.
#pragma once

#include "csrc/plan_device.h"
#include "csrc/vectors.cuh"

namespace jaxinfer {

// ---- sums over a CTA -------------------------------------------------------------------------

template <typename T>
JAXINFER_INLINE T lower(T a, T b) {
  return a < b ? a : b;
}
template <typename T>
JAXINFER_INLINE T upper(T a, T b) {
  return a < b ? b : a;
}

JAXINFER_INLINE int lane_index() { return threadIdx.x % 32; }

template <typename T>
JAXINFER_INLINE T sum_to_lane(T x) {
#pragma unroll
  for (int d = 1; d < 32; d *= 2) {
    const T other = __shfl_up_sync(kAllLanes, x, d);
    if (lane_index() >= d) x += other;
  }
  return x;
}

JAXINFER_INLINE int max_to_lane(int x) {
#pragma unroll
  for (int d = 1; d < 32; d *= 2) x = upper(x, __shfl_up_sync(kAllLanes, x, d));
  return x;
}

// What the warps tell each other at a barrier. Two sets take turns, so that one barrier each
// time is enough.
template <typename Record>
JAXINFER_INLINE const Record* exchange_records(int* turn, const Record& mine, bool is_last_lane) {
  static_assert(sizeof(Record) <= 32, "PlanShared has room for these");
  Record* records = reinterpret_cast<Record*>(shared_memory) + (*turn ^= 1) * 32;
  if (is_last_lane) records[threadIdx.x / 32] = mine;
  __syncthreads();
  return records;
}

// Sums of all tiles before some point.
struct alignas(16) TileSums {
  int64_t cost, keys;
  int tiles, max_unit_cost, max_rows, has_prefill;
};
struct alignas(16) PieceSums {
  int pieces, splits, parts, spare[5];
};
struct alignas(16) RowSums {
  int end, tiles, spare[6];
};

// ---- 1. tiles ----------------------------------------------------------------------------------

struct alignas(16) PlannedTile {
  int seq, tile_class, row_begin, num_rows;
  int first_unit, num_units, full_end, num_keys;
  int first_range, splits, parts, spare;  // where its pieces are; split tiles and parts before it
};

struct alignas(16) SeqRows {
  int first_tile, begin, q_len, kv_len;
};

// Everything that all threads know alike.
struct Planner {
  const MakePlanParams& p;
  PlanShared at;
  int turn = 0;
  // The cut.
  int outer = 1, inner = 1, num_ranges = 1;
  int64_t total = 1, range_cost = 1;  // range_cost * num_ranges + remainder = total
  uint32_t remainder = 0;
  float ranges_per_cost = 0;

  template <typename T>
  __device__ __forceinline__ T* shared(int offset) const {
    return reinterpret_cast<T*>(reinterpret_cast<char*>(shared_memory) + offset);
  }

  // A piece's range is that of its first unit's start.
  __device__ __forceinline__ int64_t begin(int range) const {
    // Below 2^32: remainder < num_ranges <= 2^16.
    return range_cost * range + remainder * static_cast<uint32_t>(range) / num_ranges;
  }
  __device__ __forceinline__ int owner(int64_t cost) const {
    int range = lower(static_cast<int>(cost * ranges_per_cost), num_ranges - 1);
    while (begin(range) > cost) --range;
    while (range + 1 < num_ranges && begin(range + 1) <= cost) ++range;
    return range;
  }
};

// Where the loop over chunks of tiles is.
struct Cursor {
  int seq = 0;                       // first of the next chunk of sequences
  int end = 0;                       // row after those before it
  int tile = 0, tiles_in_chunk = 0;  // of a chunk of sequences with more tiles than threads
  int chunk_seq = 0;
};

// Entry num_seqs stands for the padding rows.
JAXINFER_INLINE int class_of(const MakePlanParams& p, int seq, int q_len) {
  if (seq >= p.facts.num_seqs) return p.facts.num_tile_classes - 1;
  int c = 0;
  while (c + 1 < p.facts.num_tile_classes && q_len > p.tiles[c].tokens) ++c;
  return c;
}

JAXINFER_INLINE int64_t clamp_to(int64_t x, int64_t lo, int64_t hi) {
  return upper(lo, lower(x, hi));
}

// Tile `index` of `num_tiles` of a sequence: its last rows come first. Padding rows ascend.
JAXINFER_INLINE PlannedTile make_tile(const MakePlanParams& p, int seq, int begin, int q_len,
                                      int kv_len, int index, int num_tiles) {
  PlannedTile tile{};
  const PlanFacts& facts = p.facts;
  const bool is_padding = seq >= facts.num_seqs;
  tile.seq = is_padding ? -1 : seq;
  tile.tile_class = class_of(p, seq, q_len);
  const auto& shape = p.tiles[tile.tile_class];
  const int row = (is_padding ? index : num_tiles - 1 - index) * shape.tokens;
  tile.row_begin = begin + row;
  tile.num_rows = lower(shape.tokens, q_len - row);
  tile.num_units = 1;
  if (is_padding) return tile;
  const int64_t length = clamp_to(kv_len, 0, facts.max_kv_len);
  const int64_t first_pos = length - q_len + row, last_pos = first_pos + tile.num_rows - 1;
  const int64_t right = facts.is_causal ? 0 : facts.window_right;
  const bool is_bounded = facts.window_left != kUnbounded;
  const int64_t first = is_bounded ? clamp_to(first_pos - facts.window_left, 0, length) : 0;
  const uint32_t lo = first, hi = upper<int64_t>(lower(length, last_pos + right + 1), 0);
  tile.full_end =
      is_bounded ? 0 : static_cast<int>(upper<int64_t>(lower(length, first_pos + right + 1), 0));
  const uint32_t unit_keys = shape.unit_keys;  // sums stay below 2^32
  tile.first_unit = lo / unit_keys;
  tile.num_units = upper(static_cast<int>((hi + unit_keys - 1) / unit_keys) - tile.first_unit, 1);
  tile.num_keys = upper(static_cast<int>(hi) - static_cast<int>(lo), 0);
  return tile;
}

// Last of the ascending numbers that is at most x; the first always is.
template <typename T>
JAXINFER_INLINE int last_at_most(const T* numbers, int count, int stride, T x) {
  int lo = 0, hi = count;
  while (hi - lo > 1) {
    const int middle = (lo + hi) / 2;
    if (numbers[middle * stride] <= x) {
      lo = middle;
    } else {
      hi = middle;
    }
  }
  return lo;
}

// This thread's tile of the next chunk; some threads have none. Returns false after the last
// chunk. Tiles keep their order, from thread to thread and from chunk to chunk.
JAXINFER_INLINE bool next_tiles(Planner& planner, Cursor& c, PlannedTile& tile, bool& is_valid) {
  const MakePlanParams& p = planner.p;
  const int num_seqs = p.facts.num_seqs, num_tokens = p.facts.num_tokens;
  const int threads = blockDim.x, thread = threadIdx.x;
  SeqRows* rows = planner.shared<SeqRows>(planner.at.seqs);
  while (c.tile >= c.tiles_in_chunk) {
    if (c.seq > num_seqs) return false;
    const int seq = c.seq + thread;
    const int before = seq == 0 ? 0 : seq <= num_seqs ? p.cu_q_lens[seq] : num_tokens;
    int end = seq < num_seqs ? p.cu_q_lens[seq + 1] : num_tokens;
    const int kv_len = seq < num_seqs ? p.kv_lens[seq] : 0;
    const bool is_sound =
        0 <= before && before <= end && end <= num_tokens && (thread > 0 || before == c.end);
    int begin = before, q_len = is_sound ? end - before : 0;
    const bool is_one_tile = is_sound && q_len <= p.tiles[class_of(p, seq, q_len)].tokens;
    c.chunk_seq = c.seq;
    c.seq += threads;
    if (!__syncthreads_or(!is_one_tile)) {
      if (c.seq <= num_seqs) c.end = p.cu_q_lens[c.seq];
      is_valid = q_len > 0;
      tile = make_tile(p, seq, begin, q_len, kv_len, 0, 1);
      return true;
    }
    // Offsets count as at least those before them.
    end = max_to_lane(upper(lower(end, num_tokens), 0));
    const RowSums* warps = exchange_records(&planner.turn, RowSums{end, 0, {}}, lane_index() == 31);
    int end_before = c.end;
    for (int w = 0; w < threads / 32; ++w) {
      if (w < thread / 32) end_before = upper(end_before, warps[w].end);
      c.end = upper(c.end, warps[w].end);
    }
    begin = __shfl_up_sync(kAllLanes, end, 1);
    begin = lane_index() == 0 ? end_before : upper(begin, end_before);
    q_len = upper(end, end_before) - begin;
    const int tokens = p.tiles[class_of(p, seq, q_len)].tokens;
    const int num_tiles = q_len <= tokens ? q_len > 0 : (q_len - 1) / tokens + 1;
    int first_tile = sum_to_lane(num_tiles);
    warps = exchange_records(&planner.turn, RowSums{0, first_tile, {}}, lane_index() == 31);
    first_tile -= num_tiles;
    c.tile = 0, c.tiles_in_chunk = 0;
    for (int w = 0; w < threads / 32; ++w) {
      if (w < thread / 32) first_tile += warps[w].tiles;
      c.tiles_in_chunk += warps[w].tiles;
    }
    rows[thread] = {first_tile, begin, q_len, kv_len};
    __syncthreads();
  }
  const int index = c.tile + thread;
  is_valid = index < c.tiles_in_chunk;
  c.tile += threads;
  if (is_valid) {
    const int i = last_at_most(&rows[0].first_tile, threads, sizeof(SeqRows) / sizeof(int), index);
    const SeqRows& r = rows[i];
    const int end = i + 1 < threads ? rows[i + 1].first_tile : c.tiles_in_chunk;
    tile = make_tile(p, c.chunk_seq + i, r.begin, r.q_len, r.kv_len, index - r.first_tile,
                     end - r.first_tile);
  }
  return true;
}

// ---- 2. measure --------------------------------------------------------------------------------

// A chunk of tiles on the cost axis of one head group.
struct TileChunk {
  PlannedTile tile;
  bool is_valid;
  int index, count;    // of the thread's tile in the chunk; in the chunk
  int64_t cost_begin;  // of the thread's tile
  int64_t begin, end;  // of the chunk
};

JAXINFER_INLINE uint64_t sum_of_warp(uint32_t x) {
  const unsigned low = __reduce_add_sync(kAllLanes, x & 0xffff);
  return (uint64_t{__reduce_add_sync(kAllLanes, x >> 16)} << 16) + low;
}

// Places the chunk behind `sums`, and adds it to them.
JAXINFER_INLINE void measure(Planner& planner, TileChunk& chunk, TileSums& sums) {
  const MakePlanParams& p = planner.p;
  const PlannedTile& tile = chunk.tile;
  const bool is_valid = chunk.is_valid;
  const int unit_cost = is_valid ? p.tiles[tile.tile_class].unit_cost : 0;
  const int64_t own_cost = is_valid ? int64_t{tile.num_units} * unit_cost : 0;
  const unsigned valid = __ballot_sync(kAllLanes, is_valid);
  const bool is_real = is_valid && tile.seq >= 0;
  TileSums warp{};
  warp.cost = sum_to_lane(own_cost);
  warp.keys = sum_of_warp(is_valid ? tile.num_keys : 0);
  warp.tiles = __popc(valid);
  warp.max_unit_cost = __reduce_max_sync(kAllLanes, unit_cost);
  warp.max_rows = __reduce_max_sync(kAllLanes, is_real ? tile.num_rows : 0);
  warp.has_prefill = __ballot_sync(kAllLanes, is_real && tile.tile_class > 0) != 0;
  const TileSums* warps = exchange_records(&planner.turn, warp, lane_index() == 31);
  chunk.begin = sums.cost;
  chunk.cost_begin = sums.cost + warp.cost - own_cost;
  chunk.index = __popc(valid & ((1u << lane_index()) - 1));
  chunk.count = 0;
#pragma unroll 4
  for (int w = 0; w < static_cast<int>(blockDim.x / 32); ++w) {
    const TileSums other = warps[w];
    if (w < static_cast<int>(threadIdx.x / 32)) {
      chunk.cost_begin += other.cost;
      chunk.index += other.tiles;
    }
    chunk.count += other.tiles;
    sums.cost += other.cost;
    sums.keys += other.keys;
    sums.max_unit_cost = upper(sums.max_unit_cost, other.max_unit_cost);
    sums.max_rows = upper(sums.max_rows, other.max_rows);
    sums.has_prefill |= other.has_prefill;
  }
  chunk.end = sums.cost;
}

// ---- 3. cut ------------------------------------------------------------------------------------

JAXINFER_INLINE int64_t quotient(int64_t a, int64_t b) {
  if (b == 1) return a;
  if (((a | b) >> 32) == 0) return static_cast<uint32_t>(a) / static_cast<uint32_t>(b);
  return a / b;
}

JAXINFER_INLINE void choose_cut(Planner& planner, const TileSums& sums) {
  const PlanFacts& facts = planner.p.facts;
  const int groups = planner.p.head_groups;
  planner.outer = sums.has_prefill ? groups : 1;
  planner.inner = sums.has_prefill ? 1 : groups;
  planner.total = sums.cost * planner.outer;
  int64_t ranges = facts.num_ctas / planner.inner;
  ranges = lower(ranges, quotient(planner.total, upper(sums.max_unit_cost, 1)));
  ranges = lower(ranges, quotient(planner.total, facts.min_cost));
  if (!sums.has_prefill) {
    const int64_t rows = int64_t{sums.max_rows} * planner.p.q_heads_per_kv_head;
    ranges = lower(ranges, quotient(sums.keys, facts.min_keys_per_row * upper<int64_t>(rows, 1)));
  }
  planner.num_ranges = static_cast<int>(upper<int64_t>(ranges, 1));
  planner.range_cost = quotient(planner.total, planner.num_ranges);
  planner.remainder =
      static_cast<uint32_t>(planner.total - planner.range_cost * planner.num_ranges);
  planner.ranges_per_cost = static_cast<float>(planner.num_ranges) / planner.total;
}

// Units of a tile that start before `cost`; the tile starts at `from`.
JAXINFER_INLINE int units_before(int64_t cost, int64_t from, int unit_cost) {
  return static_cast<int>(quotient(cost - from + unit_cost - 1, unit_cost));
}

// ---- 4. place ----------------------------------------------------------------------------------

// Writes the chunk's tiles to shared memory for one outer head group, with where their pieces
// go, and adds these to `sums`. Returns what `sums` were.
JAXINFER_INLINE PieceSums place(Planner& planner, const TileChunk& chunk, int group,
                                int64_t group_cost, PieceSums& sums) {
  const MakePlanParams& p = planner.p;
  PlannedTile tile = chunk.tile;
  const int64_t cost = chunk.cost_begin + group * group_cost;
  int pieces = 0;
  if (chunk.is_valid) {
    const int64_t unit_cost = p.tiles[tile.tile_class].unit_cost;
    tile.first_range = planner.owner(cost);
    pieces = p.facts.batch_invariant
                 ? tile.num_units
                 : planner.owner(cost + (tile.num_units - 1) * unit_cost) - tile.first_range + 1;
  }
  const bool is_split = pieces > 1;
  const unsigned split = __ballot_sync(kAllLanes, is_split);
  const int splits_before = __popc(split & ((1u << lane_index()) - 1));
  const int parts = is_split ? pieces : 0;
  PieceSums warp{};
  warp.pieces = sum_to_lane(pieces);
  // Tiles that are not split have one piece each, so that parts follow from pieces.
  const unsigned valid = __ballot_sync(kAllLanes, chunk.is_valid);
  const int whole = __popc(valid & ~split & (0xffffffffu >> (31 - lane_index())));
  warp.splits = __popc(split);
  warp.parts = warp.pieces - whole;
  const PieceSums* warps = exchange_records(&planner.turn, warp, lane_index() == 31);
  const PieceSums before = sums;
  int piece = before.pieces + warp.pieces - pieces;
  tile.splits = before.splits + splits_before;
  tile.parts = before.parts + warp.parts - parts;
#pragma unroll 4
  for (int w = 0; w < static_cast<int>(blockDim.x / 32); ++w) {
    const PieceSums other = warps[w];
    if (w < static_cast<int>(threadIdx.x / 32)) {
      piece += other.pieces;
      tile.splits += other.splits;
      tile.parts += other.parts;
    }
    sums.pieces += other.pieces;
    sums.splits += other.splits;
    sums.parts += other.parts;
  }
  int* first_pieces = planner.shared<int>(planner.at.pieces);
  if (chunk.is_valid) {
    planner.shared<int64_t>(planner.at.costs)[chunk.index] = cost;
    first_pieces[chunk.index] = piece;
    planner.shared<PlannedTile>(planner.at.tiles)[chunk.index] = tile;
  }
  if (threadIdx.x == 0) first_pieces[chunk.count] = sums.pieces;
  __syncthreads();
  return before;
}

// ---- 5. ranges ---------------------------------------------------------------------------------

// For the ranges that begin in [begin, end) of the cost axis, the chunk: pieces before the
// range, how far behind the cut its first unit starts, and, where heads are inner, split tiles
// and parts of the tiles that end before it.
JAXINFER_INLINE void fill_ranges(Planner& planner, int num_tiles, int64_t begin, int64_t end) {
  const MakePlanParams& p = planner.p;
  const int64_t* costs = planner.shared<int64_t>(planner.at.costs);
  const int* first_pieces = planner.shared<int>(planner.at.pieces);
  for (int range = threadIdx.x; range < planner.num_ranges; range += blockDim.x) {
    const int64_t cut = planner.begin(range);
    if (cut < begin || cut >= end) continue;
    const int t = last_at_most(costs, num_tiles, 1, cut);
    const PlannedTile& tile = planner.shared<PlannedTile>(planner.at.tiles)[t];
    const int unit_cost = p.tiles[tile.tile_class].unit_cost;
    const int units = units_before(cut, costs[t], unit_cost);
    const bool is_over = units == tile.num_units;  // the next tile is the range's first
    const int pieces = first_pieces[t + 1] - first_pieces[t];
    const int skipped = is_over                   ? pieces
                        : p.facts.batch_invariant ? units
                                                  : range - tile.first_range;
    planner.shared<int>(planner.at.range_pieces)[range] = first_pieces[t] + skipped;
    planner.shared<int>(planner.at.range_skips)[range] =
        static_cast<int>(costs[t] + int64_t{units} * unit_cost - cut);
    if (planner.inner == 1) continue;
    const bool is_merged = is_over && pieces > 1;
    planner.shared<int>(planner.at.range_splits)[range] = tile.splits + is_merged;
    planner.shared<int>(planner.at.range_parts)[range] = tile.parts + (is_merged ? pieces : 0);
  }
}

// The end of the last range.
JAXINFER_INLINE void end_ranges(Planner& planner, const PieceSums& sums) {
  if (threadIdx.x == 0) {
    planner.shared<int>(planner.at.range_pieces)[planner.num_ranges] = sums.pieces;
    planner.shared<int>(planner.at.range_skips)[planner.num_ranges] = 0;
    if (planner.inner > 1) {
      planner.shared<int>(planner.at.range_splits)[planner.num_ranges] = sums.splits;
      planner.shared<int>(planner.at.range_parts)[planner.num_ranges] = sums.parts;
    }
  }
  __syncthreads();
}

// ---- 6. write ----------------------------------------------------------------------------------

JAXINFER_INLINE int64_t grid_thread() { return int64_t{blockIdx.x} * blockDim.x + threadIdx.x; }
JAXINFER_INLINE int64_t grid_threads() { return int64_t{gridDim.x} * blockDim.x; }

template <typename T>
JAXINFER_INLINE void store_whole(T* to, const T& value) {
  static_assert(sizeof(T) % 16 == 0, "");
  Bytes16 bytes[sizeof(T) / 16];
  memcpy(bytes, &value, sizeof(T));
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(T) / 16); ++i) {
    reinterpret_cast<Bytes16*>(to)[i] = bytes[i];
  }
}

// Where something of inner head group i goes that is `rank`-th of its kind in the order of
// the tiles: kinds are written range by range, head group by head group.
JAXINFER_INLINE int by_range(const int* before, int range, int inner, int i, int rank) {
  return inner * before[range] + i * (before[range + 1] - before[range]) + rank - before[range];
}

// Pieces [begin, end) of the chunk in shared memory. `group` is the outer head group.
JAXINFER_INLINE void write_pieces(const Planner& planner, int num_tiles, int group, int begin,
                                  int end) {
  const MakePlanParams& p = planner.p;
  const int inner = planner.inner;
  const bool is_invariant = p.facts.batch_invariant;
  const int* first_pieces = planner.shared<int>(planner.at.pieces);
  const int* range_pieces = planner.shared<int>(planner.at.range_pieces);
  const int64_t num_items = int64_t{end - begin} * inner;
  for (int64_t n = grid_thread(); n < num_items; n += grid_threads()) {
    const int local = static_cast<uint32_t>(n) / static_cast<uint32_t>(inner);
    const int i = static_cast<int>(n) - local * inner, piece = begin + local;
    const int t = last_at_most(first_pieces, num_tiles, 1, piece);
    const PlannedTile& tile = planner.shared<PlannedTile>(planner.at.tiles)[t];
    const int64_t cost = planner.shared<int64_t>(planner.at.costs)[t];
    const auto& shape = p.tiles[tile.tile_class];
    const int place = piece - first_pieces[t], num_pieces = first_pieces[t + 1] - first_pieces[t];
    const bool is_first = place == 0, is_last = place == num_pieces - 1;
    int range = tile.first_range + place, last_range = tile.first_range + num_pieces - 1;
    int unit_begin = place, unit_end = place + 1;
    if (is_invariant) {
      if (inner > 1) {
        range = planner.owner(cost + int64_t{place} * shape.unit_cost);
        last_range = planner.owner(cost + int64_t{num_pieces - 1} * shape.unit_cost);
      }
    } else {
      unit_begin = is_first ? 0 : units_before(planner.begin(range), cost, shape.unit_cost);
      unit_end = is_last ? 0 : units_before(planner.begin(range + 1), cost, shape.unit_cost);
    }
    const int index = inner == 1 ? piece : by_range(range_pieces, range, inner, i, piece);
    WorkItem item{};
    item.tile_class = tile.tile_class;
    item.row_begin = tile.row_begin;
    item.num_rows = tile.num_rows;
    item.row_mode = tile.seq < 0 ? kPaddingRows : kRowsOfOneSeq;
    item.seq = tile.seq;
    item.kv_head_begin = (group + i) * p.facts.kv_heads_per_item;
    item.num_kv_heads = p.facts.kv_heads_per_item;
    item.key_begin = is_first ? kOpen : (tile.first_unit + unit_begin) * shape.unit_keys;
    item.key_end = is_last ? kOpen : (tile.first_unit + unit_end) * shape.unit_keys;
    item.page_row = upper(tile.seq, 0);
    item.mask_mode = !is_last && item.key_end <= tile.full_end ? kMaskFull : kMaskOp;
    item.partial = kWriteThrough;
    if (num_pieces > 1) {
      item.partial = is_invariant ? index : 2 * (range * inner + i) + is_first;
      int merge = tile.splits, parts = tile.parts;
      if (inner > 1) {
        const int* range_splits = planner.shared<int>(planner.at.range_splits);
        const int* range_parts = planner.shared<int>(planner.at.range_parts);
        merge = by_range(range_splits, last_range, inner, i, tile.splits);
        parts = by_range(range_parts, last_range, inner, i, tile.parts);
      }
      item.merge = merge;
      p.buffer[p.layout.parts + parts + place] = item.partial;
      if (is_last) {
        const MergeItem merged{
            item.row_begin,     item.num_rows, item.kv_head_begin, item.num_kv_heads, parts,
            parts + num_pieces, {0, 0}};
        store_whole(reinterpret_cast<MergeItem*>(p.buffer + p.layout.merges) + merge, merged);
      }
    }
    store_whole(reinterpret_cast<WorkItem*>(p.buffer + p.layout.items) + index, item);
  }
}

JAXINFER_INLINE void write_zeros(int32_t* buffer, int64_t begin, int64_t end) {
  const int64_t aligned = lower(end, (begin + 3) / 4 * 4), vectors = (end - aligned) / 4;
  const int64_t tail = aligned + vectors * 4, thread = grid_thread();
  if (thread < aligned - begin) buffer[begin + thread] = 0;
  if (thread < end - tail) buffer[tail + thread] = 0;
  for (int64_t i = thread; i < vectors; i += grid_threads()) {
    reinterpret_cast<Bytes16*>(buffer + aligned)[i] = Bytes16{0, 0, 0, 0};
  }
}

// CTA ranges, header, and zeros wherever nothing is.
JAXINFER_INLINE void write_frame(Planner& planner, const PieceSums& sums) {
  const MakePlanParams& p = planner.p;
  const PlanLayout& layout = p.layout;
  const int inner = planner.inner, num_ctas = planner.num_ranges * inner;
  const int* range_pieces = planner.shared<int>(planner.at.range_pieces);
  const int* range_skips = planner.shared<int>(planner.at.range_skips);
  const int num_items = sums.pieces * inner, num_merges = sums.splits * inner;
  const int num_parts = sums.parts * inner;
  for (int64_t cta = grid_thread(); cta <= p.facts.num_ctas; cta += grid_threads()) {
    int begin = num_items;
    if (cta < num_ctas) {
      const int range = static_cast<int>(cta) / inner, i = static_cast<int>(cta) - range * inner;
      begin = by_range(range_pieces, range, inner, i, range_pieces[range]);
    }
    p.buffer[layout.cta_indptr + cta] = begin;
  }
  write_zeros(p.buffer, layout.cta_indptr + p.facts.num_ctas + 1, layout.items);
  write_zeros(p.buffer, layout.items + int64_t{num_items} * 16, layout.merges);
  write_zeros(p.buffer, layout.merges + int64_t{num_merges} * 8, layout.parts);
  write_zeros(p.buffer, layout.parts + num_parts, layout.size);
  if (blockIdx.x > 0) return;
  int max_load = 0;
  for (int range = threadIdx.x; range < planner.num_ranges; range += blockDim.x) {
    const int64_t load = planner.begin(range + 1) + range_skips[range + 1] - planner.begin(range) -
                         range_skips[range];
    max_load = upper(max_load, static_cast<int>(lower<int64_t>(load, kUnbounded)));
  }
  max_load = __reduce_max_sync(kAllLanes, max_load);
  const RowSums* warps =
      exchange_records(&planner.turn, RowSums{max_load, 0, {}}, lane_index() == 31);
  for (int w = 0; w < static_cast<int>(blockDim.x / 32); ++w) {
    max_load = upper(max_load, warps[w].end);
  }
  const int fields[] = {num_items, num_merges, num_parts, num_ctas, max_load};
  if (threadIdx.x == 0) {
    PlanHeader header{};
    memcpy(&header, fields, sizeof(fields));
    store_whole(reinterpret_cast<PlanHeader*>(p.buffer), header);
  }
}

// Calls visit(chunk) for every chunk of tiles; `first` is used again if it is the only one.
template <typename Visit>
JAXINFER_INLINE void for_chunks(Planner& planner, const TileChunk& first, int num_chunks,
                                Visit visit) {
  if (num_chunks == 1) {
    visit(first);
    return;
  }
  Cursor cursor;
  TileChunk chunk;
  TileSums sums{};
  while (next_tiles(planner, cursor, chunk.tile, chunk.is_valid)) {
    measure(planner, chunk, sums);
    visit(chunk);
  }
}

JAXINFER_INLINE void plan_on_device(const MakePlanParams& p) {
  const int threads = blockDim.x;
  Planner planner{p, PlanShared(threads, p.facts.num_ctas, p.head_groups)};
  Cursor cursor;
  TileChunk chunk;
  TileSums tiles{};
  int num_chunks = 0;
  while (next_tiles(planner, cursor, chunk.tile, chunk.is_valid)) {
    measure(planner, chunk, tiles);
    ++num_chunks;
  }
  choose_cut(planner, tiles);
  // With one chunk, or where the order of the items is that of the pieces, all of a chunk is
  // done at once. Otherwise every range has to be known before the first item is written.
  const bool at_once = num_chunks == 1 || planner.inner == 1;
  PieceSums sums{};
  for (int pass = at_once ? 1 : 0; pass < 2; ++pass) {
    sums = PieceSums{};
    for (int group = 0; group < planner.outer; ++group) {
      for_chunks(planner, chunk, num_chunks, [&](const TileChunk& now) {
        const PieceSums before = place(planner, now, group, tiles.cost, sums);
        const int64_t shift = group * tiles.cost;
        if (at_once || pass == 0)
          fill_ranges(planner, now.count, now.begin + shift, now.end + shift);
        if (at_once && planner.inner > 1) end_ranges(planner, sums);
        if (pass == 1) write_pieces(planner, now.count, group, before.pieces, sums.pieces);
      });
    }
    if (pass == 0 || planner.inner == 1) end_ranges(planner, sums);
  }
  write_frame(planner, sums);
}

}  // namespace jaxinfer

extern "C" __global__ void __launch_bounds__(jaxinfer::kMostPlanThreads)
    make_plan(const __grid_constant__ jaxinfer::MakePlanParams p) {
  jaxinfer::plan_on_device(p);
}
