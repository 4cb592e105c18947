// Once a step: what is drawn for the branches, and what each branch of the wire does to the logits.
//
//   signs    (5 D,) int8: s of the D places, then of the 4 D that w_down reads
//   places   (2,) int32: r, where all branches move alike, of the D and of the 4 D
//   rows     (K,) int32: Hadamard rows of the branches of the wire, in any order
//   moves    (128, K, 2) int16: M of logits 2 v and 2 v + 1 for each branch, a word, so that the lanes of a warp, a
//            branch each, read neighbours
//   of stations, a layer's six matrices in the order of their rows here: w_f, u_f, w_h, u_h (D rows each), w_up (4 D),
//   then w_down (D rows of 4 D):
//   moved    (L, 6) int64: sums of |R|    moved_by : (L, 6) int32: m
//   moves    (L, 12 D D) int8: of each matrix [four outputs][branch] words of four bytes
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

// Adds a row's magnitudes |R|.
template <int K> __device__ inline void measure(const int8 *row, const int8 *signs, int *x, uint64 *total) {
  transform<K>(row, signs, x);
  constexpr int BUSY = K < 32 ? 32 : K < THREADS ? K : THREADS;
  if (threadIdx.x >= BUSY) return;
  uint32 magnitude = 0;
  each<BUSY, K>([&](int k) { magnitude += uint32(abs(x[k])); });
  add_total(total, magnitude);
}

// Adds the magnitudes |R| of the head.
// Grid: 256 logits. head : (256, D)    total : int64, added to
extern "C" __global__ void __launch_bounds__(THREADS)
measure_moves(const int8 *head, const int8 *signs, uint64 *total) {
  __shared__ int x[D];
  measure<D>(head + blockIdx.x * D, signs, x, total);
}

// v / 2**s, rounded half up; a negative s shifts left.
__device__ inline int moved(int v, int s) { return s < 0 ? v * (1 << -s) : round_shift(v, s); }

// What the branches of the wire add to the logits. Grid: 256 logits.
// head : (256, D)    rows : (K,)    total : of the head's |R|    moves : (128, K, 2) int16, written
extern "C" __global__ void __launch_bounds__(THREADS)
move_logits(const int8 *head, const int8 *signs, const int *places, const int *rows, const uint64 *total, int count,
            int16 *moves) {
  __shared__ int x[D];
  const int v = blockIdx.x, m = move_shift(*total, 8 + LOG_D, BRANCH_MEAN);
  transform<D>(head + v * D, signs, x);
#pragma unroll 1
  for (int k = threadIdx.x; k < count; k += THREADS) {
    const int row = rows[k], move = moved(x[row] * hadamard_sign(row, places[0]), m); // |R| << 9 < 2**26
    moves[2 * ((v >> 1) * count + k) + (v & 1)] = int16(max(-MOVE_LIMIT, min(MOVE_LIMIT, move)));
  }
}

// A row of a layer's matrices that stations read, by its number of 9 D.
struct StationRow {
  int matrix, output; // of 6, and which of its outputs
  int weights;        // where the row begins, from the layer's first tensor of the first layer on
  __device__ bool wide() const { return matrix == W_DOWN; } // 4 D inputs
};
__device__ inline StationRow station_row(int row) {
  if (row >= 8 * D) return {W_DOWN, row - 8 * D, AT_W_DOWN + (row - 8 * D) * 4 * D};
  if (row >= 4 * D) return {W_UP, row - 4 * D, AT_W_UP + (row - 4 * D) * D};
  const int matrix = row / D, output = row % D;
  const int at = matrix == W_F ? AT_W_F : matrix == U_F ? AT_U_F : matrix == W_H ? AT_W_H : AT_U_H;
  return {matrix, output, at + output * D};
}

// Adds the magnitudes |R| of the matrices that stations read.
// Grid: (9 D rows, layers). on : a bit a matrix    moved : (L, 6), added to
extern "C" __global__ void __launch_bounds__(THREADS)
measure_stations(const int8 *weights, const int8 *signs, uint64 *moved, int on) {
  __shared__ int x[4 * D];
  const StationRow row = station_row(blockIdx.x);
  if (!(on >> row.matrix & 1)) return;
  const int8 *from = weights + (int64)blockIdx.y * LAYER_WEIGHTS + row.weights;
  uint64 *total = moved + blockIdx.y * STATION_MATRICES + row.matrix;
  if (row.wide())
    measure<4 * D>(from, signs + D, x, total);
  else
    measure<D>(from, signs, x, total);
}

// Of a row's transform, the moves of an output: byte `output` % 4 of the words of four outputs.
template <int K> __device__ inline void make_moves(const int *x, int place, int m, int output, int8 *moves) {
  each<THREADS, K>([&](int k) { // |R| << 3 < 2**22
    moves[((output >> 2) * K + k) * 4 + (output & 3)] = int8(clip8(moved(x[k] * hadamard_sign(k, place), m)));
  });
}

// How the branches of stations move the outputs of their matrices.
// Grid: (9 D rows, layers). moved : (L, 6)    moved_by : (L, 6), written    moves : (L, 12 D D), written
extern "C" __global__ void __launch_bounds__(THREADS)
move_stations(const int8 *weights, const int8 *signs, const int *places, const uint64 *moved, int *moved_by,
              int8 *moves, int on) {
  __shared__ int x[4 * D];
  const StationRow row = station_row(blockIdx.x);
  if (!(on >> row.matrix & 1)) return;
  const int8 *from = weights + (int64)blockIdx.y * LAYER_WEIGHTS + row.weights;
  int8 *to = moves + (int64)blockIdx.y * STATION_MOVES + station_moves(row.matrix);
  const int at = blockIdx.y * STATION_MATRICES + row.matrix;
  const int m = move_shift(moved[at], 2 * LOG_D + (row.matrix >= W_UP ? 2 : 0), 8);
  if (row.output == 0 && threadIdx.x == 0) moved_by[at] = m;
  if (row.wide()) {
    transform<4 * D>(from, signs + D, x);
    make_moves<4 * D>(x, places[1], m, row.output, to);
  } else {
    transform<D>(from, signs, x);
    make_moves<D>(x, places[0], m, row.output, to);
  }
}
