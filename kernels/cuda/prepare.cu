// Before members run: matrices in the order the tensor cores read them, and the members' sign bits.
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
