// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// Where the counters of merges live that are done by whichever CTA comes last
// (csrc/attention_merge.cuh). They must outlive calls, and belong to one call while it runs. A
// counter in a workspace would have to be cleared by a node of its own (2 us a call); one in a
// plan or an operand is shared by calls that may run side by side. But two calls that run side
// by side never have the same workspace: so the address of the workspace names the counters.
#pragma once

#include <cstddef>
#include <cstdint>

namespace jaxinfer {

// Makes sure that the calls on the current device whose workspace is at `workspace` have
// `count` counters, zero at first. Not during capture. Where there is no memory left, there are
// none.
void reserve_arrivals(const void* workspace, size_t count);

// These counters, or nullptr.
uint64_t* find_arrivals(const void* workspace, size_t count);

}  // namespace jaxinfer
