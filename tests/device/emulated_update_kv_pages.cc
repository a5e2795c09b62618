// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
// clang-format off: what is emulated comes first
#include "emulated_launch.h"
#include "csrc/update_kv_pages.cc"
#include "csrc/update_kv_pages.cuh"
#include "xla_ffi/update_kv_pages.cc"
// clang-format on

void jaxinfer::run_entry(const std::string&, const void* params) {
  ::update_kv_pages(*static_cast<const UpdateKvPagesParams*>(params));
}

JAXINFER_EMULATED(EmulatedUpdateKvPages, update_on_cuda);
