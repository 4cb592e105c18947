// In place of wire.cu: credit along the wire and through stations, last byte and layer first; what feeds them votes.
//
//   axes     i readers, one a block    t bytes    l layers    j places    k branches    n outputs of a matrix
//   moves    (l, 12 D D) int8: M, of each matrix [four outputs][branch] words of four bytes, see branches.cu
//   ahead    (l, i, j) int32, |ahead| <= 2**20: what the next byte leaves to the state; place j is its thread's own
//   shared   wire, e, past, second (D) int32; fitness (4 D) int32: F of a station, its transform, its credit;
//            outputs, votes (D words of four bytes): a and g of the matrix at hand
//
// A thread has the places and branches that are its number modulo THREADS. A branch's outputs are saturating sums of
// four bytes at once, and what they are worth a product of bytes: the words of M are read side by side by a warp's
// lanes, a and g are the same for all of them. g is what the matrix votes, masked where its own product is at its
// limit, so that it is read from the votes. |F| <= 2**18, its transform <= 2**30; what is narrowed is below 2**29.
#include "credit.cuh"

constexpr int THREADS = D < 32 ? 32 : D < 256 ? D : 256;
constexpr int KINDS = LAYER_KINDS + (KINDS_A_LAYER + MORE_KINDS) * LAYERS, FITNESS_LIMIT = 1 << 18;
constexpr int GATES = 1 << W_F, STATE = 1 << U_F, PAST = 1 << U_H, MIDDLE = 1 << W_DOWN, MLP = 1 << W_UP;

struct Shared {
  int wire[D], e[D], past[D], second[D], fitness[4 * D];
  uint32 outputs[D], votes[D];
  uint64 totals[KINDS];
};

// Fitness of the branches of a matrix with K inputs and N outputs. Barriers come before and between.
// a, g : (N,) int8, the reader's outputs and their credit    moves : of the matrix    fitness : (K,), written
template <int K, int N>
__device__ inline void score_branches(Shared &shared, const int8 *a, const int8 *g, const int8 *moves) {
  __syncthreads();
  each<THREADS, N / 4>([&](int n) {
    shared.outputs[n] = *(const uint32 *)(a + 4 * n), shared.votes[n] = *(const uint32 *)(g + 4 * n);
  });
  __syncthreads();
  int reader = 0; // what its own outputs are worth
  each<32, N / 4>([&](int n) { reader = __dp4a(int(shared.outputs[n]), int(shared.votes[n]), reader); });
  reader = __reduce_add_sync(FULL, reader);
  each<THREADS, K>([&](int k) {
    int worth = 0; // < 127 * 255 * 4,096 < 2**27
#pragma unroll 8
    for (int n = 0; n < N / 4; n++) {
      const uint32 move = ((const uint32 *)moves)[n * K + k];
      worth = __dp4a(int(__vaddss4(shared.outputs[n], move)), int(shared.votes[n]), worth);
    }
    shared.fitness[k] = max(-FITNESS_LIMIT, min(FITNESS_LIMIT, worth - reader));
  });
}

// From the fitness of K branches to the credit of the K places, in the same words. signs : (K,)
template <int K> __device__ inline void gather_credit(Shared &shared, const int8 *signs, int place, int shift) {
  int *x = shared.fitness;
  each<THREADS, K>([&](int k) { x[k] *= hadamard_sign(k, place); });
  walsh_hadamard<THREADS, K, 1>(x);
  // At that place all branches move alike.
  each<THREADS, K>([&](int j) { x[j] = j == place ? 0 : credit_of(signs[j] * x[j], max(-8, shift)); });
}

// Credit after a norm, in fitness, where the norm's output is free, joins the wire before it.
// read : (D,) int8, the output
__device__ inline void pass_back(Shared &shared, const int8 *read, const int8 *x, const int8 *gains, int shift,
                                 int8 *votes, int kind) {
  each<THREADS, D>([&](int j) { shared.fitness[j] *= is_free(read[j]); });
  __syncthreads();
  if (threadIdx.x < 32)
    pass_norm(x, gains, shared.fitness, shift, votes, shared.totals + kind,
              [&](int j, int v) { shared.wire[j] = limit(shared.wire[j] + v); });
  __syncthreads();
}

// What a block of readers leaves on its way, and what the step has for all of them.
struct Run {
  const int8 *kept, *weights, *signs, *moves; // kept, votes: of the byte at hand
  const int *places, *moved_by, *shifts;
  int8 *votes;
  int on;
};

// The MLP of a layer: from the wire after it to the wire before it; votes of w_down, w_up and ln2.
__device__ inline void credit_mlp(Shared &shared, const Run &run, int layer) {
  const int kind = LAYER_KINDS + KINDS_A_LAYER * layer + DOWN;
  const int more = LAYER_KINDS + KINDS_A_LAYER * LAYERS + MORE_KINDS * layer;
  const int8 *kept = run.kept + layer * KEPT_LAYER;
  const int8 *moves = run.moves + (int64)layer * STATION_MOVES;
  const int *m = run.moved_by + layer * STATION_MATRICES;
  int8 *votes = run.votes + layer * VOTE_LAYER + VOTE_W_DOWN;
  int8 *more_votes = run.votes + VOTE_ROW + layer * VOTE_MORE, *up_votes = more_votes + VOTE_UP;
  uint32 magnitude = 0;
  each<THREADS, D>([&](int j) {
    shared.wire[j] *= is_free(kept[KEPT_X_AFTER + j]);
    const int down = shared.wire[j] * is_free(kept[KEPT_DOWN + j]);
    votes[j] = int8(narrow(down, run.shifts[kind]));
    magnitude += uint32(abs(down));
  });
  add_total(shared.totals + kind, magnitude);
  if (!(run.on & MIDDLE)) return;

  score_branches<4 * D, D>(shared, kept + KEPT_DOWN, votes, moves + station_moves(W_DOWN));
  const int wide_shift = product_shift(4 * D) + LOG_D + 2 - run.shifts[kind] - m[W_DOWN];
  gather_credit<4 * D>(shared, run.signs + D, run.places[1], wide_shift);
  magnitude = 0;
  each<THREADS, 4 * D>([&](int n) {
    const int up = shared.fitness[n] * is_free(kept[KEPT_Y + n]);
    up_votes[n] = int8(narrow(up, run.shifts[more + UP]));
    magnitude += uint32(abs(up));
  });
  add_total(shared.totals + more + UP, magnitude);
  if (!(run.on & MLP)) return;

  score_branches<D, 4 * D>(shared, kept + KEPT_Y, up_votes, moves + station_moves(W_UP));
  const int shift = product_shift(D) + LOG_D - run.shifts[more + UP] - m[W_UP];
  gather_credit<D>(shared, run.signs, run.places[0], shift);
  pass_back(shared, kept + KEPT_V, kept + KEPT_MIDDLE, run.weights + AT_LN2 + layer * LAYER_WEIGHTS,
            run.shifts[more + LN2], more_votes + VOTE_LN2, more + LN2);
}

// The gated unit of a layer, likewise; and what the byte leaves to the state before it.
// ahead : (D,) int32, of this layer and reader    token : the byte read
__device__ inline void credit_gru(Shared &shared, const Run &run, int layer, int *ahead, int token) {
  const int kind = LAYER_KINDS + KINDS_A_LAYER * layer;
  const int more = LAYER_KINDS + KINDS_A_LAYER * LAYERS + MORE_KINDS * layer;
  const int8 *kept = run.kept + layer * KEPT_LAYER;
  const int8 *f = kept + KEPT_F, *c = kept + KEPT_C, *h = kept + KEPT_H, *ends = kept + KEPT_ENDS;
  const int8 *moves = run.moves + (int64)layer * STATION_MOVES;
  const int *m = run.moved_by + layer * STATION_MATRICES;
  int8 *votes = run.votes + layer * VOTE_LAYER;
  // Credit of f and c is 256 times what it is on the wire.
  const int scale = product_shift(D) + LOG_D + 8, of_gates = run.shifts[kind + GATE];
  const int of_candidates = run.shifts[kind + CANDIDATE];

  uint32 magnitude = 0;
  each<THREADS, D>([&](int j) {
    shared.wire[j] *= is_free(kept[KEPT_MIDDLE + j]);
    const int e = limit(shared.wire[j] + ahead[j]), candidate = e * (f[j] + LIMIT) * is_free(c[j]);
    const int vote = narrow(candidate, of_candidates);
    shared.e[j] = e, shared.past[j] = 0;
    votes[VOTE_B_H + j] = int8(vote);
    votes[VOTE_W_H + j] = int8(ends[j] & FREE_W_H ? vote : 0);
    votes[VOTE_U_H + j] = int8(ends[j] & FREE_U_H ? vote : 0);
    magnitude += uint32(abs(candidate));
  });
  add_total(shared.totals + kind + CANDIDATE, magnitude);
  if (run.on & PAST) {
    score_branches<D, D>(shared, c, votes + VOTE_U_H, moves + station_moves(U_H));
    gather_credit<D>(shared, run.signs, run.places[0], scale - of_candidates - m[U_H]);
    each<THREADS, D>([&](int j) { shared.past[j] = shared.fitness[j]; });
  }
  magnitude = 0;
  each<THREADS, D>([&](int j) {
    const int gate = (shared.e[j] * (c[j] - h[j]) + shared.past[j] * h[j]) * is_free(f[j]); // < 2**29
    const int vote = narrow(gate, of_gates);
    votes[VOTE_B_F + j] = int8(vote);
    votes[VOTE_W_F + j] = int8(ends[j] & FREE_W_F ? vote : 0);
    votes[VOTE_U_F + j] = int8(ends[j] & FREE_U_F ? vote : 0);
    magnitude += uint32(abs(gate));
  });
  add_total(shared.totals + kind + GATE, magnitude);
  each<THREADS, D>([&](int j) {
    ahead[j] = round_shift((129 - f[j]) * shared.e[j] + (f[j] + LIMIT) * shared.past[j], 8);
  });
  if (run.on & STATE) {
    score_branches<D, D>(shared, f, votes + VOTE_U_F, moves + station_moves(U_F));
    gather_credit<D>(shared, run.signs, run.places[0], scale - of_gates - m[U_F]);
    each<THREADS, D>([&](int j) { ahead[j] += shared.fitness[j]; });
  }
  each<THREADS, D>([&](int j) { ahead[j] = token ? limit(ahead[j]) : 0; });
  if (!(run.on & GATES)) return;

  const int shift_f = of_gates + m[W_F], shift_c = of_candidates + m[W_H], most = max(shift_f, shift_c);
  const int less_f = min(20, most - shift_f), less_c = min(20, most - shift_c); // beyond 20 nothing is left of |F|
  score_branches<D, D>(shared, f, votes + VOTE_W_F, moves + station_moves(W_F));
  each<THREADS, D>([&](int k) { shared.second[k] = round_shift(shared.fitness[k], less_f); });
  score_branches<D, D>(shared, c, votes + VOTE_W_H, moves + station_moves(W_H));
  each<THREADS, D>([&](int k) { shared.fitness[k] = shared.second[k] + round_shift(shared.fitness[k], less_c); });
  gather_credit<D>(shared, run.signs, run.places[0], scale - most);
  pass_back(shared, kept + KEPT_U, kept + KEPT_X, run.weights + AT_LN1 + layer * LAYER_WEIGHTS,
            run.shifts[more + LN1], run.votes + VOTE_ROW + layer * VOTE_MORE + VOTE_LN1, more + LN1);
}

// Votes of all that writes to the wire or feeds a station that is on.
// Grid: readers. tokens : (readers, T + 1)    kept, votes, wire, shifts, totals : credit.cuh
// signs, places, moved_by, moves : branches.cu    ahead : (L, readers, D) int32, scratch
// z : (256, D) int32, votes on the embedding, added to    on : a bit for each matrix whose station is on
extern "C" __global__ void __launch_bounds__(THREADS)
credit_stations(const int8 *kept, const int8 *weights, const uint8 *tokens, const int *wire, const int8 *signs,
                const int *places, const int *moved_by, const int8 *moves, const int *shifts, int8 *votes, int *ahead,
                int *z, uint64 *totals, int readers, int length, int columns, int on) {
  __shared__ Shared shared;
  const int64 reader = blockIdx.x;
  for (int kind = threadIdx.x; kind < KINDS; kind += THREADS) shared.totals[kind] = 0;
  for (int layer = 0; layer < LAYERS; layer++)
    each<THREADS, D>([&](int j) { ahead[(layer * (int64)readers + reader) * D + j] = 0; });
  __syncthreads();
  Run run = {nullptr, weights, signs, moves, places, moved_by, shifts, nullptr, on};
#pragma unroll 1
  for (int t = length - 1; t >= 0; t--) {
    const int64 row = reader * length + t;
    const int token = tokens[reader * (length + 1) + t];
    run.kept = kept + row * KEPT_ROW, run.votes = votes + row * columns;
    each<THREADS, D>([&](int j) { shared.wire[j] = wire[row * D + j]; });
#pragma unroll 1
    for (int layer = LAYERS - 1; layer >= 0; layer--) {
      credit_mlp(shared, run, layer);
      credit_gru(shared, run, layer, ahead + (layer * (int64)readers + reader) * D, token);
    }
    uint32 magnitude = 0;
    each<THREADS, D>([&](int j) {
      const int here = shared.wire[j], vote = narrow(here, shifts[EMBEDDING_KIND]);
      magnitude += uint32(abs(here));
      if (vote) atomicAdd(z + token * D + j, vote);
    });
    add_total(shared.totals + EMBEDDING_KIND, magnitude);
  }
  __syncthreads();
  for (int kind = threadIdx.x; kind < KINDS; kind += THREADS) atomicAdd(totals + kind, shared.totals[kind]);
}
