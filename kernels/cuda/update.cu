// From votes to weights, one element a thread.
#include "arithmetic.cuh"

// Rewards: masters move by votes * multiplier / 2**32, rounded half up; |votes * multiplier| < 2**62.
extern "C" __global__ void move_master(int16 *master, const int64 *votes, int64 multiplier, int8 *weights,
                                       int64 count) {
  const int limit = LIMIT << REWARD_MASTER_BITS;
#pragma unroll 1 // the count of rounds would take a division
  for (int64 i = blockIdx.x * (int64)blockDim.x + threadIdx.x; i < count; i += (int64)gridDim.x * blockDim.x) {
    const int64 v = master[i] + round_shift(votes[i] * multiplier, 32);
    const int moved = int(v < -limit ? -limit : v > limit ? limit : v);
    master[i] = int16(moved);
    weights[i] = int8((moved + (1 << (REWARD_MASTER_BITS - 1))) >> REWARD_MASTER_BITS);
  }
}

// Recipe paper: weights move by sign(votes) where 16 |votes| >= threshold.
extern "C" __global__ void move_signs(const int8 *weights, const int64 *votes, int8 *moved, int64 threshold,
                                      int64 count) {
#pragma unroll 1
  for (int64 i = blockIdx.x * (int64)blockDim.x + threadIdx.x; i < count; i += (int64)gridDim.x * blockDim.x) {
    const int64 z = votes[i], size = z < 0 ? -z : z;
    moved[i] = int8(clip8(weights[i] + (16 * size < threshold ? 0 : (z > 0) - (z < 0))));
  }
}
