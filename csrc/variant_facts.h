// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// What the text of a variant tells kernels, beside its hooks.
#pragma once

#include "csrc/types.h"

namespace jaxinfer {

// A score between -kSmallScores and kSmallScores of its variant: raw * scale.
struct SmallScore {
  float raw, scale;
  constexpr operator float() const { return raw * scale; }
};

// A score_mod that is size * tanh(factor * score).
struct SoftCap {
  float size = 0.0f, factor = 0.0f;  // 0: it is not
};

// What is added to the scores of neighbouring keys: base, base + slope, base + 2 slope ...
struct Line {
  float base, slope;
};

// Blocks of the mask: states of [seqs, heads, rows, keys] blocks of block_q by block_kv positions.
struct BlockMap {
  int operand = -1;                             // -1: not known
  int seqs = 0, heads = 0, rows = 1, keys = 1;  // 0: one for all
  int block_q = 1, block_kv = 1;
};
enum BlockState { kBlockHidden, kBlockMixed, kBlockShown };

}  // namespace jaxinfer
