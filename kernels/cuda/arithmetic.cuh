// What the CUDA kernels share: widths, clips, shifts, floored divisions and Philox4x32-10 (docs/arithmetic.md).
// Integers only; NVRTC brings no standard headers, so the widths are named here.
#pragma once

typedef signed char int8;
typedef unsigned char uint8;
typedef short int16;
typedef unsigned short uint16;
typedef unsigned int uint32;
typedef long long int64;
typedef unsigned long long uint64;

constexpr int LIMIT = 127, VOCABULARY = 256, MASTER_BITS = 16, REWARD_MASTER_BITS = 8, BRANCH_BITS = 8;
constexpr int FREE_W_F = 1, FREE_U_F = 2, FREE_W_H = 4, FREE_U_H = 8; // a reader's product is not at its limit
constexpr int DIRECTION_SIGNS = 1, BRANCH_SIGNS = 8, BRANCH_ROWS = 9; // streams of the generator
constexpr uint32 FULL = 0xFFFFFFFFu;                                  // all lanes of a warp

__host__ __device__ constexpr int log2_of(int k) { return k <= 1 ? 0 : 1 + log2_of(k / 2); }
__host__ __device__ constexpr int product_shift(int k) { return 4 + log2_of(k) / 2; }

__device__ inline int clip8(int v) { return max(-LIMIT, min(LIMIT, v)); }
__device__ inline int is_free(int v) { return abs(v) < LIMIT; } // where a push arrives

// v << shift, an arithmetic >> for a negative shift; |v| < 2**20 and shift <= 4.
__device__ inline int gain(int v, int shift) { return shift >= 0 ? v * (1 << shift) : v >> -shift; }

__device__ inline int bit_length(uint64 v) {
  const int high = int(v >> 32);
  return high ? 64 - __clz(high) : 32 - __clz(int(v));
}

// n / d for n < 2**31 and d > 0 by integers alone: a GPU has no instruction that divides, and what the compiler makes
// of n / d for a d that it does not know goes through a floating-point reciprocal.
// y = 2**31 / d', d' = d 2**shift / 2**32 in [1/2, 1): Newton's y (2 - d' y) from the tangent 8/3 - 16/9 d', 1/9 below
// at the most, whose error it squares: after four steps less than 2**-53. Everything is rounded down, so that y never
// exceeds its value; the last step's rounding takes less than 2**-30 of it, so that for n < 2**31 a quotient is less
// than 2 too small before it is rounded down, and 0, 1 or 2 after.
struct Divisor {
  uint32 d, y;
  int shift;

  __device__ Divisor(uint32 divisor = 1) : d(divisor), shift(__clz(int(divisor))) {
    const uint32 scaled = d << shift;
    y = 1431655765u - (__umulhi(scaled, 3817748708u) + 1); // (8/3 - 16/9 d') 2**31 modulo 2**32, which it is below
#pragma unroll
    for (int step = 0; step < 4; step++) y = uint32((uint64(y) * ~__umulhi(scaled, y)) >> 31);
  }
  __device__ uint32 of(uint32 n) const {
    uint32 quotient = __umulhi(n, y) >> (31 - shift), rest = n - quotient * d;
#pragma unroll
    for (int i = 0; i < 2; i++)
      if (rest >= d) quotient++, rest -= d;
    return quotient;
  }
};

// n / d for n < 2**63 and d > 0, a shift where d is a power of two, as nearly always; else bit by bit.
__device__ inline uint64 divided(uint64 n, uint64 d) {
  const int bits = bit_length(d);
  if ((d & (d - 1)) == 0) return n >> (bits - 1);
  uint64 quotient = 0;
#pragma unroll 1
  for (int bit = bit_length(n) - bits; bit >= 0; bit--)
    if (n >= d << bit) n -= d << bit, quotient |= uint64(1) << bit;
  return quotient;
}

// floor(sqrt(v)) of v < 2**62, bit by bit.
__device__ inline uint32 integer_root(uint64 v) {
  uint32 root = 0;
#pragma unroll 1
  for (int bit = (bit_length(v) - 1) >> 1; bit >= 0; bit--) {
    const uint64 next = root | uint32(1) << bit;
    if (next * next <= v) root = uint32(next);
  }
  return root;
}

// floor(2**BITS log2(S / 16)) of 0 < S < 2**28: the top bit's place, and how many thresholds the mantissa reaches.
// thresholds : (2**BITS,)
template <int BITS> __device__ inline int floor_log2(uint32 sum, const uint32 *thresholds) {
  const int zeros = __clz(int(sum));
  const uint32 mantissa = sum << zeros;
  int at = 0;
#pragma unroll
  for (int step = 1 << (BITS - 1); step; step /= 2)
    if (mantissa >= thresholds[at + step]) at += step;
  return (31 - zeros - 4) * (1 << BITS) + at;
}

// v / 2**s, rounded half up; s > 0.
__device__ inline int64 round_shift(int64 v, int s) { return (v + (int64(1) << (s - 1))) >> s; }
// The same of an int32 that leaves room for half of 2**s; s >= 0.
__device__ inline int round_shift(int v, int s) { return (v + int((1u << s) >> 1)) >> s; }

struct Words {
  uint32 word[4];
};

__device__ inline Words philox(uint32 block, uint32 stream, uint32 index, uint32 step, uint32 key_0, uint32 key_1) {
  uint32 c0 = block, c1 = stream, c2 = index, c3 = step;
#pragma unroll
  for (int round = 0; round < 10; round++) {
    const uint32 high_0 = __umulhi(0xD2511F53u, c0), low_0 = 0xD2511F53u * c0;
    const uint32 high_1 = __umulhi(0xCD9E8D57u, c2), low_1 = 0xCD9E8D57u * c2;
    c0 = high_1 ^ c1 ^ key_0;
    c1 = low_1;
    c2 = high_0 ^ c3 ^ key_1;
    c3 = low_0;
    key_0 += 0x9E3779B9u;
    key_1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

__device__ inline int sign_of(uint32 word, int bit) { return (word >> bit) & 1 ? 1 : -1; }

// The low four bits as four signed bytes: bit 1 is +1, bit 0 is -1.
__device__ inline int four_signs(uint32 bits) {
  const uint32 ones = ((bits & 15u) * 0x00204081u) & 0x01010101u; // the copies of the nibble do not overlap
  return int(0xFFFFFFFFu ^ (ones * 0xFEu));
}

__device__ inline int byte_of(uint32 word, int i) { return int8(word >> (8 * i)); }
__device__ inline uint32 four_bytes(int a, int b, int c, int d) {
  return uint32(a & 255) | uint32(b & 255) << 8 | uint32(c & 255) << 16 | uint32(d) << 24;
}
