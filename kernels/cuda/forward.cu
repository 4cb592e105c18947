// Members read a chunk of text: unperturbed sequences, antithetic pairs (recipe paper), groups (recipe egg).
//
// Grid: one block of threads for each TILE members, which it carries through all T bytes and L layers (tile.cuh).
// Between two bytes only the states leave shared memory. Recipe egg also leaves what its votes need: projections of
// every member, and inputs and shares arrived of each group's first.
#include "arithmetic.cuh"
#include "tile.cuh"

struct Run {
  const int8 *weights, *packed; // flat; matrices as prepare.cu packs them
  const uint32 *thresholds;     // (16 + 256,) of the logarithm
  const uint8 *tokens;          // (rows, token_row)
  int token_row;
  Divisor token_share;          // so many members read one row
  int length;                   // T
  const int8 *states_in;        // (members / state_share, L, D)
  Divisor state_share;
  int8 *states;                 // (members, L, D), written
  uint32 first, step, key_0, key_1;
  int shift, along;             // 4 - sigma_shift; 1: the perturbation lies along the input
  int8 *logits;                 // CLEAN: (members, T, 256)
  int *scores;                  // PAIRS: (members,)
  int *s0, *s1;                 // TRACED: (T, members)
  int *projections;             // (T, SLOTS, members)
  int8 *inputs, *arrived;       // (groups, T, X_COLUMNS), (groups, T, V_COLUMNS)
  int64 members;
};

// A bias moves by its own sign; in recipe egg by its gate's (that of the product it is added to), times the first of
// its own, which is in bias_move. bit : of the first output's own sign
template <int MODE, int TILES>
__device__ inline uint32 bias_signs(const Tile &tile, const Sums<TILES> &sums, int bit) {
  if (MODE != PAIRS || sums.row >= tile.rows) return sums.signs;
  return *tile.signs(sums.row, bit + sums.n) >> (sums.n & 31);
}
template <int MODE> __device__ inline int moved_bias(int bias, int move, uint32 signs, int at) {
  return MODE == CLEAN ? bias : clip8(bias + ((signs >> at) & 1 ? move : -move));
}

// What a member's product gains, from its input's projection p on b: by the first of its eight lanes.
template <int MODE, int K>
__device__ inline void set_term(const Tile &tile, const Run &run, int row, const int8 *x, const Bits<K> &b, int slot,
                                int number, int along_factor, int t) {
  const int p = tile.r[row] * project<K>(x, b);
  if ((threadIdx.x & 7) == 0) {
    const int along = tile.r[row] * along_factor * gain(1 << product_shift(K), run.shift);
    tile.term[slot * TILE + row] = {run.along ? along : gain(p, run.shift), run.along ? -along : gain(-p, run.shift)};
    if (MODE == TRACED && row < tile.rows)
      run.projections[((int64)t * SLOTS + number) * run.members + tile.begin + row] = p;
  }
}

// A group's first member leaves what a product read.
template <int MODE, int K>
__device__ inline void keep_input(const Tile &tile, const Run &run, int row, const int8 *x, int column, int t) {
  if (MODE != TRACED || tile.group[row] < 0) return;
  int8 *to = run.inputs + ((int64)tile.group[row] * run.length + t) * X_COLUMNS + column;
  each_part<K>([&](int, int q) { *(uint4 *)(to + 16 * q) = *(const uint4 *)(x + 16 * q); });
}

__device__ inline int free_of(int v) { return abs(v) < LIMIT; }

// It also leaves how much of a push arrived, at each output: make(word, byte) of sixteen bytes' part q.
template <int K, class Make>
__device__ inline void keep_arrived(const Tile &tile, const Run &run, int row, int column, int t, Make make) {
  int8 *to = run.arrived + ((int64)tile.group[row] * run.length + t) * V_COLUMNS + column;
  each_part<K>([&](int, int q) {
    *(uint4 *)(to + 16 * q) = four_words([&](int w) { return make(16 * q + 4 * w); });
  });
}

// Of the two gates: f and c as they are, h from before the byte.
__device__ inline void keep_gates(const Tile &tile, const Run &run, int row, int layer, int t) {
  if (tile.group[row] < 0) return;
  const int8 *f_row = tile.f + row * ROW, *c_row = tile.c + row * ROW, *h_row = tile.h + row * ROW;
  const int column = LAYER_OUTPUTS * layer * D;
  keep_arrived<D>(tile, run, row, column + V_F * D, t, [&](int at) {
    return each_byte([&](int j) { return free_of(f_row[at + j]) * min(LIMIT, abs(c_row[at + j] - h_row[at + j])); });
  });
  keep_arrived<D>(tile, run, row, column + V_H * D, t, [&](int at) {
    return each_byte([&](int j) { return free_of(c_row[at + j]) * ((f_row[at + j] + LIMIT) >> 1); });
  });
}

// Of the MLP: its output d, left where the next product's input will be, and the residual it was added to.
template <int MODE> __device__ inline void keep_down(const Tile &tile, const Run &run, int row, int layer, int t) {
  if (MODE != TRACED || layer < 0 || tile.group[row] < 0) return;
  const int8 *d_row = tile.in + row * ROW, *x_row = tile.x + row * ROW;
  keep_arrived<D>(tile, run, row, (LAYER_OUTPUTS * layer + V_DOWN) * D, t, [&](int at) {
    return each_byte([&](int j) { return LIMIT * free_of(d_row[at + j]) * free_of(x_row[at + j]); });
  });
}

template <int MODE> __device__ inline void begin_token(const Tile &tile, const Run &run, int t) {
  for (int row = threadIdx.x; row < TILE; row += THREADS) {
    const uint32 member = uint32(tile.begin) + min(row, tile.rows - 1); // of a launch, fewer than 2**31
    const uint8 *at = run.tokens + int64(run.token_share.of(member)) * run.token_row + t;
    tile.token[row] = at[0];
    if (MODE != CLEAN) tile.target[row] = at[1];
    int r = 1 - 2 * int(member & 1);
    if (MODE == TRACED) {
      const Words drawn = philox(t >> 7, TOKEN_SIGNS, run.first + member, run.step, run.key_0, run.key_1);
      uint32 word = drawn.word[0];
#pragma unroll
      for (int k = 1; k < 4; k++) word = ((t >> 5) & 3) == k ? drawn.word[k] : word;
      r = sign_of(word, t & 31);
    }
    tile.r[row] = MODE == CLEAN ? 0 : r;
    tile.sum[row] = tile.sum[TILE + row] = 0;
    tile.hit[row] = tile.hit[TILE + row] = 0;
  }
}

template <int MODE> __device__ inline void embed(const Tile &tile, const Run &run) {
  const int step = max(1, gain(1, run.shift));
  each_row(tile, [&](int row) {
    const int token = tile.token[row];
    const int8 *weights = run.weights + AT_EMBEDDING + token * D;
    const Bits<D> b = bits_of<MODE, D>(tile, row, BIT_B_EMBEDDING);
    int move = 0;
    if (MODE != CLEAN)
      move = tile.r[row] * sign_of(*tile.signs(min(row, tile.rows - 1), BIT_A_EMBEDDING + token), token & 31) * step;
    each_part<D>([&](int i, int q) {
      const uint4 four = *(const uint4 *)(weights + 16 * q);
      const uint32 signs = b.at(i, q);
      *(uint4 *)(tile.x + row * ROW + 16 * q) = four_words([&](int w) {
        return each_byte([&](int j) {
          const int x = byte_of(word_of(four, w), j);
          return MODE == CLEAN ? x : clip8(x + sign_of(signs, 4 * w + j) * move);
        });
      });
    });
  });
}

__device__ inline int gain_step(int mode, const Run &run) { return mode == CLEAN ? 0 : max(1, gain(1, run.shift)); }

// u = norm(x), the state before the byte, and the three projections on them.
template <int MODE> __device__ inline void begin_layer(const Tile &tile, const Run &run, int layer, int t) {
  const int bits = layer * LAYER_BITS, number = LAYER_PRODUCTS * layer, inputs = LAYER_INPUTS * layer * D;
  const int step = gain_step(MODE, run);
  const Gains gains = gains_of(run.weights + AT_LN1 + layer * LAYER_WEIGHTS, step);
  each_row(tile, [&](int row) {
    const Bits<D> e = bits_of<MODE, D>(tile, row, BIT_A_LN1 + bits), b_w_f = bits_of<MODE, D>(tile, row, BIT_B_W_F + bits),
                  b_u_f = bits_of<MODE, D>(tile, row, BIT_B_U_F + bits), b_w_h = bits_of<MODE, D>(tile, row, BIT_B_W_H + bits);
    const uint32 member = uint32(tile.begin) + row;
    const int8 *before = t ? run.states + (int64(member) * LAYERS + layer) * D
                           : run.states_in + (int64(run.state_share.of(member)) * LAYERS + layer) * D;
    int8 *u = tile.in + row * ROW, *h = tile.h + row * ROW;
    const bool goes_on = row < tile.rows && tile.token[row];
    each_part<D>([&](int, int q) {
      uint4 four = {};
      if (goes_on) four = *(const uint4 *)(before + 16 * q);
      *(uint4 *)(h + 16 * q) = four;
    });
    keep_down<MODE>(tile, run, row, layer - 1, t);
    norm(tile.x + row * ROW, u, gains, e, tile.r[row]);
    if (MODE != CLEAN) {
      set_term<MODE, D>(tile, run, row, u, b_w_f, 0, number + P_W_F, 2, t);
      set_term<MODE, D>(tile, run, row, h, b_u_f, 1, number + P_U_F, 0, t);
      set_term<MODE, D>(tile, run, row, u, b_w_h, 2, number + P_W_H, 2, t);
      if ((threadIdx.x & 7) < 2) {
        const int gate = threadIdx.x & 7, bit = (gate ? BIT_A_B_H : BIT_A_B_F) + bits;
        const int first = MODE == PAIRS ? 1 : sign_of(*tile.signs(min(row, tile.rows - 1), bit), 0);
        tile.bias_move[gate * TILE + row] = run.along ? 0 : tile.r[row] * step * first;
      }
      keep_input<MODE, D>(tile, run, row, u, inputs + X_U * D, t);
      keep_input<MODE, D>(tile, run, row, h, inputs + X_H * D, t);
    }
  });
}

template <int MODE> __device__ inline void gates(const Tile &tile, const Run &run, int layer, int t) {
  const int bits = layer * LAYER_BITS, at = layer * LAYER_WEIGHTS;
  const int8 *packed = run.packed + (int64)layer * LAYER_PACKED;
  // In recipe egg the products that meet in a gate share their output signs.
  const int a_w_f = BIT_A_W_F + bits, a_u_f = MODE == TRACED ? a_w_f : BIT_A_U_F + bits;
  const int a_w_h = BIT_A_W_H + bits, a_u_h = MODE == TRACED ? a_w_h : BIT_A_U_H + bits;
  constexpr int TILES = (D < 32 ? D : 32) / 8;

  product<MODE, D, D>(tile, tile.in, ROW, packed + PACKED_W_F, a_w_f, 0, [&](const Sums<TILES> &sums) {
    int8 *f = tile.f + sums.row * ROW + sums.n;
#pragma unroll
    for (int i = 0; i < TILES; i++) put_pair(f + 8 * i, shifted_pair<D>(sums.moved(i, 0), sums.moved(i, 1)));
  });
  // The same thread meets the same outputs again: it needs no barrier for what it left there. What it reads, it reads
  // before it writes, so that reads need not wait for writes that they might depend on.
  product<MODE, D, D>(tile, tile.h, ROW, packed + PACKED_U_F, a_u_f, 1, [&](const Sums<TILES> &sums) {
    const int from = sums.row * ROW + sums.n;
    const uint32 signs = bias_signs<MODE>(tile, sums, BIT_A_B_F + bits);
    const int move = MODE == CLEAN ? 0 : tile.bias_move[sums.row];
    uint32 f_pair[TILES], h_pair[TILES], bias[TILES];
#pragma unroll
    for (int i = 0; i < TILES; i++) {
      f_pair[i] = pair_at(tile.f + from + 8 * i), h_pair[i] = pair_at(tile.h + from + 8 * i);
      bias[i] = pair_at(run.weights + AT_B_F + at + sums.n + 8 * i);
    }
#pragma unroll
    for (int i = 0; i < TILES; i++) {
      int f[2], past[2];
#pragma unroll
      for (int j = 0; j < 2; j++) {
        const int moved = moved_bias<MODE>(byte_of(bias[i], j), move, signs, 8 * i + j);
        f[j] = clip8(byte_of(f_pair[i], j) + shifted<D>(sums.moved(i, j)) + moved);
        past[j] = ((f[j] + LIMIT) * byte_of(h_pair[i], j)) >> 8;
      }
      put_pair(tile.f + from + 8 * i, pair_of(f[0], f[1]));
      put_pair(tile.past + from + 8 * i, pair_of(past[0], past[1]));
    }
  });
  product<MODE, D, D>(tile, tile.in, ROW, packed + PACKED_W_H, a_w_h, 2, [&](const Sums<TILES> &sums) {
    int8 *c = tile.c + sums.row * ROW + sums.n;
#pragma unroll
    for (int i = 0; i < TILES; i++) put_pair(c + 8 * i, shifted_pair<D>(sums.moved(i, 0), sums.moved(i, 1)));
  });
  __syncthreads();
  if (MODE != CLEAN) {
    each_row(tile, [&](int row) {
      const Bits<D> b = bits_of<MODE, D>(tile, row, BIT_B_U_H + bits);
      const int8 *past = tile.past + row * ROW;
      set_term<MODE, D>(tile, run, row, past, b, 3, LAYER_PRODUCTS * layer + P_U_H, 0, t);
      keep_input<MODE, D>(tile, run, row, past, (LAYER_INPUTS * layer + X_PAST) * D, t);
    });
    __syncthreads();
  }
  // The new state goes where u was, which nobody reads any more: the old one is needed for what arrived.
  product<MODE, D, D>(tile, tile.past, ROW, packed + PACKED_U_H, a_u_h, 3, [&](const Sums<TILES> &sums) {
    const int from = sums.row * ROW + sums.n;
    const uint32 signs = bias_signs<MODE>(tile, sums, BIT_A_B_H + bits);
    const int move = MODE == CLEAN ? 0 : tile.bias_move[TILE + sums.row];
    uint32 c_pair[TILES], f_pair[TILES], h_pair[TILES], x_pair[TILES], bias[TILES];
#pragma unroll
    for (int i = 0; i < TILES; i++) {
      c_pair[i] = pair_at(tile.c + from + 8 * i), f_pair[i] = pair_at(tile.f + from + 8 * i);
      h_pair[i] = pair_at(tile.h + from + 8 * i), x_pair[i] = pair_at(tile.x + from + 8 * i);
      bias[i] = pair_at(run.weights + AT_B_H + at + sums.n + 8 * i);
    }
#pragma unroll
    for (int i = 0; i < TILES; i++) {
      int c[2], after[2], x[2];
#pragma unroll
      for (int j = 0; j < 2; j++) {
        const int moved = moved_bias<MODE>(byte_of(bias[i], j), move, signs, 8 * i + j);
        c[j] = clip8(byte_of(c_pair[i], j) + shifted<D>(sums.moved(i, j)) + moved);
        const int f = byte_of(f_pair[i], j), h = byte_of(h_pair[i], j);
        after[j] = h + (((f + LIMIT) * (c[j] - h)) >> 8); // a convex step
        x[j] = clip8(byte_of(x_pair[i], j) + after[j]);
      }
      put_pair(tile.in + from + 8 * i, pair_of(after[0], after[1]));
      put_pair(tile.x + from + 8 * i, pair_of(x[0], x[1]));
      if (MODE == TRACED) put_pair(tile.c + from + 8 * i, pair_of(c[0], c[1]));
    }
  });
  __syncthreads();
}

template <int MODE> __device__ inline void mlp(const Tile &tile, const Run &run, int layer, int t) {
  const int bits = layer * LAYER_BITS, number = LAYER_PRODUCTS * layer, inputs = LAYER_INPUTS * layer * D;
  const int8 *packed = run.packed + (int64)layer * LAYER_PACKED;
  constexpr int TILES = (D < 32 ? D : 32) / 8, MIDDLE_TILES = 4;
  const Gains gains = gains_of(run.weights + AT_LN2 + layer * LAYER_WEIGHTS, gain_step(MODE, run));
  each_row(tile, [&](int row) {
    const Bits<D> e = bits_of<MODE, D>(tile, row, BIT_A_LN2 + bits), b = bits_of<MODE, D>(tile, row, BIT_B_W_UP + bits);
    int8 *v = tile.in + row * ROW, *after = run.states + ((tile.begin + row) * LAYERS + layer) * D;
    if (row < tile.rows)
      each_part<D>([&](int, int q) { *(uint4 *)(after + 16 * q) = *(const uint4 *)(v + 16 * q); });
    if (MODE == TRACED) keep_gates(tile, run, row, layer, t);
    norm(tile.x + row * ROW, v, gains, e, tile.r[row]);
    if (MODE != CLEAN) {
      set_term<MODE, D>(tile, run, row, v, b, 0, number + P_UP, 1, t);
      keep_input<MODE, D>(tile, run, row, v, inputs + X_LN2 * D, t);
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
  if (MODE != CLEAN) {
    each_row(tile, [&](int row) {
      const Bits<MIDDLE> b = bits_of<MODE, MIDDLE>(tile, row, BIT_B_W_DOWN + bits);
      const int8 *y = tile.middle + row * MIDDLE_ROW;
      set_term<MODE, MIDDLE>(tile, run, row, y, b, 1, number + P_DOWN, 1, t);
      keep_input<MODE, MIDDLE>(tile, run, row, y, inputs + X_MIDDLE * D, t);
      if (MODE == TRACED && tile.group[row] >= 0)
        keep_arrived<MIDDLE>(tile, run, row, (LAYER_OUTPUTS * layer + V_UP) * D, t, [&](int at_y) {
          return each_byte([&](int j) { return LIMIT * free_of(y[at_y + j]); });
        });
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
          int d[2], x[2];
#pragma unroll
          for (int j = 0; j < 2; j++) {
            d[j] = shifted<MIDDLE>(sums.moved(i, j));
            x[j] = clip8(byte_of(x_pair[i], j) + d[j]);
          }
          put_pair(tile.x + from + 8 * i, pair_of(x[0], x[1]));
          if (MODE == TRACED) put_pair(tile.in + from + 8 * i, pair_of(d[0], d[1])); // see keep_down
        }
      });
  __syncthreads();
}

// Logits, and their scores without storing them: in recipe egg the clean and the moved from one accumulator.
template <int MODE> __device__ inline void head(const Tile &tile, const Run &run, int t) {
  constexpr int TILES = 4;
  const Gains gains = gains_of(run.weights + AT_LN_OUT, gain_step(MODE, run));
  each_row(tile, [&](int row) {
    const Bits<D> e = bits_of<MODE, D>(tile, row, BIT_A_LN_OUT), b = bits_of<MODE, D>(tile, row, BIT_B_HEAD);
    int8 *x = tile.in + row * ROW;
    keep_down<MODE>(tile, run, row, LAYERS - 1, t);
    norm(tile.x + row * ROW, x, gains, e, tile.r[row]);
    if (MODE != CLEAN) {
      set_term<MODE, D>(tile, run, row, x, b, 0, SLOTS - 1, 1, t);
      keep_input<MODE, D>(tile, run, row, x, LAYER_INPUTS * LAYERS * D, t);
    }
  });
  __syncthreads();
  product<MODE, D, VOCABULARY>(tile, tile.in, ROW, run.packed + PACKED_HEAD, BIT_A_HEAD, 0,
      [&](const Sums<TILES> &sums) {
        if constexpr (MODE == CLEAN) {
          if (sums.row >= tile.rows) return;
          int8 *logits = run.logits + ((tile.begin + sums.row) * run.length + t) * VOCABULARY + sums.n;
#pragma unroll
          for (int i = 0; i < TILES; i++) put_pair(logits + 8 * i, shifted_pair<D>(sums.of[i][0], sums.of[i][1]));
        } else {
          const int target = tile.target[sums.row] - sums.n;
#pragma unroll
          for (int moved = MODE == TRACED ? 0 : 1; moved < 2; moved++) {
            int sum = 0; // of a row's 256, below 2**28
            int hit = 0;
#pragma unroll
            for (int i = 0; i < TILES; i++)
#pragma unroll
              for (int j = 0; j < 2; j++) {
                const int at = shifted<D>(moved ? sums.moved(i, j) : sums.of[i][j]) + 128;
                sum += tile.exp2[at & 15] >> (15 - (at >> 4));
                hit = target == 8 * i + j ? at : hit;
              }
            if (hit) tile.hit[moved * TILE + sums.row] = hit; // one thread has it, and it is at least 1
            sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 1); // the four lanes of a row
            sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 2);
            if ((threadIdx.x & 3) == 0) atomicAdd(&tile.sum[moved * TILE + sums.row], sum);
          }
        }
      });
  __syncthreads();
  if (MODE == CLEAN) return;
  for (int row = threadIdx.x; row < tile.rows; row += THREADS) {
    const int64 member = tile.begin + row;
    const int *sum = tile.sum + row, *hit = tile.hit + row;
    if (MODE == TRACED) {
      run.s0[t * run.members + member] = 16 * hit[0] - floor_log2(sum[0], run.thresholds + 16, 256);
      run.s1[t * run.members + member] = 16 * hit[TILE] - floor_log2(sum[TILE], run.thresholds + 16, 256);
    } else {
      const int score = hit[TILE] - floor_log2(sum[TILE], run.thresholds, 16);
      run.scores[member] = (t ? run.scores[member] : 0) + score;
    }
  }
}

template <int MODE> __device__ inline void read_chunk(unsigned char *shared, const Run &run, const uint32 *words,
                                                      int word_shift, const int *exp2) {
  Tile tile = tile_in(shared);
  tile.words = words;
  tile.word_shift = word_shift;
  tile.begin = (int64)blockIdx.x * TILE;
  tile.rows = int(run.members - tile.begin < TILE ? run.members - tile.begin : TILE);
  if (threadIdx.x < 16) tile.exp2[threadIdx.x] = exp2[threadIdx.x];
  for (int row = threadIdx.x; row < TILE; row += THREADS) {
    const uint32 member = uint32(tile.begin) + row, group = MODE == TRACED ? run.token_share.of(member) : 0;
    const bool first = MODE == TRACED && row < tile.rows && member == group * run.token_share.d;
    tile.group[row] = first ? int(group) : -1;
  }
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
  run.weights = weights, run.packed = packed, run.tokens = tokens, run.token_row = run.length = length;
  run.states_in = states_in, run.states = states, run.logits = logits;
  run.members = members;
  read_chunk<CLEAN>(shared, run, nullptr, 0, (const int *)weights); // e is not used
}

// Antithetic pairs of recipe paper, run and scored: members 2 i and 2 i + 1 share direction i and text.
// scores (members,), states (members, L, D)
extern "C" __global__ void __launch_bounds__(THREADS, 1)
forward_pairs(const int8 *weights, const int8 *packed, const int *exp2, const uint32 *thresholds, const uint32 *words,
              const uint8 *tokens, int length, const int8 *states_in, int8 *states, int *scores, int64 members,
              int shift, int along) {
  SHARED_BUFFER(shared);
  Run run = {};
  run.weights = weights, run.packed = packed, run.thresholds = thresholds, run.tokens = tokens;
  run.length = length, run.token_row = length + 1, run.token_share = Divisor(2);
  run.states_in = states_in, run.states = states, run.scores = scores, run.members = members;
  run.shift = shift, run.along = along;
  read_chunk<PAIRS>(shared, run, words, 1, exp2);
}

// Groups of recipe egg, run and scored, with what their credits and votes need.
// Of group_size members: see Run.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
forward_traced(const int8 *weights, const int8 *packed, const int *exp2, const uint32 *thresholds, const uint32 *words,
               const uint8 *tokens, int length, const int8 *states_in, int8 *states, int *s0, int *s1,
               int *projections, int8 *inputs, int8 *arrived, int64 members, int group_size, uint32 first, uint32 step,
               uint32 key_0, uint32 key_1, int shift, int along) {
  SHARED_BUFFER(shared);
  Run run = {};
  run.weights = weights, run.packed = packed, run.thresholds = thresholds, run.tokens = tokens;
  run.length = length, run.token_row = length + 1, run.token_share = run.state_share = Divisor(group_size);
  run.states_in = states_in, run.states = states, run.s0 = s0, run.s1 = s1, run.projections = projections;
  run.inputs = inputs, run.arrived = arrived, run.members = members;
  run.first = first, run.step = step, run.key_0 = key_0, run.key_1 = key_1, run.shift = shift, run.along = along;
  read_chunk<TRACED>(shared, run, words, 0, exp2);
}
