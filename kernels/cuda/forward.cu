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
  int token_row, token_share;   // members token_share read one row
  int length;                   // T
  const int8 *states_in;        // (members / state_share, L, D)
  int state_share;
  int8 *states;                 // (members, L, D), written
  uint32 first, step, key_0, key_1;
  int shift, along;             // 4 - sigma_shift; 1: the perturbation lies along the input
  int8 *logits;                 // CLEAN: (members, T, 256)
  int *scores;                  // PAIRS: (members,)
  int *s0, *s1;                 // TRACED: (T, members)
  int *projections;             // (T, SLOTS, members)
  int8 *inputs, *arrived;       // (groups, T, X_COLUMNS), (groups, T, V_COLUMNS)
  int64 members;
  int group_size;
};

// A bias moves by its own sign; in recipe egg by its gate's (that of the product it is added to), times the first of
// its own, which is in bias_move.
template <int MODE>
__device__ inline int moved_bias(const Tile &tile, int row, int n, int bias, int bit, int gate, bool sign) {
  if (MODE == CLEAN || row >= tile.rows) return bias;
  const int move = tile.bias_move[gate * TILE + row];
  if (MODE == PAIRS) sign = (*tile.signs(row, bit + n) >> (n & 31)) & 1;
  return clip8(bias + (sign ? move : -move));
}

// What each row's product gains, from its input's projection p on b: by lane 0 of the row's warp.
template <int MODE, int K>
__device__ inline void set_term(const Tile &tile, const Run &run, int row, const int8 *x, int b, int slot, int number,
                                int along_factor, int t) {
  const int p = tile.r[row] * project<K>(x, tile.signs(row, b));
  if ((threadIdx.x & 31) == 0) {
    const int along = tile.r[row] * along_factor * gain(1 << product_shift(K), run.shift);
    tile.term[2 * slot * TILE + row] = run.along ? along : gain(p, run.shift);
    tile.term[(2 * slot + 1) * TILE + row] = run.along ? -along : gain(-p, run.shift);
    if (MODE == TRACED) run.projections[((int64)t * SLOTS + number) * run.members + tile.begin + row] = p;
  }
}

// A group's first member leaves what a product read.
template <int MODE, int K>
__device__ inline void keep_input(const Tile &tile, const Run &run, int row, const int8 *x, int column, int t) {
  if (MODE != TRACED || tile.group[row] < 0) return;
  int8 *to = run.inputs + ((int64)tile.group[row] * run.length + t) * X_COLUMNS + column;
  for (int w = threadIdx.x & 31; w < K / 4; w += 32) *(uint32 *)(to + 4 * w) = *(const uint32 *)(x + 4 * w);
}

__device__ inline int free_of(int v) { return abs(v) < LIMIT; }

template <int MODE> __device__ inline void begin_token(const Tile &tile, const Run &run, int t) {
  for (int row = threadIdx.x; row < TILE; row += THREADS) {
    const int64 member = tile.begin + min(row, tile.rows - 1);
    const uint8 *at = run.tokens + member / run.token_share * run.token_row + t;
    tile.token[row] = at[0];
    if (MODE != CLEAN) tile.target[row] = at[1];
    int r = 1 - 2 * int(member & 1);
    if (MODE == TRACED) {
      const Words drawn = philox(t >> 7, TOKEN_SIGNS, run.first + uint32(member), run.step, run.key_0, run.key_1);
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
  const int lane = threadIdx.x & 31, step = max(1, gain(1, run.shift));
  for (int row = threadIdx.x >> 5; row < tile.rows; row += WARPS) {
    const int token = tile.token[row];
    const int8 *weights = run.weights + AT_EMBEDDING + token * D;
    int move = 0;
    if (MODE != CLEAN) move = tile.r[row] * sign_of(*tile.signs(row, BIT_A_EMBEDDING + token), token & 31) * step;
    for (int w = lane; w < D / 4; w += 32) {
      const uint32 four = *(const uint32 *)(weights + 4 * w);
      int x[4];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        x[i] = byte_of(four, i);
        if (MODE != CLEAN)
          x[i] = clip8(x[i] + sign_of(*tile.signs(row, BIT_B_EMBEDDING + 4 * w), 4 * (w & 7) + i) * move);
      }
      *(uint32 *)(tile.x + row * ROW + 4 * w) = four_bytes(x[0], x[1], x[2], x[3]);
    }
  }
}

// u = norm(x), the state before the byte, and the three projections on them.
template <int MODE> __device__ inline void begin_layer(const Tile &tile, const Run &run, int layer, int t) {
  const int bits = layer * LAYER_BITS, number = LAYER_PRODUCTS * layer, inputs = LAYER_INPUTS * layer * D;
  const int step = max(1, gain(1, run.shift));
  for (int row = threadIdx.x >> 5; row < tile.rows; row += WARPS) {
    const int64 member = tile.begin + row;
    const int8 *before = t ? run.states + (member * LAYERS + layer) * D
                           : run.states_in + (member / run.state_share * LAYERS + layer) * D;
    int8 *u = tile.in + row * ROW, *h = tile.h + row * ROW;
    for (int w = threadIdx.x & 31; w < D / 4; w += 32)
      *(uint32 *)(h + 4 * w) = tile.token[row] ? *(const uint32 *)(before + 4 * w) : 0;
    norm(tile.x + row * ROW, u, run.weights + AT_LN1 + layer * LAYER_WEIGHTS,
         MODE == CLEAN ? nullptr : tile.signs(row, BIT_A_LN1 + bits), tile.r[row] * step);
    __syncwarp();
    if (MODE != CLEAN) {
      set_term<MODE, D>(tile, run, row, u, BIT_B_W_F + bits, 0, number + P_W_F, 2, t);
      set_term<MODE, D>(tile, run, row, h, BIT_B_U_F + bits, 1, number + P_U_F, 0, t);
      set_term<MODE, D>(tile, run, row, u, BIT_B_W_H + bits, 2, number + P_W_H, 2, t);
      if ((threadIdx.x & 31) < 2) {
        const int gate = threadIdx.x & 31, bit = (gate ? BIT_A_B_H : BIT_A_B_F) + bits;
        const int first = MODE == PAIRS ? 1 : sign_of(*tile.signs(row, bit), 0);
        tile.bias_move[gate * TILE + row] = run.along ? 0 : tile.r[row] * step * first;
      }
      keep_input<MODE, D>(tile, run, row, u, inputs + X_U * D, t);
      keep_input<MODE, D>(tile, run, row, h, inputs + X_H * D, t);
    }
  }
}

template <int MODE> __device__ inline void gates(const Tile &tile, const Run &run, int layer, int t) {
  constexpr int SHIFT = product_shift(D);
  const int bits = layer * LAYER_BITS, at = layer * LAYER_WEIGHTS;
  const int8 *packed = run.packed + (int64)layer * LAYER_PACKED;
  // In recipe egg the products that meet in a gate share their output signs.
  const int a_w_f = BIT_A_W_F + bits, a_u_f = MODE == TRACED ? a_w_f : BIT_A_U_F + bits;
  const int a_w_h = BIT_A_W_H + bits, a_u_h = MODE == TRACED ? a_w_h : BIT_A_U_H + bits;

  product<MODE, D, D>(tile, tile.in, ROW, packed + PACKED_W_F, a_w_f, 0,
      [&](int row, int n, int acc, int term, bool sign) { tile.f[row * ROW + n] = int8(clip8((acc + term) >> SHIFT)); }, Nothing());
  // The same thread meets the same (row, n) again: it needs no barrier for what it left there.
  product<MODE, D, D>(tile, tile.h, ROW, packed + PACKED_U_F, a_u_f, 1,
      [&](int row, int n, int acc, int term, bool sign) {
        const int i = row * ROW + n;
        const int bias = moved_bias<MODE>(tile, row, n, run.weights[AT_B_F + at + n], BIT_A_B_F + bits, 0, sign);
        const int f = clip8(tile.f[i] + clip8((acc + term) >> SHIFT) + bias);
        tile.f[i] = int8(f);
        tile.past[i] = int8(((f + LIMIT) * tile.h[i]) >> 8);
      }, Nothing());
  product<MODE, D, D>(tile, tile.in, ROW, packed + PACKED_W_H, a_w_h, 2,
      [&](int row, int n, int acc, int term, bool sign) { tile.c[row * ROW + n] = int8(clip8((acc + term) >> SHIFT)); }, Nothing());
  __syncthreads();
  if (MODE != CLEAN) {
    for (int row = threadIdx.x >> 5; row < tile.rows; row += WARPS) {
      const int8 *past = tile.past + row * ROW;
      set_term<MODE, D>(tile, run, row, past, BIT_B_U_H + bits, 3, LAYER_PRODUCTS * layer + P_U_H, 0, t);
      keep_input<MODE, D>(tile, run, row, past, (LAYER_INPUTS * layer + X_PAST) * D, t);
    }
    __syncthreads();
  }
  product<MODE, D, D>(tile, tile.past, ROW, packed + PACKED_U_H, a_u_h, 3,
      [&](int row, int n, int acc, int term, bool sign) {
        const int i = row * ROW + n;
        const int bias = moved_bias<MODE>(tile, row, n, run.weights[AT_B_H + at + n], BIT_A_B_H + bits, 1, sign);
        const int c = clip8(tile.c[i] + clip8((acc + term) >> SHIFT) + bias);
        const int f = tile.f[i], h = tile.h[i], moved = h + (((f + LIMIT) * (c - h)) >> 8); // a convex step
        tile.x[i] = int8(clip8(tile.x[i] + moved));
        tile.h[i] = int8(moved); // which nobody else reads any more
        if (MODE == TRACED && tile.group[row] >= 0) {
          int8 *to = run.arrived + ((int64)tile.group[row] * run.length + t) * V_COLUMNS + LAYER_OUTPUTS * layer * D + n;
          to[V_F * D] = int8(free_of(f) * min(LIMIT, abs(c - h)));
          to[V_H * D] = int8(free_of(c) * ((f + LIMIT) >> 1));
        }
      }, Nothing());
  __syncthreads();
}

template <int MODE> __device__ inline void mlp(const Tile &tile, const Run &run, int layer, int t) {
  const int bits = layer * LAYER_BITS, number = LAYER_PRODUCTS * layer, inputs = LAYER_INPUTS * layer * D;
  const int8 *packed = run.packed + (int64)layer * LAYER_PACKED;
  const int step = max(1, gain(1, run.shift));
  for (int row = threadIdx.x >> 5; row < tile.rows; row += WARPS) {
    int8 *v = tile.in + row * ROW, *after = run.states + ((tile.begin + row) * LAYERS + layer) * D;
    for (int w = threadIdx.x & 31; w < D / 4; w += 32)
      *(uint32 *)(after + 4 * w) = *(const uint32 *)(tile.h + row * ROW + 4 * w);
    norm(tile.x + row * ROW, v, run.weights + AT_LN2 + layer * LAYER_WEIGHTS,
         MODE == CLEAN ? nullptr : tile.signs(row, BIT_A_LN2 + bits), tile.r[row] * step);
    __syncwarp();
    if (MODE != CLEAN) {
      set_term<MODE, D>(tile, run, row, v, BIT_B_W_UP + bits, 0, number + P_UP, 1, t);
      keep_input<MODE, D>(tile, run, row, v, inputs + X_LN2 * D, t);
    }
  }
  __syncthreads();
  product<MODE, D, MIDDLE>(tile, tile.in, ROW, packed + PACKED_W_UP, BIT_A_W_UP + bits, 0,
      [&](int row, int n, int acc, int term, bool sign) {
        const int y = clip8((acc + term) >> product_shift(D));
        tile.middle[row * MIDDLE_ROW + n] = int8(y);
        if (MODE == TRACED && tile.group[row] >= 0)
          run.arrived[((int64)tile.group[row] * run.length + t) * V_COLUMNS + (LAYER_OUTPUTS * layer + V_UP) * D + n] =
              int8(LIMIT * free_of(y));
      }, Nothing());
  __syncthreads();
  if (MODE != CLEAN) {
    for (int row = threadIdx.x >> 5; row < tile.rows; row += WARPS) {
      const int8 *y = tile.middle + row * MIDDLE_ROW;
      set_term<MODE, MIDDLE>(tile, run, row, y, BIT_B_W_DOWN + bits, 1, number + P_DOWN, 1, t);
      keep_input<MODE, MIDDLE>(tile, run, row, y, inputs + X_MIDDLE * D, t);
    }
    __syncthreads();
  }
  product<MODE, MIDDLE, D>(tile, tile.middle, MIDDLE_ROW, packed + PACKED_W_DOWN, BIT_A_W_DOWN + bits, 1,
      [&](int row, int n, int acc, int term, bool sign) {
        const int d = clip8((acc + term) >> product_shift(MIDDLE)), x = clip8(tile.x[row * ROW + n] + d);
        tile.x[row * ROW + n] = int8(x);
        if (MODE == TRACED && tile.group[row] >= 0)
          run.arrived[((int64)tile.group[row] * run.length + t) * V_COLUMNS + (LAYER_OUTPUTS * layer + V_DOWN) * D + n] =
              int8(LIMIT * free_of(d) * free_of(x));
      }, Nothing());
  __syncthreads();
}

// Logits, and their scores without storing them: in recipe egg the clean and the moved from one accumulator.
template <int MODE> __device__ inline void head(const Tile &tile, const Run &run, int t) {
  for (int row = threadIdx.x >> 5; row < tile.rows; row += WARPS) {
    int8 *x = tile.in + row * ROW;
    norm(tile.x + row * ROW, x, run.weights + AT_LN_OUT, MODE == CLEAN ? nullptr : tile.signs(row, BIT_A_LN_OUT),
         tile.r[row] * max(1, gain(1, run.shift)));
    __syncwarp();
    if (MODE != CLEAN) {
      set_term<MODE, D>(tile, run, row, x, BIT_B_HEAD, 0, SLOTS - 1, 1, t);
      keep_input<MODE, D>(tile, run, row, x, LAYER_INPUTS * LAYERS * D, t);
    }
  }
  __syncthreads();
  int sums[2] = {0, 0}; // of this thread's logits of a row; sums of 256 are below 2**28
  product<MODE, D, VOCABULARY>(tile, tile.in, ROW, run.packed + PACKED_HEAD, BIT_A_HEAD, 0,
      [&](int row, int n, int acc, int term, bool sign) {
        if (MODE == CLEAN) {
          if (row < tile.rows)
            run.logits[((tile.begin + row) * run.length + t) * VOCABULARY + n] = int8(clip8(acc >> product_shift(D)));
          return;
        }
#pragma unroll
        for (int moved = MODE == TRACED ? 0 : 1; moved < 2; moved++) {
          const int at = clip8((acc + (moved ? term : 0)) >> product_shift(D)) + 128;
          sums[moved] += tile.exp2[at & 15] >> (15 - (at >> 4));
          if (n == tile.target[row]) tile.hit[moved * TILE + row] = at;
        }
      },
      [&](int row) {
        if (MODE == CLEAN) return;
#pragma unroll
        for (int moved = MODE == TRACED ? 0 : 1; moved < 2; moved++) {
          int sum = sums[moved] + __shfl_xor_sync(0xFFFFFFFFu, sums[moved], 1); // the four lanes of a row
          sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 2);
          if ((threadIdx.x & 3) == 0) atomicAdd(&tile.sum[moved * TILE + row], sum);
          sums[moved] = 0;
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
    const int64 member = tile.begin + row;
    const bool first = MODE == TRACED && row < tile.rows && member % run.group_size == 0;
    tile.group[row] = first ? int(member / run.group_size) : -1;
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

// members sequences: logits (members, T, 256), states (members, L, D)
extern "C" __global__ void __launch_bounds__(THREADS, 1)
forward_clean(const int8 *weights, const int8 *packed, const uint8 *tokens, int length, const int8 *states_in,
              int8 *states, int8 *logits, int64 members) {
  SHARED_BUFFER(shared);
  Run run = {};
  run.weights = weights, run.packed = packed, run.tokens = tokens, run.token_row = run.length = length;
  run.token_share = run.state_share = 1, run.states_in = states_in, run.states = states, run.logits = logits;
  run.members = members;
  read_chunk<CLEAN>(shared, run, nullptr, 0, (const int *)weights); // e is not used
}

// members 2 i and 2 i + 1 share direction i and text: scores (members,), states (members, L, D)
extern "C" __global__ void __launch_bounds__(THREADS, 1)
forward_pairs(const int8 *weights, const int8 *packed, const int *exp2, const uint32 *thresholds, const uint32 *words,
              const uint8 *tokens, int length, const int8 *states_in, int8 *states, int *scores, int64 members,
              int shift, int along) {
  SHARED_BUFFER(shared);
  Run run = {};
  run.weights = weights, run.packed = packed, run.thresholds = thresholds, run.tokens = tokens;
  run.length = length, run.token_row = length + 1, run.token_share = 2, run.state_share = 1;
  run.states_in = states_in, run.states = states, run.scores = scores, run.members = members;
  run.shift = shift, run.along = along;
  read_chunk<PAIRS>(shared, run, words, 1, exp2);
}

// groups of group_size members: see Run
extern "C" __global__ void __launch_bounds__(THREADS, 1)
forward_traced(const int8 *weights, const int8 *packed, const int *exp2, const uint32 *thresholds, const uint32 *words,
               const uint8 *tokens, int length, const int8 *states_in, int8 *states, int *s0, int *s1,
               int *projections, int8 *inputs, int8 *arrived, int64 members, int group_size, uint32 first, uint32 step,
               uint32 key_0, uint32 key_1, int shift, int along) {
  SHARED_BUFFER(shared);
  Run run = {};
  run.weights = weights, run.packed = packed, run.thresholds = thresholds, run.tokens = tokens;
  run.length = length, run.token_row = length + 1, run.token_share = run.state_share = group_size;
  run.states_in = states_in, run.states = states, run.s0 = s0, run.s1 = s1, run.projections = projections;
  run.inputs = inputs, run.arrived = arrived, run.members = members, run.group_size = group_size;
  run.first = first, run.step = step, run.key_0 = key_0, run.key_1 = key_1, run.shift = shift, run.along = along;
  read_chunk<TRACED>(shared, run, words, 0, exp2);
}
