// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// What the attention tiles share: the facts of the specification, the bounds of a work
// item, the row of a key, the score function, and where results go.
#pragma once

#include "csrc/attention_tiles.h"
#include "csrc/ptx.cuh"
#include "csrc/small_cap.h"
#include "csrc/variant.h"
#include "csrc/visible_keys.h"

namespace jaxinfer {

#ifndef JAXINFER_VARIANT
using Variant = NoVariant;
#endif

constexpr AttentionTiles kTiles =
    attention_tiles(Spec::kHeadDim, Spec::kHeadDimV, Spec::kCtasPerSm);
constexpr int kThreads = kTiles.threads();
constexpr int kSharedBytes = kTiles.shared_bytes(Spec::kTileRows);
constexpr int kHeadDim = Spec::kHeadDim;
constexpr int kHeadDimV = Spec::kHeadDimV;
constexpr int kGroup = Spec::kGroup;  // query heads per KV head
constexpr int kDecodeRows = decode_rows(Spec::kTileRows);
constexpr bool kHasPrefill = has_prefill(Spec::kTileRows);
constexpr bool kMergesItself = !kHasPrefill;  // the CTA that comes last, if there are counters
constexpr bool kDense = Spec::kHasBias || Spec::kHasMask;
// A cap is one whether an option or a function says so; what else is added comes between them.
constexpr bool kVariantCaps = Variant::kSoftCap.size > 0.0f && !Spec::kHasSoftCap && !kDense;
constexpr bool kHasSoftCap = Spec::kHasSoftCap || kVariantCaps;
constexpr bool kHasScoreMod = Variant::kHasScoreMod && !kVariantCaps;
constexpr bool kHasScoreHook = kHasScoreMod || Variant::kHasMaskMod;
constexpr bool kHasRowHook = kHasScoreHook || Variant::kHasQueryMod || Variant::kHasOutputMod;
constexpr bool kHasVectorHook = Variant::kHasKeyMod || Variant::kHasValueMod;
constexpr bool kHasBlockMap = Variant::kBlockMap.operand >= 0;
constexpr int kRowBytes = panel_bytes(kHeadDim);
constexpr int kRowBytesV = panel_bytes(kHeadDimV);
using Type = Element<static_cast<ElementType>(Spec::kType)>;

constexpr int kSpansSeqs = -1, kPaddingSeq = -2;

// What the tiles need of a work item, and the keys that it is about.
struct Item {
  int index;      // of the work item
  int row_begin;  // first token
  int num_rows;   // packed: tokens times query heads per KV head
  int kv_head_begin;
  int num_heads;  // KV heads
  int page_row;
  int partial, partial_row;
  int merge;
  int parts_begin, parts_end;  // of its merge, if the CTA that comes last is to do it
  int lo, hi;                  // keys that some row sees
  int all_lo, all_hi;          // keys that every row sees
  // For hooks alone.
  int seq;       // or one of the two below
  int position;  // of the first token
  int key_base;  // position of the first key of the page list
};
static_assert(sizeof(Item) == kItemBytes, "attention_tiles.h counts on it");

JAXINFER_DEVICE bool is_prefill(const Item& item) { return item.num_rows > kDecodeRows; }

JAXINFER_DEVICE WorkItem load_item(const WorkItem* from) {
  WorkItem item;
#pragma unroll
  for (int i = 0; i < 4; ++i)
    reinterpret_cast<int4*>(&item)[i] = __ldg(reinterpret_cast<const int4*>(from) + i);
  return item;
}

// capacity(), computed from what the kernel is compiled for where that is enough.
JAXINFER_DEVICE int64_t list_keys(const AttentionParams& p, int list) {
  if (Spec::kPageSize > 0 && !Spec::kIsCsr) return p.kv.max_pages * Spec::kPageSize;
  return capacity(p, list);
}

JAXINFER_DEVICE int merge_of(const AttentionParams& p, const WorkItem& work) {
  return clamp32(work.merge, 0, static_cast<int>(p.num_merges) - 1);
}

// What the bounds of a work item are computed from.
struct BoundsRead {
  SeqLengths lengths;
  int parts_begin, parts_end;  // of its merge

  JAXINFER_DEVICE BoundsRead load(const AttentionParams& p, const WorkItem& work) {
    BoundsRead read{};
    read.lengths = load_lengths(p, clamp32(work.seq, 0, static_cast<int>(p.num_seqs) - 1));
    if (kMergesItself && p.arrivals != nullptr) {
      const MergeItem* merge = p.merges + merge_of(p, work);
      read.parts_begin = __ldg(&merge->parts_begin);
      read.parts_end = __ldg(&merge->parts_end);
    }
    return read;
  }
};

// Rows of one sequence see ranges that only move right: the first and the last bound all.
template <int kMostRows = Spec::kTileRows>
JAXINFER_DEVICE Item find_item(const AttentionParams& p, int index, const WorkItem& work,
                               const BoundsRead& read) {
  Item item{};
  item.index = index;
  item.row_begin = work.row_begin;
  item.num_rows = work.num_rows * kGroup;
  item.kv_head_begin = work.kv_head_begin;
  item.num_heads = work.num_kv_heads;
  item.page_row = work.page_row;
  item.partial = work.partial, item.partial_row = work.partial_row;
  item.merge = merge_of(p, work);
  if (kHasRowHook) item.seq = kSpansSeqs;
  // Hooks are asked of hidden keys as well: of a wrong plan, too, none of them is negative.
  if (kHasScoreHook || kHasVectorHook) item.key_base = min(work.key_base, 1 << 30);
  if (kMergesItself && p.arrivals != nullptr && work.partial != kWriteThrough) {
    item.parts_begin = max(read.parts_begin, 0);
    item.parts_end = min(read.parts_end, static_cast<int>(p.num_parts));
  }
  // A wrong plan: no rows, so nothing is read or written.
  if (!is_valid(p, work) || item.num_rows > kMostRows) {
    item.num_rows = item.num_heads = 0;
    return item;
  }
  if (work.row_mode == kPaddingRows) {
    if (kHasRowHook) item.seq = kPaddingSeq;
    return item;
  }
  const int last_row = work.row_begin + work.num_rows - 1;
  if (work.row_mode == kRowsOfOneSeq) {
    const int64_t most = list_keys(p, work.page_row);
    const SeqRows rows = rows_of_seq(p, work.seq, read.lengths);
    const Row first = visible_keys(p, work, most, work.seq, rows, work.row_begin);
    const Row last = visible_keys(p, work, most, work.seq, rows, last_row);
    item.lo = min(first.lo, last.lo), item.hi = max(first.hi, last.hi);
    item.all_lo = max(first.lo, last.lo), item.all_hi = min(first.hi, last.hi);
    if (kHasRowHook) item.seq = work.seq, item.position = first.position;
  } else {
    int seq = work.seq;
    item.lo = item.all_hi = 0x7fffffff;
#pragma unroll 1
    for (int r = work.row_begin; r <= last_row; ++r) {
      const Row row = visible_keys(p, work, seq, r);
      seq = row.seq;
      item.all_lo = max(item.all_lo, row.lo);
      item.all_hi = min(item.all_hi, row.hi);
      if (row.lo < row.hi) item.lo = min(item.lo, row.lo), item.hi = max(item.hi, row.hi);
    }
  }
  item.lo = min(item.lo, max(item.hi, 0));
  return item;
}

// Not inlined: only CTAs of many items need it.
static __device__ __noinline__ void find_later_item(const AttentionParams& p, int index, Item* to) {
  const WorkItem work = load_item(p.items + index);
  *to = find_item(p, index, work, BoundsRead::load(p, work));
}

// The visible keys of token `token` of a work item. Not inlined: only items of several
// tokens need it, and code in the way of the others costs them time.
static __device__ __noinline__ Row find_row(const AttentionParams& p, int index, int token) {
  const WorkItem work = load_item(p.items + index);
  int seq = work.seq;
  int t = work.row_mode == kRowsSpanSeqs ? 0 : token;
  Row row;
  do {
    row = visible_keys(p, work, seq, work.row_begin + t);
    seq = row.seq;
  } while (++t <= token);
  return row;
}

// Entries of page list `list`; with contiguous keys one, the row of the first.
JAXINFER_DEVICE const int32_t* find_entries(const AttentionParams& p, int list) {
  if constexpr (Spec::kPageSize == 0) return p.kv.kv_starts + list;
  if constexpr (Spec::kIsCsr) return p.kv.page_indices + max(__ldg(p.kv.page_indptr + list), 0);
  return p.kv.page_table + list * p.kv.max_pages;
}
// What they say of a key, which they must hold. Loading it and using it are apart, for it takes a
// while to come.
JAXINFER_DEVICE int load_entry(const int32_t* entries, int key) {
  return __ldg(entries + (Spec::kPageSize == 0 ? 0 : static_cast<unsigned>(key) / Spec::kPageSize));
}
JAXINFER_DEVICE int load_entry(const AttentionParams& p, int list, int key) {
  return load_entry(find_entries(p, list), key);
}
// Row of K and V that the key lies in, or -1.
JAXINFER_DEVICE int row_of_entry(const AttentionParams& p, int entry, int key) {
  if constexpr (Spec::kPageSize == 0) {
    const int64_t row = int64_t{entry} + key;
    return row >= 0 && row < p.kv.num_pages ? static_cast<int>(row) : -1;
  } else {
    const bool exists = entry >= 0 && entry < static_cast<int>(p.kv.num_pages);
    return exists ? entry * Spec::kPageSize + key % Spec::kPageSize : -1;
  }
}

// K and V of the layer to read: rows of all KV heads follow one another.
struct Layer {
  const uint16_t *k, *v;

  JAXINFER_DEVICE Layer find(const AttentionParams& p) {
    int64_t rows = 0;
    if (Spec::kIsStacked) {
      rows = clamp64(*p.layer, 0, p.num_layers - 1) * p.kv.num_pages * p.kv.page_size;
    }
    rows *= p.num_kv_heads;
    return {static_cast<const uint16_t*>(p.k) + rows * kHeadDim,
            static_cast<const uint16_t*>(p.v) + rows * kHeadDimV};
  }
};

constexpr float kRescaleAbove = 8.0f;  // log2: smaller growth of a maximum is left standing

// ---- scores ----------------------------------------------------------------------------------

// Scores are kept raw, and scaled inside the exponential, where nothing needs them earlier.
constexpr bool kScaleEarly = kHasScoreMod || kHasSoftCap || Spec::kHasKScale || kDense ||
                             !Spec::kIsScalePositive || !Spec::kUseSoftmax;

// Capped scores are kept as parts of the cap where nothing else is done with them.
constexpr bool kCapsLate = kHasSoftCap && !kHasScoreMod && !kDense && Spec::kUseSoftmax;
// Up to here scores that were scaled are small (see SmallScore); 0: that does not matter.
constexpr float kSmallScores = kHasSoftCap ? 0.0f : Variant::kSmallScores;
constexpr bool kAddsLine = Variant::kAddsLine && !kHasSoftCap;

struct Scores {
  float scale;  // early
  float cap;
  float log2_scale;  // inside the exponential

  JAXINFER_DEVICE Scores make(const AttentionParams& p, int kv_head) {
    Scores s{p.scale, p.logits_soft_cap, kScaleEarly ? kLog2e : p.scale * kLog2e};
    if (Spec::kHasKScale) s.scale *= p.k_scale[kv_head];
    if (kVariantCaps) s.cap = Variant::kSoftCap.size, s.scale *= Variant::kSoftCap.factor;
    if (Spec::kHasSoftCap) s.scale /= s.cap;
    if (kCapsLate) s.log2_scale *= s.cap, s.cap = 1.0f;
    return s;
  }
  // For what knows how to make use of it.
  __device__ __forceinline__ SmallScore small(float score) const { return {score, scale}; }
  // cap * tanh(x) of a scaled score, to 6e-7 of the cap: tanh.approx errs by 2^-11.
  __device__ __forceinline__ float capped(float score) const {
    if constexpr (kHasSoftCap) return VariantMath::tanh(score) * cap;
    return score;
  }
  __device__ __forceinline__ float operator()(float score) const {
    return capped(kScaleEarly ? score * scale : score);
  }
};

// Bias and mask of dense attention, for one query row.
struct DenseRow {
  const float* bias;
  const bool* mask;

  JAXINFER_DEVICE DenseRow make(const AttentionParams& p, const Row& row, int head) {
    DenseRow d{nullptr, nullptr};
    if (row.index >= p.dense_q_len) return d;
    auto offset = [&](const int64_t* strides) {
      return row.seq * strides[0] + head * strides[1] + row.index * strides[2];
    };
    if (Spec::kHasBias) d.bias = p.bias + offset(p.bias_strides);
    if (Spec::kHasMask) d.mask = p.mask + offset(p.mask_strides);
    return d;
  }
  // Only of keys that exist.
  __device__ __forceinline__ float operator()(const AttentionParams& p, int key,
                                              float score) const {
    if (key >= p.dense_kv_len) return score;
    if (Spec::kHasBias && bias) score += bias[key * p.bias_strides[3]];
    if (Spec::kHasMask && mask && !mask[key * p.mask_strides[3]]) {
      score = Spec::kUseSoftmax ? -infinity() : 0.0f;
    }
    return score;
  }
};

// ---- results ---------------------------------------------------------------------------------

// log2-sum-exp2 of a row whose largest exponent is m and whose sum is l.
JAXINFER_DEVICE float log2_sum(float m, float l) {
  if (!Spec::kUseSoftmax) return 0.0f;
  return l == 0.0f ? -infinity() : m + log2_approx(l);
}

// What makes weights of that sum add up to one.
JAXINFER_DEVICE float normalizer(float sum) {
  if (!Spec::kUseSoftmax) return 1.0f;
  return sum == 0.0f ? 0.0f : reciprocal_approx(sum);
}

// The attention sink takes its share of the probability, and no value. Only at the final
// write, so that partial results merge without it.
JAXINFER_DEVICE float sink_share(const AttentionParams& p, int head, float lse) {
  if (!Spec::kHasSink || lse == -infinity()) return 1.0f;
  return 1.0f / (1.0f + exp2_approx((p.sink[head] - lse) * kLog2e));
}

// Where one packed row of a work item goes, and what its result is multiplied with.
struct OutRow {
  void* out;  // 16-bit elements, or float if partial
  float* lse;
  float factor;
  bool is_partial;

  // `factor` makes the row sum to one; lse2 in log2.
  JAXINFER_DEVICE OutRow make(const AttentionParams& p, const Item& item, int kv_head, int packed,
                              float factor, float lse2) {
    const int token = packed / kGroup, g = packed % kGroup;
    const int head = kv_head * kGroup + g;
    OutRow o;
    o.is_partial = item.partial != kWriteThrough;
    o.factor = factor;
    if (Spec::kHasVScale) o.factor *= p.v_scale[kv_head];
    if (o.is_partial) {
      const int64_t slot_row = int64_t{item.partial} * p.slot_tokens + item.partial_row + token;
      const int64_t row = slot_row * p.slot_heads + (kv_head - item.kv_head_begin) * kGroup + g;
      o.out = p.partial_out + row * kHeadDimV;
      o.lse = p.partial_lse + row;
    } else {
      const int64_t row = int64_t{item.row_begin + token} * p.num_q_heads + head;
      o.out = static_cast<uint16_t*>(p.out) + row * kHeadDimV;
      o.lse = p.lse + row;
      o.factor *= sink_share(p, head, lse2 * kLn2);
    }
    return o;
  }
  // Partial results stay in log2, for the merge.
  __device__ __forceinline__ void write_lse(float lse2) const {
    *lse = is_partial ? lse2 : lse2 * kLn2;
  }
  __device__ __forceinline__ void write2(int column, float a, float b) const {
    if (is_partial) {
      *reinterpret_cast<float2*>(static_cast<float*>(out) + column) =
          make_float2(a * factor, b * factor);
    } else {
      *reinterpret_cast<uint32_t*>(static_cast<uint16_t*>(out) + column) =
          Type::pack(a * factor, b * factor);
    }
  }
  __device__ __forceinline__ void write4(int column, float4 v) const {
    if (is_partial) {
      *reinterpret_cast<float4*>(static_cast<float*>(out) + column) =
          make_float4(v.x * factor, v.y * factor, v.z * factor, v.w * factor);
    } else {
      *reinterpret_cast<uint2*>(static_cast<uint16_t*>(out) + column) = make_uint2(
          Type::pack(v.x * factor, v.y * factor), Type::pack(v.z * factor, v.w * factor));
    }
  }
};

}  // namespace jaxinfer
