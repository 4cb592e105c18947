// Votes Z += v x^T of all matrices on tensor cores, and the sums that are no products.
//
// v is int16 and split exactly into int8 halves, v = 128 high + low with |high| <= 64 and -64 <= low < 64, so that
// two int8 products with int32 sums give it: over at most 2**16 rows |sum| <= 64 * 127 * 2**16 < 2**30. Blocks of
// rows add into int64 atomically; integer sums do not depend on the order.
#include "arithmetic.cuh"
#include "mma.cuh"

constexpr int SIDE = 64, DEPTH = 32, STRIDE = DEPTH + 16; // 12 words: eight rows of a fragment in different banks

struct Place { // of a 64 x 64 tile of one matrix's votes; int32 fields so that the host can fill a table
  int v_column, x_column, outputs, inputs, z_stride, z_low; // outputs, inputs: 64, or fewer at a matrix's end
};

// Bytes i of four words as one word: element i of four rows beside each other.
__device__ inline uint32 column_of(const uint32 (&rows)[4], int i) {
  return __byte_perm(__byte_perm(rows[0], rows[1], i | (i + 4) << 4), __byte_perm(rows[2], rows[3], i | (i + 4) << 4),
                     0x5410);
}

// Grid: (tiles, slices of rows), 128 threads: each warp sums 16 outputs and 64 inputs.
// v : (rows, v_columns) int16    x : (rows, x_columns) int8    z : (parameters,) int64, added to
extern "C" __global__ void __launch_bounds__(128)
sum_matrices(const int16 *v, const int8 *x, const int *places, int64 *z, int rows, int slice, int v_columns,
             int x_columns) {
  __shared__ __align__(16) int8 high[SIDE * STRIDE], low[SIDE * STRIDE], in[SIDE * STRIDE];
  const Place place = ((const Place *)places)[blockIdx.x];
  const int begin = blockIdx.y * slice, end = min(rows, begin + slice);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int quad = threadIdx.x & 15, deep = threadIdx.x >> 4; // this thread fetches columns 4 quad.., rows 4 deep..
  const bool v_there = 4 * quad < place.outputs, x_there = 4 * quad < place.inputs;
  int acc_high[SIDE / 8][4], acc_low[SIDE / 8][4];
#pragma unroll
  for (int n = 0; n < SIDE / 8; n++)
#pragma unroll
    for (int j = 0; j < 4; j++) acc_high[n][j] = acc_low[n][j] = 0;

  for (int row = begin; row < end; row += DEPTH) {
    uint32 h_rows[4], l_rows[4], x_rows[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int64 at = row + 4 * deep + i;
      h_rows[i] = l_rows[i] = x_rows[i] = 0;
      if (at >= end) continue;
      if (x_there) x_rows[i] = *(const uint32 *)(x + at * x_columns + place.x_column + 4 * quad);
      if (v_there) {
        const uint2 four = *(const uint2 *)(v + at * v_columns + place.v_column + 4 * quad);
        const uint32 halves[2] = {four.x, four.y};
#pragma unroll
        for (int j = 0; j < 4; j++) {
          const int value = int16(halves[j >> 1] >> (16 * (j & 1)));
          const int small = ((value + 64) & 127) - 64;
          l_rows[i] |= uint32(small & 255) << (8 * j);
          h_rows[i] |= uint32(((value - small) >> 7) & 255) << (8 * j);
        }
      }
    }
    __syncthreads(); // the last step's fragments have been read
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const int at = (4 * quad + j) * STRIDE + 4 * deep;
      *(uint32 *)(high + at) = column_of(h_rows, j);
      *(uint32 *)(low + at) = column_of(l_rows, j);
      *(uint32 *)(in + at) = column_of(x_rows, j);
    }
    __syncthreads();
    uint32 a_high[4], a_low[4];
    load_a(a_high, high + 16 * warp * STRIDE, STRIDE, lane);
    load_a(a_low, low + 16 * warp * STRIDE, STRIDE, lane);
#pragma unroll
    for (int n = 0; n < SIDE / 8; n++) {
      const int8 *at = in + (8 * n + (lane >> 2)) * STRIDE + 4 * (lane & 3);
      const uint32 b0 = *(const uint32 *)at, b1 = *(const uint32 *)(at + 16);
      mma(acc_high[n], a_high, b0, b1);
      mma(acc_low[n], a_low, b0, b1);
    }
  }
#pragma unroll
  for (int n = 0; n < SIDE / 8; n++)
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const int o = 16 * warp + (lane >> 2) + 8 * (j >> 1), k = 8 * n + 2 * (lane & 3) + (j & 1);
      if (o < place.outputs && k < place.inputs) {
        const int64 sum = 128 * (int64)acc_high[n][j] + acc_low[n][j];
        atomicAdd((uint64 *)(z + place.z_low + (int64)o * place.z_stride + k), uint64(sum));
      }
    }
}

// z[at + n] += constant * sum of v over rows: biases, and the vectors of recipe paper.
// Grid: (places, slices of rows), one thread a column. places : (places, 3) int32 v_column, outputs, z offset
extern "C" __global__ void sum_vectors(const int16 *v, const int *places, int64 *z, int rows, int slice, int v_columns,
                                       int constant) {
  const int *place = places + 3 * blockIdx.x;
  const int begin = blockIdx.y * slice, end = min(rows, begin + slice);
  for (int n = threadIdx.x; n < place[1]; n += blockDim.x) {
    int64 sum = 0;
    for (int row = begin; row < end; row++) sum += v[(int64)row * v_columns + place[0] + n];
    atomicAdd((uint64 *)(z + place[2] + n), uint64(constant * sum));
  }
}
