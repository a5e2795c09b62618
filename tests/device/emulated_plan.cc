// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
// clang-format off: what is emulated comes first
#include "emulated_launch.h"
#include "csrc/plan.cc"
#include "csrc/plan.cuh"
#include "csrc/plan_facts.cc"
#include "xla_ffi/plan.cc"
// clang-format on

void jaxinfer::run_entry(const std::string&, const void* params) {
  ::make_plan(*static_cast<const MakePlanParams*>(params));
}

JAXINFER_EMULATED(EmulatedPlan, plan_on_cuda);

// Without XLA: fast enough for thousands of plans. Where `threads` and `ctas` are not 0 they
// replace the launch's own. Returns whether every thread came to its end.
extern "C" int plan_emulated(const int32_t* facts, int64_t num_facts, const int32_t* cu_q_lens,
                             const int32_t* kv_lens, int32_t* buffer, int threads, int ctas,
                             int64_t seed) {
  using namespace jaxinfer;
  PlanFacts decoded;
  if (decode_plan_facts(facts, num_facts, &decoded) != nullptr) return false;
  const PlanLayout layout = plan_layout(decoded);
  Launch grid;
  grid.grid_x = ctas > 0 ? ctas : plan_ctas(decoded);
  grid.threads = threads > 0 ? threads : plan_threads(decoded);
  MakePlanParams p = make_plan_params(decoded, layout, grid.threads);
  grid.shared_bytes = p.at.end;
  p.cu_q_lens = cu_q_lens, p.kv_lens = kv_lens, p.buffer = buffer;
  return emulate("make_plan", grid, seed, &p);
}
