// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
#include "xla_ffi/attention_hopper.h"

#include <cstdint>

#include "csrc/attention_tiles.h"
#include "csrc/hopper_params.h"
#include "xla_ffi/arrivals.h"

namespace jaxinfer {
namespace {

// A tensor of 16-bit elements, axes from the innermost out.
template <int kRank>
struct Tensor {
  unsigned long sizes[kRank];
  unsigned long strides[kRank - 1];  // bytes, of all axes but the innermost
  unsigned box[kRank];

  bool encode(const void* data, ElementType type, TensorMap* map) const {
    unsigned steps[kRank];
    for (unsigned& step : steps) step = 1;
    const int element = type == ElementType::kFloat16 ? kTensorFloat16 : kTensorBFloat16;
    return cuda_driver()->cuTensorMapEncodeTiled(map, element, kRank, const_cast<void*>(data),
                                                 sizes, strides, box, steps, 0, kSwizzle128Bytes,
                                                 kPromote256Bytes, 0) == 0;
  }
};

// K or V, with rows of `dim` elements for each KV head.
bool encode_cache(const AttentionParams& p, const void* data, int64_t dim,
                  const HopperLayout& layout, TensorMap* map) {
  using Size = unsigned long;
  const Size size = dim, heads = p.num_kv_heads, head_bytes = 2 * size, row = heads * head_bytes;
  const int box = layout.box;
  if (p.kv.kv_starts != nullptr) {
    const Size rows = p.kv.num_pages;
    return Tensor<3>{{size, heads, rows}, {head_bytes, row}, {64, 1, unsigned(box)}}.encode(
        data, p.q_type, map);
  }
  if (layout.copies_rows) return true;  // without tensor copies
  const Size groups = Size(p.num_layers * p.kv.num_pages * p.kv.page_size / 8);
  if (!layout.panels_meet)
    return Tensor<4>{
        {size, 8, groups, heads}, {row, 8 * row, head_bytes}, {64, 8, unsigned(box / 8), 1}}
        .encode(data, p.q_type, map);
  return Tensor<5>{{64, 8, size / 64, groups, heads},
                   {row, 128, 8 * row, head_bytes},
                   {64, 8, unsigned(size / 64), unsigned(box / 8), 1}}
      .encode(data, p.q_type, map);
}

// Head groups whose keys and values stay in the L2 cache while the tiles of the longest sequence
// there can be go through them: 20 to 28 MB were best on an H200.
int section_heads(const PlanFacts& facts, int64_t dims) {
  constexpr int64_t kMostBytes = 28000000;
  const int64_t bytes = int64_t{2} * facts.kv_heads_per_item * facts.max_kv_len * dims;
  int heads = facts.head_groups();
  while (heads > 1 && (facts.head_groups() % heads != 0 || heads * bytes > kMostBytes)) --heads;
  return heads;
}

}  // namespace

ffi::Error launch_hopper(CUstream stream, ffi::Dictionary attributes, const AttentionParams& params,
                         const PlanFacts& facts, HopperTiles tiles) {
  HopperParams hopper;
  hopper.p = params;
  const AttentionParams& p = hopper.p;
  const bool is_paged = p.kv.kv_starts == nullptr;
  const int page_size = is_paged ? static_cast<int>(p.kv.page_size) : 0;
  // Long tiles are those of the second band, or there is only one.
  const bool is_beside = facts.num_bands() > 1;
  const bool leaves_long = is_beside && facts.tile_tokens(0) * p.group > kMaxDecodeRows;
  if (!has_hopper_tiles(p.head_dim, p.head_dim_v) || leaves_long)
    return ffi::Error::InvalidArgument("jaxinfer: no such kernel for sm_90a");
  const HopperLayout layout = hopper_layout(p.head_dim, p.head_dim_v, page_size, tiles);
  const unsigned tokens = facts.tile_tokens(facts.num_tile_classes - 1);
  const unsigned group = p.group, out_heads = group < 16 ? group : 16;
  auto rows_of = [&](unsigned long size, unsigned box_heads, unsigned box_tokens) {
    const unsigned long heads = p.num_q_heads, rows = p.num_tokens;
    return Tensor<3>{
        {size, heads, rows}, {2 * size, 2 * size * heads}, {64, box_heads, box_tokens}};
  };
  if (!rows_of(p.head_dim, group, tokens).encode(p.q, p.q_type, &hopper.q) ||
      (stores_boxes(p.group) &&
       !rows_of(p.head_dim_v, out_heads, 16 / out_heads).encode(p.out, p.q_type, &hopper.out)) ||
      !encode_cache(p, p.k, p.head_dim, layout, &hopper.k) ||
      !encode_cache(p, p.v, p.head_dim_v, layout, &hopper.v))
    return ffi::Error::Internal("jaxinfer: the driver refuses a tensor map");
  hopper.tickets = nullptr;
  if (draws_tickets(facts))
    hopper.tickets = reinterpret_cast<uint32_t*>(find_arrivals(tickets_key(p), 1));
  hopper.first_cta = facts.first_cta(facts.num_bands() - 1);
  hopper.num_head_groups = facts.head_groups();
  hopper.section_heads = section_heads(facts, p.head_dim + p.head_dim_v);
  Launch prefill;
  prefill.grid_x = facts.num_ctas() - hopper.first_cta;
  prefill.threads = kHopperThreads;
  prefill.shared_bytes = layout.shared_bytes;
  prefill.overlaps_previous = is_beside;  // which is the kernel of the first band
  return launch(stream, attributes, "attention_hopper", prefill, &hopper, kHopperKernel);
}

}  // namespace jaxinfer
