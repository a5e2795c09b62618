// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// What the warps of the prefill kernel for sm_90a share.
#pragma once

#include "csrc/attention_variant.cuh"
#include "csrc/hopper.cuh"
#include "csrc/hopper_tiles.h"

namespace jaxinfer {

constexpr int kHopperTokens = Spec::kHopperRows / kGroup;
constexpr int kHopperKeys = Spec::kHopperKeys;
constexpr int kHopperStages = Spec::kHopperStages;
constexpr HopperLayout kHopper =
    hopper_layout(kHeadDim, kHeadDimV, Spec::kPageSize, {kHopperKeys, kHopperStages});
constexpr int kConsumers = kHopperRows / 64;
constexpr int kPanels = kRowBytes / 128, kPanelsV = kRowBytesV / 128;
constexpr bool kIsPaged = Spec::kPageSize > 0;
constexpr bool kCopiesRows = kHopper.copies_rows, kPanelsMeet = kHopper.panels_meet;
constexpr int kLoaders = kCopiesRows ? 3 : 1;  // warps
// What copies of rows share: groups of 16, of which a loader looks up two with each load.
constexpr int kRowGroups = kHopperKeys / 16;
constexpr int kRowGroupsOfLoader = (kRowGroups + kLoaders - 1) / kLoaders;
constexpr int kEntries = (kRowGroupsOfLoader + 1) / 2;
constexpr int kBoxes = kHopperKeys / kHopper.box, kBoxesOfLane = (kBoxes + 31) / 32;
// Queries stay in shared memory where registers would not hold them beside the sums, or what is
// read for scores.
constexpr bool kQueriesStay = kHeadDim > 128 || (kHasScoreMod && Variant::kReadsForScores);
static_assert(has_hopper_tiles(kHeadDim, kHeadDimV), "no such kernel");
static_assert(Spec::kHopperRows <= kHopperRows, "the plan's tiles must fit");
static_assert(fits_hopper(kHeadDim, kHeadDimV, {kHopperKeys, kHopperStages}), "too many keys");
using ProductQK = Wgmma<static_cast<ElementType>(Spec::kType), kHopperKeys>;
using ProductPV = Wgmma<static_cast<ElementType>(Spec::kType), kHeadDimV>;

// Where copies put keys: panel by panel; or, if one copy brings all panels of a page, those of
// eight rows side by side.
constexpr int kNextGroup = kPanelsMeet ? kPanels * 1024 : 1024;
constexpr int kNextGroupV = kPanelsMeet ? kPanelsV * 1024 : 1024;
constexpr int kNextPanel = kPanelsMeet ? 1024 : kHopperKeys * 128;
constexpr int kOutside = -64;       // no box of any tensor reaches from there into it
constexpr int kNever = 0x7fffffff;  // a tile that is not

// What the scheduler tells the others of a work item, for one KV head.
struct HopperItem {
  Item item;
  int kv_head;
  int first, last;           // tiles of keys, first >= last; first < 0: there are no more items
  int full_begin, full_end;  // tiles between them need no mask
  int start;                 // contiguous keys: row of the first
  int seen_end;              // keys from here on are seen by no row of the sequence either
};

// With a block map, what the loader tells the consumers of a tile of keys.
constexpr uint32_t kIsCut = 1;    // some row's keys begin or end in it
constexpr uint32_t kIsMixed = 2;  // the mask may hide some of it: the function is asked
constexpr uint32_t kIsLast = 4;   // of its item
JAXINFER_DEVICE uint32_t encode_step(int tile, bool is_cut, bool is_mixed, bool is_last) {
  return static_cast<uint32_t>(tile) << 3 | (is_cut ? kIsCut : 0) | (is_mixed ? kIsMixed : 0) |
         (is_last ? kIsLast : 0);
}
JAXINFER_DEVICE int tile_of_step(uint32_t step) { return static_cast<int>(step >> 3); }

constexpr int kItemSlots = 3;  // the consumers' item, the loader's, and one that is being found

struct HopperShared {
  uint8_t q[kHopper.q_bytes];
  uint8_t k[kHopperStages][kHopper.k_bytes], v[kHopperStages][kHopper.v_bytes];
  uint8_t out[kHopper.out_bytes];
  uint64_t item_full[kItemSlots], item_empty[kItemSlots];
  uint64_t q_full, q_empty;
  uint64_t k_full[kHopperStages], k_empty[kHopperStages];
  uint64_t v_full[kHopperStages], v_empty[kHopperStages];
  // Bit b: box b of the keys does not exist. A warp may read it when its stage is already given
  // back, so it stays for as many tiles more.
  uint32_t absent[2 * kHopperStages][kBoxesOfLane];
  // Twice the rows of the keys of two tiles, in the order of copies; odd: none.
  alignas(16) uint32_t rows[kLoaders][2][kCopiesRows ? 32 * kEntries : 4];
  uint32_t steps[2 * kHopperStages];  // for as long; see encode_step()
  HopperItem items[kItemSlots];
  struct {
    int lo, hi;         // visible keys
    int seq, position;  // for hooks
  } tokens[kItemSlots][kHopperRows];
};
static_assert(sizeof(HopperShared) <= kHopper.shared_bytes, "hopper_tiles.h counts on it");

JAXINFER_DEVICE Place place_of(const HopperShared& s, int slot, int kv_head, int packed) {
  const auto& token = s.tokens[slot][packed / kGroup];
  return {token.seq, kv_head * kGroup + packed % kGroup, token.position};
}
JAXINFER_DEVICE Barrier barrier(const uint64_t& at) { return {shared_address(&at)}; }

// By one thread: how many arrive at each.
JAXINFER_DEVICE void init_barriers(const HopperShared& s) {
  barrier(s.q_full).init(1);
  barrier(s.q_empty).init(kConsumers * 4);
  for (int i = 0; i < kHopperStages; ++i) {
    // Copies of rows arrive lane by lane; what is told of keys, warp by warp.
    barrier(s.k_full[i]).init(kCopiesRows ? kLoaders * (32 + 1) : 1);
    barrier(s.v_full[i]).init(kCopiesRows ? kLoaders * 32 : 1);
    barrier(s.k_empty[i]).init(kConsumers);
    barrier(s.v_empty[i]).init(kConsumers);
  }
  for (int i = 0; i < kItemSlots; ++i) {
    barrier(s.item_full[i]).init(1);
    barrier(s.item_empty[i]).init(kLoaders + kConsumers * 4);
  }
}

}  // namespace jaxinfer
