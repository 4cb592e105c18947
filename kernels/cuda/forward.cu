// Members read a chunk of text: unperturbed sequences, readers (recipe egg), and antithetic pairs (recipe paper).
//
// Grid: one block of threads for each TILE members, which it carries through all T bytes and L layers (tile.cuh).
// Between two bytes only the states leave shared memory, and of a reader what credit.cuh draws.
#include "arithmetic.cuh"
#include "tile.cuh"

struct Run {
  const int8 *weights, *packed; // flat; matrices as prepare.cu packs them
  const uint32 *thresholds;     // (16,) of the logarithm
  const uint8 *tokens;          // (sequences, T), of pairs (pairs, T + 1), of readers (members, T + 1)
  int length;                   // T
  const int8 *states_in;        // (members, L, D)
  int8 *states;                 // (members, L, D), written
  int shift;                    // 4 - sigma_shift
  int8 *logits;                 // CLEAN: (members, T, 256), written
  int *scores;                  // PAIRS: (members,), written
  int8 *kept;                   // KEPT: (members T, KEPT_ROW), written, see credit.cuh
  int16 *fine;                  // KEPT: (members T, 256), written: logits in 1/4096 bit
  int64 members;
};

// Where a reader's byte is kept.
__device__ inline int8 *kept_at(const Tile &tile, const Run &run, int row, int t) {
  return run.kept + ((tile.begin + row) * run.length + t) * KEPT_ROW;
}
// A row of K bytes by the eight lanes that have it.
template <int K> __device__ inline void keep(int8 *to, const int8 *from) {
  each_part<K>([&](int, int q) { *(uint4 *)(to + 16 * q) = *(const uint4 *)(from + 16 * q); });
}

// Bit 8 i + j: the sign of the bias of output n + 8 i + j is +1. bit : of the first bias' sign
template <int MODE, int TILES>
__device__ inline uint32 bias_signs(const Tile &tile, const Sums<TILES> &sums, int bit) {
  if (MODE != PAIRS || sums.row >= tile.rows) return 0;
  return *tile.signs(sums.row, bit + sums.n) >> (sums.n & 31);
}
template <int MODE> __device__ inline int moved_bias(int bias, int move, uint32 signs, int at) {
  return MODE != PAIRS ? bias : clip8(bias + ((signs >> at) & 1 ? move : -move));
}

// What a member's product gains, from its input's projection p on b: by the first of its eight lanes.
template <int K>
__device__ inline void set_term(const Tile &tile, const Run &run, int row, const int8 *x, const Bits<K> &b, int slot) {
  const int p = tile.r[row] * project<K>(x, b);
  if ((threadIdx.x & 7) == 0) tile.term[slot * TILE + row] = {gain(p, run.shift), gain(-p, run.shift)};
}

// A sum of the head as a logit with 8 fractional bits: |sum| < 2**26, and a left shift for K = 16 and 64 alone.
template <int K> __device__ inline int fine_logit(int sum) {
  constexpr int SHIFT = product_shift(K) - BRANCH_BITS;
  const int v = SHIFT >= 0 ? sum >> max(0, SHIFT) : sum * (1 << max(0, -SHIFT));
  return max(-(LIMIT << BRANCH_BITS), min(32767, v));
}

template <int MODE> __device__ inline void begin_token(const Tile &tile, const Run &run, int t) {
  for (int row = threadIdx.x; row < TILE; row += THREADS) {
    const uint32 member = uint32(tile.begin) + min(row, tile.rows - 1); // of a launch, fewer than 2**31
    const uint8 *at = run.tokens + int64(member >> (MODE == PAIRS)) * (run.length + (MODE != CLEAN)) + t;
    tile.token[row] = at[0];
    if (MODE == PAIRS) tile.target[row] = at[1];
    tile.r[row] = MODE != PAIRS ? 0 : 1 - 2 * int(member & 1);
    tile.sum[row] = tile.hit[row] = 0;
  }
}

template <int MODE> __device__ inline void embed(const Tile &tile, const Run &run) {
  const int step = max(1, gain(1, run.shift));
  each_row(tile, [&](int row) {
    const int token = tile.token[row];
    const int8 *weights = run.weights + AT_EMBEDDING + token * D;
    const Bits<D> b = bits_of<MODE, D>(tile, row, BIT_B_EMBEDDING);
    int move = 0;
    if (MODE == PAIRS)
      move = tile.r[row] * sign_of(*tile.signs(min(row, tile.rows - 1), BIT_A_EMBEDDING + token), token & 31) * step;
    each_part<D>([&](int i, int q) {
      const uint4 four = *(const uint4 *)(weights + 16 * q);
      const uint32 signs = b.at(i, q);
      *(uint4 *)(tile.x + row * ROW + 16 * q) = four_words([&](int w) {
        return each_byte([&](int j) {
          const int x = byte_of(word_of(four, w), j);
          return MODE != PAIRS ? x : clip8(x + sign_of(signs, 4 * w + j) * move);
        });
      });
    });
  });
}

__device__ inline int gain_step(int mode, const Run &run) { return mode != PAIRS ? 0 : max(1, gain(1, run.shift)); }

// u = norm(x), the state before the byte, and the three projections on them.
template <int MODE> __device__ inline void begin_layer(const Tile &tile, const Run &run, int layer, int t) {
  const int bits = layer * LAYER_BITS;
  const Gains gains = gains_of(run.weights + AT_LN1 + layer * LAYER_WEIGHTS, gain_step(MODE, run));
  each_row(tile, [&](int row) {
    const Bits<D> e = bits_of<MODE, D>(tile, row, BIT_A_LN1 + bits);
    const Bits<D> b_w_f = bits_of<MODE, D>(tile, row, BIT_B_W_F + bits);
    const Bits<D> b_u_f = bits_of<MODE, D>(tile, row, BIT_B_U_F + bits);
    const Bits<D> b_w_h = bits_of<MODE, D>(tile, row, BIT_B_W_H + bits);
    const int8 *before = (t ? run.states : run.states_in) + ((tile.begin + row) * LAYERS + layer) * D;
    int8 *u = tile.in + row * ROW, *h = tile.h + row * ROW;
    const bool goes_on = row < tile.rows && tile.token[row];
    each_part<D>([&](int, int q) {
      uint4 four = {};
      if (goes_on) four = *(const uint4 *)(before + 16 * q);
      *(uint4 *)(h + 16 * q) = four;
    });
    norm(tile.x + row * ROW, u, gains, e, tile.r[row]);
    if (MODE == KEPT && row < tile.rows) {
      int8 *kept = kept_at(tile, run, row, t) + layer * KEPT_LAYER;
      keep<D>(kept + KEPT_X, tile.x + row * ROW);
      keep<D>(kept + KEPT_U, u);
      keep<D>(kept + KEPT_H, h);
    }
    if (MODE == PAIRS) {
      set_term<D>(tile, run, row, u, b_w_f, 0);
      set_term<D>(tile, run, row, h, b_u_f, 1);
      set_term<D>(tile, run, row, u, b_w_h, 2);
    }
  });
}

template <int MODE> __device__ inline void gates(const Tile &tile, const Run &run, int layer, int t) {
  const int bits = layer * LAYER_BITS, at = layer * LAYER_WEIGHTS, step = gain_step(MODE, run);
  const int8 *packed = run.packed + (int64)layer * LAYER_PACKED;
  constexpr int TILES = (D < 32 ? D : 32) / 8;

  product<MODE, D, D>(tile, tile.in, ROW, packed + PACKED_W_F, BIT_A_W_F + bits, 0, [&](const Sums<TILES> &sums) {
    int8 *f = tile.f + sums.row * ROW + sums.n;
#pragma unroll
    for (int i = 0; i < TILES; i++) put_pair(f + 8 * i, shifted_pair<D>(sums.moved(i, 0), sums.moved(i, 1)));
  });
  // The same thread meets the same outputs again: it needs no barrier for what it left there. What it reads, it reads
  // before it writes, so that reads need not wait for writes that they might depend on.
  product<MODE, D, D>(tile, tile.h, ROW, packed + PACKED_U_F, BIT_A_U_F + bits, 1, [&](const Sums<TILES> &sums) {
    const int from = sums.row * ROW + sums.n;
    const uint32 signs = bias_signs<MODE>(tile, sums, BIT_A_B_F + bits);
    const int move = MODE != PAIRS ? 0 : tile.r[sums.row] * step;
    uint32 f_pair[TILES], h_pair[TILES], bias[TILES];
#pragma unroll
    for (int i = 0; i < TILES; i++) {
      f_pair[i] = pair_at(tile.f + from + 8 * i), h_pair[i] = pair_at(tile.h + from + 8 * i);
      bias[i] = pair_at(run.weights + AT_B_F + at + sums.n + 8 * i);
    }
#pragma unroll
    for (int i = 0; i < TILES; i++) {
      int f[2], past[2], ends[2];
#pragma unroll
      for (int j = 0; j < 2; j++) {
        const int moved = moved_bias<MODE>(byte_of(bias[i], j), move, signs, 8 * i + j);
        const int of_w = byte_of(f_pair[i], j), of_u = shifted<D>(sums.moved(i, j));
        ends[j] = FREE_W_F * is_free(of_w) + FREE_U_F * is_free(of_u);
        f[j] = clip8(of_w + of_u + moved);
        past[j] = ((f[j] + LIMIT) * byte_of(h_pair[i], j)) >> 8;
      }
      put_pair(tile.f + from + 8 * i, pair_of(f[0], f[1]));
      put_pair(tile.past + from + 8 * i, pair_of(past[0], past[1]));
      if (MODE == KEPT && sums.row < tile.rows)
        put_pair(kept_at(tile, run, sums.row, t) + layer * KEPT_LAYER + KEPT_ENDS + sums.n + 8 * i,
                 pair_of(ends[0], ends[1]));
    }
  });
  product<MODE, D, D>(tile, tile.in, ROW, packed + PACKED_W_H, BIT_A_W_H + bits, 2, [&](const Sums<TILES> &sums) {
    int8 *c = tile.c + sums.row * ROW + sums.n;
#pragma unroll
    for (int i = 0; i < TILES; i++) put_pair(c + 8 * i, shifted_pair<D>(sums.moved(i, 0), sums.moved(i, 1)));
  });
  __syncthreads();
  if (MODE == PAIRS) {
    each_row(tile, [&](int row) {
      const Bits<D> b = bits_of<MODE, D>(tile, row, BIT_B_U_H + bits);
      set_term<D>(tile, run, row, tile.past + row * ROW, b, 3);
    });
    __syncthreads();
  }
  // The new state goes where u was, which nobody reads any more.
  product<MODE, D, D>(tile, tile.past, ROW, packed + PACKED_U_H, BIT_A_U_H + bits, 3, [&](const Sums<TILES> &sums) {
    const int from = sums.row * ROW + sums.n;
    const uint32 signs = bias_signs<MODE>(tile, sums, BIT_A_B_H + bits);
    const int move = MODE != PAIRS ? 0 : tile.r[sums.row] * step;
    uint32 c_pair[TILES], f_pair[TILES], h_pair[TILES], x_pair[TILES], bias[TILES];
#pragma unroll
    for (int i = 0; i < TILES; i++) {
      c_pair[i] = pair_at(tile.c + from + 8 * i), f_pair[i] = pair_at(tile.f + from + 8 * i);
      h_pair[i] = pair_at(tile.h + from + 8 * i), x_pair[i] = pair_at(tile.x + from + 8 * i);
      bias[i] = pair_at(run.weights + AT_B_H + at + sums.n + 8 * i);
    }
#pragma unroll
    for (int i = 0; i < TILES; i++) {
      int c[2], after[2], x[2], ends[2];
#pragma unroll
      for (int j = 0; j < 2; j++) {
        const int moved = moved_bias<MODE>(byte_of(bias[i], j), move, signs, 8 * i + j);
        const int of_w = byte_of(c_pair[i], j), of_u = shifted<D>(sums.moved(i, j));
        ends[j] = FREE_W_H * is_free(of_w) + FREE_U_H * is_free(of_u);
        c[j] = clip8(of_w + of_u + moved);
        const int f = byte_of(f_pair[i], j), h = byte_of(h_pair[i], j);
        after[j] = h + (((f + LIMIT) * (c[j] - h)) >> 8); // a convex step
        x[j] = clip8(byte_of(x_pair[i], j) + after[j]);
      }
      put_pair(tile.in + from + 8 * i, pair_of(after[0], after[1]));
      put_pair(tile.x + from + 8 * i, pair_of(x[0], x[1]));
      if (MODE == KEPT) {
        put_pair(tile.c + from + 8 * i, pair_of(c[0], c[1]));
        // The same thread has left the flags of the gate's products there.
        int8 *both = kept_at(tile, run, sums.row, t) + layer * KEPT_LAYER + KEPT_ENDS + sums.n + 8 * i;
        if (sums.row < tile.rows) put_pair(both, uint16(pair_at(both) | pair_of(ends[0], ends[1])));
      }
    }
  });
  __syncthreads();
}

template <int MODE> __device__ inline void mlp(const Tile &tile, const Run &run, int layer, int t) {
  const int bits = layer * LAYER_BITS;
  const int8 *packed = run.packed + (int64)layer * LAYER_PACKED;
  constexpr int TILES = (D < 32 ? D : 32) / 8, MIDDLE_TILES = 4;
  const Gains gains = gains_of(run.weights + AT_LN2 + layer * LAYER_WEIGHTS, gain_step(MODE, run));
  each_row(tile, [&](int row) {
    const Bits<D> e = bits_of<MODE, D>(tile, row, BIT_A_LN2 + bits), b = bits_of<MODE, D>(tile, row, BIT_B_W_UP + bits);
    int8 *v = tile.in + row * ROW, *after = run.states + ((tile.begin + row) * LAYERS + layer) * D;
    if (row < tile.rows)
      each_part<D>([&](int, int q) { *(uint4 *)(after + 16 * q) = *(const uint4 *)(v + 16 * q); });
    norm(tile.x + row * ROW, v, gains, e, tile.r[row]);
    if (MODE == PAIRS) set_term<D>(tile, run, row, v, b, 0);
    if (MODE == KEPT && row < tile.rows) {
      int8 *kept = kept_at(tile, run, row, t) + layer * KEPT_LAYER;
      keep<D>(kept + KEPT_PAST, tile.past + row * ROW);
      keep<D>(kept + KEPT_F, tile.f + row * ROW);
      keep<D>(kept + KEPT_C, tile.c + row * ROW);
      keep<D>(kept + KEPT_MIDDLE, tile.x + row * ROW);
      keep<D>(kept + KEPT_V, v);
    }
  });
  __syncthreads();
  product<MODE, D, MIDDLE>(tile, tile.in, ROW, packed + PACKED_W_UP, BIT_A_W_UP + bits, 0,
      [&](const Sums<MIDDLE_TILES> &sums) {
        int8 *y = tile.middle + sums.row * MIDDLE_ROW + sums.n;
#pragma unroll
        for (int i = 0; i < MIDDLE_TILES; i++)
          put_pair(y + 8 * i, shifted_pair<D>(sums.moved(i, 0), sums.moved(i, 1)));
      });
  __syncthreads();
  if (MODE == KEPT) {
    each_row(tile, [&](int row) {
      int8 *kept = kept_at(tile, run, row, t) + layer * KEPT_LAYER;
      if (row < tile.rows) keep<MIDDLE>(kept + KEPT_Y, tile.middle + row * MIDDLE_ROW);
    });
  }
  if (MODE == PAIRS) {
    each_row(tile, [&](int row) {
      const Bits<MIDDLE> b = bits_of<MODE, MIDDLE>(tile, row, BIT_B_W_DOWN + bits);
      set_term<MIDDLE>(tile, run, row, tile.middle + row * MIDDLE_ROW, b, 1);
    });
    __syncthreads();
  }
  product<MODE, MIDDLE, D>(tile, tile.middle, MIDDLE_ROW, packed + PACKED_W_DOWN, BIT_A_W_DOWN + bits, 1,
      [&](const Sums<TILES> &sums) {
        const int from = sums.row * ROW + sums.n;
        uint32 x_pair[TILES];
#pragma unroll
        for (int i = 0; i < TILES; i++) x_pair[i] = pair_at(tile.x + from + 8 * i);
#pragma unroll
        for (int i = 0; i < TILES; i++) {
          int x[2], down[2];
#pragma unroll
          for (int j = 0; j < 2; j++) {
            down[j] = shifted<MIDDLE>(sums.moved(i, j));
            x[j] = clip8(byte_of(x_pair[i], j) + down[j]);
          }
          put_pair(tile.x + from + 8 * i, pair_of(x[0], x[1]));
          if (MODE == KEPT && sums.row < tile.rows)
            put_pair(kept_at(tile, run, sums.row, t) + layer * KEPT_LAYER + KEPT_DOWN + sums.n + 8 * i,
                     pair_of(down[0], down[1]));
        }
      });
  __syncthreads();
}

// Logits, or their scores without storing them.
template <int MODE> __device__ inline void head(const Tile &tile, const Run &run, int t) {
  constexpr int TILES = 4;
  const Gains gains = gains_of(run.weights + AT_LN_OUT, gain_step(MODE, run));
  each_row(tile, [&](int row) {
    const Bits<D> e = bits_of<MODE, D>(tile, row, BIT_A_LN_OUT), b = bits_of<MODE, D>(tile, row, BIT_B_HEAD);
    int8 *x = tile.in + row * ROW;
    norm(tile.x + row * ROW, x, gains, e, tile.r[row]);
    if (MODE == PAIRS) set_term<D>(tile, run, row, x, b, 0);
    if (MODE == KEPT && row < tile.rows) {
      int8 *kept = kept_at(tile, run, row, t);
      keep<D>(kept + KEPT_END, tile.x + row * ROW);
      keep<D>(kept + KEPT_O, x);
    }
  });
  __syncthreads();
  product<MODE, D, VOCABULARY>(tile, tile.in, ROW, run.packed + PACKED_HEAD, BIT_A_HEAD, 0,
      [&](const Sums<TILES> &sums) {
        if constexpr (MODE == KEPT) {
          if (sums.row >= tile.rows) return;
          int16 *fine = run.fine + ((tile.begin + sums.row) * run.length + t) * VOCABULARY + sums.n;
#pragma unroll
          for (int i = 0; i < TILES; i++)
#pragma unroll
            for (int j = 0; j < 2; j++) fine[8 * i + j] = int16(fine_logit<D>(sums.of[i][j]));
        } else if constexpr (MODE == CLEAN) {
          if (sums.row >= tile.rows) return;
          int8 *logits = run.logits + ((tile.begin + sums.row) * run.length + t) * VOCABULARY + sums.n;
#pragma unroll
          for (int i = 0; i < TILES; i++) put_pair(logits + 8 * i, shifted_pair<D>(sums.of[i][0], sums.of[i][1]));
        } else {
          const int target = tile.target[sums.row] - sums.n;
          int sum = 0; // of a row's 256, below 2**28
          int hit = 0;
#pragma unroll
          for (int i = 0; i < TILES; i++)
#pragma unroll
            for (int j = 0; j < 2; j++) {
              const int at = shifted<D>(sums.moved(i, j)) + 128;
              sum += tile.exp2[at & 15] >> (15 - (at >> 4));
              hit = target == 8 * i + j ? at : hit;
            }
          if (hit) tile.hit[sums.row] = hit; // one thread has it, and it is at least 1
          sum += __shfl_xor_sync(FULL, sum, 1); // the four lanes of a row
          sum += __shfl_xor_sync(FULL, sum, 2);
          if ((threadIdx.x & 3) == 0) atomicAdd(&tile.sum[sums.row], sum);
        }
      });
  __syncthreads();
  if (MODE != PAIRS) return;
  for (int row = threadIdx.x; row < tile.rows; row += THREADS) {
    int *total = run.scores + tile.begin + row;
    *total = (t ? *total : 0) + tile.hit[row] - floor_log2<4>(tile.sum[row], run.thresholds);
  }
}

template <int MODE>
__device__ inline void read_chunk(unsigned char *shared, const Run &run, const uint32 *words, const int *exp2) {
  Tile tile = tile_in(shared);
  tile.words = words;
  tile.begin = (int64)blockIdx.x * TILE;
  tile.rows = int(run.members - tile.begin < TILE ? run.members - tile.begin : TILE);
  if (threadIdx.x < 16) tile.exp2[threadIdx.x] = exp2[threadIdx.x];
  for (int t = 0; t < run.length; t++) {
    __syncthreads();
    begin_token<MODE>(tile, run, t);
    __syncthreads();
    embed<MODE>(tile, run);
    __syncthreads();
#pragma unroll 1
    for (int layer = 0; layer < LAYERS; layer++) {
      begin_layer<MODE>(tile, run, layer, t);
      __syncthreads();
      gates<MODE>(tile, run, layer, t);
      mlp<MODE>(tile, run, layer, t);
    }
    head<MODE>(tile, run, t);
  }
}

// Unperturbed sequences: logits (members, T, 256), states (members, L, D).
extern "C" __global__ void __launch_bounds__(THREADS, 1)
forward_clean(const int8 *weights, const int8 *packed, const uint8 *tokens, int length, const int8 *states_in,
              int8 *states, int8 *logits, int64 members) {
  SHARED_BUFFER(shared);
  Run run = {};
  run.weights = weights, run.packed = packed, run.tokens = tokens, run.length = length;
  run.states_in = states_in, run.states = states, run.logits = logits;
  run.members = members;
  read_chunk<CLEAN>(shared, run, nullptr, (const int *)weights); // e is not used
}

// Antithetic pairs of recipe paper, run and scored: members 2 i and 2 i + 1 share direction i and text.
// scores (members,), states (members, L, D)
extern "C" __global__ void __launch_bounds__(THREADS, 1)
forward_pairs(const int8 *weights, const int8 *packed, const int *exp2, const uint32 *thresholds, const uint32 *words,
              const uint8 *tokens, int length, const int8 *states_in, int8 *states, int *scores, int64 members,
              int shift) {
  SHARED_BUFFER(shared);
  Run run = {};
  run.weights = weights, run.packed = packed, run.thresholds = thresholds, run.tokens = tokens;
  run.length = length, run.states_in = states_in, run.states = states, run.scores = scores, run.members = members;
  run.shift = shift;
  read_chunk<PAIRS>(shared, run, words, exp2);
}

// Readers of recipe egg: states (members, L, D), and for each byte a row of kept (members T, KEPT_ROW) and of fine
// (members T, 256). tokens : (members, T)
extern "C" __global__ void __launch_bounds__(THREADS, 1)
forward_kept(const int8 *weights, const int8 *packed, const uint8 *tokens, int length, const int8 *states_in,
             int8 *states, int8 *kept, int16 *fine, int64 members) {
  SHARED_BUFFER(shared);
  Run run = {};
  run.weights = weights, run.packed = packed, run.tokens = tokens, run.length = length;
  run.states_in = states_in, run.states = states, run.kept = kept, run.fine = fine;
  run.members = members;
  read_chunk<KEPT>(shared, run, nullptr, (const int *)weights); // e is not used
}
