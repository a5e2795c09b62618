// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// The FFI handlers, one per op. module.cc hands them to Python.
#pragma once

#include "xla/ffi/api/c_api.h"

namespace jaxinfer {

extern "C" {
XLA_FFI_Error* Plan(XLA_FFI_CallFrame*);
XLA_FFI_Error* RaggedPagedAttention(XLA_FFI_CallFrame*);
XLA_FFI_Error* RaggedAttention(XLA_FFI_CallFrame*);
XLA_FFI_Error* DotProductAttention(XLA_FFI_CallFrame*);
XLA_FFI_Error* UpdateKvPages(XLA_FFI_CallFrame*);
XLA_FFI_Error* MergePartials(XLA_FFI_CallFrame*);

// On CUDA, stages "initialize" and "execute".
XLA_FFI_Error* RaggedPagedAttentionCudaInitialize(XLA_FFI_CallFrame*);
XLA_FFI_Error* RaggedPagedAttentionCuda(XLA_FFI_CallFrame*);
XLA_FFI_Error* RaggedAttentionCudaInitialize(XLA_FFI_CallFrame*);
XLA_FFI_Error* RaggedAttentionCuda(XLA_FFI_CallFrame*);
XLA_FFI_Error* DotProductAttentionCudaInitialize(XLA_FFI_CallFrame*);
XLA_FFI_Error* DotProductAttentionCuda(XLA_FFI_CallFrame*);
XLA_FFI_Error* PlanCudaInitialize(XLA_FFI_CallFrame*);
XLA_FFI_Error* PlanCuda(XLA_FFI_CallFrame*);
XLA_FFI_Error* UpdateKvPagesCudaInitialize(XLA_FFI_CallFrame*);
XLA_FFI_Error* UpdateKvPagesCuda(XLA_FFI_CallFrame*);
XLA_FFI_Error* MergePartialsCudaInitialize(XLA_FFI_CallFrame*);
XLA_FFI_Error* MergePartialsCuda(XLA_FFI_CallFrame*);
XLA_FFI_Error* RopeCudaInitialize(XLA_FFI_CallFrame*);
XLA_FFI_Error* RopeCuda(XLA_FFI_CallFrame*);
XLA_FFI_Error* RopeUpdateKvPagesCudaInitialize(XLA_FFI_CallFrame*);
XLA_FFI_Error* RopeUpdateKvPagesCuda(XLA_FFI_CallFrame*);
}

}  // namespace jaxinfer
