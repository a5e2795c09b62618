// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// Rotary embedding (RoFormer, arXiv 2104.09864) on CUDA: one CTA a token, which computes the
// R / 2 sines and cosines of its position once for all heads. The second entry also rotates
// the token's key on its way into the cache, and copies its value there.
//
//   (a, b) -> (a cos - b sin, a sin + b cos),  angle = position * frequency, in float32
#pragma once

#include "csrc/rope.h"
#include "csrc/update_kv_pages.cuh"
#include "csrc/vectors.cuh"

namespace jaxinfer {

// One step of the CTA: one vector, or two that rotate against each other.
template <typename Elements>
struct RopeStep {
  const void* from;
  void* to;          // nullptr: nowhere
  int second, pair;  // bytes from the first vector to the second, or 0; first pair
  Elements a, b;
};

template <ElementType kType, int kWidth, bool kAppends>
struct Rope {
  using Type = Float<kType>;
  using Elements = Vector<typename Type::Storage, kWidth>;
  using Step = RopeStep<Elements>;
  static constexpr int kBytes = sizeof(Elements), kSize = sizeof(typename Type::Storage);

  const RopeParams& p;
  const UpdateKvPagesParams* append;
  int64_t token;
  int query_steps, key_steps;  // those after them copy the value

  // Where step `n` reads from. Where keys and values go is not known yet.
  __device__ __forceinline__ Step load(int n) const {
    Step step{};
    const void* rows = p.x;
    int64_t heads = p.num_heads;
    if (kAppends && n >= query_steps) {
      n -= query_steps;
      if (n >= key_steps) {
        n -= key_steps;
        step.from = static_cast<const char*>(append->value) + token * append->v_row_bytes +
                    int64_t{n} * kBytes;
        step.a = load_vector<Elements>(step.from);
        return step;
      }
      rows = append->key;
      heads = append->k_row_bytes / (p.head_dim * kSize);
    }
    const int head_steps = rope_head_steps(p), pair_steps = rope_pair_steps(p);
    const int head = n / head_steps, at = n - head * head_steps;
    const bool is_pair = at < pair_steps;
    // Vectors from the start of the head.
    const int vector = !is_pair ? at + pair_steps : p.is_interleaved ? 2 * at : at;
    step.from = static_cast<const char*>(rows) + (token * heads + head) * p.head_dim * kSize +
                vector * kBytes;
    step.a = load_vector<Elements>(step.from);
    if (is_pair) {
      step.second = p.is_interleaved ? kBytes : pair_steps * kBytes;
      step.pair = at * kWidth;
      step.b = load_vector<Elements>(static_cast<const char*>(step.from) + step.second);
    }
    return step;
  }

  // `row`: of the cache, -1: none.
  __device__ __forceinline__ void place(Step& step, int n, int64_t row) const {
    const char* from = static_cast<const char*>(step.from);
    if (!kAppends || n < query_steps) {
      step.to = static_cast<char*>(p.out) + (from - static_cast<const char*>(p.x));
    } else if (row < 0) {
      step.to = nullptr;
    } else if (n < query_steps + key_steps) {
      step.to = static_cast<char*>(append->k_pages) + (row - token) * append->k_row_bytes +
                (from - static_cast<const char*>(append->key));
    } else {
      step.to = static_cast<char*>(append->v_pages) + (row - token) * append->v_row_bytes +
                (from - static_cast<const char*>(append->value));
    }
  }

  static __device__ __forceinline__ void turn(typename Type::Storage& x, typename Type::Storage& y,
                                              float cosine, float sine) {
    const float u = Type::widen(x), v = Type::widen(y);
    x = Type::narrow(u * cosine - v * sine);
    y = Type::narrow(u * sine + v * cosine);
  }

  __device__ __forceinline__ void store(const Step& step, const float* cosines,
                                        const float* sines) const {
    if (step.to == nullptr) return;
    Elements a = step.a, b = step.b;
    if (step.second > 0) {
      const float* cosine = cosines + step.pair;
      const float* sine = sines + step.pair;
#pragma unroll
      for (int c = 0; c < kWidth; ++c) {
        if (!p.is_interleaved) {
          turn(a.at[c], b.at[c], cosine[c], sine[c]);
        } else if (kWidth == 1) {
          turn(a.at[0], b.at[0], cosine[0], sine[0]);
        } else if (2 * c < kWidth) {
          turn(a.at[2 * c], a.at[2 * c + 1], cosine[c], sine[c]);
        } else {
          turn(b.at[2 * c - kWidth], b.at[2 * c + 1 - kWidth], cosine[c], sine[c]);
        }
      }
      store_vector(static_cast<char*>(step.to) + step.second, b);
    }
    store_vector(step.to, a);
  }

  __device__ __forceinline__ void run(int num_steps) const {
    float* cosines = reinterpret_cast<float*>(shared_memory);
    float* sines = cosines + p.rotary_dim / 2;
    const int thread = threadIdx.x, threads = blockDim.x;
    Step step{};
    if (thread < num_steps) step = load(thread);
    // Where the token stands, and where it goes.
    int64_t position = 0, row = -1;
    TokenSeq seq{};
    if constexpr (kAppends) {
      const int64_t first_row = first_row_of_layer(*append);
      if (append->slot_mapping == nullptr) seq = find_seq(*append, token);
      const int64_t slot = cache_slot(*append, token, seq);
      row = slot < 0 ? -1 : first_row + slot;
      position = seq.position;
    }
    if (p.positions != nullptr) position = p.positions[token];
    for (int pair = thread; pair < p.rotary_dim / 2; pair += threads) {
      // Rounded before it is reduced: the angle of the reference.
      const float angle = __fmul_rn(static_cast<float>(position), p.frequencies[pair]);
      sincosf(angle, &sines[pair], &cosines[pair]);
    }
    __syncthreads();
    for (int n = thread; n < num_steps; n += threads) {
      if (n > thread) step = load(n);
      place(step, n, row);
      store(step, cosines, sines);
    }
  }
};

template <ElementType kType, int kWidth>
JAXINFER_INLINE void rotate(const RopeParams& p) {
  const int steps = static_cast<int>(p.num_heads) * rope_head_steps(p);
  Rope<kType, kWidth, false>{p, nullptr, blockIdx.x, steps, 0}.run(steps);
}

template <ElementType kType, int kWidth>
JAXINFER_INLINE void rotate(const RopeUpdateKvPagesParams& p) {
  using Kernel = Rope<kType, kWidth, true>;
  const int head_steps = rope_head_steps(p.query);
  const int query_steps = static_cast<int>(p.query.num_heads) * head_steps;
  const int key_steps = static_cast<int>(p.num_kv_heads) * head_steps;
  const int value_steps = static_cast<int>(p.append.v_row_bytes / Kernel::kBytes);
  Kernel{p.query, &p.append, blockIdx.x, query_steps, key_steps}.run(query_steps + key_steps +
                                                                     value_steps);
}

template <ElementType kType, typename Params>
JAXINFER_INLINE void rotate_by_width(const Params& p, int width) {
  if (width > 1) {
    rotate<kType, 16 / sizeof(typename Float<kType>::Storage)>(p);
  } else {
    rotate<kType, 1>(p);
  }
}

template <typename Params>
JAXINFER_INLINE void rotate_by_type(const Params& p, const RopeParams& query) {
  switch (query.type) {
    case ElementType::kFloat32:
      return rotate_by_width<ElementType::kFloat32>(p, query.width);
    case ElementType::kFloat16:
      return rotate_by_width<ElementType::kFloat16>(p, query.width);
    case ElementType::kBFloat16:
      return rotate_by_width<ElementType::kBFloat16>(p, query.width);
  }
}

}  // namespace jaxinfer

extern "C" __global__ void __launch_bounds__(jaxinfer::kMostRopeThreads)
    rope(const __grid_constant__ jaxinfer::RopeParams p) {
  jaxinfer::rotate_by_type(p, p);
}

extern "C" __global__ void __launch_bounds__(jaxinfer::kMostRopeThreads)
    rope_update_kv_pages(const __grid_constant__ jaxinfer::RopeUpdateKvPagesParams p) {
  jaxinfer::rotate_by_type(p, p.query);
}
