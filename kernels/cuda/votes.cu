// Votes Z += v x^T of all matrices on tensor cores, and the sums that are no products.
//
// v and x are int8, and over at most 2**17 rows, of all blocks together, |sum| <= 127 * 127 * 2**17 < 2**31; where x is
// a sign, as in recipe paper, 2**24 rows are as far from it. Blocks of rows add into int32 atomically; integer sums do
// not depend on the order.
#include "arithmetic.cuh"
#include "mma.cuh"

constexpr int SIDE = 64, DEPTH = 32;

struct Place { // of a 64 x 64 tile of one matrix's votes; int32 fields so that the host can fill a table
  int v_column, x_column, outputs, inputs, z_stride, z_low; // outputs, inputs: 64, or fewer at a matrix's end
};

// Bytes i of four words as one word: element i of four rows beside each other.
__device__ inline uint32 column_of(const uint32 (&rows)[4], int i) {
  return __byte_perm(__byte_perm(rows[0], rows[1], i | (i + 4) << 4), __byte_perm(rows[2], rows[3], i | (i + 4) << 4),
                     0x5410);
}

// Where a column's 32 rows begin in shared memory, in bytes: 16 more after every four, so that eight neighbours, which
// are read together, lie in different banks, and so do columns 4 q of eight q, which are written together.
__device__ inline int column_at(int column) { return DEPTH * column + 16 * (column >> 2); }
constexpr int COLUMNS_BYTES = DEPTH * SIDE + 16 * (SIDE / 4);

// Votes on a 64 x 64 tile of a matrix: z += v x^T over a slice of rows.
// Grid: (tiles, slices of rows), 128 threads: each warp sums 16 outputs and 64 inputs.
// v : (rows, v_columns) int8    x : (rows, x_columns) int8    z : (parameters,) int32, added to
extern "C" __global__ void __launch_bounds__(128)
sum_matrices(const int8 *v, const int8 *x, const int *places, int *z, int rows, int slice, int v_columns,
             int x_columns) {
  __shared__ __align__(16) int8 out[COLUMNS_BYTES], in[COLUMNS_BYTES];
  const Place place = ((const Place *)places)[blockIdx.x];
  const int begin = blockIdx.y * slice, end = min(rows, begin + slice);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  // This thread fetches columns 4 quad.., rows 4 deep..: a warp eight by four of them.
  const int quad = (threadIdx.x & 7) + 8 * (warp & 1), deep = (lane >> 3) + 4 * (warp >> 1);
  const bool v_there = 4 * quad < place.outputs, x_there = 4 * quad < place.inputs;
  int acc[SIDE / 8][4];
#pragma unroll
  for (int n = 0; n < SIDE / 8; n++)
#pragma unroll
    for (int j = 0; j < 4; j++) acc[n][j] = 0;

  for (int row = begin; row < end; row += DEPTH) {
    uint32 v_rows[4], x_rows[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int64 at = row + 4 * deep + i;
      v_rows[i] = x_rows[i] = 0;
      if (at < end && x_there) x_rows[i] = *(const uint32 *)(x + at * x_columns + place.x_column + 4 * quad);
      if (at < end && v_there) v_rows[i] = *(const uint32 *)(v + at * v_columns + place.v_column + 4 * quad);
    }
    __syncthreads(); // the last step's fragments have been read
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const int at = column_at(4 * quad + j) + 4 * deep;
      *(uint32 *)(out + at) = column_of(v_rows, j);
      *(uint32 *)(in + at) = column_of(x_rows, j);
    }
    __syncthreads();
    uint32 a[4];
    load_matrices(a, out + column_at(16 * warp + row_of_a(lane)) + byte_of_a(lane));
#pragma unroll
    for (int n = 0; n < SIDE / 16; n++) {
      uint32 b[4];
      load_matrices(b, in + column_at(16 * n + row_of_b(lane)) + byte_of_b(lane));
      mma(acc[2 * n], a, b[0], b[1]);
      mma(acc[2 * n + 1], a, b[2], b[3]);
    }
  }
#pragma unroll
  for (int n = 0; n < SIDE / 8; n++)
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const int o = 16 * warp + (lane >> 2) + 8 * (j >> 1), k = 8 * n + 2 * (lane & 3) + (j & 1);
      if (o < place.outputs && k < place.inputs)
        atomicAdd(z + place.z_low + (int64)o * place.z_stride + k, acc[n][j]);
    }
}

// Sums of a block of rows, or a part of them, added to those of all: z += scale * sums.
extern "C" __global__ void add_sums(const int *sums, int64 *z, int64 scale, int64 count) {
#pragma unroll 1
  for (int64 i = blockIdx.x * (int64)blockDim.x + threadIdx.x; i < count; i += (int64)gridDim.x * blockDim.x)
    z[i] += scale * sums[i];
}

// Votes on vectors: z[at + n] += sum of v over rows.
// Grid: (places, slices of rows), one thread a column. places : (places, 3) int32 v_column, outputs, z offset
extern "C" __global__ void sum_vectors(const int8 *v, const int *places, int *z, int rows, int slice, int v_columns) {
  const int *place = places + 3 * blockIdx.x;
  const int begin = blockIdx.y * slice, end = min(rows, begin + slice);
  for (int n = threadIdx.x; n < place[1]; n += blockDim.x) {
    int sum = 0;
    for (int row = begin; row < end; row++) sum += v[(int64)row * v_columns + place[0] + n];
    atomicAdd(z + place[2] + n, sum);
  }
}
