// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// What the ops that append to a cache share: the operands.
#pragma once

#include "csrc/update_kv_pages.h"
#include "xla_ffi/check.h"

namespace jaxinfer {

// What the caller needs besides the parameters.
struct AppendSizes {
  int64_t T = -1, K = -1, H = -1, Hv = -1;
  ElementType type{};
};

// Matches the ten operands from `first_arg` and the two results from `first_ret`, and fills
// the parameters without reading any operand: these may lie on a GPU.
void match_append(Matcher& matcher, const Buffers& buffers, size_t first_arg, size_t first_ret,
                  AppendSizes* sizes, UpdateKvPagesParams* params);

}  // namespace jaxinfer
