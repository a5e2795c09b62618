// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
// clang-format off: what is emulated comes first
#include "emulated_launch.h"
#include "csrc/rope.cuh"
#include "csrc/update_kv_pages.cc"
#include "xla_ffi/rope.cc"
#include "xla_ffi/rope_update_kv_pages.cc"
#include "xla_ffi/update_kv_pages.cc"
// clang-format on

void jaxinfer::run_entry(const std::string& entry, const void* params) {
  if (entry == "rope") return ::rope(*static_cast<const RopeParams*>(params));
  ::rope_update_kv_pages(*static_cast<const RopeUpdateKvPagesParams*>(params));
}

JAXINFER_EMULATED(EmulatedRope, rope_on_cuda);
JAXINFER_EMULATED(EmulatedRopeUpdateKvPages, rope_update_on_cuda);
