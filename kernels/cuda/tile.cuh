// A tile of members in shared memory, and what is done with one: products, norms, projections on sign vectors.
//
// One block of threads carries TILE members through a whole chunk of text. Their int8 activations stay in shared
// memory, weights come from the second-level cache straight into registers in the order the tensor cores want
// (prepare.cu), and every product ends in its sign term, shift and clip and whatever of gates and residual follows,
// so that no accumulator is ever stored. Between products a warp works on four members at once, eight lanes each.
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
constexpr int CLEAN = 0, PAIRS = 1, KEPT = 2; // KEPT: unperturbed, and leaves what credit and votes read

struct __align__(8) Term { // what a product's accumulator gains where a is +1 and where it is -1
  int plus, minus;
};

struct Tile {
  int8 *x, *in;                  // (TILE, ROW) residual, and input of the next product
  int8 *h, *f, *past, *c;        // (TILE, ROW) each; over them:
  int8 *middle;                  // (TILE, MIDDLE_ROW)
  Term *term;                    // (4, TILE)
  int *r, *token, *target;       // (TILE,): sign, byte read, byte after
  int *sum, *hit;                // (TILE,): of the logits, sum of e and the target's e index
  int *exp2;                     // (16,): e's last octave; e[j] = exp2[j % 16] >> (15 - j / 16), floors of floors
  const uint32 *words;           // (pairs, WORDS) of the block's members
  int64 begin;                   // the tile's first member
  int rows;                      // members in the tile

  __device__ const uint32 *signs(int row, int bit) const {
    return words + ((begin + row) >> 1) * WORDS + (bit >> 5);
  }
};

constexpr int FOUR_ROWS = 4 * ROW > MIDDLE_ROW ? 4 * ROW : MIDDLE_ROW;
constexpr int SHARED_BYTES = TILE * (2 * ROW + FOUR_ROWS) + 4 * (TILE * (8 + 3 + 2) + 16);

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
  tile.term = (Term *)numbers;
  tile.r = numbers + 8 * TILE;
  tile.token = tile.r + TILE;
  tile.target = tile.token + TILE;
  tile.sum = tile.target + TILE;
  tile.hit = tile.sum + TILE;
  tile.exp2 = tile.hit + TILE;
  return tile;
}

// --- products ----------------------------------------------------------------------------------------

// A thread's sums of one member's product: outputs n + 8 i and n + 8 i + 1.
template <int TILES> struct Sums {
  int row, n;
  int of[TILES][2]; // W . x
  Term term;
  uint32 signs;     // bit 8 i + j: a of output n + 8 i + j is +1

  __device__ bool sign(int i, int j) const { return (signs >> (8 * i + j)) & 1; }
  __device__ int moved(int i, int j) const { return of[i][j] + (sign(i, j) ? term.plus : term.minus); }
};

// v clipped so that v >> product_shift(K) is clip8 of it: one shift of what is clipped, or none where bytes are packed.
template <int K> __device__ inline int clip_product(int v) {
  constexpr int SHIFT = product_shift(K);
  return max(-(LIMIT << SHIFT), min((LIMIT << SHIFT) + (1 << SHIFT) - 1, v));
}
template <int K> __device__ inline int shifted(int v) { return clip_product<K>(v) >> product_shift(K); }
// Both as bytes beside each other: where the shift is to a byte's edge, the bytes are picked instead.
template <int K> __device__ inline uint16 shifted_pair(int v, int w) {
  constexpr int SHIFT = product_shift(K), UP = SHIFT > 8 ? 16 - SHIFT : 8 - SHIFT;
  return uint16(__byte_perm(clip_product<K>(v) * (1 << UP), clip_product<K>(w) * (1 << UP), SHIFT > 8 ? 0x62 : 0x51));
}
__device__ inline uint16 pair_of(int v, int w) { return uint16(__byte_perm(v, w, 0x40)); }
__device__ inline uint32 pair_at(const int8 *at) { return *(const uint16 *)at; }
__device__ inline void put_pair(int8 *at, uint16 pair) { *(uint16 *)at = pair; }

// W . x for the tile's members: each warp takes WARP_ROWS of them and 32 outputs at a time.
// finish(sums): told of every member's in turn; rows beyond the tile's are finished too, into rows nobody reads.
// in : (TILE, stride) int8    packed : of the matrix, see prepare.cu    a : bit of its output signs    slot : of term
template <int MODE, int K, int N, class Finish>
__device__ inline void product(const Tile &tile, const int8 *in, int stride, const int8 *packed, int a, int slot,
                               Finish finish) {
  constexpr int STRIP = N < 32 ? N : 32, TILES = STRIP / 8, K_TILES = K < 32 ? 1 : K / 32, M_TILES = WARP_ROWS / 16;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  for (int item = warp; item < TILE / WARP_ROWS * (N / STRIP); item += WARPS) {
    const int n0 = item % (N / STRIP) * STRIP, m0 = item / (N / STRIP) * WARP_ROWS;
    if (m0 >= tile.rows) continue;
    const uint4 *weights = (const uint4 *)packed + n0 / 16 * K_TILES * 32 + lane;
    uint4 b[STRIP / 16], next[STRIP / 16];
#pragma unroll
    for (int s = 0; s < STRIP / 16; s++) b[s] = next[s] = weights[s * K_TILES * 32];
    uint32 words[M_TILES][2]; // fetched from afar while the sums are made
    const uint32 *signs = MODE != PAIRS ? nullptr : tile.signs(m0 + (lane >> 2), a + n0);
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int row = m0 + 16 * m + 8 * half + (lane >> 2);
        words[m][half] = MODE != PAIRS || row >= tile.rows ? 0 : signs[(8 * m + 4 * half) * WORDS];
      }
    int acc[M_TILES][TILES][4];
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
      for (int n = 0; n < TILES; n++)
#pragma unroll
        for (int j = 0; j < 4; j++) acc[m][n][j] = 0;
    const int8 *rows = in + (m0 + row_of_a(lane)) * stride + byte_of_a(lane);
#pragma unroll 2
    for (int k = 0; k < K_TILES; k++) {
      if (k + 1 < K_TILES) {
#pragma unroll
        for (int s = 0; s < STRIP / 16; s++) next[s] = weights[(s * K_TILES + k + 1) * 32];
      }
#pragma unroll
      for (int m = 0; m < M_TILES; m++) {
        uint32 fragment[4];
        load_matrices(fragment, rows + 16 * m * stride + 32 * k);
#pragma unroll
        for (int s = 0; s < STRIP / 16; s++) {
          mma(acc[m][2 * s], fragment, b[s].x, b[s].y);
          mma(acc[m][2 * s + 1], fragment, b[s].z, b[s].w);
        }
      }
#pragma unroll
      for (int s = 0; s < STRIP / 16; s++) b[s] = next[s];
    }
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        Sums<TILES> sums;
        sums.row = m0 + 16 * m + 8 * half + (lane >> 2), sums.n = n0 + 2 * (lane & 3);
#pragma unroll
        for (int i = 0; i < TILES; i++)
#pragma unroll
          for (int j = 0; j < 2; j++) sums.of[i][j] = acc[m][i][2 * half + j];
        sums.term = {0, 0};
        if (MODE == PAIRS) sums.term = tile.term[slot * TILE + sums.row];
        sums.signs = words[m][half] >> (2 * (lane & 3));
        finish(sums);
      }
  }
}

// --- members, four at once ---------------------------------------------------------------------------

// body(row) for all rows of the tile, by eight lanes each; the last may be beyond the tile's: nothing of theirs is
// read or written outside of shared memory, but their lanes take part in sums.
template <class Body> __device__ inline void each_row(const Tile &tile, Body body) {
  const int lane = threadIdx.x & 31;
  for (int first = 4 * (threadIdx.x >> 5); first < tile.rows; first += 4 * WARPS) body(first + (lane >> 3));
}

// body(q) for a lane's part of a row of K bytes: sixteen bytes from 16 q on, eight lanes a row.
template <int K, class Body> __device__ inline void each_part(Body body) {
  constexpr int PARTS = K < 128 ? 1 : K / 128;
#pragma unroll
  for (int i = 0; i < PARTS; i++) {
    const int q = (threadIdx.x & 7) + 8 * i;
    if (K >= 128 || q < K / 16) body(i, q);
  }
}

// v of eight lanes, the sum in each.
__device__ inline int row_sum(int v) {
#pragma unroll
  for (int distance = 4; distance; distance >>= 1) v += __shfl_xor_sync(FULL, v, distance);
  return v;
}

// A lane's part of K sign bits of a member: bit i of at(j, q) is that of byte i of its part j of a row, sixteen bytes
// from 16 q on. Short rows are fetched at once, so that they are there when they are needed.
template <int K> struct Bits {
  static constexpr int PARTS = K < 128 ? 1 : K / 128;
  static constexpr bool HELD = PARTS <= 2;
  const uint16 *halves = nullptr;
  uint32 part[HELD ? PARTS : 1] = {};

  __device__ uint32 at(int i, int q) const { return HELD ? part[HELD ? i : 0] : halves ? halves[q] : 0; }
};
template <int MODE, int K> __device__ inline Bits<K> bits_of(const Tile &tile, int row, int bit) {
  Bits<K> bits;
  if (MODE == PAIRS) {
    bits.halves = (const uint16 *)tile.signs(min(row, tile.rows - 1), bit);
    if (Bits<K>::HELD) each_part<K>([&](int i, int q) { bits.part[Bits<K>::HELD ? i : 0] = bits.halves[q]; });
  }
  return bits;
}

// The words of sixteen bytes, by number, without an array in memory.
__device__ inline uint32 word_of(const uint4 &four, int w) {
  return w == 0 ? four.x : w == 1 ? four.y : w == 2 ? four.z : four.w;
}
template <class Make> __device__ inline uint4 four_words(Make make) {
  uint4 out;
  out.x = make(0), out.y = make(1), out.z = make(2), out.w = make(3);
  return out;
}
// Of corresponding bytes of words: make(i) four times.
template <class Make> __device__ inline uint32 each_byte(Make make) {
  return four_bytes(make(0), make(1), make(2), make(3));
}

// x . b by eight lanes, the sum in each: |sum| <= 127 K < 2**20. A lane reads only what it wrote, or was told of by a
// barrier.
template <int K> __device__ inline int project(const int8 *x, const Bits<K> &b) {
  int sum = 0;
  each_part<K>([&](int i, int q) {
    const uint4 four = *(const uint4 *)(x + 16 * q);
    const uint32 signs = b.at(i, q);
#pragma unroll
    for (int w = 0; w < 4; w++) sum = __dp4a(int(word_of(four, w)), four_signs(signs >> (4 * w)), sum);
  });
  return row_sum(sum);
}

// A norm's gains for a lane's part of all rows: moved by +step and by -step.
struct Gains {
  uint4 plus[D < 128 ? 1 : D / 128], minus[D < 128 ? 1 : D / 128];
};
__device__ inline Gains gains_of(const int8 *gains, int step) {
  Gains out = {};
  each_part<D>([&](int i, int q) {
    const uint4 four = *(const uint4 *)(gains + 16 * q);
    out.plus[i] = four_words([&](int w) {
      return each_byte([&](int j) { return clip8(byte_of(word_of(four, w), j) + step); });
    });
    out.minus[i] = four_words([&](int w) {
      return each_byte([&](int j) { return clip8(byte_of(word_of(four, w), j) - step); });
    });
  });
  return out;
}

// clip8((x * g) // max(1, mean |x|)) of one member by eight lanes; e : signs of g    r : -1 turns them round
// The quotient: with m <= 127 and 0 <= w < 2**15, w // m = (w * ceil(2**22 / m)) >> 22, since the excess
// w / 2**22 < 1 / 128 is less than 1 / m. 128 m is added before, and w >= m limits what comes out to -127.
__device__ inline void norm(const int8 *x, int8 *out, const Gains &gains, const Bits<D> &e, int r) {
  int sum = 0;
  each_part<D>([&](int, int q) {
    const uint4 four = *(const uint4 *)(x + 16 * q);
#pragma unroll
    for (int w = 0; w < 4; w++) {
      const uint32 word = word_of(four, w), negative = (word >> 7) & 0x01010101u;
      sum = __dp4a(int(word), int(negative * 0xFEu ^ 0x01010101u), sum); // bytes -1 and 1
    }
  });
  const int mean = max(1, row_sum(sum) / D);
  const uint32 reciprocal = Divisor(mean).of((1u << 22) + mean - 1);
  each_part<D>([&](int i, int q) {
    const uint4 four = *(const uint4 *)(x + 16 * q);
    const uint32 signs = e.at(i, q), turned = r < 0 ? ~signs : signs;
    *(uint4 *)(out + 16 * q) = four_words([&](int w) {
      const uint32 ones = (((turned >> (4 * w)) & 15u) * 0x00204081u) & 0x01010101u, mask = ones * 0xFFu;
      const uint32 g = (word_of(gains.plus[i], w) & mask) | (word_of(gains.minus[i], w) & ~mask);
      const uint32 quotients = each_byte([&](int j) {
        const int biased = max(mean, byte_of(word_of(four, w), j) * byte_of(g, j) + 128 * mean);
        return min(255, int(__umulhi(uint32(biased) << 10, reciprocal)));
      });
      return quotients ^ 0x80808080u; // less 128
    });
  });
}
