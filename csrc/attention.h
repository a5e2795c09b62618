// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// What every attention op asks of a kernel, and the CPU kernels that answer.
// Letters: T tokens, N query heads, K KV heads, H head dim, B sequences, P pages.
#pragma once

#include "csrc/types.h"
#include "csrc/work_item.h"

namespace jaxinfer {

enum class ElementType { kFloat32, kFloat16, kBFloat16 };

// Where key j of page list r lies. Exactly one of the three forms is set.
struct KvLayout {
  const int32_t* page_table = nullptr;    // [num_lists, max_pages] padded lists
  const int32_t* page_indptr = nullptr;   // [num_lists + 1] into page_indices (CSR)
  const int32_t* page_indices = nullptr;  // [num_page_indices]
  const int32_t* kv_starts = nullptr;     // [num_lists] first row of contiguous keys
  int64_t num_lists = 0;
  int64_t max_pages = 0;
  int64_t num_page_indices = 0;
  int64_t num_pages = 0;  // of one layer; contiguous: rows, with page_size 1
  int64_t page_size = 1;
};

// Arrays that the hooks of a variant read.
constexpr int kMostVariantOperands = 16;
struct VariantOperands {
  const void* data[kMostVariantOperands] = {};
};

struct AttentionParams {
  int64_t num_tokens, num_q_heads, num_kv_heads, head_dim, head_dim_v, num_seqs;
  int64_t group;  // query heads per KV head
  ElementType q_type, kv_type;
  const void* q;                   // [T, N, H]
  const void* k;                   // [L, P, page_size, K, H]; contiguous: [S, K, H]
  const void* v;                   // [L, P, page_size, K, Hv]
  const int32_t* layer = nullptr;  // [], which of the L to read
  int64_t num_layers = 1;
  KvLayout kv;
  const int32_t* cu_q_lens;        // [B + 1], or nullptr: one row a sequence
  const int32_t* kv_lens;          // [B]
  const float* k_scale = nullptr;  // [K]
  const float* v_scale = nullptr;  // [K]
  const float* sink = nullptr;     // [N]
  const float* bias = nullptr;     // [B, N, q, k] by the strides, 0 where broadcast
  const bool* mask = nullptr;      // [B, N, q, k] true: visible
  int64_t bias_strides[4] = {}, mask_strides[4] = {};
  int64_t dense_q_len = 0, dense_kv_len = 0;  // q and k of bias and mask

  float scale;
  float logits_soft_cap;  // 0: none
  bool is_causal;
  bool is_top_left;  // query i of a sequence is at position i
  int64_t window_left, window_right;
  bool use_softmax;
  bool is_batch_invariant;  // no bit of a result depends on the rest of the batch

  const PlanHeader* header;
  const int32_t* cta_indptr;  // [num_ctas + 1]
  const WorkItem* items;
  const MergeItem* merges;
  const int32_t* parts;
  int64_t num_ctas, num_items, num_merges, num_parts;  // room in the plan; more than in use
  int64_t num_slots, slot_tokens, slot_heads;
  int64_t slot_kv_heads;  // slot_heads = slot_kv_heads * group
  // CUDA: [1 + num_merges], see csrc/attention_merge.cuh. nullptr: a kernel of its own merges.
  uint64_t* arrivals = nullptr;
  float* partial_out;  // [slots, slot_tokens, slot_heads, Hv]
  float* partial_lse;  // [slots, slot_tokens, slot_heads]
  void* out;           // [T, N, Hv]
  float* lse;          // [T, N]

  VariantOperands variant;  // CUDA
};

struct MergePartialsParams {
  int64_t num_splits, num_rows, num_heads, head_dim;  // rows = tokens
  ElementType type;
  const void* outs;   // [S, T, N, H]
  const float* lses;  // [S, T, N]
  const float* sink;  // [N] or nullptr
  bool use_softmax;
  void* out;   // [T, N, H]
  float* lse;  // [T, N]
};

// One set of kernels per instruction set; best_cpu_kernels() picks at load time.
// Scratch belongs to the caller's task: scratch_floats() floats, 64-byte aligned.
struct CpuKernels {
  const char* name;
  int64_t (*scratch_floats)(const AttentionParams&);
  void (*run_item)(const AttentionParams&, const WorkItem&, float* scratch);
  void (*run_merge)(const AttentionParams&, const MergeItem&, float* scratch);
  void (*merge_partials)(const MergePartialsParams&, int64_t row_begin, int64_t row_end);
};
const CpuKernels& best_cpu_kernels();

}  // namespace jaxinfer
