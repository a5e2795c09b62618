// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// The little that headers shared by the host compiler and the run-time compiler need:
// the latter has no include path at all, so fixed-width integers are declared here.
#pragma once

#ifdef __CUDACC_RTC__
using int8_t = signed char;
using uint8_t = unsigned char;
using int16_t = short;
using uint16_t = unsigned short;
using int32_t = int;
using uint32_t = unsigned int;
using int64_t = long;
using uint64_t = unsigned long;
#else
#include <stdint.h>
#endif

// A function of both sides. Static: the CPU kernels are compiled for several instruction
// sets, and the linker must never choose one copy for all.
#ifdef __CUDACC__
#define JAXINFER_INLINE static __device__ __forceinline__
#else
#define JAXINFER_INLINE static inline
#endif
