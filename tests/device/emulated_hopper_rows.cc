// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// The warps of csrc/hopper_rows.cuh on the host, between a scheduler and consumers that look at
// all that they bring. Asynchronous copies come late, and threads run in random order: what is
// overwritten too early, or said to be there too early, shows as a wrong value. Macros say what the
// kernel is compiled for.
#include <random>

#include "csrc/hopper_tiles.h"
#include "emulated_hopper.h"

namespace jaxinfer {
struct Spec {
  static constexpr int kType = 2;
  static constexpr int kHeadDim = HEAD_DIM;
  static constexpr int kHeadDimV = HEAD_DIM_V;
  static constexpr int kGroup = 4;
  static constexpr int kPageSize = PAGE_SIZE;
  static constexpr int kTileRows = 128;
  static constexpr int kCtasPerSm = 1;
  static constexpr bool kIsStacked = IS_STACKED;
  static constexpr bool kIsCsr = IS_CSR;
  static constexpr bool kIsScalePositive = true;
  static constexpr bool kUseSoftmax = true;
  static constexpr bool kHasSoftCap = false;
  static constexpr bool kHasKScale = false;
  static constexpr bool kHasVScale = false;
  static constexpr bool kHasSink = false;
  static constexpr bool kHasBias = false;
  static constexpr bool kHasMask = false;
  static constexpr int kHopperRows = jaxinfer::kHopperRows;
  static constexpr int kHopperKeys = hopper_tiles(HEAD_DIM).keys;
  static constexpr int kHopperStages = hopper_tiles(HEAD_DIM).stages;
};
}  // namespace jaxinfer

#if HAS_BLOCK_MAP
#include "csrc/variant.h"
#define JAXINFER_VARIANT
namespace jaxinfer {
struct Variant : NoVariant {
  static constexpr BlockMap kBlockMap = {
      .operand = 0, .seqs = 0, .heads = 0, .rows = 8, .keys = 22, .block_q = 16, .block_kv = 32};
};
}  // namespace jaxinfer
#endif

#include "emulated_hopper_ptx.h"

namespace jaxinfer {
static void copy_async(uint32_t to, const void* from, bool valid);
}

#include "csrc/hopper_rows.cuh"

namespace jaxinfer {
namespace {

using emulated::cta;

constexpr int kNumThreads = 128;  // of the first warpgroup

alignas(1024) HopperShared shared;
int num_errors;

// ---- a cache, and items ------------------------------------------------------------------------

constexpr int kLayers = IS_STACKED ? 2 : 1, kHeads = 2, kLists = 3, kMaxKeys = 700;
constexpr int kListPages = (kMaxKeys + PAGE_SIZE - 1) / PAGE_SIZE, kPages = kListPages + 20;

template <int kDim>
struct Cache {
  std::vector<uint16_t> elements;

  static int64_t index(int64_t row, int head) { return (row * kHeads + head) * kDim; }
  bool has(const uint8_t* from) const {
    const auto* begin = reinterpret_cast<const uint8_t*>(elements.data());
    return from >= begin && from + 16 <= begin + 2 * elements.size();
  }
};
Cache<HEAD_DIM> keys;
Cache<HEAD_DIM_V> values;
std::vector<int32_t> table, indptr;
std::vector<uint8_t> states;  // of the block map
int32_t layer;
HopperParams params;
std::vector<HopperItem> items;

void draw(std::mt19937& random) {
  const auto below = [&](int n) { return static_cast<int>(random() % n); };
  for (auto* elements : {&keys.elements, &values.elements})
    for (auto& x : *elements) x = random();
  table.resize(kLists * kListPages), indptr.resize(kLists + 1);
  for (auto& page : table)
    page = below(12) == 0 ? below(2) ? -1 : kPages + below(9) : below(kPages);
  for (int i = 0; i <= kLists; ++i) indptr[i] = i * kListPages;
  layer = below(kLayers);
  constexpr BlockMap kMap = Variant::kBlockMap;
  states.resize(kMap.rows * kMap.keys);
  for (auto& state : states) state = below(3) ? kBlockHidden : 1 + below(2);
  items.clear();
  const int num_items = 1 + below(4);
  for (int i = 0; i < num_items; ++i) {
    HopperItem item{};
    item.item.page_row = below(kLists);
    item.item.hi = below(5) == 0 ? 0 : below(kMaxKeys + 1);
    item.item.lo = below(2) ? 0 : below(kMaxKeys);
    const bool has_keys = item.item.hi > item.item.lo;
    item.first = has_keys ? (item.item.hi - 1) / kHopperKeys : 0;
    item.last = has_keys ? item.item.lo / kHopperKeys : 0;
    if (!has_keys && below(2)) item.item.page_row = 1 << 30;  // nobody may look there
    item.item.num_rows = Spec::kHopperRows, item.item.position = below(96);
    item.full_begin = below(3), item.full_end = below(6);
    for (item.kv_head = 0; item.kv_head < kHeads; ++item.kv_head) items.push_back(item);
  }
}

// Of the cache, or -1.
int64_t row_of(const HopperItem& now, int key) {
  const int page = table[now.item.page_row * kListPages + key / PAGE_SIZE];
  if (page < 0 || page >= kPages) return -1;
  return (int64_t{layer} * kPages + page) * PAGE_SIZE + key % PAGE_SIZE;
}
bool sees(const HopperItem& now, int key) { return key >= now.item.lo && key < now.item.hi; }

// What is told of the tiles that come, in their order.
std::vector<uint32_t> steps_of(const HopperItem& now) {
  std::vector<uint32_t> steps;
  constexpr BlockMap kMap = Variant::kBlockMap;
  for (int tile = now.first; tile >= now.last; --tile) {
    const int begin = max(tile * kHopperKeys, now.item.lo);
    const int end = min(tile * kHopperKeys + kHopperKeys, now.item.hi);
    const int last_row = now.item.position + Spec::kHopperRows / kGroup - 1;
    bool some = !kHasBlockMap, every = begin < end;
    for (int row = now.item.position; kHasBlockMap && row <= last_row; ++row) {
      for (int key = begin; key < end; ++key) {
        const int state = states[row / kMap.block_q * kMap.keys + key / kMap.block_kv];
        some |= state != kBlockHidden, every &= state == kBlockShown;
      }
    }
    const bool is_cut = tile < now.full_begin || tile >= now.full_end;
    if (some) steps.push_back(encode_step(tile, is_cut, !every, false));
  }
  if (steps.empty())
    steps.push_back(encode_step(now.first, now.first < now.full_begin || now.first >= now.full_end,
                                true, false));
  steps.back() |= kIsLast;
  return steps;
}

// ---- the other warps ---------------------------------------------------------------------------

void schedule() {
  for (size_t number = 0; number <= items.size(); ++number) {
    const int slot = number % kItemSlots;
    barrier(shared.item_empty[slot]).wait((number / kItemSlots & 1) ^ 1);
    memset(&shared.items[slot], 0xa5, sizeof(HopperItem));
    if (number < items.size()) shared.items[slot] = items[number];
    if (number == items.size()) shared.items[slot].first = -1;
    barrier(shared.item_full[slot]).arrive();
  }
}

template <int kDim>
void check_tile(const uint8_t* stage, const Cache<kDim>& cache, const HopperItem& now, int tile) {
  for (int i = 0; i < kHopperKeys; ++i) {
    const int key = tile * kHopperKeys + i;
    const int64_t row = sees(now, key) ? row_of(now, key) : -1;
    for (int chunk = 0; chunk < kDim / 8; ++chunk) {
      const uint8_t zeros[16] = {};
      const void* expected = zeros;
      if (row >= 0) expected = &cache.elements[cache.index(row, now.kv_head) + chunk * 8];
      const uint8_t* got = stage + chunk / 8 * kNextPanel + i * 128 + ((chunk % 8 ^ i % 8) << 4);
      num_errors += memcmp(got, expected, 16) != 0;
    }
  }
}
// Beside the keys that are the turn-th tile.
void check_told(int turn, const HopperItem& now, uint32_t step) {
  const auto& absent = shared.absent[turn % (2 * kHopperStages)];
  for (int i = 0; i < kHopperKeys; ++i) {
    const int key = tile_of_step(step) * kHopperKeys + i;
    const bool expected = sees(now, key) && row_of(now, key) < 0;
    num_errors += (absent[i / 32] >> i % 32 & 1) != expected;
  }
  if (kHasBlockMap) num_errors += shared.steps[turn % (2 * kHopperStages)] != step;
}

int done_k[kHopperStages], done_v[kHopperStages], num_ended;

// Looks twice, with others between, and leaves nothing to those who come later.
template <int kDim>
void consume(uint8_t* stage, size_t bytes, const Cache<kDim>& cache, const HopperItem& now,
             int tile, const uint64_t& empty, int& done) {
  check_tile(stage, cache, now, tile);
  cta.ready.push_back(cta.current);
  emulated::sleep();
  check_tile(stage, cache, now, tile);
  if (++done == kConsumers) done = 0, memset(stage, 0xa5, bytes);
  barrier(empty).arrive();
}

void consume_items() {
  int turn_k = 0, turn_v = 0;
  for (int turn = 0;; ++turn) {
    const int slot = turn % kItemSlots;
    barrier(shared.item_full[slot]).wait(turn / kItemSlots & 1);
    barrier(shared.q_full).wait(turn & 1);
    const HopperItem now = shared.items[slot];
    if (now.first < 0) break;
    const auto give_queries_back = [] {
      for (int i = 0; i < 4; ++i) barrier(shared.q_empty).arrive();
    };
    if (!kQueriesStay) give_queries_back();
    const std::vector<uint32_t> steps = steps_of(now);
    const int num_steps = static_cast<int>(steps.size());
    for (int i = 0; i <= num_steps; ++i) {
      if (i < num_steps) {
        const int stage = turn_k % kHopperStages, tile = tile_of_step(steps[i]);
        barrier(shared.k_full[stage]).wait(turn_k / kHopperStages & 1);
        consume(shared.k[stage], kHopper.k_bytes, keys, now, tile, shared.k_empty[stage],
                done_k[stage]);
        check_told(turn_k++, now, steps[i]);
      }
      if (i > 0) {
        const int stage = turn_v % kHopperStages, tile = tile_of_step(steps[i - 1]);
        barrier(shared.v_full[stage]).wait(turn_v / kHopperStages & 1);
        consume(shared.v[stage], kHopper.v_bytes, values, now, tile, shared.v_empty[stage],
                done_v[stage]);
        // A tile later again, for a warp may be late.
        if (i < num_steps) check_told(turn_v, now, steps[i - 1]);
        ++turn_v;
      }
    }
    if (kQueriesStay) give_queries_back();
    for (int i = 0; i < 4; ++i) barrier(shared.item_empty[slot]).arrive();
  }
  if (++num_ended == kConsumers) emulated::end_copies();
}

void run_thread() {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (warp < kLoaders) HopperRows::make(params, shared, warp).run();
  if (warp < kLoaders) return;
  if (lane == 0) schedule();
  if (lane == 1) emulated::move_copies();
  if (lane == 2 || lane == 3) consume_items();
}

}  // namespace

static void copy_async(uint32_t to, const void* from, bool valid) {
  const auto* bytes = static_cast<const uint8_t*>(from);
  const bool exists = keys.has(bytes) || values.has(bytes);
  if (valid && !exists) ++num_errors;
  emulated::start({to, valid && exists ? bytes : nullptr, false});
}

}  // namespace jaxinfer

// How much was wrong; -1: some thread waits for ever.
extern "C" int check_hopper_rows(unsigned seed) {
  using namespace jaxinfer;
  std::mt19937 random(seed);
  keys.elements.resize(Cache<HEAD_DIM>::index(kLayers * kPages * PAGE_SIZE, 0));
  values.elements.resize(Cache<HEAD_DIM_V>::index(kLayers * kPages * PAGE_SIZE, 0));
  draw(random);
  AttentionParams& p = params.p;
  p.k = keys.elements.data(), p.v = values.elements.data();
  p.variant.data[0] = states.data();
  p.num_kv_heads = kHeads, p.num_layers = kLayers, p.layer = &layer;
  p.kv.num_pages = kPages, p.kv.page_size = PAGE_SIZE;
  if (IS_CSR) {
    p.kv.page_indices = table.data(), p.kv.page_indptr = indptr.data();
  } else {
    p.kv.page_table = table.data(), p.kv.max_pages = kListPages;
  }
  memset(&shared, 0xa5, sizeof(shared));
  emulated::begin(&shared, kNumThreads, kLoaders);
  init_barriers(shared);
  num_errors = num_ended = 0;
  std::fill_n(done_k, kHopperStages, 0), std::fill_n(done_v, kHopperStages, 0);
  return emulated::run_grid({}, kNumThreads, seed, run_thread) ? num_errors : -1;
}
