// Credit of recipe egg: what each member's token was worth, one thread a member (docs/arithmetic.md, Credit).
#include "arithmetic.cuh"

// s0, s1 : (T, members) int32 clean and moved scores in 1/256 bit
// tokens : (groups, T + 1) uint8
// credit : (3, T, members) int16, written: rewards-to-go, own token, head, in [-128, 128]
// scores, deviations : (members,) int32, written: sums over the chunk of s0, and of s0 less the group's mean
extern "C" __global__ void credit_members(const int *s0, const int *s1, const uint8 *tokens, int members, int length,
                                          int group_size, int64 scale, int16 *credit, int *scores, int *deviations) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= members) return;
  const int first = i / group_size * group_size;
  const uint8 *read = tokens + (int64)(i / group_size) * (length + 1);
  const int64 plane = (int64)length * members;
  int64 to_go = 0;
  int score = 0, deviation = 0;
  for (int t = length - 1; t >= 0; t--) {
    const int64 row = (int64)t * members;
    int64 sum_0 = 0, sum_head = 0;
    for (int j = first; j < first + group_size; j++) {
      sum_0 += s0[row + j];
      sum_head += s1[row + j] - s0[row + j];
    }
    const int64 own = s0[row + i] - round_div(sum_0, group_size);
    const int64 head = s1[row + i] - s0[row + i] - round_div(sum_head, group_size);
    if (t + 1 < length && read[t + 1] == 0) to_go = 0; // the state is reset there: nothing reaches beyond
    to_go = own + ((DISCOUNT * to_go) >> 8);
    const int64 values[3] = {to_go, own, head};
    for (int kind = 0; kind < 3; kind++) {
      const int64 v = round_div(CREDIT_MEAN * values[kind], scale);
      credit[kind * plane + row + i] = int16(v < -CREDIT_LIMIT ? -CREDIT_LIMIT : v > CREDIT_LIMIT ? CREDIT_LIMIT : v);
    }
    score += s0[row + i];
    deviation += int(own);
  }
  scores[i] = score;
  deviations[i] = deviation;
}
