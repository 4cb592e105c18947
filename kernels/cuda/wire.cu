// Credit along the wire, from the last byte to the first and the last layer to the first; whoever wrote to it votes.
//
//   axes     i readers    t bytes    l layers    j places; a thread has four places of a reader, from 4 q on
//   ahead    (l, i, j) int32, |ahead| < 2**20: what the next byte's credit leaves to the state; the thread's own
//
// A place's credit meets no other place's, so that nothing is shared but the totals. What a step reads of kept is read
// one step ahead. |e| <= 2**20, so that what is narrowed is below 2**28, and four magnitudes below 2**30.
#include "credit.cuh"

constexpr int THREADS = 128, WARPS_HERE = THREADS / 32, KINDS = LAYER_KINDS + KINDS_A_LAYER * LAYERS;

struct Place { // of four places of a reader in a layer at a byte, a byte each
  uint32 x_after, middle, down, f, c, h, ends;
};

// A warp's sum, to where it alone adds.
__device__ inline void add_own(uint64 *to, uint32 v) {
  const uint64 sum = warp_total(v);
  if ((threadIdx.x & 31) == 0) *to += sum;
}
__device__ inline uint32 word_at(const int8 *at) { return *(const uint32 *)at; }
__device__ inline Place place_at(const int8 *layer) { // its beginning, and the four's offset in a stretch
  return {word_at(layer + KEPT_X_AFTER), word_at(layer + KEPT_MIDDLE), word_at(layer + KEPT_DOWN),
          word_at(layer + KEPT_F),       word_at(layer + KEPT_C),      word_at(layer + KEPT_H),
          word_at(layer + KEPT_ENDS)};
}

// Votes of all that writes to the wire, between its end and its beginning. Grid: readers * D / 4 threads, rounded up.
// tokens : (readers, T + 1)    kept, votes, wire, shifts, totals : credit.cuh    ahead : (L, readers, D) int32, scratch
// z : (256, D) int32, votes on the embedding, added to
extern "C" __global__ void __launch_bounds__(THREADS)
credit_wire(const int8 *kept, const uint8 *tokens, const int *wire, const int *shifts, int8 *votes, int *ahead, int *z,
            uint64 *totals, int readers, int length, int columns) {
  __shared__ uint64 of_warps[WARPS_HERE * KINDS];
  uint64 *sums = of_warps + (threadIdx.x >> 5) * KINDS;
  for (int kind = threadIdx.x & 31; kind < KINDS; kind += 32) sums[kind] = 0;
  __syncwarp();
  const int four = blockIdx.x * THREADS + threadIdx.x;
  const bool there = four < readers * (D / 4); // the others carry zeros, for the sums of their warp
  const int reader = there ? four / (D / 4) : 0, j = 4 * (four % (D / 4));

#pragma unroll 1
  for (int layer = 0; layer < LAYERS && there; layer++)
    *(int4 *)(ahead + ((int64)layer * readers + reader) * D + j) = {0, 0, 0, 0};
  int64 row = (int64)reader * length + length - 1;
  Place next = place_at(kept + row * KEPT_ROW + (LAYERS - 1) * KEPT_LAYER + j);
#pragma unroll 1
  for (int t = length - 1; t >= 0; t--, row--) {
    const int token = tokens[(int64)reader * (length + 1) + t];
    int4 credit = {0, 0, 0, 0};
    if (there) credit = *(const int4 *)(wire + row * D + j);
    int here[4] = {credit.x, credit.y, credit.z, credit.w};
#pragma unroll 1
    for (int layer = LAYERS - 1; layer >= 0; layer--) {
      const Place place = next;
      const bool more = layer || t;
      const int64 before = layer ? row * KEPT_ROW + (layer - 1) * KEPT_LAYER
                                 : (row - 1) * KEPT_ROW + (LAYERS - 1) * KEPT_LAYER;
      if (more) next = place_at(kept + before + j);
      int4 *left = (int4 *)(ahead + ((int64)layer * readers + reader) * D + j);
      int4 old = {0, 0, 0, 0};
      if (there) old = *left;
      int from[4] = {old.x, old.y, old.z, old.w};
      const int kind = LAYER_KINDS + KINDS_A_LAYER * layer;
      uint32 gates = 0, candidates = 0, downs = 0;               // magnitudes
      uint32 w_f = 0, u_f = 0, w_h = 0, u_h = 0, b_f = 0, b_h = 0, w_down = 0; // votes, a byte a place
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int f = byte_of(place.f, i), c = byte_of(place.c, i), h = byte_of(place.h, i);
        const int ends = byte_of(place.ends, i);
        here[i] *= is_free(byte_of(place.x_after, i));
        const int down = here[i] * is_free(byte_of(place.down, i));
        here[i] *= is_free(byte_of(place.middle, i));
        const int e = limit(here[i] + from[i]);
        const int candidate = e * (f + LIMIT) * is_free(c), gate = e * (c - h) * is_free(f);
        from[i] = token ? round_shift((129 - f) * e, 8) : 0;
        gates += uint32(abs(gate)), candidates += uint32(abs(candidate)), downs += uint32(abs(down));
        const uint32 g = uint32(narrow(gate, shifts[kind + GATE]) & 255) << 8 * i;
        const uint32 s = uint32(narrow(candidate, shifts[kind + CANDIDATE]) & 255) << 8 * i;
        w_f |= ends & FREE_W_F ? g : 0, u_f |= ends & FREE_U_F ? g : 0, b_f |= g;
        w_h |= ends & FREE_W_H ? s : 0, u_h |= ends & FREE_U_H ? s : 0, b_h |= s;
        w_down |= uint32(narrow(down, shifts[kind + DOWN]) & 255) << 8 * i;
      }
      if (there) {
        *left = {from[0], from[1], from[2], from[3]};
        int8 *to = votes + row * columns + layer * VOTE_LAYER + j;
        *(uint32 *)(to + VOTE_W_F) = w_f, *(uint32 *)(to + VOTE_U_F) = u_f, *(uint32 *)(to + VOTE_B_F) = b_f;
        *(uint32 *)(to + VOTE_W_H) = w_h, *(uint32 *)(to + VOTE_U_H) = u_h, *(uint32 *)(to + VOTE_B_H) = b_h;
        *(uint32 *)(to + VOTE_W_DOWN) = w_down;
      }
      add_own(sums + kind + GATE, gates);
      add_own(sums + kind + CANDIDATE, candidates);
      add_own(sums + kind + DOWN, downs);
    }
    uint32 magnitude = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      magnitude += uint32(abs(here[i]));
      const int vote = narrow(here[i], shifts[EMBEDDING_KIND]);
      if (there && vote) atomicAdd(z + token * D + j + i, vote);
    }
    add_own(sums + EMBEDDING_KIND, magnitude);
  }
  __syncthreads();
  for (int kind = threadIdx.x; kind < KINDS; kind += THREADS) {
    uint64 sum = 0;
    for (int warp = 0; warp < WARPS_HERE; warp++) sum += of_warps[warp * KINDS + kind];
    atomicAdd(totals + kind, sum);
  }
}
