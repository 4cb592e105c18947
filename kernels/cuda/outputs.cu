// Recipe egg: the output side v of every group's vote on every matrix at every token (docs/arithmetic.md, Votes).
//
// Grid: (groups * T, 4 L + 1), a block of threads for each row and product: w_f (with u_f and b_f), w_h, up and down
// of each layer, and the head. The row's v is int16, |v| <= 8,191, and goes to the products of votes.cu.
#include "arithmetic.cuh"
#include "mma.cuh"

constexpr int D = HIDDEN, LAYER_PRODUCTS = 6, SLOTS = LAYER_PRODUCTS * LAYERS + 1, MOST_MEMBERS = 64;
constexpr int X_COLUMNS = (8 * LAYERS + 1) * D, ARRIVED_COLUMNS = 7 * LAYERS * D, V_COLUMNS = ARRIVED_COLUMNS + VOCABULARY;

// |x|**2 of `count` bytes, the part of this thread: 127**2 * 4096 < 2**27 in all.
__device__ inline int squares(const int8 *x, int count) {
  int sum = 0;
#pragma unroll 1 // of these loops: the count of rounds would take a division
  for (int w = threadIdx.x; w < count / 4; w += blockDim.x) {
    const int four = *(const int *)(x + 4 * w);
    sum = __dp4a(four, four, sum);
  }
  return sum;
}

// The output side v of a group's vote on a product at a token.
// words : (members, WORDS)    projections : (T, SLOTS, members)    credit : (3, T, members), see credit.cu
// inputs : (groups, T, X_COLUMNS)    arrived : (groups, T, ARRIVED_COLUMNS)    v : (groups, T, V_COLUMNS), written
// group_size : at most MOST_MEMBERS    first, step, key : of the draws    shift : 4 - sigma_shift
extern "C" __global__ void vote_outputs(const uint32 *words, const int *projections, const int16 *credit,
                                        const int8 *inputs, const int8 *arrived, int16 *v, int length, int64 members,
                                        int group_size, uint32 first, uint32 step, uint32 key_0, uint32 key_1,
                                        int shift, int along) {
  __shared__ int coefficients[MOST_MEMBERS];
  __shared__ int squared, all;
  const uint32 of_group = Divisor(length).of(blockIdx.x);
  const int64 row = blockIdx.x, group = of_group;
  const int t = int(blockIdx.x - of_group * length), layer = blockIdx.y / 4, kind = blockIdx.y % 4;
  const bool is_head = layer == LAYERS, gate = !is_head && kind < 2, last = layer == LAYERS - 1;
  const int lower = is_head ? 0 : layer; // the head's own places do not depend on a layer

  // Where this product's input, projection, output signs and outputs lie, and which credit is its.
  int x = 8 * D * layer, slot = LAYER_PRODUCTS * layer, a = BIT_A_HEAD, width = D, outputs = D, credit_kind = 0;
  int column = 7 * D * layer, bias = 0, other = 0;
  if (is_head) {
    outputs = VOCABULARY, credit_kind = 2;
  } else if (gate) {
    slot += 2 * kind, column += kind * D, other = x + (1 + kind) * D; // w_f reads u and h, w_h reads u and past
    a = (kind ? BIT_A_W_H : BIT_A_W_F) + lower * LAYER_BITS;
    bias = (kind ? BIT_A_B_H : BIT_A_B_F) + lower * LAYER_BITS;
  } else if (kind == 2) {
    slot += 4, x += 3 * D, column += 2 * D, outputs = 4 * D, a = BIT_A_W_UP + lower * LAYER_BITS;
  } else {
    slot += 5, x += 4 * D, column += 6 * D, width = 4 * D, a = BIT_A_W_DOWN + lower * LAYER_BITS;
  }
  if (last && !gate) credit_kind = 1; // cannot reach a later token
  const int constant = 1 << (4 + log2_of(width) / 2); // a gate's third input

  if (threadIdx.x == 0) squared = gate ? constant * constant : 0, all = 0;
  __syncthreads();
  const int8 *in = inputs + row * X_COLUMNS;
  int part = squares(in + x, width);
  if (gate) part += squares(in + other, D);
  part = warp_sum(part);
  if ((threadIdx.x & 31) == 0) atomicAdd(&squared, part);
#pragma unroll 1
  for (int i = threadIdx.x; i < group_size; i += blockDim.x) {
    const int64 member = group * group_size + i;
    const Words drawn = philox(t >> 7, TOKEN_SIGNS, first + uint32(member), step, key_0, key_1);
    uint32 word = drawn.word[0];
    for (int k = 1; k < 4; k++) word = ((t >> 5) & 3) == k ? drawn.word[k] : word;
    const int r = sign_of(word, t & 31);
    int p = r;
    if (!along) {
      const int *at = projections + ((int64)t * SLOTS + slot) * members + member;
      p = at[0];
      if (gate) p += at[members] + r * sign_of(words[member * WORDS + (bias >> 5)], 0) * constant;
    }
    coefficients[i] = credit[((int64)credit_kind * length + t) * members + member] * p;
    atomicAdd(&all, coefficients[i]);
  }
  __syncthreads();

  int64 size = squared > 1 ? squared : 1;
  int down; // v = sum >> down, rounded
  if (along) {
    down = 31 - __clz(gain(constant, shift) * (gate ? 2 : 1)) - VOTE_BITS;
  } else {
    down = (64 - __clzll(size * size)) / 2 - VOTE_BITS; // 2**e nearest to |x|**2, in log; its square < 2**54
  }
  const uint32 *signs = words + group * group_size * WORDS + (a >> 5);
#pragma unroll 1
  for (int o = threadIdx.x; o < outputs; o += blockDim.x) {
    const uint32 *sign = signs + (o >> 5), mask = 1u << (o & 31);
    uint32 positive = 0;
#pragma unroll 8
    for (int i = 0; i < group_size; i++) positive += sign[(int64)i * WORDS] & mask ? coefficients[i] : 0;
    const int sum = int(2 * positive - uint32(all)); // < 2**31, see MAX_GROUP_WIDTH in egg/config.py; its parts wrap
    // round_shift(sum, down) and its limits, which come first where a left shift could leave int32.
    int out = down > 0 ? ((sum >> (down - 1)) + 1) >> 1 : max(-VOTE_LIMIT, min(VOTE_LIMIT, sum)) * (1 << -down);
    out = max(-VOTE_LIMIT, min(VOTE_LIMIT, out));
    if (!is_head) out = (out * arrived[row * ARRIVED_COLUMNS + column + o] + (1 << (ARRIVED_BITS - 1))) >> ARRIVED_BITS;
    v[row * V_COLUMNS + column + o] = int16(out);
  }
}
