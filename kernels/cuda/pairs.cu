// Recipe paper: the sign vectors of directions as rows of int8, f a and b, for the products of votes.cu.
#include "arithmetic.cuh"

// The signs of directions as rows that votes.cu multiplies.
// Grid: (directions, stretches). words : (directions, width)    fitness : (directions,) int8, |f| <= 127
// stretches : (stretches, 4) int32: bit, columns, column in v or x, and 0 for v, 1 for x
extern "C" __global__ void expand_signs(const uint32 *words, const int8 *fitness, const int *stretches, int8 *v,
                                        int8 *x, int width, int v_columns, int x_columns) {
  const int64 row = blockIdx.x;
  const int *stretch = stretches + 4 * blockIdx.y;
  const uint32 *bits = words + row * width;
  for (int i = threadIdx.x; i < stretch[1]; i += blockDim.x) {
    const int sign = sign_of(bits[(stretch[0] + i) >> 5], i & 31);
    if (stretch[3])
      x[row * x_columns + stretch[2] + i] = int8(sign);
    else
      v[row * v_columns + stretch[2] + i] = int8(fitness[row] * sign);
  }
}
