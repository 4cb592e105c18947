// Once a step: what is drawn for the branches, and what each branch of the wire does to the logits.
//
//   signs    (5 D,) int8: s of the D places, then of the 4 D that w_down reads
//   places   (2,) int32: r, where all branches move alike, of the D and of the 4 D
//   rows     (K,) int32: Hadamard rows of the branches of the wire, in any order
//   moves    (128, K, 2) int16: M of logits 2 v and 2 v + 1 for each branch, a word, so that the lanes of a warp, a
//            branch each, read neighbours
//
// R of a row of weights is one fast Walsh-Hadamard transform in shared memory, |R| <= 127 * 4 D. The shift m follows
// from the mean of all |R|, so that there are two launches, and R is transformed twice instead of stored.
#include "credit.cuh"

constexpr int THREADS = 256, MOVE_LIMIT = BRANCH_LIMIT << BRANCH_BITS, BRANCH_MEAN = 512;

// Signs, places and rows of a step's branches, K of the wire.
// One block. count : K
extern "C" __global__ void __launch_bounds__(THREADS)
draw_branches(uint32 step, uint32 key_0, uint32 key_1, int count, int8 *signs, int *places,
                                         int *rows) {
  __shared__ uint32 order[D];
  each<THREADS, D / 4>([&](int block) {
    const Words drawn = philox(block, BRANCH_ROWS, 0, step, key_0, key_1);
    for (int i = 0; i < 4; i++) order[4 * block + i] = drawn.word[i];
  });
#pragma unroll 1
  for (int wide = 0; wide < 2; wide++) {
    const int width = wide ? 4 * D : D, last = wide ? 128 : 32; // the word of the place
    each<THREADS, 128 / 4 + 1>([&](int block) {
      if (block > last / 4) return;
      const Words drawn = philox(block, BRANCH_SIGNS, wide, step, key_0, key_1);
      if (block == last / 4) places[wide] = int(drawn.word[0]) & (width - 1);
      for (int bit = 0; bit < 128; bit++) {
        const int j = 128 * block + bit;
        if (j < width) signs[wide * D + j] = int8(sign_of(drawn.word[bit >> 5], bit & 31));
      }
    });
  }
  __syncthreads();
  each<THREADS, D>([&](int k) {
    int before = 0;
#pragma unroll 1
    for (int j = 0; j < D; j++) before += order[j] < order[k] || (order[j] == order[k] && j < k);
    if (before < count) rows[before] = k;
  });
}

// R but for its turns: a row of K weights, signed, transformed.
template <int K> __device__ inline void transform(const int8 *row, const int8 *signs, int *x) {
  each<THREADS, K>([&](int k) { x[k] = row[k] * signs[k]; });
  walsh_hadamard<THREADS, K, 1>(x);
}

template <int K>
__device__ inline void measure(const int8 *weights, const int8 *signs, uint64 *total, int layer_weights) {
  __shared__ int x[K];
  transform<K>(weights + (int64)blockIdx.y * layer_weights + (int64)blockIdx.x * K, signs, x);
  constexpr int BUSY = K < 32 ? 32 : K < THREADS ? K : THREADS;
  if (threadIdx.x >= BUSY) return;
  uint32 magnitude = 0;
  each<BUSY, K>([&](int k) { magnitude += uint32(abs(x[k])); });
  add_total(total + blockIdx.y, magnitude);
}

// Adds the magnitudes |R| of matrices with D inputs. Grid: (outputs, layers).
// weights : the first layer's, and layer_weights to the next    total : (layers,) int64, added to
extern "C" __global__ void measure_moves(const int8 *weights, const int8 *signs, uint64 *total, int layer_weights) {
  measure<D>(weights, signs, total, layer_weights);
}

// v / 2**s, rounded half up; a negative s shifts left.
__device__ inline int moved(int v, int s) { return s < 0 ? v * (1 << -s) : round_shift(v, s); }

// What the branches of the wire add to the logits. Grid: 256 logits.
// head : (256, D)    rows : (K,)    total : of the head's |R|    moves : (128, K, 2) int16, written
extern "C" __global__ void move_logits(const int8 *head, const int8 *signs, const int *places, const int *rows,
                                       const uint64 *total, int count, int16 *moves) {
  __shared__ int x[D];
  const int v = blockIdx.x, m = move_shift(*total, 8 + LOG_D, BRANCH_MEAN);
  transform<D>(head + v * D, signs, x);
#pragma unroll 1
  for (int k = threadIdx.x; k < count; k += THREADS) {
    const int row = rows[k], move = moved(x[row] * hadamard_sign(row, places[0]), m); // |R| << 9 < 2**26
    moves[2 * ((v >> 1) * count + k) + (v & 1)] = int16(max(-MOVE_LIMIT, min(MOVE_LIMIT, move)));
  }
}
