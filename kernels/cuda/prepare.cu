// Before members run: matrices in the order the tensor cores read them, the members' sign bits, and the states of the
// streams whose turn it is.
#include "arithmetic.cuh"

// A matrix of every layer in the order the tensor cores read it. Grid: (elements, layers).
// W (N, K) int8 -> [N / 16][K / 32][lane][4] words: one 16-byte load a lane is B for 16 outputs and 32 inputs
// (mma.cuh). K = 16 is padded with zero weights, so what an activation row holds there does not matter.
// layer_weights, layer_words : from one layer's to the next's
extern "C" __global__ void pack_matrix(const int8 *weights, uint32 *packed, int outputs, int inputs, int layer_weights,
                                       int layer_words) {
  weights += (int64)blockIdx.y * layer_weights, packed += (int64)blockIdx.y * layer_words;
  // Widths are powers of two.
  const int k_tiles = (inputs + 31) / 32, k_bits = 31 - __clz(k_tiles), words = outputs / 16 * k_tiles * 128;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < words; i += gridDim.x * blockDim.x) {
    const int j = i & 3, lane = (i >> 2) & 31, tile = i >> 7;
    const int n = (tile >> k_bits) * 16 + (j >> 1) * 8 + (lane >> 2);
    const int k = (tile & (k_tiles - 1)) * 32 + (j & 1) * 16 + 4 * (lane & 3);
    packed[i] = k < inputs ? *(const uint32 *)(weights + (int64)n * inputs + k) : 0;
  }
}

// The sign bits of the directions of pairs first .. first + count: (count, 4 blocks) uint32, in all fewer than 2**31.
// directions : that the pairs take in turns, or 0: each its own
extern "C" __global__ void draw_signs(uint32 *words, int count, int blocks, uint32 first, uint32 directions,
                                      uint32 step, uint32 key_0, uint32 key_1) {
  const int64 all = (int64)count * blocks;
  const Divisor width{uint32(blocks)}, turns{directions ? directions : 1};
  for (int64 i = blockIdx.x * (int64)blockDim.x + threadIdx.x; i < all; i += (int64)gridDim.x * blockDim.x) {
    const uint32 pair = width.of(uint32(i)), block = uint32(i) - pair * blocks;
    const uint32 direction = first + pair - (directions ? turns.of(first + pair) * directions : 0);
    const Words drawn = philox(block, DIRECTION_SIGNS, direction, step, key_0, key_1);
    for (int k = 0; k < 4; k++) words[4 * i + k] = drawn.word[k];
  }
}

// The factors of the directions of pairs first .. first + count, where rank is not 1 or they are Gaussian:
// (count, rank, width) int8. Each thread makes those of one output of the generator.
// draw(words, i) : factor i of it    PER : factors of it
template <int PER, class Draw>
__device__ inline void draw_factors(int8 *factors, int count, int width, int log_rank, uint32 first, uint32 directions,
                                    uint32 stream, uint32 step, uint32 key_0, uint32 key_1, Draw draw) {
  const int blocks = width / PER;
  const int64 all = ((int64)count << log_rank) * blocks; // fewer than 2**31
  const Divisor row{uint32(blocks)}, turns{directions ? directions : 1};
  for (int64 i = blockIdx.x * (int64)blockDim.x + threadIdx.x; i < all; i += (int64)gridDim.x * blockDim.x) {
    const uint32 at = row.of(uint32(i)), block = uint32(i) - at * blocks, pair = first + (at >> log_rank);
    const uint32 own = pair - (directions ? turns.of(pair) * directions : 0);
    const uint32 number = (own << log_rank) + (at & ((1u << log_rank) - 1));
    const Words drawn = philox(block, stream, number, step, key_0, key_1);
#pragma unroll
    for (int k = 0; k < PER / 4; k++)
      *(uint32 *)(factors + i * PER + 4 * k) =
          four_bytes(draw(drawn, 4 * k), draw(drawn, 4 * k + 1), draw(drawn, 4 * k + 2), draw(drawn, 4 * k + 3));
  }
}

// Signs, in the order of their bits. Width: a multiple of 128.
extern "C" __global__ void draw_sign_factors(int8 *factors, int count, int width, int log_rank, uint32 first,
                                             uint32 directions, uint32 step, uint32 key_0, uint32 key_1) {
  draw_factors<128>(factors, count, width, log_rank, first, directions, DIRECTION_SIGNS, step, key_0, key_1,
                    [](const Words &drawn, int i) { return sign_of(drawn.word[i >> 5], i & 31); });
}

// Gaussian factors, in the order of their halfwords. Width: a multiple of 8.
// table : (65536,)
extern "C" __global__ void draw_gaussian_factors(int8 *factors, int count, int width, int log_rank, uint32 first,
                                                 uint32 directions, uint32 step, uint32 key_0, uint32 key_1,
                                                 const int8 *table) {
  draw_factors<8>(factors, count, width, log_rank, first, directions, GAUSSIAN_NOISE, step, key_0, key_1,
                  [=](const Words &drawn, int i) { return int(table[drawn.word[i >> 1] >> (16 * (i & 1)) & 0xFFFF]); });
}

// Some rows of those that are held: out[i] = held[rows[i]].
// Grid: rows. rows : (rows,) int64    held : (n, words) uint32    out : (rows, words) uint32
extern "C" __global__ void take_rows(const uint32 *held, const int64 *rows, uint32 *out, int words) {
  held += rows[blockIdx.x] * words, out += (int64)blockIdx.x * words;
  for (int i = threadIdx.x; i < words; i += blockDim.x) out[i] = held[i];
}

// The reverse, after members ran: held[rows[i]] = values[i], no row twice.
extern "C" __global__ void put_rows(uint32 *held, const int64 *rows, const uint32 *values, int words) {
  held += rows[blockIdx.x] * words, values += (int64)blockIdx.x * words;
  for (int i = threadIdx.x; i < words; i += blockDim.x) held[i] = values[i];
}
