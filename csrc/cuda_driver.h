// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// The few functions of the CUDA driver that launching a kernel takes, found in
// libcuda.so.1 when first asked for. Declared here, not included: one build serves
// machines with and without CUDA, and every CUDA version.
#pragma once

#include <stddef.h>

namespace jaxinfer {

struct CUlib_st;
struct CUkern_st;
struct CUfunc_st;
struct CUstream_st;
using CUlibrary = CUlib_st*;
using CUkernel = CUkern_st*;
using CUfunction = CUfunc_st*;
using CUstream = CUstream_st*;
using CUdevice = int;
using CUresult = int;  // 0: success

constexpr int kMaxSharedMemoryPerBlockOptin = 97;  // CUdevice_attribute
constexpr int kSharedSizeBytes = 1;                // CUfunction_attribute
constexpr int kMaxDynamicSharedSizeBytes = 8;      // CUfunction_attribute
constexpr unsigned kProgrammaticStreamSerialization = 6;

struct CUlaunchAttribute {
  unsigned id;
  char pad[4];
  union {
    char bytes[64];
    int programmatic_stream_serialization_allowed;
  } value;
};

struct CUlaunchConfig {
  unsigned grid_x, grid_y, grid_z;
  unsigned block_x, block_y, block_z;
  unsigned shared_bytes;
  CUstream stream;
  CUlaunchAttribute* attributes;
  unsigned num_attributes;
};

constexpr int kTensorFloat16 = 6, kTensorBFloat16 = 9;  // CUtensorMapDataType
constexpr int kSwizzle128Bytes = 3;                     // CUtensorMapSwizzle
constexpr int kPromote256Bytes = 3;                     // CUtensorMapL2promotion

struct CudaDriver {
  CUresult (*cuGetErrorString)(CUresult, const char**);
  CUresult (*cuCtxGetDevice)(CUdevice*);
  CUresult (*cuDeviceGetAttribute)(int*, int, CUdevice);
  CUresult (*cuLibraryLoadData)(CUlibrary*, const void*, void*, void*, unsigned, void*, void*,
                                unsigned);
  CUresult (*cuLibraryGetKernel)(CUkernel*, CUlibrary, const char*);
  CUresult (*cuKernelGetFunction)(CUfunction*, CUkernel);
  CUresult (*cuKernelGetAttribute)(int*, int, CUkernel, CUdevice);
  CUresult (*cuKernelSetAttribute)(int, int, CUkernel, CUdevice);
  CUresult (*cuMemAlloc_v2)(unsigned long long*, size_t);
  CUresult (*cuMemsetD8_v2)(unsigned long long, unsigned char, size_t);
  CUresult (*cuStreamSynchronize)(CUstream);
  // Since 12.0. (map, type, rank, address, sizes, strides, box, steps, interleaving, swizzle,
  // promotion, fill)
  CUresult (*cuTensorMapEncodeTiled)(void*, int, unsigned, void*, const unsigned long*,
                                     const unsigned long*, const unsigned*, const unsigned*, int,
                                     int, int, int);
  CUresult (*cuLaunchKernelEx)(const CUlaunchConfig*, CUfunction, void**, void**);
};

// The driver, or nullptr where there is none (or one older than CUDA 12.0).
const CudaDriver* cuda_driver();

}  // namespace jaxinfer
