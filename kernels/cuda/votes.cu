// Votes Z += v x^T of all matrices on tensor cores, and the sums that are no products.
//
// v is int16 and split exactly into int8 halves, v = 128 high + low with |high| <= 64 and -64 <= low < 64, so that
// two int8 products with int32 sums give it: over at most 2**16 rows |sum| <= 64 * 127 * 2**16 < 2**30. Blocks of
// rows add into int64 atomically; integer sums do not depend on the order.
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

// Four v, two in each word, as bytes: low of v + 64 mod 128 less 64, high of (v + 64) // 128. |v| <= 2**13, so that
// with 2**15 more no half is negative or reaches the other.
__device__ inline void split(uint32 v01, uint32 v23, uint32 &high, uint32 &low) {
  const uint32 first = (v01 ^ 0x80008000u) + 0x00400040u, second = (v23 ^ 0x80008000u) + 0x00400040u;
  high = __byte_perm(first >> 7, second >> 7, 0x6420); // and 256 more, which a byte does not hold
  const uint32 seven = (__byte_perm(first, second, 0x6420) & 0x7F7F7F7Fu) ^ 0x40404040u;
  low = seven | ((seven << 1) & 0x80808080u); // bit 6 is the sign's
}

// Votes on a 64 x 64 tile of a matrix: z += v x^T over a slice of rows.
// Grid: (tiles, slices of rows), 128 threads: each warp sums 16 outputs and 64 inputs.
// v : (rows, v_columns) int16    x : (rows, x_columns) int8    z : (parameters,) int64, added to
extern "C" __global__ void __launch_bounds__(128)
sum_matrices(const int16 *v, const int8 *x, const int *places, int64 *z, int rows, int slice, int v_columns,
             int x_columns) {
  __shared__ __align__(16) int8 high[COLUMNS_BYTES], low[COLUMNS_BYTES], in[COLUMNS_BYTES];
  const Place place = ((const Place *)places)[blockIdx.x];
  const int begin = blockIdx.y * slice, end = min(rows, begin + slice);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  // This thread fetches columns 4 quad.., rows 4 deep..: a warp eight by four of them.
  const int quad = (threadIdx.x & 7) + 8 * (warp & 1), deep = (lane >> 3) + 4 * (warp >> 1);
  const bool v_there = 4 * quad < place.outputs, x_there = 4 * quad < place.inputs;
  int acc_high[SIDE / 8][4], acc_low[SIDE / 8][4];
#pragma unroll
  for (int n = 0; n < SIDE / 8; n++)
#pragma unroll
    for (int j = 0; j < 4; j++) acc_high[n][j] = acc_low[n][j] = 0;

  for (int row = begin; row < end; row += DEPTH) {
    uint32 h_rows[4], l_rows[4], x_rows[4];
    uint2 v_rows[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int64 at = row + 4 * deep + i;
      v_rows[i] = {0, 0}, x_rows[i] = 0;
      if (at < end && x_there) x_rows[i] = *(const uint32 *)(x + at * x_columns + place.x_column + 4 * quad);
      if (at < end && v_there) v_rows[i] = *(const uint2 *)(v + at * v_columns + place.v_column + 4 * quad);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) split(v_rows[i].x, v_rows[i].y, h_rows[i], l_rows[i]);
    __syncthreads(); // the last step's fragments have been read
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const int at = column_at(4 * quad + j) + 4 * deep;
      *(uint32 *)(high + at) = column_of(h_rows, j);
      *(uint32 *)(low + at) = column_of(l_rows, j);
      *(uint32 *)(in + at) = column_of(x_rows, j);
    }
    __syncthreads();
    uint32 a_high[4], a_low[4];
    const int a_at = column_at(16 * warp + row_of_a(lane)) + byte_of_a(lane);
    load_matrices(a_high, high + a_at);
    load_matrices(a_low, low + a_at);
#pragma unroll
    for (int n = 0; n < SIDE / 16; n++) {
      uint32 b[4];
      load_matrices(b, in + column_at(16 * n + row_of_b(lane)) + byte_of_b(lane));
      mma(acc_high[2 * n], a_high, b[0], b[1]);
      mma(acc_low[2 * n], a_low, b[0], b[1]);
      mma(acc_high[2 * n + 1], a_high, b[2], b[3]);
      mma(acc_low[2 * n + 1], a_low, b[2], b[3]);
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

// Votes on biases, and on the vectors of recipe paper: z[at + n] += constant * sum of v over rows.
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
