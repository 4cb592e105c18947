// acc (16, 8) int32 += A (16, 32) int8 . B (32, 8) int8 on tensor cores, by one warp (PTX ISA, mma.m16n8k32).
//   a: rows lane / 4 and + 8 of A, four bytes from column 4 (lane % 4), then the same from column 16 on
//   b: column lane / 4 of B, four bytes from row 4 (lane % 4), and from row 16 on
//   acc: rows lane / 4 (two) and + 8 (two), columns 2 (lane % 4) and + 1
// No .satfinite: sums wrap, and never reach 2**31 (docs/arithmetic.md).
#pragma once
#include "arithmetic.cuh"

#ifndef EGG_HOST
__device__ inline void mma(int (&acc)[4], const uint32 (&a)[4], uint32 b0, uint32 b1) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+r"(acc[0]), "+r"(acc[1]), "+r"(acc[2]), "+r"(acc[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#define SHARED_BUFFER(name) extern __shared__ __align__(16) unsigned char name[]
#endif

__device__ inline int warp_sum(int v) {
#pragma unroll
  for (int distance = 16; distance; distance >>= 1) v += __shfl_xor_sync(0xFFFFFFFFu, v, distance);
  return v;
}

// One 16 x 32 fragment of A from rows of int8 with this stride (a multiple of 4; 16 mod 32 keeps banks apart).
__device__ inline void load_a(uint32 (&a)[4], const int8 *rows, int stride, int lane) {
  const int8 *at = rows + (lane >> 2) * stride + 4 * (lane & 3);
  a[0] = *(const uint32 *)(at);
  a[1] = *(const uint32 *)(at + 8 * stride);
  a[2] = *(const uint32 *)(at + 16);
  a[3] = *(const uint32 *)(at + 8 * stride + 16);
}
