// Recipe egg: votes on norm gains, and on the embedding rows that were read (docs/arithmetic.md, Votes).
#include "arithmetic.cuh"

constexpr int D = HIDDEN;

// r of a member's token.
__device__ inline int token_sign(int t, uint32 index, uint32 step, uint32 key_0, uint32 key_1) {
  const Words drawn = philox(t >> 7, TOKEN_SIGNS, index, step, key_0, key_1);
  uint32 word = drawn.word[0];
  for (int k = 1; k < 4; k++) word = ((t >> 5) & 3) == k ? drawn.word[k] : word;
  return sign_of(word, t & 31);
}

// Votes on norm gains: Z += 2**10 sum_i e_i sum_t F r.
// Grid: (slices of 256 members, 2 L + 1 gains): ln1 and ln2 of each layer, ln_out.
// words : (members, WORDS)    credit : (3, T, members) int16    z : (parameters,) int64, added to
extern "C" __global__ void vote_gains(const uint32 *words, const int16 *credit, int64 *z, int length, int64 members,
                                      uint32 first, uint32 step, uint32 key_0, uint32 key_1) {
  __shared__ int64 weights[256];
  const int layer = blockIdx.y / 2, second = blockIdx.y & 1;
  const bool is_out = layer == LAYERS;
  const int kind = is_out || (second && layer == LAYERS - 1); // own token: these cannot reach a later one
  const int64 begin = blockIdx.x * 256ll;
  const int count = int(members - begin < 256 ? members - begin : 256);
#pragma unroll 1 // here and below: the count of rounds would take a division
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    int64 sum = 0;
    for (int t = 0; t < length; t++)
      sum += credit[((int64)kind * length + t) * members + begin + i] *
             token_sign(t, first + uint32(begin + i), step, key_0, key_1);
    weights[i] = sum;
  }
  __syncthreads();
  const int bit = is_out ? BIT_A_LN_OUT : (second ? BIT_A_LN2 : BIT_A_LN1) + layer * LAYER_BITS;
  const int at = is_out ? AT_LN_OUT : (second ? AT_LN2 : AT_LN1) + layer * LAYER_WEIGHTS;
#pragma unroll 1
  for (int d = threadIdx.x; d < D; d += blockDim.x) {
    int64 sum = 0;
    for (int i = 0; i < count; i++) {
      const uint32 word = words[(begin + i) * WORDS + ((bit + d) >> 5)];
      sum += (word >> (d & 31)) & 1 ? weights[i] : -weights[i];
    }
    atomicAdd((uint64 *)(z + at + d), uint64(sum * (1 << VOTE_BITS)));
  }
}

// Votes on the embedding rows that were read: Z[byte] += 2**10 sum_i F r a[byte] b.
// Grid: groups * T. |sum| <= group size * 128.
// tokens : (groups, T + 1) uint8
extern "C" __global__ void vote_embedding(const uint32 *words, const int16 *credit, const uint8 *tokens, int64 *z,
                                          int length, int64 members, int group_size, uint32 first, uint32 step,
                                          uint32 key_0, uint32 key_1) {
  __shared__ int weights[64];
  const uint32 of_group = Divisor(length).of(blockIdx.x);
  const int64 group = of_group, begin = group * group_size;
  const int t = int(blockIdx.x - of_group * length), byte = tokens[group * (length + 1) + t];
#pragma unroll 1
  for (int i = threadIdx.x; i < group_size; i += blockDim.x) {
    const uint32 word = words[(begin + i) * WORDS + ((BIT_A_EMBEDDING + byte) >> 5)];
    weights[i] = credit[(int64)t * members + begin + i] * sign_of(word, byte & 31) *
                 token_sign(t, first + uint32(begin + i), step, key_0, key_1);
  }
  __syncthreads();
#pragma unroll 1
  for (int d = threadIdx.x; d < D; d += blockDim.x) {
    int sum = 0;
    for (int i = 0; i < group_size; i++) {
      const uint32 word = words[(begin + i) * WORDS + ((BIT_B_EMBEDDING + d) >> 5)];
      sum += (word >> (d & 31)) & 1 ? weights[i] : -weights[i];
    }
    atomicAdd((uint64 *)(z + AT_EMBEDDING + byte * D + d), uint64((int64)sum * (1 << VOTE_BITS)));
  }
}
