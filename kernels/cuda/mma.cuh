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
// Four 8 x 16-byte matrices of shared memory (PTX ISA, ldmatrix.x4): lane l gives row l % 8 of matrix l / 8, at a
// multiple of 16 bytes, and is given in out[i] the four bytes from 4 (l % 4) on of row l / 4 of matrix i.
__device__ inline void load_matrices(uint32 (&out)[4], const int8 *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(uint32(__cvta_generic_to_shared(row)))
               : "memory"); // what was stored there is read
}
#define SHARED_BUFFER(name) extern __shared__ __align__(16) unsigned char name[]
#endif

// Which row of 16, and from which of its 32 bytes on, a lane gives load_matrices: out is then a of mma, or b0 and b1
// of eight columns and b0 and b1 of the next eight.
__device__ inline int row_of_a(int lane) { return lane & 15; }
__device__ inline int byte_of_a(int lane) { return lane & 16; }
__device__ inline int row_of_b(int lane) { return (lane & 7) + ((lane & 16) >> 1); }
__device__ inline int byte_of_b(int lane) { return (lane & 8) << 1; }
