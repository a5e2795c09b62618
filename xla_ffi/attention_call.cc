// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
#include "xla_ffi/attention_call.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>

namespace jaxinfer {
namespace {

// One call in flight. CTAs are taken one by one by whichever thread is free: which
// thread runs an item never changes its result.
struct Job {
  AttentionCall call;
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
  const AttentionCall& call = job.call;
  const Scratch scratch = make_scratch(call.params);
  if (scratch == nullptr) job.out_of_memory = true;
  for (int64_t cta; scratch != nullptr && (cta = job.next_cta++) < call.num_ctas;) {
    const int64_t begin = std::max(call.cta_indptr[cta], 0);
    const int64_t end = std::min<int64_t>(call.cta_indptr[cta + 1], call.params.num_items);
    for (int64_t i = begin; i < end; ++i) {
      kernels.run_item(call.params, call.params.items[i], scratch.get());
    }
  }
  if (--job.workers > 0) return;
  // The last one finds all partial results written.
  if (job.out_of_memory) {
    job.done.SetError(ffi::Error(ffi::ErrorCode::kResourceExhausted, "jaxinfer: no memory"));
    return;
  }
  for (int64_t i = 0; i < call.params.num_merges; ++i) {
    kernels.run_merge(call.params, call.params.merges[i], scratch.get());
  }
  job.done.SetAvailable();
}

}  // namespace

void match_call(Matcher& matcher, const AttentionOptions& options, const ffi::AnyBuffer& plan,
                AttentionResults& results, AttentionCall* call) {
  AttentionParams& p = call->params;
  matcher.require(p.head_dim % 16 == 0 && p.head_dim > 0 && p.head_dim <= 256, "head_dim",
                  "must be a multiple of 16 and at most 256");
  matcher.require(p.head_dim_v % 16 == 0 && p.head_dim_v > 0 && p.head_dim_v <= 256, "head_dim_v",
                  "must be a multiple of 16 and at most 256");
  PlanFacts facts;
  const char* wrong = decode_plan_facts(options.facts.begin(), options.facts.size(), &facts);
  if (wrong != nullptr) {
    matcher.require(false, "facts:", wrong);
    return;
  }
  matcher.require(facts.num_tokens == p.num_tokens && facts.num_seqs == p.num_seqs &&
                      facts.num_q_heads == p.num_q_heads && facts.num_kv_heads == p.num_kv_heads,
                  "facts", "do not agree with the operands");
  const PlanLayout layout = plan_layout(facts);
  p.num_slots = layout.num_slots;
  p.slot_tokens = layout.slot_tokens;
  p.slot_heads = layout.slot_heads;
  matcher.match("plan", plan, ffi::DataType::S32, {layout.size})
      .match("lse", *results.lse, ffi::DataType::F32, {p.num_tokens, p.num_q_heads})
      .shape("out", *results.out, {p.num_tokens, p.num_q_heads, p.head_dim_v})
      .match("partial_out", *results.partial_out, ffi::DataType::F32,
             {p.num_slots, p.slot_tokens, p.slot_heads, p.head_dim_v})
      .match("partial_lse", *results.partial_lse, ffi::DataType::F32,
             {p.num_slots, p.slot_tokens, p.slot_heads});
  ElementType out_type = p.q_type;
  matcher.element_type("out", *results.out, &out_type)
      .require(out_type == p.q_type, "out", "must have the dtype of query")
      .require(options.window_left >= 0 && options.window_right >= 0, "window", "is negative");
  if (!matcher.ok()) return;

  p.scale = options.scale;
  p.logits_soft_cap = options.logits_soft_cap;
  p.is_causal = options.is_causal;
  p.window_left = options.window_left;
  p.window_right = options.window_right;
  p.use_softmax = options.use_softmax;
  p.out = results.out->untyped_data();
  p.lse = static_cast<float*>(results.lse->untyped_data());
  p.partial_out = static_cast<float*>(results.partial_out->untyped_data());
  p.partial_lse = static_cast<float*>(results.partial_lse->untyped_data());

  const int32_t* buffer = int32s(plan);
  const auto& header = *reinterpret_cast<const PlanHeader*>(buffer);
  p.items = reinterpret_cast<const WorkItem*>(buffer + layout.items);
  p.merges = reinterpret_cast<const MergeItem*>(buffer + layout.merges);
  p.parts = buffer + layout.parts;
  p.num_items = std::clamp<int64_t>(header.num_items, 0, layout.max_items);
  p.num_merges = std::clamp<int64_t>(header.num_merges, 0, layout.max_merges);
  p.num_parts = std::clamp<int64_t>(header.num_parts, 0, layout.max_parts);
  call->cta_indptr = buffer + layout.cta_indptr;
  call->num_ctas = std::clamp<int64_t>(header.num_ctas, 0, facts.num_ctas);
}

ffi::Future run_attention(ffi::ThreadPool pool, const AttentionCall& call) {
  auto job = std::make_shared<Job>();
  job->call = call;
  ffi::Future done(job->done);
  // The planner gives few CTAs to little work: one is not worth another thread.
  const int64_t workers =
      std::max<int64_t>(1, std::min<int64_t>(pool.num_threads(), call.num_ctas));
  job->workers = workers;
  for (int64_t w = 1; w < workers; ++w) {
    auto task = [job]() mutable { work(*job); };
    pool.Schedule(std::move(task));
  }
  work(*job);
  return done;
}

ffi::Future failed(const ffi::Error& error) {
  ffi::Promise promise;
  ffi::Future future(promise);
  promise.SetError(error);
  return future;
}

}  // namespace jaxinfer
