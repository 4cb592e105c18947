// What a reader's bytes leave, what they vote, and what the kernels that credit share (docs/arithmetic.md).
//
//   axes     r rows: byte t of reader i, r = T i + t    j places of the wire (D)    k branches    l layers
//   kept     (r, KEPT_ROW) int8, written by forward_kept:
//            [layer 0: x | u | h | past | v | y (4 D) | f | c | ends | middle | down][layer 1: ...]...[end | o]
//            D bytes each; middle and x of the next layer (at last: end) are the residual x'' and x' of the layer,
//            v what w_up reads, down what w_down gives, ends the FREE_* flags of the gated unit's four products
//   votes    (r, columns) int8, rows that votes.cu multiplies with kept:
//            [layer 0: w_f | u_f | w_h | u_h | b_f | b_h | w_down][layer 1: ...]...[gain | head (256)]
//            and with stations, from VOTE_ROW on, [layer 0: up (4 D) | ln2 | ln1][layer 1: ...]...
//   wire     (r, j) int32, |wire| <= 2**20: credit of the residual, from the end (end.cu) to the beginning (wire.cu)
//   shifts   (kinds,) int32, 0 to 31: embedding, gain, then of each layer gate, candidate, down, and with stations after
//            these of each layer up, ln2, ln1
//   totals   (kinds,) int64, added to: magnitudes of the credits before they are narrowed
#pragma once
#include "arithmetic.cuh"

constexpr int D = HIDDEN, LOG_D = log2_of(HIDDEN);
constexpr int KEPT_X_AFTER = KEPT_LAYER + KEPT_X; // x', from a layer's beginning
constexpr int CREDIT_LIMIT = 1 << 20, CREDIT_MOST = 32767, BRANCH_LIMIT = 48;
constexpr int EMBEDDING_KIND = 0, GAIN_KIND = 1, LAYER_KINDS = 2, GATE = 0, CANDIDATE = 1, DOWN = 2, KINDS_A_LAYER = 3;
constexpr int UP = 0, LN2 = 1, LN1 = 2, MORE_KINDS = 3; // of a layer with stations, after those of all layers
// The matrices of a layer that stations read, and where their moves begin in a layer's, see branches.cu.
constexpr int W_F = 0, U_F = 1, W_H = 2, U_H = 3, W_UP = 4, W_DOWN = 5, STATION_MATRICES = 6;
constexpr int STATION_MOVES = 12 * D * D;
__host__ __device__ constexpr int station_moves(int matrix) { return (matrix == W_DOWN ? 8 : matrix) * D * D; }

__device__ inline int limit(int v) { return max(-CREDIT_LIMIT, min(CREDIT_LIMIT, v)); }
// Credit as a vote; |v| < 2**29.
__device__ inline int narrow(int v, int shift) { return clip8(round_shift(v, shift)); }
// H[k][j] of the Hadamard matrix in natural order.
__device__ inline int hadamard_sign(int k, int j) { return __popc(k & j) & 1 ? -1 : 1; }

// The sum of a warp's lanes in each: of v < 2**32 by its halves, so that nothing is lost.
__device__ inline uint64 warp_total(uint32 v) {
  return __reduce_add_sync(FULL, v & 0xFFFFu) + (uint64(__reduce_add_sync(FULL, v >> 16)) << 16);
}
__device__ inline void add_total(uint64 *to, uint32 v) {
  const uint64 sum = warp_total(v);
  if ((threadIdx.x & 31) == 0) atomicAdd(to, sum);
}

// body(i) for i < COUNT, THREADS at once, by a block of them or by a warp.
template <int THREADS, int COUNT, class Body> __device__ inline void each(Body body) {
  const int first = threadIdx.x % THREADS;
#pragma unroll
  for (int from = 0; from < COUNT; from += THREADS)
    if (from + THREADS <= COUNT || from + first < COUNT) body(from + first);
}

// Sums of N int32 in shared memory, signed by each row of the Hadamard matrix in turn, in place: ROWS such rows, one
// after another, by a block of THREADS. Barriers come before, after each stage, and at the end.
template <int THREADS, int N, int ROWS> __device__ inline void walsh_hadamard(int *x) {
#pragma unroll
  for (int half = 1; half < N; half *= 2) {
    __syncthreads();
    each<THREADS, ROWS * N / 2>([&](int pair) {
      const int at = 2 * (pair & -half) + (pair & (half - 1)), a = x[at], b = x[at + half];
      x[at] = a + b, x[at + half] = a - b;
    });
  }
  __syncthreads();
}

// What the sums of branches say of a place: 16 bits; |v| < 2**30. What a left shift takes beyond the limit stays there.
__device__ inline int credit_of(int v, int shift) {
  const int small = max(-(1 << 16), min(1 << 16, v));
  const int credit = shift < 0 ? small * (1 << -shift) : round_shift(v, shift);
  return max(-CREDIT_MOST, min(CREDIT_MOST, credit));
}

// What m(W) is: total of the magnitudes |R| of 2**log_count moves, of which less than `most`, 8 or 512, shall be left.
__device__ inline int move_shift(uint64 total, int log_count, int most) {
  const uint32 mean = uint32(total >> log_count); // <= 127 * 4,096
  if (mean >= uint32(most)) return bit_length(mean >> log2_of(most));
  return 1 - bit_length(Divisor(max(1, int(mean))).of(uint32(most)));
}

// By a warp: from credit after a norm to what arrives before it, and the gains' votes and magnitudes.
// x, gains : (D,) int8, the wire before the norm, and its gains    credit : (D,) int32 in shared memory, 16 bits
// votes : (D,) int8, written    arrives(j, v) : told what arrives at place j, |v| < 2**25
template <class Arrives>
__device__ inline void pass_norm(const int8 *x, const int8 *gains, const int *credit, int shift, int8 *votes,
                                 uint64 *total, Arrives arrives) {
  int sum = 0;
  each<32, D>([&](int j) { sum += abs(x[j]); });
  const int mean = max(1, __reduce_add_sync(FULL, sum) >> LOG_D);
  const int rho = int(Divisor(mean).of(1u << 14));
  uint32 magnitude = 0;
  int moves = 0; // of all places < 2**17 D <= 2**27
  each<32, D>([&](int j) {
    const int both = credit[j] * round_shift(x[j] * rho, 6), gain = both >> 8; // < 2**30
    magnitude += uint32(abs(gain));
    votes[j] = int8(narrow(gain, shift));
    moves += round_shift(round_shift(both, 8) * gains[j], 7);
  });
  add_total(total, magnitude);
  const int back = int(round_shift(int64(__reduce_add_sync(FULL, moves)) * rho, 7 + LOG_D)); // < 2**24
  each<32, D>([&](int j) {
    const int sign = (x[j] > 0) - (x[j] < 0);
    arrives(j, round_shift(credit[j] * round_shift(gains[j] * rho, 6), 8) - sign * back);
  });
}
