// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
#include "xla_ffi/attention_call.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>

#include "csrc/attention_tiles.h"
#include "xla_ffi/arrivals.h"
#include "xla_ffi/attention_hopper.h"

namespace jaxinfer {
namespace {

// One call in flight. CTAs are taken one by one by whichever thread is free: which
// thread runs an item never changes its result.
struct Job {
  AttentionParams params;
  ffi::Promise done;
  std::atomic<int64_t> next_cta{0};
  std::atomic<int64_t> workers{0};
  std::atomic<bool> out_of_memory{false};
};

using Scratch = std::unique_ptr<float, decltype(&std::free)>;

Scratch make_scratch(const AttentionParams& params) {
  const size_t bytes = best_cpu_kernels().scratch_floats(params) * sizeof(float);
  return {static_cast<float*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64)), &std::free};
}

void work(Job& job) {
  const CpuKernels& kernels = best_cpu_kernels();
  const AttentionParams& p = job.params;
  const Scratch scratch = make_scratch(p);
  if (scratch == nullptr) job.out_of_memory = true;
  for (int64_t cta; scratch != nullptr && (cta = job.next_cta++) < p.num_ctas;) {
    const int64_t begin = std::max(p.cta_indptr[cta], 0);
    const int64_t end = std::min<int64_t>(p.cta_indptr[cta + 1], p.num_items);
    for (int64_t i = begin; i < end; ++i) {
      kernels.run_item(p, p.items[i], scratch.get());
    }
  }
  if (--job.workers > 0) return;
  // The last one finds all partial results written.
  if (job.out_of_memory) {
    job.done.SetError(ffi::Error(ffi::ErrorCode::kResourceExhausted, "jaxinfer: no memory"));
    return;
  }
  for (int64_t i = 0; i < p.num_merges; ++i) {
    kernels.run_merge(p, p.merges[i], scratch.get());
  }
  job.done.SetAvailable();
}

// What data decides, where the host can read it: the layer, and how much of the plan is in
// use. Kernels on a GPU look themselves.
void read_on_host(AttentionParams* p) {
  const int64_t layer = p->layer ? std::clamp<int64_t>(*p->layer, 0, p->num_layers - 1) : 0;
  const int64_t elements = layer * p->kv.num_pages * p->kv.page_size * p->num_kv_heads;
  const int64_t bytes = elements * element_bytes(p->kv_type);
  p->k = static_cast<const char*>(p->k) + bytes * p->head_dim;
  p->v = static_cast<const char*>(p->v) + bytes * p->head_dim_v;
  const PlanHeader& header = *p->header;
  p->num_ctas = std::clamp<int64_t>(header.num_ctas, 0, p->num_ctas);
  p->num_items = std::clamp<int64_t>(header.num_items, 0, p->num_items);
  p->num_merges = std::clamp<int64_t>(header.num_merges, 0, p->num_merges);
  p->num_parts = std::clamp<int64_t>(header.num_parts, 0, p->num_parts);
}

// Packed rows of the plan's largest tiles.
int64_t most_rows(const PlanFacts& facts) {
  return int64_t{facts.tile_tokens(facts.num_tile_classes - 1)} * facts.q_heads_per_kv_head();
}

// Counters for a merge by the last CTA: where all tiles are short, so that merging is short
// work too, and each item has its parts in one merge, as the planner makes them.
int64_t num_arrivals(const AttentionCall& call) {
  constexpr int64_t kMostMerges = 1 << 14;
  const int64_t merges = call.params.num_merges;
  const bool is_short = !has_prefill(most_rows(call.facts));
  return is_short && merges > 0 && merges <= kMostMerges ? 1 + merges : 0;
}

}  // namespace

void match_call(Matcher& matcher, const Buffers& buffers, size_t num_operands,
                ffi::Dictionary attributes, AttentionCall* call) {
  AttentionParams& p = call->params;
  const auto plan = buffers.arg(num_operands - 1);
  call->num_operands = num_operands;
  const auto out = buffers.ret(0);          // [T, N, Hv]
  const auto lse = buffers.ret(1);          // [T, N] f32
  const auto partial_out = buffers.ret(2);  // [slots, slot_tokens, slot_heads, Hv] f32
  const auto partial_lse = buffers.ret(3);  // [slots, slot_tokens, slot_heads] f32
  matcher.require(buffers.num_args() <= num_operands + kMostVariantOperands, "variant",
                  "has more operands than a kernel takes");
  matcher.require(p.head_dim % 16 == 0 && p.head_dim > 0 && p.head_dim <= 256, "head_dim",
                  "must be a multiple of 16 and at most 256");
  matcher.require(p.head_dim_v % 16 == 0 && p.head_dim_v > 0 && p.head_dim_v <= 256, "head_dim_v",
                  "must be a multiple of 16 and at most 256");
  ffi::Span<const int32_t> encoded, hopper_tiles;
  matcher.attribute(attributes, "facts", &encoded)
      .attribute(attributes, "scale", &p.scale)
      .attribute(attributes, "logits_soft_cap", &p.logits_soft_cap)
      .attribute(attributes, "is_causal", &p.is_causal)
      .attribute<int32_t>(attributes, "window_left", &p.window_left)
      .attribute<int32_t>(attributes, "window_right", &p.window_right)
      .attribute(attributes, "use_softmax", &p.use_softmax)
      .attribute(attributes, "hopper_tiles", &hopper_tiles);
  if (!matcher.ok()) return;
  if (hopper_tiles.size() == 2) call->hopper = {hopper_tiles[0], hopper_tiles[1]};
  matcher.require(hopper_tiles.size() == 0 || fits_hopper(p.head_dim, p.head_dim_v, call->hopper),
                  "hopper_tiles", "must be empty, or keys and stages that fit shared memory");
  const char* wrong = decode_plan_facts(encoded.begin(), encoded.size(), &call->facts);
  if (wrong != nullptr) {
    matcher.require(false, "facts:", wrong);
    return;
  }
  const PlanFacts& facts = call->facts;
  matcher.require(facts.num_tokens == p.num_tokens && facts.num_seqs == p.num_seqs &&
                      facts.num_q_heads == p.num_q_heads && facts.num_kv_heads == p.num_kv_heads,
                  "facts", "do not agree with the operands");
  p.group = facts.q_heads_per_kv_head();
  p.is_batch_invariant = facts.batch_invariant != 0;
  const PlanLayout layout = plan_layout(facts);
  p.num_slots = layout.num_slots;
  p.slot_tokens = layout.slot_tokens;
  p.slot_heads = layout.slot_heads;
  p.slot_kv_heads = facts.kv_heads_per_item;
  ElementType out_type = p.q_type;
  matcher.match("plan", plan, ffi::DataType::S32, {layout.size})
      .match("lse", lse, ffi::DataType::F32, {p.num_tokens, p.num_q_heads})
      .element_type("out", out, &out_type)
      .require(out_type == p.q_type, "out", "must have the dtype of query")
      .require(
          out.element_count() == static_cast<size_t>(p.num_tokens * p.num_q_heads * p.head_dim_v),
          "out", "must have shape [T, N, Hv]")
      .match("partial_out", partial_out, ffi::DataType::F32,
             {p.num_slots, p.slot_tokens, p.slot_heads, p.head_dim_v})
      .match("partial_lse", partial_lse, ffi::DataType::F32,
             {p.num_slots, p.slot_tokens, p.slot_heads})
      .require(p.window_left >= 0 && p.window_right >= 0, "window", "is negative");
  if (!matcher.ok()) return;

  for (size_t i = num_operands; i < buffers.num_args(); ++i)
    p.variant.data[i - num_operands] = buffers.arg(i).untyped_data();
  p.out = out.untyped_data();
  p.lse = static_cast<float*>(lse.untyped_data());
  p.partial_out = static_cast<float*>(partial_out.untyped_data());
  p.partial_lse = static_cast<float*>(partial_lse.untyped_data());
  const int32_t* buffer = int32s(plan);
  p.header = reinterpret_cast<const PlanHeader*>(buffer);
  p.cta_indptr = buffer + layout.cta_indptr;
  p.items = reinterpret_cast<const WorkItem*>(buffer + layout.items);
  p.merges = reinterpret_cast<const MergeItem*>(buffer + layout.merges);
  p.parts = buffer + layout.parts;
  p.num_ctas = facts.num_ctas();
  p.num_items = layout.max_items;
  p.num_merges = layout.max_merges;
  p.num_parts = layout.max_parts;
}

ffi::Future run_on_cpu(ffi::ThreadPool pool, AttentionCall call) {
  auto job = std::make_shared<Job>();
  job->params = call.params;
  read_on_host(&job->params);
  ffi::Future done(job->done);
  // The planner gives few CTAs to little work: one is not worth another thread.
  const int64_t workers =
      std::max<int64_t>(1, std::min<int64_t>(pool.num_threads(), job->params.num_ctas));
  job->workers = workers;
  for (int64_t w = 1; w < workers; ++w) {
    auto task = [job]() mutable { work(*job); };
    pool.Schedule(std::move(task));
  }
  work(*job);
  return done;
}

ffi::Error prepare_on_cuda(ffi::Dictionary attributes, const AttentionCall& call) {
  ffi::Error error = call.is_all_long() ? load_kernel(attributes, {"merge_split"})
                                        : load_kernel(attributes, {"attention", "merge_split"});
  if (error.success() && call.uses_hopper())
    error = load_kernel(attributes, {"attention_hopper"}, kHopperKernel);
  const int64_t count = num_arrivals(call);
  if (error.success() && call.uses_hopper() && draws_tickets(call.facts))
    reserve_arrivals(tickets_key(call.params), 1);
  if (error.success() && count > 0) reserve_arrivals(call.params.partial_lse, count);
  return error;
}

ffi::Error run_on_cuda(CUstream stream, ffi::Dictionary attributes, const AttentionCall& call) {
  AttentionParams p = call.params;
  const PlanFacts& facts = call.facts;
  const AttentionTiles tiles = attention_tiles(p.head_dim, p.head_dim_v, facts.ctas_per_sm);
  if (most_rows(facts) > kMostRows) {
    return ffi::Error::InvalidArgument("jaxinfer: the plan has tiles of more rows than the kernel");
  }
  const int64_t count = num_arrivals(call);
  if (count > 0) p.arrivals = find_arrivals(p.partial_lse, count);
  Launch attend;
  // The band of long tiles is left to the kernel for sm_90a, if there is one.
  attend.grid_x = call.uses_hopper() ? facts.band_ctas[0] : facts.num_ctas();
  attend.threads = tiles.threads();
  attend.shared_bytes = tiles.shared_bytes(call.uses_hopper() ? kMaxDecodeRows : most_rows(facts));
  ffi::Error error = ffi::Error::Success();
  if (!call.is_all_long()) error = launch(stream, attributes, "attention", attend, &p);
  if (error.success() && call.uses_hopper())
    error = launch_hopper(stream, attributes, p, facts, call.hopper);
  if (error.failure() || p.num_merges == 0 || p.arrivals != nullptr) return error;
  Launch merge;
  merge.grid_x = p.num_merges;
  // Each CTA takes 128 quads of columns at a time; those of large tiles go round eight times.
  const int64_t quads = p.slot_tokens * p.slot_heads * p.head_dim_v / 4;
  merge.threads = tiles.threads();
  merge.grid_y = quads <= 512 ? (quads + 127) / 128 : (quads + 1023) / 1024;
  merge.overlaps_previous = true;
  return launch(stream, attributes, "merge_split", merge, &p);
}

}  // namespace jaxinfer
