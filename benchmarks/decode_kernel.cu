// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// The decode kernel without XLA, to tune it: times of graphs of 24 launches, by themselves
// ("alone": what is split stays unmerged), merged by a kernel behind it ("kernel", "PDL"),
// merged by the CTA that comes last ("fused"), and so with each call a graph of its own inside
// the graph, which is how XLA captures calls ("child").
//
//   nvcc -O3 -std=c++17 -arch=sm_90a -I. [-DCTAS_PER_SM=2] -o decode_kernel
//       benchmarks/decode_kernel.cu csrc/plan.cc csrc/plan_facts.cc
//   ./decode_kernel 1x4096 16x1024 64x4096z     (z: lengths by Zipf)
#ifndef CTAS_PER_SM
#define CTAS_PER_SM 1
#endif
#ifndef REPLAYS_IN_A_ROW
#define REPLAYS_IN_A_ROW 1
#endif
namespace jaxinfer {
struct Spec {
  static constexpr int kType = 2, kHeadDim = 128, kHeadDimV = 128, kGroup = 4, kPageSize = 16;
  static constexpr int kTileRows = 8, kCtasPerSm = CTAS_PER_SM;
  static constexpr bool kIsCsr = false, kIsStacked = false, kIsScalePositive = true;
  static constexpr bool kHasSoftCap = false, kHasKScale = false, kHasVScale = false;
  static constexpr bool kHasSink = false, kHasBias = false, kHasMask = false;
  static constexpr bool kUseSoftmax = true;
};
}  // namespace jaxinfer
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <vector>

#include "csrc/attention.cuh"
#include "csrc/plan.h"

constexpr int kKvHeads = 8, kPage = Spec::kPageSize, kCalls = 24, kReplays = 7;
constexpr int kInARow = REPLAYS_IN_A_ROW;
constexpr size_t kPoolBytes = 2500ull << 20;  // of K, and of V
constexpr size_t kRowBytes1 = kKvHeads * kHeadDim * 2;
constexpr double kColdBytes = 600e6;  // what the calls rotate over

void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::printf("%s\n", cudaGetErrorString(error));
  std::exit(1);
}

template <typename T>
T* device(size_t count) {
  T* p;
  check(cudaMalloc(&p, count * sizeof(T) + 16));
  check(cudaMemset(p, 0, count * sizeof(T) + 16));
  return p;
}
template <typename T>
T* device(const std::vector<T>& values) {
  T* p = device<T>(values.size());
  check(cudaMemcpy(p, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  return p;
}

__global__ void fill(uint16_t* p, size_t n) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < n;
       i += gridDim.x * blockDim.x) {
    const unsigned x = static_cast<unsigned>(i) * 2654435761u;
    p[i] = __float_as_uint((x >> 16) / 32768.0f - 1.0f) >> 16;  // bfloat16 in [-1, 1)
  }
}

std::vector<int> make_lengths(const char* cell) {
  int batch, mean;
  std::sscanf(cell, "%dx%d", &batch, &mean);
  std::vector<int> lens(batch, mean);
  if (std::strchr(cell, 'z') == nullptr) return lens;
  double sum = 0;
  for (int i = 0; i < batch; ++i) sum += 1.0 / (i + 1);
  for (int i = 0; i < batch; ++i) lens[i] = std::max(1.0, batch * mean / sum / (i + 1));
  for (int i = batch - 1; i > 0; --i) std::swap(lens[i], lens[(i * 7919 + 13) % (i + 1)]);
  return lens;
}

enum Merge { kAlone, kKernel, kOverlapped, kFused, kChild };

void launch(AttentionParams p, Merge merge, uint64_t* arrivals, cudaStream_t stream) {
  p.arrivals = merge >= kFused ? arrivals : nullptr;
  attention<<<p.num_ctas, kThreads, kSharedBytes, stream>>>(p);
  if (merge == kAlone || merge >= kFused) return;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(p.num_merges, (p.slot_tokens * p.slot_heads * kHeadDimV / 4 + 127) / 128);
  config.blockDim = kThreads;
  config.stream = stream;
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  config.numAttrs = merge == kOverlapped;
  check(cudaLaunchKernelEx(&config, merge_split, p));
}

template <typename Calls>
cudaGraph_t capture(cudaStream_t stream, Calls calls) {
  cudaGraph_t graph;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  calls();
  check(cudaStreamEndCapture(stream, &graph));
  return graph;
}

// Microseconds a call: the median of some replays, or of as many rows of replays without a pause
// as REPLAYS_IN_A_ROW says.
double time_calls(AttentionParams p, Merge merge, const std::vector<int*>& tables,
                  uint64_t* arrivals, cudaStream_t stream) {
  const auto call = [&](int i) {
    p.kv.page_table = tables[i % tables.size()];
    launch(p, merge, arrivals, stream);
  };
  cudaGraph_t graph;
  if (merge == kChild) {
    check(cudaGraphCreate(&graph, 0));
    cudaGraphNode_t node{};
    for (int i = 0; i < kCalls; ++i) {
      const cudaGraphNode_t last = node;
      const cudaGraph_t child = capture(stream, [&] { call(i); });
      check(cudaGraphAddChildGraphNode(&node, graph, &last, i > 0, child));
    }
  } else {
    graph = capture(stream, [&] {
      for (int i = 0; i < kCalls; ++i) call(i);
    });
  }
  cudaGraphExec_t executable;
  check(cudaGraphInstantiate(&executable, graph, 0));
  check(cudaGraphLaunch(executable, stream));
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin));
  check(cudaEventCreate(&end));
  std::vector<float> times(kReplays);
  for (float& ms : times) {
    check(cudaEventRecord(begin, stream));
    for (int i = 0; i < kInARow; ++i) check(cudaGraphLaunch(executable, stream));
    check(cudaEventRecord(end, stream));
    check(cudaEventSynchronize(end));
    check(cudaEventElapsedTime(&ms, begin, end));
  }
  std::sort(times.begin(), times.end());
  return times[kReplays / 2] * 1e3 / kCalls / kInARow;
}

void run(const char* cell, uint16_t* k, uint16_t* v, cudaStream_t stream) {
  const std::vector<int> lens = make_lengths(cell);
  const int batch = lens.size(), longest = *std::max_element(lens.begin(), lens.end());
  const int max_pages = (longest + kPage - 1) / kPage;
  int pages = 0;
  for (int len : lens) pages += (len + kPage - 1) / kPage;
  const double bytes = 2.0 * kRowBytes1 * std::accumulate(lens.begin(), lens.end(), 0.0);
  const size_t fitting = kPoolBytes / (pages * kPage * kRowBytes1);
  const int copies =
      std::clamp<size_t>(kColdBytes / bytes + 2, 1, std::min<size_t>(fitting, kCalls));
  std::vector<int*> tables;
  unsigned seed = 7;
  for (int c = 0; c < copies; ++c) {  // every page once, in random order
    std::vector<int> order(pages), table(size_t(batch) * max_pages, 0x7ffffff);
    std::iota(order.begin(), order.end(), c * pages);
    for (int i = pages - 1; i > 0; --i) {
      seed = seed * 1664525u + 1013904223u;
      std::swap(order[i], order[(seed >> 8) % (i + 1)]);
    }
    for (int b = 0, next = 0; b < batch; ++b)
      for (int i = 0; i < (lens[b] + kPage - 1) / kPage; ++i)
        table[size_t(b) * max_pages + i] = order[next++];
    tables.push_back(device(table));
  }

  PlanFacts f{};
  f.num_tokens = f.num_seqs = batch;
  f.max_kv_len = longest;
  f.num_q_heads = kKvHeads * kGroup, f.num_kv_heads = kKvHeads;
  f.is_causal = 1, f.window_left = f.window_right = kUnbounded;
  f.num_ctas = 132 * CTAS_PER_SM, f.ctas_per_sm = CTAS_PER_SM;
  f.kv_heads_per_item = 1, f.min_cost = 1, f.min_keys_per_row = 40, f.split_keys = 2048;
  f.num_tile_classes = 1, f.tile_classes[0] = {Spec::kTileRows, 16, 1, 0};
  const PlanLayout layout = plan_layout(f);
  std::vector<int> buffer(layout.size), offsets(batch + 1);
  std::iota(offsets.begin(), offsets.end(), 0);
  make_plan(f, offsets.data(), lens.data(), buffer.data());
  const int* plan = device(buffer);

  AttentionParams p{};
  p.num_tokens = p.num_seqs = batch;
  p.num_q_heads = f.num_q_heads, p.num_kv_heads = kKvHeads, p.group = kGroup;
  p.head_dim = p.head_dim_v = kHeadDim;
  p.q_type = p.kv_type = ElementType::kBFloat16;
  uint16_t* query = device<uint16_t>(batch * f.num_q_heads * kHeadDim);
  fill<<<64, 256>>>(query, batch * f.num_q_heads * kHeadDim);
  p.q = query, p.k = k, p.v = v;
  p.kv.num_lists = batch, p.kv.max_pages = max_pages;
  p.kv.num_pages = int64_t{pages} * copies, p.kv.page_size = kPage;
  p.cu_q_lens = device(offsets), p.kv_lens = device(lens);
  p.scale = 0.088f, p.is_causal = p.use_softmax = true;
  p.window_left = p.window_right = kUnbounded;
  p.header = reinterpret_cast<const PlanHeader*>(plan);
  p.cta_indptr = plan + layout.cta_indptr;
  p.items = reinterpret_cast<const WorkItem*>(plan + layout.items);
  p.merges = reinterpret_cast<const MergeItem*>(plan + layout.merges);
  p.parts = plan + layout.parts;
  p.num_ctas = f.num_ctas, p.num_items = layout.max_items;
  p.num_merges = layout.max_merges, p.num_parts = layout.max_parts;
  p.num_slots = layout.num_slots, p.slot_tokens = layout.slot_tokens;
  p.slot_heads = layout.slot_heads, p.slot_kv_heads = 1;
  const size_t slot_rows = p.num_slots * p.slot_tokens * p.slot_heads;
  p.partial_out = device<float>(slot_rows * kHeadDimV), p.partial_lse = device<float>(slot_rows);
  p.out = device<uint16_t>(batch * f.num_q_heads * kHeadDimV);
  p.lse = device<float>(batch * f.num_q_heads);
  uint64_t* arrivals = device<uint64_t>(1 + p.num_merges);

  std::printf("%-10s", cell);
  for (const auto& [name, merge] :
       {std::pair{"alone", kAlone}, {"kernel", kKernel}, {"PDL", kOverlapped}, {"fused", kFused}, {"child", kChild}}) {
    const double warm = time_calls(p, merge, {tables[0]}, arrivals, stream);
    const double cold = time_calls(p, merge, tables, arrivals, stream);
    std::printf(" | %s %.2f (cold %.2f)", name, warm, cold);
    if (merge == kFused) std::printf(" us, %.2f TB/s", bytes / warm * 1e-6);
  }
  std::printf("\n");
}

int main(int argc, char** argv) {
  cudaStream_t stream;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  check(cudaFuncSetAttribute(attention, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes));
  auto *k = device<uint16_t>(kPoolBytes / 2), *v = device<uint16_t>(kPoolBytes / 2);
  fill<<<2048, 256>>>(k, kPoolBytes / 2);
  fill<<<2048, 256>>>(v, kPoolBytes / 2);
  check(cudaDeviceSynchronize());
  for (int i = 1; i < argc; ++i) run(argv[i], k, v, stream);
}
