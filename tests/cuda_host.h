// Lets a C++ compiler run the CUDA sources on a CPU: every thread of a block is a fiber, blocks run one after another,
// and warps meet where the hardware makes them meet. For testing what the kernels compute, not how fast.
#define EGG_HOST
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#define __device__
#define __host__
#define __global__
#define __shared__ static
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define SHARED_BUFFER(name) unsigned char *name = (unsigned char *)host::shared

struct dim3 { unsigned x, y, z; };
struct alignas(16) uint4 { uint32_t x, y, z, w; };
struct alignas(16) int4 { int x, y, z, w; };
static dim3 threadIdx, blockIdx, blockDim, gridDim;
using std::abs;
template <class A, class B> auto min(A a, B b) { return a < b ? a : b; }
template <class A, class B> auto max(A a, B b) { return a > b ? a : b; }

namespace host {
struct Lane { uint32_t a[4], b[2]; int acc[4]; int value; const signed char *row; };
struct Meeting { int arrived = 0; unsigned round = 0; };
struct Warp { Meeting meeting; Lane lanes[2][32]; };

static std::vector<uint64_t> shared_store;
static void *shared;
static std::vector<ucontext_t> fibers;
static std::vector<bool> done;
static ucontext_t scheduler;
static unsigned current;
static Meeting block;
static std::vector<Warp> warps;
static const size_t STACK = 64 << 10;
static std::vector<char> stacks;
static void (*body)(void **);
static void **arguments;

static void yield() {
  const unsigned me = current;
  swapcontext(&fibers[me], &scheduler);
  threadIdx.x = me;
}

// Waits until `count` fibers have come; the last runs `all`.
template <class All> void meet(Meeting &meeting, int count, All all) {
  const unsigned round = meeting.round;
  if (++meeting.arrived == count) {
    all();
    meeting.arrived = 0;
    meeting.round++;
  } else {
    while (meeting.round == round) yield();
  }
}

static Warp &warp() { return warps[current / 32]; }

static void run_fiber() {
  body(arguments);
  done[current] = true;
  swapcontext(&fibers[current], &scheduler);
  abort();
}

// All blocks of a grid in turn.
inline void launch(void (*kernel)(void **), void **args, unsigned grid_x, unsigned grid_y, unsigned threads,
                   unsigned shared_bytes) {
  body = kernel, arguments = args;
  blockDim = {threads, 1, 1}, gridDim = {grid_x, grid_y, 1};
  fibers.resize(threads);
  stacks.resize(STACK * threads);
  for (unsigned y = 0; y < grid_y; y++)
    for (unsigned x = 0; x < grid_x; x++) {
      blockIdx = {x, y, 0};
      shared_store.assign(shared_bytes / 8 + 1, 0xABABABABABABABABull); // nothing may rely on what lies there
      shared = shared_store.data();
      done.assign(threads, false);
      warps.assign((threads + 31) / 32, Warp());
      block = Meeting();
      for (unsigned i = 0; i < threads; i++) {
        getcontext(&fibers[i]);
        fibers[i].uc_stack.ss_sp = stacks.data() + STACK * i;
        fibers[i].uc_stack.ss_size = STACK;
        fibers[i].uc_link = nullptr;
        makecontext(&fibers[i], run_fiber, 0);
      }
      unsigned round = 0;
      for (unsigned left = threads; left; round++) {
        for (unsigned k = 0; k < threads; k++) {
          // Another order every round: what depends on which thread comes first, differs. threads is a power of two.
          const unsigned i = (77 * k + 31 * round) % threads;
          if (done[i]) continue;
          current = threadIdx.x = i;
          swapcontext(&scheduler, &fibers[i]);
          left -= done[i];
        }
      }
    }
}

template <class... A, size_t... I> void call(void (*kernel)(A...), void **args, std::index_sequence<I...>) {
  kernel(*(std::remove_const_t<A> *)args[I]...);
}
template <class... A> void call(void (*kernel)(A...), void **args) {
  call(kernel, args, std::index_sequence_for<A...>());
}
template <class... A> constexpr int parameters(void (*)(A...)) { return sizeof...(A); }
} // namespace host

inline void __syncthreads() { host::meet(host::block, blockDim.x, [] {}); }
inline void __syncwarp() { host::meet(host::warp().meeting, 32, [] {}); }

inline int __shfl_xor_sync(uint32_t, int value, int mask) {
  host::Warp &warp = host::warp();
  const unsigned round = warp.meeting.round & 1, lane = threadIdx.x & 31;
  warp.lanes[round][lane].value = value;
  host::meet(warp.meeting, 32, [] {});
  return warp.lanes[round][lane ^ mask].value;
}

// All lanes' values by two, for which the order does not matter.
template <class All> int reduce(int value, All all) {
  host::Warp &warp = host::warp();
  const unsigned round = warp.meeting.round & 1, lane = threadIdx.x & 31;
  warp.lanes[round][lane].value = value;
  host::meet(warp.meeting, 32, [] {});
  int out = warp.lanes[round][0].value;
  for (int l = 1; l < 32; l++) out = all(out, warp.lanes[round][l].value);
  return out;
}
inline int __reduce_add_sync(uint32_t, int value) { return reduce(value, [](int a, int b) { return a + b; }); }
inline uint32_t __reduce_add_sync(uint32_t, uint32_t value) { return uint32_t(__reduce_add_sync(~0u, int(value))); }
inline int __reduce_max_sync(uint32_t, int value) { return reduce(value, [](int a, int b) { return a > b ? a : b; }); }

// ldmatrix.x4 as the PTX ISA lays it over the lanes: each gives the address of one row of one matrix.
inline void load_matrices(uint32_t (&out)[4], const signed char *row) {
  host::Warp &warp = host::warp();
  const unsigned round = warp.meeting.round & 1, lane = threadIdx.x & 31;
  if ((uintptr_t)row % 16) abort();
  warp.lanes[round][lane].row = row;
  host::meet(warp.meeting, 32, [] {});
  for (int i = 0; i < 4; i++) memcpy(&out[i], warp.lanes[round][8 * i + lane / 4].row + 4 * (lane % 4), 4);
}

// The fragments of mma.m16n8k32 as the PTX ISA lays them over the lanes.
inline void mma(int (&acc)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  host::Warp &warp = host::warp();
  const unsigned round = warp.meeting.round & 1, lane = threadIdx.x & 31;
  host::Lane &mine = warp.lanes[round][lane];
  memcpy(mine.a, a, sizeof mine.a);
  memcpy(mine.acc, acc, sizeof mine.acc);
  mine.b[0] = b0, mine.b[1] = b1;
  host::meet(warp.meeting, 32, [&] {
    static int8_t A[16][32], B[8][32];
    for (int l = 0; l < 32; l++) {
      const host::Lane &from = warp.lanes[round][l];
      for (int i = 0; i < 4; i++) memcpy(&A[l / 4 + 8 * (i & 1)][4 * (l % 4) + 16 * (i >> 1)], &from.a[i], 4);
      for (int i = 0; i < 2; i++) memcpy(&B[l / 4][4 * (l % 4) + 16 * i], &from.b[i], 4);
    }
    for (int l = 0; l < 32; l++)
      for (int i = 0; i < 4; i++) {
        const int8_t *left = A[l / 4 + 8 * (i >> 1)], *right = B[2 * (l % 4) + (i & 1)];
        int sum = 0;
        for (int k = 0; k < 32; k++) sum += left[k] * right[k];
        warp.lanes[round][l].acc[i] += sum;
      }
  });
  memcpy(acc, warp.lanes[round][lane].acc, sizeof mine.acc);
}

inline uint32_t __umulhi(uint32_t a, uint32_t b) { return uint32_t(uint64_t(a) * b >> 32); }
inline int __popc(uint32_t v) { return __builtin_popcount(v); }
inline int __clz(int v) { return v ? __builtin_clz(v) : 32; }
inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 4; i++) c += int8_t(a >> 8 * i) * int8_t(b >> 8 * i);
  return c;
}
inline uint32_t __vaddss4(uint32_t a, uint32_t b) {
  uint32_t out = 0;
  for (int i = 0; i < 4; i++)
    out |= uint32_t(max(-128, min(127, int8_t(a >> 8 * i) + int8_t(b >> 8 * i))) & 255) << 8 * i;
  return out;
}
inline uint32_t __byte_perm(uint32_t x, uint32_t y, uint32_t selector) {
  const uint64_t both = uint64_t(y) << 32 | x;
  uint32_t out = 0;
  for (int i = 0; i < 4; i++) out |= uint32_t(both >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
  return out;
}
template <class T> T atomicAdd(T *at, T value) {
  const T before = *at;
  *at += value;
  return before;
}
