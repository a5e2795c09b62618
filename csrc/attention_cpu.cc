// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// Attention over a list of pages, on the CPU: FlashAttention's online softmax on tiles
// of 64 keys, in float32. Compiled once per instruction set (JAXINFER_ISA names it);
// includes nothing that could leave an inline function of a wider set behind.
//
// One file, for it is what the build compiles once per instruction set.
//
// Preconditions: head_dim and head_dim_v are multiples of 16 and at most 256.
// Everything else that data decides (pages, lengths, rows of the plan) is checked here.
#include <math.h>

#include "csrc/attention.h"
#include "csrc/simd.h"
#include "csrc/visible_keys.h"

namespace jaxinfer {
namespace {

constexpr int kTileKeys = 64;
int64_t round_up(int64_t x) { return (x + 15) / 16 * 16; }

// Row of K and V at key `key` of the list, or -1 if its page is not in the cache.
int64_t kv_row(const AttentionParams& p, int64_t list, int64_t key) {
  if (p.kv.kv_starts) {
    const int64_t row = p.kv.kv_starts[list] + key;
    return row >= 0 && row < p.kv.num_pages ? row : -1;
  }
  const int64_t page = key / p.kv.page_size;
  const int64_t id = p.kv.page_table ? p.kv.page_table[list * p.kv.max_pages + page]
                                     : p.kv.page_indices[max64(p.kv.page_indptr[list], 0) + page];
  if (id < 0 || id >= p.kv.num_pages) return -1;
  return id * p.kv.page_size + key % p.kv.page_size;
}

// ---- scratch ---------------------------------------------------------------------------

// A task's private memory. Packed row r = token * heads + head, within the item.
struct Scratch {
  float* q;       // [rows, H] scaled
  float* acc;     // [rows, Hv] sum of p * v
  float* m;       // [rows] largest score so far
  float* l;       // [rows] sum of p
  float* scores;  // [heads, 64] of one token
  Row* rows;      // [tokens]
};

Scratch carve(const AttentionParams& p, float* base, int64_t* floats = nullptr) {
  const int64_t rows = p.slot_tokens * p.slot_heads;
  float* next = base;
  auto take = [&](int64_t n) {
    float* mine = next;
    next += round_up(n);
    return mine;
  };
  Scratch s;
  s.q = take(rows * p.head_dim);
  s.acc = take(rows * p.head_dim_v);
  s.m = take(rows);
  s.l = take(rows);
  s.scores = take(p.slot_heads * kTileKeys);
  s.rows = reinterpret_cast<Row*>(take(p.slot_tokens * sizeof(Row) / sizeof(float)));
  if (floats) *floats = next - base;
  return s;
}

// ---- one tile of keys ------------------------------------------------------------------

// The keys of a tile that are in the cache. Row pointers are those of the item's first
// KV head; its other heads follow.
template <typename KV>
struct KeyTile {
  int64_t begin;           // key of the page list
  int64_t size;            // keys below
  int64_t key[kTileKeys];  // relative to begin, ascending
  const typename KV::storage* k[kTileKeys];
  const typename KV::storage* v[kTileKeys];

  // How many of them are before key `end` of the page list.
  int64_t count_before(int64_t end) const {
    int64_t n = clamp64(end - begin, 0, size);
    while (n > 0 && key[n - 1] >= end - begin) --n;
    return n;
  }
};

template <typename KV>
void find_keys(const AttentionParams& p, const WorkItem& item, int64_t begin, int64_t end,
               KeyTile<KV>* tile) {
  using T = typename KV::storage;
  tile->begin = begin;
  tile->size = 0;
  for (int64_t key = begin; key < end; ++key) {
    const int64_t row = kv_row(p, item.page_row, key);
    if (row < 0) continue;
    const int64_t head_row = row * p.num_kv_heads + item.kv_head_begin;
    const int64_t j = tile->size++;
    tile->key[j] = key - begin;
    tile->k[j] = static_cast<const T*>(p.k) + head_row * p.head_dim;
    tile->v[j] = static_cast<const T*>(p.v) + head_row * p.head_dim_v;
  }
}

template <int R>
struct RowBlock {
  static constexpr int kRows = R;
};

// Asks for the same head's part of some token rows ahead of its use, a little at a time:
// the rows are too short for the hardware to notice the stream, and too many requests at
// once would only wait for each other.
template <typename T>
inline void prefetch(const T* const* rows, int64_t count, int64_t offset, int64_t length) {
  for (int64_t j = 0; j < count; ++j) {
    const char* row = reinterpret_cast<const char*>(rows[j] + offset);
    for (int64_t b = 0; b < length * static_cast<int64_t>(sizeof(T)); b += 64) {
      __builtin_prefetch(row + b, 0, 2);
    }
  }
}

// ---- S = Q K^T ---------------------------------------------------------------------------

// scores[r][j] = q[r] . k[j] for a block of R rows and J keys of one KV head.
template <typename KV, int R, int J>
inline void dot_block(const float* q, const typename KV::storage* const* k, int64_t head_offset,
                      int64_t head_dim, float* scores) {
  vfloat acc[R * J] = {};
  for (int64_t h = 0; h < head_dim; h += kLanes) {
    vfloat kv[J];
    for (int j = 0; j < J; ++j) kv[j] = KV::widen(k[j] + head_offset + h);
    for (int r = 0; r < R; ++r) {
      const vfloat qv = load<vfloat>(q + r * head_dim + h);
      for (int j = 0; j < J; ++j) acc[r * J + j] += qv * kv[j];
    }
  }
  // Several sums at a time: lane i of `total` is the sum of vector i.
  constexpr int kAtOnce = R * J % kLanes == 0 ? kLanes : J;
  for (int i = 0; i < R * J; i += kAtOnce) {
    vfloat group[kAtOnce];
    for (int n = 0; n < kAtOnce; ++n) group[n] = acc[i + n];
    float total[kLanes];
    store(total, sums(group));
    for (int n = 0; n < kAtOnce; ++n) {
      scores[(i + n) / J * kTileKeys + (i + n) % J] = total[n];
    }
  }
}

// Calls f<R>(first row) on blocks of up to four rows.
template <typename F>
inline void for_row_blocks(int64_t rows, F f) {
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) f(RowBlock<4>(), r);
  if (rows - r == 3) f(RowBlock<3>(), r);
  if (rows - r == 2) f(RowBlock<2>(), r);
  if (rows - r == 1) f(RowBlock<1>(), r);
}

// Scores of one token: q [heads, H], heads of a group share keys. Keys outside, heads
// inside: each token row of the cache is read from its first byte to its last.
template <typename KV, int J>
inline void dot_heads(const AttentionParams& p, const WorkItem& item, const float* q,
                      const typename KV::storage* const* k,
                      const typename KV::storage* const* v_to_fetch, float* scores) {
  const int64_t group = p.group;
  for (int64_t head = 0; head < item.num_kv_heads; ++head) {
    if (v_to_fetch) prefetch(v_to_fetch, J, head * p.head_dim_v, p.head_dim_v);
    for_row_blocks(group, [&](auto block, int64_t g) {
      const int64_t row = head * group + g;
      dot_block<KV, block.kRows, J>(q + row * p.head_dim, k, head * p.head_dim, p.head_dim,
                                    scores + row * kTileKeys);
    });
  }
}

template <typename KV>
void dot(const AttentionParams& p, const WorkItem& item, const float* q, const KeyTile<KV>& tile,
         int64_t keys, bool is_first_use, float* scores) {
  constexpr int kKeys = kLanes == 16 ? 4 : 2;  // 4 * kKeys accumulators fit the registers
  int64_t j = 0;
  for (; j + kKeys <= keys; j += kKeys) {
    dot_heads<KV, kKeys>(p, item, q, tile.k + j, is_first_use ? tile.v + j : nullptr, scores + j);
  }
  for (; j < keys; ++j) dot_heads<KV, 1>(p, item, q, tile.k + j, nullptr, scores + j);
}

// ---- O += P V ----------------------------------------------------------------------------

template <typename KV, int R, int C>
inline void accumulate_block(const float* p, const typename KV::storage* const* v, int64_t offset,
                             int64_t keys, float* acc, int64_t head_dim_v) {
  vfloat sum[R][C];
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) sum[r][c] = load<vfloat>(acc + r * head_dim_v + c * kLanes);
  for (int64_t j = 0; j < keys; ++j) {
    vfloat vv[C];
    for (int c = 0; c < C; ++c) vv[c] = KV::widen(v[j] + offset + c * kLanes);
    for (int r = 0; r < R; ++r) {
      const float weight = p[r * kTileKeys + j];
      for (int c = 0; c < C; ++c) sum[r][c] += weight * vv[c];
    }
  }
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) store(acc + r * head_dim_v + c * kLanes, sum[r][c]);
}

// Results of one token: acc [heads, Hv], again keys outside and heads inside.
template <typename KV>
void accumulate(const AttentionParams& p, const WorkItem& item, const float* weights,
                const KeyTile<KV>& tile, int64_t keys, const KeyTile<KV>* next, float* acc) {
  constexpr int kKeys = 8;                        // per load and store of acc
  constexpr int kVectors = kLanes == 16 ? 4 : 2;  // 4 * kVectors sums fit the registers
  const int64_t group = p.group;
  for (int64_t j = 0; j < keys; j += kKeys) {
    const int64_t n = min64(kKeys, keys - j);
    const int64_t to_fetch = next ? clamp64(next->size - j, 0, kKeys) : 0;
    for (int64_t head = 0; head < item.num_kv_heads; ++head) {
      if (to_fetch > 0) prefetch(next->k + j, to_fetch, head * p.head_dim, p.head_dim);
      for_row_blocks(group, [&](auto block, int64_t g) {
        constexpr int kRows = block.kRows;
        const float* w = weights + (head * group + g) * kTileKeys + j;
        float* out = acc + (head * group + g) * p.head_dim_v;
        const int64_t offset = head * p.head_dim_v;
        int64_t h = 0;
        for (; h + kVectors * kLanes <= p.head_dim_v; h += kVectors * kLanes)
          accumulate_block<KV, kRows, kVectors>(w, tile.v + j, offset + h, n, out + h,
                                                p.head_dim_v);
        for (; h < p.head_dim_v; h += kLanes)
          accumulate_block<KV, kRows, 1>(w, tile.v + j, offset + h, n, out + h, p.head_dim_v);
      });
    }
  }
}

// ---- softmax -----------------------------------------------------------------------------

// Scores of one row become weights; returns how much the row's sums must be rescaled.
// Only keys [a, b) of the tile are visible.
float update_softmax(float* s, int64_t a, int64_t b, float* m, float* l) {
  for (int64_t j = 0; j < a; ++j) s[j] = -INFINITY;
  for (int64_t j = b; j < kTileKeys; ++j) s[j] = -INFINITY;
  vfloat largest = load<vfloat>(s);
  for (int j = kLanes; j < kTileKeys; j += kLanes) largest = max(largest, load<vfloat>(s + j));
  float m_new = fmaxf(*m, max_lane(largest));
  if (m_new == -INFINITY) {  // nothing visible yet, or nothing but NaN, which must show
    bool has_nan = false;
    for (int64_t j = a; j < b; ++j) has_nan |= s[j] != s[j];
    if (!has_nan) {
      memset(s, 0, kTileKeys * sizeof(float));
      return 1.0f;
    }
    m_new = 0.0f;
  }
  vfloat total = {};
  for (int j = 0; j < kTileKeys; j += kLanes) {
    const vfloat w = exp(load<vfloat>(s + j) - m_new);
    store(s + j, w);
    total += w;
  }
  const float rescale = expf(*m - m_new);
  *l = *l * rescale + sum(total);
  *m = m_new;
  return rescale;
}

void soft_cap(float* s, int64_t n, float cap) {
  for (int64_t j = 0; j < n; j += kLanes) store(s + j, cap * tanh(load<vfloat>(s + j) / cap));
}

// Bias and mask of dense attention; keys outside the mask get -inf (or 0 as a weight).
void apply_dense(const AttentionParams& p, const Row& row, int64_t head, int64_t key, int64_t keys,
                 float* s) {
  if (row.index >= p.dense_q_len) return;  // lengths that are not those of dense batches
  keys = min64(keys, p.dense_kv_len - key);
  auto offset = [&](const int64_t* strides) {
    return row.seq * strides[0] + head * strides[1] + row.index * strides[2] + key * strides[3];
  };
  if (p.bias) {
    const float* bias = p.bias + offset(p.bias_strides);
    for (int64_t j = 0; j < keys; ++j) s[j] += bias[j * p.bias_strides[3]];
  }
  if (p.mask) {
    const bool* mask = p.mask + offset(p.mask_strides);
    for (int64_t j = 0; j < keys; ++j)
      if (!mask[j * p.mask_strides[3]]) s[j] = p.use_softmax ? -INFINITY : 0.0f;
  }
}

// One token, given as packed rows of q and acc, against one tile. `next` is the tile to
// fetch meanwhile; only the first token fetches.
template <typename KV>
void attend(const AttentionParams& p, const WorkItem& item, const Row& row, const KeyTile<KV>& tile,
            const KeyTile<KV>* next, int64_t first_packed, const Scratch& s) {
  const int64_t a = tile.count_before(row.lo), b = tile.count_before(row.hi);
  if (a >= b) return;
  const int64_t heads = item.num_kv_heads * p.group;
  const int64_t first_head = item.kv_head_begin * p.group;
  dot(p, item, s.q + first_packed * p.head_dim, tile, b, next != nullptr, s.scores);
  for (int64_t n = 0; n < heads; ++n) {
    float* scores = s.scores + n * kTileKeys;
    if (p.logits_soft_cap > 0) soft_cap(scores, kTileKeys, p.logits_soft_cap);
    if (p.bias || p.mask) apply_dense(p, row, first_head + n, tile.begin, b, scores);
    if (!p.use_softmax) {
      for (int64_t j = 0; j < a; ++j) scores[j] = 0.0f;
      continue;
    }
    const int64_t r = first_packed + n;
    const float rescale = update_softmax(scores, a, b, &s.m[r], &s.l[r]);
    if (rescale == 1.0f) continue;
    float* acc = s.acc + r * p.head_dim_v;
    for (int64_t h = 0; h < p.head_dim_v; h += kLanes)
      store(acc + h, load<vfloat>(acc + h) * rescale);
  }
  accumulate(p, item, s.scores, tile, b, next, s.acc + first_packed * p.head_dim_v);
}

// ---- results -----------------------------------------------------------------------------

template <typename T>
void narrow_row(const float* src, void* out, int64_t row, int64_t n) {
  typename T::storage* dst = static_cast<typename T::storage*>(out) + row * n;
  for (int64_t h = 0; h < n; ++h) dst[h] = T::narrow(src[h]);
}

void write_row(ElementType type, const float* src, void* out, int64_t row, int64_t n) {
  if (type == ElementType::kFloat32) return narrow_row<Float32>(src, out, row, n);
  if (type == ElementType::kBFloat16) return narrow_row<BFloat16>(src, out, row, n);
  narrow_row<Float16>(src, out, row, n);
}

// The attention sink takes its share of the probability, and no value: it scales the
// result by sum / (sum + e^sink). Only here, so that partial results merge without it.
float sink_share(const float* sink, int64_t head, float lse) {
  if (!sink || lse == -INFINITY) return 1.0f;
  return 1.0f / (1.0f + expf(sink[head] - lse));
}

template <typename Q, typename KV>
void run_item_typed(const AttentionParams& p, const WorkItem& item, const Scratch& s) {
  const int64_t group = p.group;
  const int64_t heads = item.num_kv_heads * group;
  const int64_t first_head = item.kv_head_begin * group;
  const int64_t num_packed = item.num_rows * heads;

  // Which keys: per row, and for the whole tile of rows.
  int64_t lo = INT64_MAX, hi = 0;
  int seq = item.seq;
  for (int64_t t = 0; t < item.num_rows; ++t) {
    Row& row = s.rows[t];
    row = {};
    if (item.row_mode != kPaddingRows)
      row = visible_keys(p, item, seq, static_cast<int>(item.row_begin + t));
    seq = row.seq;
    if (row.lo >= row.hi) continue;
    lo = min64(lo, row.lo);
    hi = max64(hi, row.hi);
  }

  // Q, scaled once.
  for (int64_t t = 0; t < item.num_rows; ++t) {
    for (int64_t n = 0; n < heads; ++n) {
      const int64_t row = (item.row_begin + t) * p.num_q_heads + first_head + n;
      float* q = s.q + (t * heads + n) * p.head_dim;
      const float scale = p.scale * (p.k_scale ? p.k_scale[(first_head + n) / group] : 1.0f);
      widen_row<Q>(static_cast<const typename Q::storage*>(p.q) + row * p.head_dim, q, p.head_dim);
      for (int64_t h = 0; h < p.head_dim; h += kLanes) store(q + h, load<vfloat>(q + h) * scale);
    }
  }
  memset(s.acc, 0, num_packed * p.head_dim_v * sizeof(float));
  for (int64_t r = 0; r < num_packed; ++r) s.m[r] = -INFINITY, s.l[r] = 0.0f;

  KeyTile<KV> tiles[2];
  if (lo < hi) find_keys(p, item, lo, min64(hi, lo + kTileKeys), &tiles[0]);
  for (int64_t begin = lo, i = 0; begin < hi; begin += kTileKeys, i ^= 1) {
    const KeyTile<KV>& tile = tiles[i];
    KeyTile<KV>& next = tiles[i ^ 1];
    const int64_t end = begin + kTileKeys;
    find_keys(p, item, min64(end, hi), min64(hi, end + kTileKeys), &next);
    for (int64_t t = 0; t < item.num_rows; ++t) {
      attend(p, item, s.rows[t], tile, t == 0 ? &next : nullptr, t * heads, s);
    }
  }

  // O / l, and the natural log-sum-exp.
  for (int64_t t = 0; t < item.num_rows; ++t) {
    for (int64_t n = 0; n < heads; ++n) {
      const int64_t r = t * heads + n, head = first_head + n;
      const bool seen = s.m[r] != -INFINITY;
      const float lse = !p.use_softmax ? 0.0f : seen ? s.m[r] + logf(s.l[r]) : -INFINITY;
      float factor = !p.use_softmax ? 1.0f : seen ? 1.0f / s.l[r] : 0.0f;
      if (p.v_scale) factor *= p.v_scale[head / group];
      if (item.partial == kWriteThrough) factor *= sink_share(p.sink, head, lse);
      float* acc = s.acc + r * p.head_dim_v;
      for (int64_t h = 0; h < p.head_dim_v; h += kLanes)
        store(acc + h, load<vfloat>(acc + h) * factor);
      if (item.partial == kWriteThrough) {
        const int64_t row = (item.row_begin + t) * p.num_q_heads + head;
        write_row(p.q_type, acc, p.out, row, p.head_dim_v);
        p.lse[row] = lse;
      } else {
        const int64_t slot_row = item.partial * p.slot_tokens + item.partial_row + t;
        const int64_t row = slot_row * p.slot_heads + n;
        memcpy(p.partial_out + row * p.head_dim_v, acc, p.head_dim_v * sizeof(float));
        p.partial_lse[row] = lse;
      }
    }
  }
}

// Merges S partial results of one row, in order: the operator that makes split keys,
// shared prefixes and context parallelism one thing (FlashInfer, section 2.2).
template <typename T>
void merge_row(int64_t num_splits, const float* lses, const typename T::storage* const* outs,
               bool use_softmax, const float* sink, int64_t head, int64_t head_dim, float* acc,
               float* lse) {
  float m = -INFINITY, l = 0.0f;
  for (int64_t i = 0; i < num_splits; ++i) m = fmaxf(m, lses[i]);
  memset(acc, 0, head_dim * sizeof(float));
  for (int64_t i = 0; i < num_splits; ++i) {
    if (use_softmax && lses[i] == -INFINITY) continue;  // no visible key in this part
    const float w = use_softmax ? expf(lses[i] - m) : 1.0f;
    l += w;
    for (int64_t h = 0; h < head_dim; h += kLanes)
      store(acc + h, load<vfloat>(acc + h) + w * T::widen(outs[i] + h));
  }
  *lse = !use_softmax ? 0.0f : m == -INFINITY ? m : m + logf(l);
  if (!use_softmax || m == -INFINITY) return;
  const float factor = sink_share(sink, head, *lse) / l;
  for (int64_t h = 0; h < head_dim; h += kLanes) store(acc + h, load<vfloat>(acc + h) * factor);
}

template <typename Q>
void run_item_q(const AttentionParams& p, const WorkItem& item, const Scratch& s) {
  if (p.kv_type == ElementType::kFloat32) return run_item_typed<Q, Float32>(p, item, s);
  if (p.kv_type == ElementType::kBFloat16) return run_item_typed<Q, BFloat16>(p, item, s);
  run_item_typed<Q, Float16>(p, item, s);
}

// ---- entry points ------------------------------------------------------------------------

int64_t scratch_floats(const AttentionParams& p) {
  int64_t floats;
  carve(p, nullptr, &floats);
  return floats;
}

void run_item(const AttentionParams& p, const WorkItem& item, float* scratch) {
  if (!is_valid(p, item)) return;
  const Scratch s = carve(p, scratch);
  if (p.q_type == ElementType::kFloat32) return run_item_q<Float32>(p, item, s);
  if (p.q_type == ElementType::kBFloat16) return run_item_q<BFloat16>(p, item, s);
  run_item_q<Float16>(p, item, s);
}

constexpr int kPartsAtOnce = 64;

void run_merge(const AttentionParams& p, const MergeItem& merge, float* scratch) {
  const int64_t group = p.group;
  const int64_t parts_end = min64(merge.parts_end, p.num_parts);
  if (!is_valid(p, merge)) return;
  const int64_t heads = merge.num_kv_heads * group;
  for (int64_t t = 0; t < merge.num_rows; ++t) {
    for (int64_t n = 0; n < heads; ++n) {
      // Folded from the left, some parts at a time: the running result is part 0.
      float* acc = scratch;
      float* running = scratch + round_up(p.head_dim_v);
      const float* outs[kPartsAtOnce];
      float lses[kPartsAtOnce];
      const int64_t head = merge.kv_head_begin * group + n;
      float lse = p.use_softmax ? -INFINITY : 0.0f;
      memset(acc, 0, p.head_dim_v * sizeof(float));
      for (int64_t i = merge.parts_begin; i < parts_end;) {
        memcpy(running, acc, p.head_dim_v * sizeof(float));
        outs[0] = running;
        lses[0] = lse;
        int count = 1;
        for (; count < kPartsAtOnce && i < parts_end; ++i) {
          const int64_t slot = p.parts[i];
          if (slot < 0 || slot >= p.num_slots) continue;
          const int64_t row = (slot * p.slot_tokens + t) * p.slot_heads + n;
          outs[count] = p.partial_out + row * p.head_dim_v;
          lses[count++] = p.partial_lse[row];
        }
        merge_row<Float32>(count, lses, outs, p.use_softmax, i == parts_end ? p.sink : nullptr,
                           head, p.head_dim_v, acc, &lse);
      }
      const int64_t row = (merge.row_begin + t) * p.num_q_heads + head;
      write_row(p.q_type, acc, p.out, row, p.head_dim_v);
      p.lse[row] = lse;
    }
  }
}

template <typename T>
void merge_partials_typed(const MergePartialsParams& p, int64_t row_begin, int64_t row_end) {
  using S = typename T::storage;
  alignas(64) float acc[256];
  const int64_t stride = p.num_rows * p.num_heads;
  for (int64_t row = row_begin * p.num_heads; row < row_end * p.num_heads; ++row) {
    const S* outs[kPartsAtOnce];
    float lses[kPartsAtOnce];
    for (int64_t i = 0; i < p.num_splits; ++i) {
      outs[i] = static_cast<const S*>(p.outs) + (i * stride + row) * p.head_dim;
      lses[i] = p.lses[i * stride + row];
    }
    merge_row<T>(p.num_splits, lses, outs, p.use_softmax, p.sink, row % p.num_heads, p.head_dim,
                 acc, &p.lse[row]);
    write_row(p.type, acc, p.out, row, p.head_dim);
  }
}

void merge_partials(const MergePartialsParams& p, int64_t row_begin, int64_t row_end) {
  if (p.type == ElementType::kFloat32) return merge_partials_typed<Float32>(p, row_begin, row_end);
  if (p.type == ElementType::kBFloat16)
    return merge_partials_typed<BFloat16>(p, row_begin, row_end);
  merge_partials_typed<Float16>(p, row_begin, row_end);
}

}  // namespace

#define JAXINFER_STRING_(x) #x
#define JAXINFER_STRING(x) JAXINFER_STRING_(x)
#define JAXINFER_NAME_(isa) cpu_kernels_##isa
#define JAXINFER_NAME(isa) JAXINFER_NAME_(isa)
extern const CpuKernels JAXINFER_NAME(JAXINFER_ISA);
const CpuKernels JAXINFER_NAME(JAXINFER_ISA) = {JAXINFER_STRING(JAXINFER_ISA), scratch_floats,
                                                run_item, run_merge, merge_partials};

}  // namespace jaxinfer
