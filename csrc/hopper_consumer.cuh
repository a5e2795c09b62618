// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// The warpgroups that compute: products and softmax.
#pragma once

#include "csrc/hopper_mask.cuh"
#include "csrc/hopper_results.cuh"

namespace jaxinfer {

struct Yes {
  static constexpr bool value = true;
};
struct No {
  static constexpr bool value = false;
};

// Of a lane's weights of a row together: float16 holds them.
constexpr float kMostWeight = 32768.0f;

// Named barriers: the turn of each consumer, one for its own warpgroup, and one for all.
constexpr int kTurnBarrier = 1, kOwnBarrier = 1 + kConsumers, kAllBarrier = 1 + 2 * kConsumers;

// 64 packed rows of every work item, from 64 * `consumer` on.
JAXINFER_DEVICE void run_consumer(const HopperParams& params, HopperShared& s, int consumer) {
  const AttentionParams& p = params.p;
  constexpr int kS = kHopperKeys / 2, kO = kHeadDimV / 2;  // accumulators of a thread
  const int thread = threadIdx.x & 127, warp = thread >> 5, lane = thread & 31;
  const int warp_row = consumer * 64 + warp * 16;
  const int row = warp_row + (lane >> 2);  // of the tile; and 8 further
  const uint32_t q = shared_address(s.q);

  float x[kS], o[kO];
  uint32_t weights[kHopperKeys / 16][4];
  uint32_t queries[kHeadDim / 16][4];  // unless they stay
  float m[2] = {}, l[2] = {};
  int lo[2], hi[2];
  Place places[2];
  Scores scores;
  SmallCap small_cap;
  // Of the item: tiles, and the mask.
  int turn = -1, tile, last, num_rows, full_begin, full_end, key_base = 0;
  int step = 0;           // tiles so far
  bool are_small = true;  // scores of the item, as far as is known
  uint32_t told = 0;      // with a block map: of the present tile, or already of the next one

  auto has_turn = [&]() { sync_named(kTurnBarrier + consumer, 128 * kConsumers); };
  auto pass_turn = [&]() {
    arrive_named(kTurnBarrier + (consumer + 1) % kConsumers, 128 * kConsumers);
  };
  auto release = [&](const uint64_t& empty) { barrier(empty).arrive_if(thread == 0); };

  // Waits for an item and its queries. False: there are no more.
  auto next_item = [&](HopperItem& next) {
    ++turn;
    const int slot = turn % kItemSlots;
    barrier(s.item_full[slot]).wait(turn / kItemSlots & 1);
    barrier(s.q_full).wait(turn & 1);
    const HopperItem& shared = s.items[slot];
    next.first = uniform(shared.first);
    if (next.first < 0) return false;
    next.kv_head = uniform(shared.kv_head);
    next.last = uniform(shared.last);
    next.full_begin = uniform(shared.full_begin);
    next.full_end = uniform(shared.full_end);
    next.item.num_rows = uniform(shared.item.num_rows);
    if constexpr (Variant::kHasQueryMod) {
#pragma unroll 1
      for (int r = warp_row; r < warp_row + 16; r += 4) {
        // Of the row where modify_rows has this lane.
        const int packed = min(r + lane / 8, next.item.num_rows - 1);
        const Place place = place_of(s, slot, next.kv_head, packed);
        modify_rows<kHeadDim, 4>(
            s.q, kHopperRows, r, [&](int i) { return r + i < next.item.num_rows; },
            [&](const auto& vector, int, int e) { return place.query(p, vector, e); });
      }
      publish_shared();  // for products, and for the copies that come later
      if constexpr (kQueriesStay) sync_named(kOwnBarrier + consumer, 128);
      __syncwarp();
    }
    if constexpr (!kQueriesStay) {
#pragma unroll
      for (int k = 0; k < kHeadDim / 16; ++k)
        load_matrices(queries[k],
                      q + swizzled(kHopperRows, warp_row + (lane & 15), 2 * k + (lane >> 4)));
      __syncwarp();
      barrier(s.q_empty).arrive_if(lane == 0);
    }
    return true;
  };
  // Waits for the keys of the `i`-th tile, to hear which one it is and what to do with it.
  auto look_ahead = [&](int i) {
    if constexpr (kHasBlockMap) {
      barrier(s.k_full[i % kHopperStages]).wait(i / kHopperStages & 1);
      told = __shfl_sync(kWholeWarp, s.steps[i % (2 * kHopperStages)], 0);
    }
  };
  auto is_last = [&]() { return kHasBlockMap ? (told & kIsLast) != 0 : tile == last; };
  // The products with the queries of the item are done.
  auto release_queries = [&]() {
    if constexpr (kQueriesStay) {
      barrier(s.q_empty).arrive_if(is_last() && lane == 0);
    }
  };
  // Keys and values of the `i`-th tile, number `number` of item `turn`, through their hooks: both
  // consumers replace rows, and wait for each other.
  auto modify = [&](int i, int number) {
    if constexpr (kHasVectorHook) {
      const HopperItem& shared = s.items[turn % kItemSlots];
      const int stage = i % kHopperStages, parity = i / kHopperStages & 1;
      const int kv_head = uniform(shared.kv_head), first = number * kHopperKeys;
      barrier(s.k_full[stage]).wait(parity);
      if constexpr (Variant::kHasValueMod) barrier(s.v_full[stage]).wait(parity);
#pragma unroll 1
      for (int at = (consumer * 4 + warp) * 4; at < kHopperKeys; at += kConsumers * 16) {
        auto exists = [&](int r) {
          const int key = first + at + r;
          const int box = (at + r) / kHopper.box;
          const bool is_absent =
              kIsPaged && (s.absent[i % (2 * kHopperStages)][box / 32] >> box % 32 & 1) != 0;
          return key >= shared.item.lo && key < shared.seen_end && !is_absent;
        };
        // Where panels meet, a group of eight rows is a tile of its own.
        const int group = kPanelsMeet ? at >> 3 : 0;
        modify_keys<4>(p, shared.item, kv_head, s.k[stage] + group * kNextGroup,
                       s.v[stage] + group * kNextGroupV, kPanelsMeet ? 8 : kHopperKeys,
                       kPanelsMeet ? at & 7 : at, first + at + shared.item.key_base, exists);
      }
      publish_shared();
      sync_named(kAllBarrier, 128 * kConsumers);
    }
  };
  // Makes it the present one.
  auto begin_item = [&](const HopperItem& next) {
    tile = kHasBlockMap ? tile_of_step(told) : next.first, last = next.last;
    full_begin = next.full_begin, full_end = next.full_end;
    num_rows = next.item.num_rows, are_small = true;
    const HopperItem& shared = s.items[turn % kItemSlots];
    scores = Scores::make(p, next.kv_head);
    if constexpr (kCapsLate) small_cap = SmallCap::make(scores.scale, scores.log2_scale);
    if constexpr (kHasScoreHook) key_base = uniform(shared.item.key_base);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int packed = min(row + 8 * r, next.item.num_rows - 1);
      const auto& token = s.tokens[turn % kItemSlots][packed / kGroup];
      lo[r] = token.lo, hi[r] = token.hi;
      if constexpr (kHasScoreHook) places[r] = place_of(s, turn % kItemSlots, next.kv_head, packed);
    }
  };
  auto multiply_qk = [&](int i) {
    const int stage = i % kHopperStages;
    const uint64_t b = describe(shared_address(s.k[stage]), 16, kNextGroup);
    barrier(s.k_full[stage]).wait(i / kHopperStages & 1);
    if constexpr (kCopiesRows) publish_shared();
    begin_products();
#pragma unroll
    for (int k = 0; k < kHeadDim / 16; ++k) {
      const uint64_t step_b = b + (((k / 4) * kNextPanel + (k % 4) * 32) >> 4);
      if constexpr (kQueriesStay) {
        const uint64_t a = describe(q + consumer * 64 * 128, 16, 1024);
        const uint64_t step_a = a + (((k / 4) * kHopperRows * 128 + (k % 4) * 32) >> 4);
        ProductQK::template multiply<false>(x, step_a, step_b, k > 0);
      } else {
        ProductQK::template multiply<false>(x, queries[k], step_b, k > 0);
      }
    }
    commit_products();
  };
  auto multiply_pv = [&](int i, bool adds) {
    const int stage = i % kHopperStages;
    const uint64_t b = describe(shared_address(s.v[stage]), kNextPanel, kNextGroupV);
    barrier(s.v_full[stage]).wait(i / kHopperStages & 1);
    if constexpr (kCopiesRows) publish_shared();
    begin_products();
#pragma unroll
    for (int k = 0; k < kHopperKeys / 16; ++k)
      ProductPV::template multiply<true>(o, weights[k], b + (k * 2 * kNextGroupV >> 4),
                                         k > 0 || adds);
    commit_products();
  };
  // Done with the keys of the `i`-th tile. Returns which of them were absent.
  auto release_keys = [&](int i) {
    AbsentKeys absent{};
    if constexpr (kIsPaged) absent = AbsentKeys::load(s.absent[i % (2 * kHopperStages)], lane);
    release(s.k_empty[i % kHopperStages]);
    return absent;
  };
  // The position of the key of score n of the lane, of keys from `begin` on.
  auto key_of = [&](int n, int begin) { return begin + n / 4 * 8 + (n & 1) + key_base; };
  // The score as the softmax sees it.
  auto score_of = [&](int n, int begin) {
    return places[n >> 1 & 1].score(p, key_of(n, begin), scores(x[n]));
  };
  auto small_score_of = [&](int n, int begin) {
    return places[n >> 1 & 1].score(p, key_of(n, begin), scores.small(x[n]));
  };
  // By the mask function as well, if `asks`.
  auto hide_unseen = [&](const Columns(&seen)[2], int begin, auto asks) {
#pragma unroll
    for (int n = 0; n < kS; ++n) {
      const int r = n >> 1 & 1, key = key_of(n, begin);
      bool sees = seen[r].has(n / 4 * 2 + (n & 1));
      // The function is asked of hidden keys too: behind a branch each, what it reads comes one
      // after the other. Where that is much, registers would not do.
      if constexpr (decltype(asks)::value) {
        if constexpr (Variant::kReadsForPairs) {
          sees = sees && places[r].sees(p, key);
        } else {
          sees &= places[r].sees(p, key);
        }
      }
      if (!sees) x[n] = Spec::kUseSoftmax ? -infinity() : 0.0f;
    }
  };
  auto hide_scores = [&](int begin, AbsentKeys absent) {
    Columns seen[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) seen[r] = Columns::between(lo[r] - begin, hi[r] - begin);
    if (kIsPaged && absent.some()) {
#pragma unroll
      for (int i = 0; i < kColumns; ++i)
        if (absent.has(i / 2 * 8 + (i & 1))) seen[0].drop(i), seen[1].drop(i);
    }
    if (Variant::kHasMaskMod && (!kHasBlockMap || (told & kIsMixed) != 0)) {
      hide_unseen(seen, begin, Yes{});
    } else {
      hide_unseen(seen, begin, No{});
    }
  };
  auto set_weight = [&](int n, float even, float odd) {
    weights[n / 8][n / 2 % 4] = Type::pack(even, odd);
  };
  // Weights of the scores in x, which stay, by the maxima so far: what is computed for a score
  // hides behind exponentials that way, and no maximum is waited for. False: some row has outgrown
  // its maximum, or had none yet, and the weights are of no use.
  auto exponentiate = [&](int begin) {
    const float c = scores.log2_scale;
    float bias[2] = {-m[0] * c, -m[1] * c}, factor = c, slope[2] = {};
    if constexpr (kAddsLine) {
      factor *= scores.scale;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const Line line = places[r].line(p, begin + key_base);
        bias[r] = fmaf(line.base, c, bias[r]), slope[r] = line.slope * c;
      }
    }
    float sums[4] = {}, largest[2] = {};
    uint32_t are_small_caps[2] = {~0u, ~0u};  // in the sign
    auto exponent_of = [&](int n) {
      const int r = n >> 1 & 1;
      if constexpr (kCapsLate) {
        float beyond;
        const float exponent = SmallCap::of(small_cap, x[n], bias[r], &beyond);
        are_small_caps[r] &= __float_as_uint(beyond);
        return exponent;
      } else if constexpr (kAddsLine) {
        return fmaf(x[n], factor, fmaf(slope[r], n / 4 * 8 + (n & 1), bias[r]));
      } else if constexpr (kSmallScores > 0.0f) {
        largest[r] = fmaxf(largest[r], fabsf(x[n]));
        return fmaf(small_score_of(n, begin), factor, bias[r]);
      } else {
        return fmaf(score_of(n, begin), factor, bias[r]);
      }
    };
#pragma unroll
    for (int n = 0; n < kS; n += 2) {
      const float made[2] = {exp2_approx(exponent_of(n)), exp2_approx(exponent_of(n + 1))};
      sums[n & 2] += made[0], sums[(n & 2) + 1] += made[1];
      set_weight(n, made[0], made[1]);
    }
    const float sum[2] = {sums[0] + sums[1], sums[2] + sums[3]};
    bool fits = true, is_small = true;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      // Rows behind those of the item are other sequences', or nothing: no result may depend on
      // them.
      if (row + 8 * r >= num_rows) continue;
      // Not a number where a row has no maximum yet.
      fits = fits && sum[r] <= kMostWeight;
      if constexpr (kSmallScores > 0.0f)
        is_small = is_small && largest[r] * fabsf(scores.scale) <= kSmallScores;
      if constexpr (kCapsLate) is_small = is_small && are_small_caps[r] >> 31 != 0;
    }
    // Where some are larger, others of the item will be: small ones are not tried again.
    if constexpr (kSmallScores > 0.0f || kCapsLate)
      are_small = __all_sync(kWholeWarp, is_small) != 0;
    fits = __all_sync(kWholeWarp, fits) != 0 && are_small;
    if (fits) l[0] += sum[0], l[1] += sum[1];
    return fits;
  };
  // The same by new maxima; x becomes whatever. What was summed so far shrinks.
  auto softmax = [&](int begin, AbsentKeys absent, bool is_masked, auto is_first) {
    constexpr bool kFirst = decltype(is_first)::value;
    if constexpr (kScaleEarly) {
      settle(begin);  // or what exponentiate() computed for the same columns would be kept for here
#pragma unroll
      for (int n = 0; n < kS; ++n) x[n] = score_of(n, begin);
    }
    if (is_masked) hide_scores(begin, absent);
    if constexpr (Spec::kUseSoftmax) {
      const float c = scores.log2_scale;
      float most[4] = {x[0], x[1], x[2], x[3]};
#pragma unroll
      for (int n = 4; n < kS; ++n) most[n & 3] = fmaxf(most[n & 3], x[n]);
      float bias[2], shrink[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float m_new = max_over_lanes<1, 4>(fmaxf(most[2 * r], most[2 * r + 1]));
        if constexpr (!kFirst) m_new = fmaxf(m_new, m[r]);
        bias[r] = m_new == -infinity() ? 0.0f : m_new * c;
        if constexpr (!kFirst) shrink[r] = exp2_approx(m[r] * c - bias[r]);
        m[r] = m_new;
      }
      float sums[4] = {};
#pragma unroll
      for (int n = 0; n < kS; ++n) {
        x[n] = exp2_approx(fmaf(x[n], c, -bias[n >> 1 & 1]));
        sums[n & 3] += x[n];
      }
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float sum = sums[2 * r] + sums[2 * r + 1];
        l[r] = kFirst ? sum : l[r] * shrink[r] + sum;
      }
      if constexpr (!kFirst) {
#pragma unroll
        for (int n = 0; n < kO; ++n) o[n] *= shrink[n >> 1 & 1];
      }
    }
#pragma unroll
    for (int n = 0; n < kS; n += 2) set_weight(n, x[n], x[n + 1]);
  };
  // x of tile `tile` becomes its weights; updates m, l and o.
  auto weigh = [&](AbsentKeys absent, auto is_first) {
    constexpr bool kFirst = decltype(is_first)::value;
    const int begin = tile * kHopperKeys + 2 * (lane & 3);  // of this lane: 0, 1, 8, 9, 16, 17 ...
    bool is_masked = kFirst || tile < full_begin || tile >= full_end;
    if constexpr (kHasBlockMap) {
      is_masked = kFirst || (told & (kIsCut | kIsMixed)) != 0;
    } else if constexpr (Variant::kHasMaskMod) {
      is_masked = true;
    }
    if constexpr (!kFirst && Spec::kUseSoftmax) {
      // What is hidden must be so behind the functions of a score.
      if (!kScaleEarly && is_masked) hide_scores(begin, absent), is_masked = false;
      if (!is_masked && are_small && exponentiate(begin)) return;
    }
    softmax(begin, absent, is_masked, is_first);
  };
  // Values that no row sees may be anything, and 0 * NaN is not 0: both consumers write zeros.
  auto clear_values = [&](int i) {
    if constexpr (kCopiesRows) return;  // they come as zeros
    const HopperItem& shared = s.items[turn % kItemSlots];
    const int begin = uniform(max(shared.item.lo - tile * kHopperKeys, 0));
    const int end = uniform(min(max(shared.seen_end - tile * kHopperKeys, 0), kHopperKeys));
    if (begin == 0 && end == kHopperKeys) return;
    const int stage = i % kHopperStages;
    barrier(s.v_full[stage]).wait(i / kHopperStages & 1);
    for (int at = thread; at < kHopperKeys * kPanelsV * 8; at += 128) {
      const int key = at / (kPanelsV * 8), panel = at / 8 % kPanelsV, chunk = at % 8;
      if (key >= begin && key < end) continue;
      store_zeros(shared_address(s.v[stage]) + panel * kNextPanel + (key >> 3) * kNextGroupV +
                  (key & 7) * 128 + chunk * 16);
    }
    publish_shared();
    sync_named(kOwnBarrier + consumer, 128);
  };

  if (consumer == 0) arrive_named(kTurnBarrier, 128 * kConsumers);  // it has the first turn
  HopperItem next;
  if (!next_item(next)) return;
  look_ahead(0);
  begin_item(next);
  modify(0, tile);
  multiply_qk(0);
  wait_products<0>(x);
  release_queries();
  weigh(release_keys(0), Yes{});
  for (;;) {
    // These are the weights of tile `tile`, the first of its item and the `step`-th of all.
    bool has_sums = false;
    clear_values(step);
    while (!is_last()) {
      look_ahead(step + 1);
      tile = kHasBlockMap ? tile_of_step(told) : tile - 1;
      modify(step + 1, tile);
      has_turn();
      multiply_qk(step + 1);
      multiply_pv(step, has_sums);
      has_sums = true;
      pass_turn();
      wait_products<1>(x);
      release_queries();
      const AbsentKeys absent = release_keys(step + 1);
      wait_products<0>(o);
      release(s.v_empty[step % kHopperStages]);
      weigh(absent, No{});
      ++step;
    }
    // The last tile of the item, together with the first one of the next.
    const int slot = turn % kItemSlots;
    if (kHasBlockMap || tile < uniform(s.items[slot].first)) clear_values(step);
    if (!next_item(next)) {
      multiply_pv(step, has_sums);
      wait_products<0>(o);
      write_results(params, s, slot, warp_row, lane, scores, m, l, o);
      wait_stores();
      return;
    }
    look_ahead(step + 1);
    modify(step + 1, kHasBlockMap ? tile_of_step(told) : next.first);
    has_turn();
    multiply_qk(step + 1);
    multiply_pv(step, has_sums);
    pass_turn();
    wait_products<1>(x);
    const AbsentKeys absent = release_keys(step + 1);
    wait_products<0>(o);
    release(s.v_empty[step % kHopperStages]);
    write_results(params, s, slot, warp_row, lane, scores, m, l, o);
    __syncwarp();
    barrier(s.item_empty[slot]).arrive_if(lane == 0);
    begin_item(next);
    release_queries();
    ++step;
    weigh(absent, Yes{});
  }
}

}  // namespace jaxinfer
