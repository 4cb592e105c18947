// The wire's end: branches of the wire and of the head are scored, and credit comes to what the last norm read.
//
//   axes     r rows (readers x bytes), ROWS a block    v logits    k branches of the wire    j places
//   fine     (r, v) int16: a reader's logits in 1/4096 bit, within -127 * 256 and 32767
//   moves    (128, K, 2) int16: what the branches add to logits 2 v and 2 v + 1, see branches.cu
//   shared   fine [ROWS][256]; likelihoods [304], by how many sixteenths a logit is below the largest, a word each;
//            places [ROWS][D] int32: scores by Hadamard row, then fitness, its transform, and credit
//
// A thread has a branch, and adds up its 256 likelihoods for ROWS rows, so that a warp reads neighbouring words of
// moves, a logit of the reader is the same for all its lanes, and what they look up differs by their moves alone, in
// neighbouring banks. What else there is to a row a warp does: the head's branches, the mean, the norm.
// Sums of likelihoods < 2**23, scores < 2**18, their transform < 2**28.
#include "credit.cuh"

constexpr int ROWS = 4, THREADS = 32 * ROWS, FALLS = LIMIT + BRANCH_LIMIT + 128 + 1;

struct Shared {
  int16 fine[ROWS][VOCABULARY];
  int likelihoods[FALLS];
  int places[ROWS * D];
  int top[ROWS];
};

// 4096 log2 v of 0 < v < 2**23, within 3.
__device__ inline int log2_4096(uint32 v) {
  const int zeros = __clz(int(v)), y = int((v << zeros) >> 16) - (1 << 15);
  const int g = (y * ((1 << 15) - y)) >> 15, q = 14507 - ((8107 * y) >> 15) + ((((2733 * y) >> 15) * y) >> 15);
  return 4096 * (31 - zeros) + ((y + ((g * q) >> 15)) >> 3);
}

// By a warp: the reader's score, and the votes of the head's 256 branches. n : of the byte, for the rounding
__device__ inline void score_reader(Shared &shared, int row, int target, uint32 n, const int *exp2,
                                    const uint32 *thresholds, int8 *votes, uint64 *score) {
  const int lane = threadIdx.x & 31;
  const int16 *fine = shared.fine[row];
  uint32 e[VOCABULARY / 32], sum = 0;
  int top = -LIMIT;
#pragma unroll
  for (int i = 0; i < VOCABULARY / 32; i++) {
    const int logit = fine[32 * i + lane] >> BRANCH_BITS, at = logit + 128;
    e[i] = uint32(exp2[at & 15] >> (15 - (at >> 4)));
    sum += e[i], top = max(top, logit);
  }
  sum = __reduce_add_sync(FULL, sum); // 2**12 to 2**28
  shared.top[row] = __reduce_max_sync(FULL, top);
  const uint32 inverse = uint32(divided(uint64(LIMIT) << 32, sum)); // < 2**27
#pragma unroll
  for (int i = 0; i < VOCABULARY / 32; i++) {
    const int v = 32 * i + lane;
    const uint32 share = __umulhi(e[i] << 12, inverse); // 127 e / S with 12 fractional bits
    const int less = int((share + ((1597u * v + 2531u * n) & 4095u)) >> 12);
    votes[v] = int8(is_free(fine[v] >> BRANCH_BITS) * clip8((v == target ? LIMIT : 0) - less));
  }
  if (lane == 0) {
    const int worth = 16 * ((fine[target] >> BRANCH_BITS) + 128) - floor_log2<8>(sum, thresholds);
    atomicAdd(score, uint64(int64(worth)));
  }
}

// Votes of the head's branches and on the last norm's gains; the readers' scores; and the wire's credit at its end.
// Grid: rows / ROWS, rounded up. tokens : (readers, T + 1)    kept, votes, wire, shifts, totals : credit.cuh
// exp2, likelihoods : (16,)    thresholds : (256,)    count : K    moved : of the head's |R|
// first : B step + i of the first reader    score : int64, added to
extern "C" __global__ void __launch_bounds__(THREADS)
credit_end(const int16 *fine, const int *moves, const int *rows, const int8 *signs, const int *places,
           const uint64 *moved, const int8 *kept, const int8 *gains, const uint8 *tokens, const int *exp2,
           const int *likelihoods, const uint32 *thresholds, const int *shifts, int8 *votes, int *wire, uint64 *totals,
           uint64 *score, int readers, int length, int count, int columns, uint32 first) {
  __shared__ Shared shared;
  const int lane = threadIdx.x & 31, mine = threadIdx.x >> 5; // the row of this warp
  const int64 begin = (int64)blockIdx.x * ROWS, last = (int64)readers * length - 1;
  const int64 row = begin + mine < last ? begin + mine : last; // a row beyond the last is the last, and writes nothing
  const bool there = begin + mine <= last;
  const int reader = int(Divisor(length).of(uint32(row))), t = int(row) - reader * length;
  const int target = tokens[(int64)reader * (length + 1) + t + 1];

  each<32, VOCABULARY>([&](int v) { shared.fine[mine][v] = fine[row * VOCABULARY + v]; });
  each<THREADS, FALLS>([&](int fall) { shared.likelihoods[fall] = likelihoods[fall & 15] >> (fall >> 4); });
  each<THREADS, ROWS * D>([&](int j) { shared.places[j] = 0; });
  __syncwarp();
  if (there) {
    const uint32 n = uint32(length) * (first + uint32(reader)) + uint32(t);
    score_reader(shared, mine, target, n, exp2, thresholds, votes + row * columns + VOTE_HEAD, score);
  } else if (lane == 0) {
    shared.top[mine] = LIMIT;
  }
  __syncthreads();

#pragma unroll 1
  for (int k = threadIdx.x; k < count; k += THREADS) {
    int sums[ROWS] = {};
#pragma unroll 4
    for (int two = 0; two < VOCABULARY / 2; two++) {
      const int moves_two = moves[two * count + k], low = int16(moves_two), high = moves_two >> 16;
#pragma unroll
      for (int r = 0; r < ROWS; r++) {
        const int logits = ((const int *)shared.fine[r])[two], most = shared.top[r] + BRANCH_LIMIT;
        const int one = max(-32768, min(32767, int16(logits) + low)) >> BRANCH_BITS;
        const int other = max(-32768, min(32767, (logits >> 16) + high)) >> BRANCH_BITS;
        sums[r] += shared.likelihoods[most - one] + shared.likelihoods[most - other];
      }
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      const int64 of = begin + r < last ? begin + r : last;
      const int i = int(Divisor(length).of(uint32(of))), at = int(of) - i * length;
      const int wanted = tokens[(int64)i * (length + 1) + at + 1];
      const int move = moves[(wanted >> 1) * count + k];
      const int logit = shared.fine[r][wanted] + (wanted & 1 ? move >> 16 : int16(move));
      const int worth = max(-32768, min(32767, logit)) >> BRANCH_BITS;
      shared.places[r * D + rows[k]] = (worth << BRANCH_BITS) - log2_4096(uint32(sums[r]));
    }
  }
  __syncthreads();

  int *credit = shared.places + mine * D;
  int sum = 0;
  each<32, D>([&](int j) { sum += credit[j]; }); // 0 where no branch has been
  const int log_count = 31 - __clz(count);
  const int mean = (2 * __reduce_add_sync(FULL, sum) + count) >> (log_count + 1);
#pragma unroll 1
  for (int k = lane; k < count; k += 32) credit[rows[k]] = (credit[rows[k]] - mean) * hadamard_sign(rows[k], places[0]);
  walsh_hadamard<THREADS, D, ROWS>(shared.places);

  const int m = move_shift(*moved, 8 + LOG_D, 512);
  const int shift = product_shift(D) + LOG_D / 2 - 11 - m - (LOG_D - log_count);
  const int8 *o = kept + row * KEPT_ROW + KEPT_O;
  each<32, D>([&](int j) { credit[j] = credit_of(signs[j] * credit[j], shift) * is_free(o[j]); });
  __syncwarp();
  if (!there) return;
  pass_norm(kept + row * KEPT_ROW + KEPT_END, gains, credit, shifts[GAIN_KIND], votes + row * columns + VOTE_GAIN,
            totals + GAIN_KIND, [&](int j, int v) { wire[row * D + j] = limit(v); });
}
