// From votes to weights (recipe egg): masters move by votes over the running root mean square of their row.
//
//   axes     rows, of K weights each (1 to 4,096): a matrix's output, a byte's in the embedding, a gain or bias whole
//   master   (parameters,) int32 with 16 fractional bits    squares : (rows,) int64 with 4, at most 2**50
//   starts   (rows + 1,) int64: where rows begin, and the end
//
// A warp has a row. |Z| <= 2**23, so that Z**2 of a row sums to 2**58 at the most, 2**62 with its fractional bits;
// a factor is at most 2**39, and with Z below 2**62.
#include "arithmetic.cuh"

constexpr int VOTE_LIMIT = 1 << 23;

__device__ inline int64 vote_of(int z) { return max(-VOTE_LIMIT, min(VOTE_LIMIT, z)); }

// n / d, rounded down; d > 0.
__device__ inline int64 floored(int64 n, uint64 d) {
  return n < 0 ? ~int64(divided(uint64(~n), d)) : int64(divided(uint64(n), d));
}

// Rows of recipe egg: masters, squares and weights. Grid: one warp a row; the grid strides over the rest.
// window : steps of the mean, 1 to 128    step_size : in 2**-16 int8 steps    weights : (parameters,) int8, written
extern "C" __global__ void move_rows(int *master, int64 *squares, const int *votes, const int64 *starts, int8 *weights,
                                     int rows, int window, int64 step_size) {
  const int lane = threadIdx.x & 31, warps = int(gridDim.x * (blockDim.x >> 5));
#pragma unroll 1
  for (int row = int(blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5)); row < rows; row += warps) {
    const int64 begin = starts[row], end = starts[row + 1];
    int64 sum = 0;
#pragma unroll 1
    for (int64 i = begin + lane; i < end; i += 32) sum += vote_of(votes[i]) * vote_of(votes[i]);
#pragma unroll
    for (int distance = 16; distance; distance >>= 1) {
      const uint32 low = uint32(__shfl_xor_sync(FULL, int(sum), distance));
      sum += int64(uint64(uint32(__shfl_xor_sync(FULL, int(sum >> 32), distance))) << 32 | low);
    }
    const int64 latest = int64(divided(uint64(sum) << 4, uint64(end - begin)));
    const int64 square = squares[row] + floored(latest - squares[row], window);
    __syncwarp(); // all lanes have read it
    if (lane == 0) squares[row] = square;
    const uint32 root = integer_root(uint64(square));
    const int64 factor = int64(divided(uint64(step_size) << 16, root ? root : 1));
    const int64 most = int64(LIMIT) << MASTER_BITS;
#pragma unroll 1
    for (int64 i = begin + lane; i < end; i += 32) {
      const int64 v = master[i] + round_shift(vote_of(votes[i]) * factor, 14);
      const int moved = int(v < -most ? -most : v > most ? most : v);
      master[i] = moved;
      weights[i] = int8((moved + (1 << (MASTER_BITS - 1))) >> MASTER_BITS);
    }
  }
}
