// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// Thin names for the instructions that the kernels are made of (sm_80 and later), and the
// two 16-bit element types. No headers of CUDA: a kernel compiles in under a second.
#pragma once

#include "csrc/attention.h"

namespace jaxinfer {

#define JAXINFER_DEVICE static __device__ __forceinline__

constexpr float kLog2e = 1.44269504088896340736f;
constexpr float kLn2 = 0.69314718055994530942f;
constexpr unsigned kWholeWarp = 0xffffffffu;

JAXINFER_DEVICE float infinity() { return __int_as_float(0x7f800000); }
// One instruction, which the compiler makes several of where a factor lies in a uniform register.
JAXINFER_DEVICE uint64_t multiply_wide(uint32_t a, uint32_t b) {
  uint64_t c;
  asm("mul.wide.u32 %0, %1, %2;" : "=l"(c) : "r"(a), "r"(b));
  return c;
}

// ---- elements ------------------------------------------------------------------------------

template <ElementType>
struct Element;

template <>
struct Element<ElementType::kBFloat16> {
  JAXINFER_DEVICE uint32_t pack(float lo, float hi) {
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
  }
  JAXINFER_DEVICE float widen(uint16_t x) { return __uint_as_float(uint32_t{x} << 16); }
  // C[16x8] += A[16x16] B[16x8]
  JAXINFER_DEVICE void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
};

template <>
struct Element<ElementType::kFloat16> {
  JAXINFER_DEVICE uint32_t pack(float lo, float hi) {
    uint32_t r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
  }
  JAXINFER_DEVICE float widen(uint16_t x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
  }
  JAXINFER_DEVICE void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
};

// ---- shared memory -------------------------------------------------------------------------

JAXINFER_DEVICE uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Copies 16 bytes to shared memory, or writes zeros and reads nothing.
JAXINFER_DEVICE void copy_async(uint32_t to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
}
JAXINFER_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most N groups of this thread's copies are still on their way.
template <int N>
JAXINFER_DEVICE void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

JAXINFER_DEVICE void store_zeros(uint32_t to) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(to), "r"(0) : "memory");
}

JAXINFER_DEVICE void load_matrices(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
JAXINFER_DEVICE void load_matrices_transposed(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
JAXINFER_DEVICE uint32_t transpose8x8(uint32_t x) {
  uint32_t y;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}

// Byte of 16-byte chunk `chunk` of row `row` in a tile of `rows` rows: panels of 128 bytes a
// row, chunks swizzled so that neither rows nor columns of 8 meet in a bank.
JAXINFER_DEVICE uint32_t swizzled(int rows, int row, int chunk) {
  return (chunk >> 3) * rows * 128 + row * 128 + (((chunk & 7) ^ (row & 7)) << 4);
}

// ---- memory that other CTAs write ------------------------------------------------------------

// Reads from the L2 cache, or not at all: then `otherwise`. Without a branch, so that many
// may be under way at once.
JAXINFER_DEVICE float load_if(bool valid, const float* from, float otherwise) {
  float x = otherwise;
  asm volatile("{.reg .pred p; setp.ne.s32 p, %2, 0; @p ld.global.cg.f32 %0, [%1];}"
               : "+f"(x)
               : "l"(from), "r"(static_cast<int>(valid))
               : "memory");
  return x;
}
JAXINFER_DEVICE float4 load_if(bool valid, const float4* from) {
  float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  asm volatile(
      "{.reg .pred p; setp.ne.s32 p, %5, 0; @p ld.global.cg.v4.f32 {%0, %1, %2, %3}, [%4];}"
      : "+f"(v.x), "+f"(v.y), "+f"(v.z), "+f"(v.w)
      : "l"(from), "r"(static_cast<int>(valid))
      : "memory");
  return v;
}

// A number of 64 bits that the compiler does not know to be the same in all lanes: else it would
// add up the counts of a warp, and wait for the result of that at once.
JAXINFER_DEVICE uint64_t opaque(uint64_t x) {
  asm volatile("" : "+l"(x));
  unsigned lane;
  asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
  return x + lane;
}
// For lane 0 alone. Adds to a counter, and returns what it was. With `count_up`, what this CTA
// wrote before a barrier in front of it is seen by whoever counts after it, behind a barrier.
JAXINFER_DEVICE uint64_t count_up(uint64_t* counter, uint64_t by) {
  uint64_t before;
  asm volatile("atom.acq_rel.gpu.global.add.u64 %0, [%1], %2;"
               : "=l"(before)
               : "l"(counter), "l"(opaque(by))
               : "memory");
  return before;
}
JAXINFER_DEVICE uint64_t count_up_relaxed(uint64_t* counter, uint64_t by) {
  uint64_t before;
  asm volatile("atom.relaxed.gpu.global.add.u64 %0, [%1], %2;"
               : "=l"(before)
               : "l"(counter), "l"(opaque(by))
               : "memory");
  return before;
}
// What the counter was: it goes from 0 to `last`, and to 0 again.
JAXINFER_DEVICE uint32_t count_around(uint32_t* counter, uint32_t last) {
  uint32_t before;
  asm volatile("atom.relaxed.gpu.global.inc.u32 %0, [%1], %2;"
               : "=r"(before)
               : "l"(counter), "r"(last)
               : "memory");
  return before;
}
JAXINFER_DEVICE void raise_to(uint64_t* counter, uint64_t least) {
  asm volatile("red.relaxed.gpu.global.max.u64 [%0], %1;" ::"l"(counter), "l"(opaque(least))
               : "memory");
}

// ---- arithmetic ------------------------------------------------------------------------------

JAXINFER_DEVICE float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// To 2^-22, and 0 at 1.
JAXINFER_DEVICE float log2_approx(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// To one unit in the last place.
JAXINFER_DEVICE float reciprocal_approx(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

template <int kFrom, int kTo>
JAXINFER_DEVICE float max_over_lanes(float x) {
#pragma unroll
  for (int d = kFrom; d < kTo; d *= 2) x = fmaxf(x, __shfl_xor_sync(kWholeWarp, x, d));
  return x;
}
template <int kFrom, int kTo>
JAXINFER_DEVICE float sum_over_lanes(float x) {
#pragma unroll
  for (int d = kFrom; d < kTo; d *= 2) x += __shfl_xor_sync(kWholeWarp, x, d);
  return x;
}

// ---- dependent launches (no effect before sm_90) ----------------------------------------------

JAXINFER_DEVICE void launch_dependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
JAXINFER_DEVICE void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

}  // namespace jaxinfer
