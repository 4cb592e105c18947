// Credit of recipe egg: what each member's token was worth, one thread a member (docs/arithmetic.md, Credit).
#include "arithmetic.cuh"

// What each member's token was worth: rewards-to-go, its own score, and the head's.
// s0, s1 : (T, members) int32 clean and moved scores in 1/256 bit
// tokens : (groups, T + 1) uint8
// credit : (3, T, members) int16, written: rewards-to-go, own token, head, in [-128, 128]
// scores, deviations : (members,) int32, written: sums over the chunk of s0, and of s0 less the group's mean
extern "C" __global__ void credit_members(const int *s0, const int *s1, const uint8 *tokens, int members, int length,
                                          int group_size, int64 scale, int16 *credit, int *scores, int *deviations) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= members) return;
  const int group = int(Divisor(group_size).of(i)), first = group * group_size;
  const uint8 *read = tokens + (int64)group * (length + 1);
  // Scores are below 2**13, so that values are below 2**17 and 32 of one below 2**22: a scale of more than 2**23 makes 0
  // of it, whatever it is.
  const Divisor twice_group(2 * group_size), twice_scale(2 * int(scale < 1 << 24 ? scale : 1 << 24));
  const int64 plane = (int64)length * members;
  int to_go = 0, score = 0, deviation = 0;
  for (int t = length - 1; t >= 0; t--) {
    const int64 row = (int64)t * members;
    int sum_0 = 0, sum_head = 0; // of at most 64 members
    for (int j = first; j < first + group_size; j++) {
      sum_0 += s0[row + j];
      sum_head += s1[row + j] - s0[row + j];
    }
    const int own = s0[row + i] - round_div(sum_0, twice_group);
    const int head = s1[row + i] - s0[row + i] - round_div(sum_head, twice_group);
    if (t + 1 < length && read[t + 1] == 0) to_go = 0; // the state is reset there: nothing reaches beyond
    to_go = own + ((DISCOUNT * to_go) >> 8);
    const int values[3] = {to_go, own, head};
    for (int kind = 0; kind < 3; kind++) {
      const int v = round_div(CREDIT_MEAN * values[kind], twice_scale);
      credit[kind * plane + row + i] = int16(v < -CREDIT_LIMIT ? -CREDIT_LIMIT : v > CREDIT_LIMIT ? CREDIT_LIMIT : v);
    }
    score += s0[row + i];
    deviation += own;
  }
  scores[i] = score;
  deviations[i] = deviation;
}
