// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 The jaxinfer authors
//
// Thin names for what sm_90a adds: barriers in shared memory that count bytes, tensor copies
// (TMA), and matrix products of a warpgroup (wgmma).
#pragma once

#include "csrc/hopper_params.h"
#include "csrc/ptx.cuh"

namespace jaxinfer {

// ---- barriers --------------------------------------------------------------------------------

struct Barrier {
  uint32_t address;  // in shared memory

  __device__ __forceinline__ void init(int arrivals) const {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address), "r"(arrivals)
                 : "memory");
  }
  __device__ __forceinline__ void arrive() const {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address) : "memory");
  }
  // Without a branch: behind one the compiler knows less of what is the same in all threads, such
  // as addresses of products.
  __device__ __forceinline__ void arrive_if(bool arrives) const {
    asm volatile(
        "{.reg .pred p; setp.ne.b32 p, %1, 0;\n"
        "@p mbarrier.arrive.shared::cta.b64 _, [%0];}" ::"r"(address),
        "r"(static_cast<int>(arrives))
        : "memory");
  }
  // Arrives, and tells how many bytes of copies belong to the phase.
  __device__ __forceinline__ void arrive_expecting(int bytes) const {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address), "r"(bytes)
                 : "memory");
  }
  // Once all asynchronous copies of this thread so far have come.
  __device__ __forceinline__ void arrive_behind_copies() const {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(address) : "memory");
  }
  // Until the phase of this parity is over: a fresh barrier is in phase 0.
  __device__ __forceinline__ void wait(int parity) const {
    asm volatile(
        "{.reg .pred p;\n"
        "AGAIN: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
        "@!p bra AGAIN;}" ::"r"(address),
        "r"(parity)
        : "memory");
  }
};
// Makes barriers that were initialised known to the copy engine.
JAXINFER_DEVICE void publish_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

JAXINFER_DEVICE void sync_named(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
JAXINFER_DEVICE void arrive_named(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// ---- tensor copies ---------------------------------------------------------------------------

// Copies a box to shared memory. What lies outside of the tensor becomes zero, is not read, and
// counts as bytes all the same.
JAXINFER_DEVICE void copy_box(uint32_t to, const TensorMap& map, Barrier full, int x, int y,
                              int z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(to),
      "l"(&map), "r"(full.address), "r"(x), "r"(y), "r"(z)
      : "memory");
}
JAXINFER_DEVICE void copy_box(uint32_t to, const TensorMap& map, Barrier full, int x, int y, int z,
                              int u) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(to),
      "l"(&map), "r"(full.address), "r"(x), "r"(y), "r"(z), "r"(u)
      : "memory");
}
JAXINFER_DEVICE void copy_box(uint32_t to, const TensorMap& map, Barrier full, int x, int y, int z,
                              int u, int v) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5, %6, %7}], [%2];" ::"r"(to),
      "l"(&map), "r"(full.address), "r"(x), "r"(y), "r"(z), "r"(u), "r"(v)
      : "memory");
}
// Copies a box from shared memory; parts outside of the tensor are left out. One of the copies that
// this thread has under way then.
JAXINFER_DEVICE void store_box(const TensorMap& map, uint32_t from, int x, int y, int z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%2, %3, %4}], [%1];\n"
      "cp.async.bulk.commit_group;" ::"l"(&map),
      "r"(from), "r"(x), "r"(y), "r"(z)
      : "memory");
}
// Until they have read shared memory, which may be written again.
JAXINFER_DEVICE void wait_stores_read() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}
// Until they are done.
JAXINFER_DEVICE void wait_stores() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }
JAXINFER_DEVICE void prefetch(const TensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}
// Shows TMA and wgmma what this thread wrote to shared memory.
JAXINFER_DEVICE void publish_shared() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// ---- registers -------------------------------------------------------------------------------

template <int kCount>
JAXINFER_DEVICE void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
JAXINFER_DEVICE void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}
// The same in all lanes, and known to be.
JAXINFER_DEVICE int uniform(int x) { return __shfl_sync(kWholeWarp, x, 0); }

JAXINFER_DEVICE void store_matrices(uint32_t to, const uint32_t (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to),
               "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
}
// 16 bytes of what they stored.
JAXINFER_DEVICE int4 load_stored(uint32_t from) {
  int4 x;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "r"(from)
               : "memory");
  return x;
}

// ---- matrix products of a warpgroup ----------------------------------------------------------

JAXINFER_DEVICE void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
JAXINFER_DEVICE void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Waits until at most kPending committed groups are under way. `d` is what the last of the others
// writes: the compiler must not read it earlier.
template <int kPending, int kCount>
JAXINFER_DEVICE void wait_products(float (&d)[kCount]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// An operand in shared memory: panels of 64 columns (128 bytes), rows in swizzled groups of eight
// (1024 bytes). `next_group` and `next_panel`: bytes from one to the next.
//   rows are m or n (Q, K)   column steps inside a panel add to the address
//   rows are k (V)           panels follow `next_panel`
JAXINFER_DEVICE uint64_t describe(uint32_t address, int next_panel, int next_group) {
  return static_cast<uint64_t>((address & 0x3ffff) >> 4) |
         static_cast<uint64_t>(next_panel >> 4) << 16 |
         static_cast<uint64_t>(next_group >> 4) << 32 | uint64_t{1} << 62;
}

// D[64 x kN] (+)= A[64 x 16] B[16 x kN], in place of D unless `adds`. A in registers, as four 8x8
// quarters a warp, or in shared memory like B, where with kRowsAreK the rows of B are its k.
template <ElementType kType, int kN>
struct Wgmma;

// Ten registers %t0 to %t9 of an asm statement, and operands d[i] to d[i + 7].
#define JAXINFER_TEN(t) \
  "%" #t "0,%" #t "1,%" #t "2,%" #t "3,%" #t "4,%" #t "5,%" #t "6,%" #t "7,%" #t "8,%" #t "9,"
#define JAXINFER_D8(i)                                                                        \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define JAXINFER_D16(i) JAXINFER_D8(i), JAXINFER_D8(i + 8)
#define JAXINFER_D32(i) JAXINFER_D16(i), JAXINFER_D16(i + 16)
#define JAXINFER_D64(i) JAXINFER_D32(i), JAXINFER_D32(i + 32)
#define JAXINFER_30 JAXINFER_TEN() JAXINFER_TEN(1) JAXINFER_TEN(2)
#define JAXINFER_60 JAXINFER_30 JAXINFER_TEN(3) JAXINFER_TEN(4) JAXINFER_TEN(5)
#define JAXINFER_90 JAXINFER_60 JAXINFER_TEN(6) JAXINFER_TEN(7) JAXINFER_TEN(8)
#define JAXINFER_120 JAXINFER_90 JAXINFER_TEN(9) JAXINFER_TEN(10) JAXINFER_TEN(11)

// `...`: operands of D. p0 to p6 number those behind it: A in registers, B, `adds` and kRowsAreK;
// or A in shared memory, B, and so on.
#define JAXINFER_WGMMA(kElement, type, n, registers, p0, p1, p2, p3, p4, p5, p6, ...)             \
  template <>                                                                                     \
  struct Wgmma<ElementType::kElement, n> {                                                        \
    template <bool kRowsAreK>                                                                     \
    JAXINFER_DEVICE void multiply(float (&d)[n / 2], const uint32_t (&a)[4], uint64_t b,          \
                                  bool adds) {                                                    \
      asm volatile("{.reg .pred p; setp.ne.b32 p, " p5                                            \
                   ", 0;\n"                                                                       \
                   "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" registers \
                   "}, {" p0 "," p1 "," p2 "," p3 "}, " p4 ", p, 1, 1, " p6 ";}"                  \
                   : __VA_ARGS__                                                                  \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b),                          \
                     "r"(static_cast<int>(adds)), "n"(static_cast<int>(kRowsAreK)));              \
    }                                                                                             \
    template <bool kRowsAreK>                                                                     \
    JAXINFER_DEVICE void multiply(float (&d)[n / 2], uint64_t a, uint64_t b, bool adds) {         \
      asm volatile("{.reg .pred p; setp.ne.b32 p, " p2                                            \
                   ", 0;\n"                                                                       \
                   "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" registers \
                   "}, " p0 ", " p1 ", p, 1, 1, 0, " p3 ";}"                                      \
                   : __VA_ARGS__                                                                  \
                   : "l"(a), "l"(b), "r"(static_cast<int>(adds)),                                 \
                     "n"(static_cast<int>(kRowsAreK)));                                           \
    }                                                                                             \
  };
#define JAXINFER_WGMMAS(kElement, type)                                                           \
  JAXINFER_WGMMA(kElement, type, 64, JAXINFER_30 "%30,%31", "%32", "%33", "%34", "%35", "%36",    \
                 "%37", "%38", JAXINFER_D32(0))                                                   \
  JAXINFER_WGMMA(kElement, type, 96,                                                              \
                 JAXINFER_30 JAXINFER_TEN(3) "%40,%41,%42,%43,%44,%45,%46,%47", "%48", "%49",     \
                 "%50", "%51", "%52", "%53", "%54", JAXINFER_D32(0), JAXINFER_D16(32))            \
  JAXINFER_WGMMA(kElement, type, 128, JAXINFER_60 "%60,%61,%62,%63", "%64", "%65", "%66", "%67",  \
                 "%68", "%69", "%70", JAXINFER_D64(0))                                            \
  JAXINFER_WGMMA(kElement, type, 192, JAXINFER_90 "%90,%91,%92,%93,%94,%95", "%96", "%97", "%98", \
                 "%99", "%100", "%101", "%102", JAXINFER_D64(0), JAXINFER_D32(64))                \
  JAXINFER_WGMMA(kElement, type, 256, JAXINFER_120 "%120,%121,%122,%123,%124,%125,%126,%127",     \
                 "%128", "%129", "%130", "%131", "%132", "%133", "%134", JAXINFER_D64(0),         \
                 JAXINFER_D64(64))
JAXINFER_WGMMAS(kBFloat16, "bf16")
JAXINFER_WGMMAS(kFloat16, "f16")

}  // namespace jaxinfer
