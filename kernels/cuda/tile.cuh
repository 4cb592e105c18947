// A tile of members in shared memory, and what is done with one: products, norms, projections on sign vectors.
//
// One block of threads carries TILE members through a whole chunk of text. Their int8 activations stay in shared
// memory, weights come from the second-level cache straight into registers in the order the tensor cores want
// (prepare.cu), and every product ends in its sign term, shift and clip and whatever of gates and residual follows,
// so that no accumulator is ever stored.
//
// Compile-time: HIDDEN, LAYERS, TILE, WARP_ROWS (members of one warp's part of a product), WARPS, WORDS (32-bit words
// from one direction's signs to the next), and where the tensors lie, AT_* and BIT_* (kernels/cuda/sources.py).
#pragma once
#include "arithmetic.cuh"
#include "mma.cuh"

constexpr int D = HIDDEN, MIDDLE = 4 * HIDDEN;
// Rows in bytes: 16 beyond a multiple of 32, so that eight rows of a fragment lie in different banks; K = 16 is padded.
constexpr int ROW = (HIDDEN < 32 ? 32 : HIDDEN) + 16, MIDDLE_ROW = MIDDLE + 16;
constexpr int THREADS = 32 * WARPS;
constexpr int CLEAN = 0, PAIRS = 1, TRACED = 2;

// Tensors of layer 0 in the order of the flat vector; a layer has as many products, and slots for their projections.
constexpr int P_W_F = 0, P_U_F = 1, P_W_H = 2, P_U_H = 3, P_UP = 4, P_DOWN = 5, LAYER_PRODUCTS = 6;
constexpr int SLOTS = LAYER_PRODUCTS * LAYERS + 1;
// What the products of a group's first member read (X) and how much of a push arrived (V), by row, in units of D.
constexpr int X_U = 0, X_H = 1, X_PAST = 2, X_LN2 = 3, X_MIDDLE = 4, LAYER_INPUTS = 8;
constexpr int V_F = 0, V_H = 1, V_UP = 2, V_DOWN = 6, LAYER_OUTPUTS = 7;
constexpr int X_COLUMNS = (LAYER_INPUTS * LAYERS + 1) * D, V_COLUMNS = LAYER_OUTPUTS * LAYERS * D;

struct Tile {
  int8 *x, *in;                  // (TILE, ROW) residual, and input of the next product
  int8 *h, *f, *past, *c;        // (TILE, ROW) each; over them:
  int8 *middle;                  // (TILE, MIDDLE_ROW)
  int *term;                     // (4, 2, TILE): what a product's accumulator gains where a is +1 and where it is -1
  int *r, *token, *target;       // (TILE,): sign, byte read, byte after
  int *sum, *hit;                // (2, TILE): of the clean and the moved logits, sum of e and the target's e index
  int *group;                    // (TILE,): the group whose first member this is, else -1
  int *bias_move;                // (2, TILE): how far a gate's biases move where their sign is +1
  int *exp2;                     // (16,): e's last octave; e[j] = exp2[j % 16] >> (15 - j / 16), floors of floors
  const uint32 *words;           // (directions, WORDS) of the block's members
  int64 begin;                   // the tile's first member
  int rows;                      // members in the tile
  int word_shift;                // members 2**word_shift share a direction

  __device__ const uint32 *signs(int row, int bit) const {
    return words + ((begin + row) >> word_shift) * WORDS + (bit >> 5);
  }
};

constexpr int FOUR_ROWS = 4 * ROW > MIDDLE_ROW ? 4 * ROW : MIDDLE_ROW;
constexpr int SHARED_BYTES = TILE * (2 * ROW + FOUR_ROWS) + 4 * (TILE * (8 + 3 + 4 + 1 + 2) + 16);

__device__ inline Tile tile_in(unsigned char *shared) {
  Tile tile;
  int8 *bytes = (int8 *)shared;
  tile.x = bytes;
  tile.in = bytes + TILE * ROW;
  tile.h = tile.middle = bytes + 2 * TILE * ROW;
  tile.f = tile.h + TILE * ROW;
  tile.past = tile.f + TILE * ROW;
  tile.c = tile.past + TILE * ROW;
  int *numbers = (int *)(bytes + TILE * (2 * ROW + FOUR_ROWS));
  tile.term = numbers;
  tile.r = numbers + 8 * TILE;
  tile.token = tile.r + TILE;
  tile.target = tile.token + TILE;
  tile.sum = tile.target + TILE;
  tile.hit = tile.sum + 2 * TILE;
  tile.group = tile.hit + 2 * TILE;
  tile.bias_move = tile.group + TILE;
  tile.exp2 = tile.bias_move + 2 * TILE;
  return tile;
}

// W . x for the tile's members: each warp takes WARP_ROWS of them and 32 outputs at a time.
// finish(row, n, acc, term, sign): told of every sum, with what the perturbation adds to it and whether a is +1 there;
// end_row(row): after a member's.
// in : (TILE, stride) int8    packed : of the matrix, see prepare.cu    a : bit of its output signs    slot : of term
template <int MODE, int K, int N, class Finish, class EndRow>
__device__ inline void product(const Tile &tile, const int8 *in, int stride, const int8 *packed, int a, int slot,
                               Finish finish, EndRow end_row) {
  constexpr int STRIP = N < 32 ? N : 32, TILES = STRIP / 8, K_TILES = K < 32 ? 1 : K / 32, M_TILES = WARP_ROWS / 16;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  for (int item = warp; item < TILE / WARP_ROWS * (N / STRIP); item += WARPS) {
    const int n0 = item % (N / STRIP) * STRIP, m0 = item / (N / STRIP) * WARP_ROWS;
    if (m0 >= tile.rows) continue;
    int acc[M_TILES][TILES][4];
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
      for (int n = 0; n < TILES; n++)
#pragma unroll
        for (int j = 0; j < 4; j++) acc[m][n][j] = 0;
    const uint4 *weights = (const uint4 *)packed + n0 / 16 * K_TILES * 32 + lane;
#pragma unroll 2
    for (int k = 0; k < K_TILES; k++) {
      uint4 b[STRIP / 16];
#pragma unroll
      for (int s = 0; s < STRIP / 16; s++) b[s] = weights[(s * K_TILES + k) * 32];
#pragma unroll
      for (int m = 0; m < M_TILES; m++) {
        uint32 fragment[4];
        load_a(fragment, in + (m0 + 16 * m) * stride + 32 * k, stride, lane);
#pragma unroll
        for (int s = 0; s < STRIP / 16; s++) {
          mma(acc[m][2 * s], fragment, b[s].x, b[s].y);
          mma(acc[m][2 * s + 1], fragment, b[s].z, b[s].w);
        }
      }
    }
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int row = m0 + 16 * m + 8 * half + (lane >> 2);
        uint32 word = 0;
        int plus = 0, minus = 0;
        if (MODE != CLEAN && row < tile.rows) {
          word = *tile.signs(row, a + n0);
          plus = tile.term[2 * slot * TILE + row];
          minus = tile.term[(2 * slot + 1) * TILE + row];
        }
#pragma unroll
        for (int n = 0; n < TILES; n++)
#pragma unroll
          for (int j = 0; j < 2; j++) {
            const int column = 8 * n + 2 * (lane & 3) + j;
            const bool sign = (word >> column) & 1;
            finish(row, n0 + column, acc[m][n][2 * half + j], MODE == CLEAN ? 0 : sign ? plus : minus, sign);
          }
        end_row(row);
      }
  }
}

struct Nothing {
  __device__ void operator()(int) const {}
};

// x . b by one warp, the sum in every lane: |sum| <= 127 K < 2**20. x must be visible to the warp.
template <int K> __device__ inline int project(const int8 *x, const uint32 *b) {
  int sum = 0;
  for (int w = threadIdx.x & 31; w < K / 4; w += 32)
    sum = __dp4a(*(const int *)(x + 4 * w), four_signs(b[w >> 3] >> (4 * (w & 7))), sum);
  return warp_sum(sum);
}

// clip8((x * g) // max(1, mean |x|)) of one member by one warp; g moves by +-move where signs are given.
// The quotient: with m <= 127 and 0 <= w < 2**15, w // m = (w * ceil(2**22 / m)) >> 22, since the excess
// w / 2**22 < 1 / 128 is less than 1 / m; 128 m is added before, and what is below it clips to -127 anyway.
__device__ inline void norm(const int8 *x, int8 *out, const int8 *gains, const uint32 *signs, int move) {
  const int lane = threadIdx.x & 31;
  int sum = 0;
  for (int w = lane; w < D / 4; w += 32) {
    const uint32 four = *(const uint32 *)(x + 4 * w);
#pragma unroll
    for (int i = 0; i < 4; i++) sum += abs(byte_of(four, i));
  }
  const uint32 mean = max(1, warp_sum(sum) / D), reciprocal = ((1u << 22) + mean - 1) / mean;
  for (int w = lane; w < D / 4; w += 32) {
    const uint32 four = *(const uint32 *)(x + 4 * w), gain_four = *(const uint32 *)(gains + 4 * w);
    int out_four[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      int g = byte_of(gain_four, i);
      if (signs) g = clip8(g + sign_of(signs[w >> 3], 4 * (w & 7) + i) * move);
      const int biased = max(0, byte_of(four, i) * g + 128 * int(mean));
      out_four[i] = clip8(int(__umulhi(uint32(biased) << 10, reciprocal)) - 128);
    }
    *(uint32 *)(out + 4 * w) = four_bytes(out_four[0], out_four[1], out_four[2], out_four[3]);
  }
}

// floor(n log2(S / 16)) of 0 < S < 2**28: the top bit's place, and how many thresholds the mantissa reaches.
__device__ inline int floor_log2(uint32 sum, const uint32 *thresholds, int n) {
  const int zeros = __clz(int(sum));
  const uint32 mantissa = sum << zeros;
  int at = 0;
  for (int step = n / 2; step; step /= 2)
    if (mantissa >= thresholds[at + step]) at += step;
  return (31 - zeros - 4) * n + at;
}
