// Recipe paper: directions as rows of int8, f a and b, for the products of votes.cu; and gains and biases, which move
// by vectors of their own.
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

// Where a vector lies: a and b, or -1, of its factors, its first column among all vectors, and its first weight.
struct VectorPlace {
  int a, b, column, weight;
};
__device__ inline int vector_factor(const int8 *factors, const VectorPlace &place, int i) {
  return factors[place.a + i] * (place.b < 0 ? 1 : factors[place.b + i]);
}

// Gains and biases of members 2 i and 2 i + 1, moved.
// Grid: (pairs, vectors). factors : (pairs, pair_width)    places : of VectorPlace
// moved : (2 pairs, columns) int8, written
extern "C" __global__ void move_vectors(const int8 *weights, const int8 *factors, const int *places, int8 *moved,
                                        int pair_width, int columns, int size, int step, int shift) {
  const VectorPlace place = ((const VectorPlace *)places)[blockIdx.y];
  const int64 pair = blockIdx.x;
  for (int i = threadIdx.x; i < size; i += blockDim.x) {
    const int weight = weights[place.weight + i], move = step * vector_factor(factors + pair * pair_width, place, i);
    moved[2 * pair * columns + place.column + i] = int8(clip8(weight + (move >> shift)));
    moved[(2 * pair + 1) * columns + place.column + i] = int8(clip8(weight + (-move >> shift)));
  }
}

constexpr int WHOLE = 0, LOW = 1, HIGH = 2; // of f a

// Rows f a that votes.cu multiplies by the factors b; f a of Gaussian factors as 128 high + low, |low| <= 64.
// Grid: pairs. factors : (pairs, pair_width)    fitness : (pairs,) int8    v : like factors, written
// part : WHOLE, LOW or HIGH
extern "C" __global__ void weigh_factors(const int8 *factors, const int8 *fitness, int8 *v, int pair_width, int part) {
  const int64 pair = blockIdx.x;
  factors += pair * pair_width, v += pair * pair_width;
  for (int i = threadIdx.x; i < pair_width; i += blockDim.x) {
    const int weighed = fitness[pair] * factors[i], low = ((weighed + 64) & 127) - 64;
    v[i] = int8(part == WHOLE ? weighed : part == LOW ? low : (weighed - low) >> 7);
  }
}

// Votes on gains and biases: z += root f e.
// Grid: (vectors, slices of pairs), one thread a column. z : (parameters,) int64, added to
extern "C" __global__ void sum_pair_vectors(const int8 *factors, const int8 *fitness, const int *places, uint64 *z,
                                            int pairs, int slice, int pair_width, int size, int root) {
  const VectorPlace place = ((const VectorPlace *)places)[blockIdx.x];
  const int begin = blockIdx.y * slice, end = min(pairs, begin + slice);
  for (int i = threadIdx.x; i < size; i += blockDim.x) {
    int64 sum = 0;
    for (int64 pair = begin; pair < end; pair++)
      sum += fitness[pair] * vector_factor(factors + pair * pair_width, place, i);
    atomicAdd(z + place.weight + i, uint64(root * sum));
  }
}
