"""The fastest int8 dot products this CPU does: what every other figure of ``egg bench`` is a fraction of.

A tile of sums and the weights it multiplies with stay in vector registers; each step only broadcasts a few words of
offset bytes from the first-level cache, for which loads are free. No real product can be faster: its weights come
from memory too, and its sums have to go somewhere. How many sums keep the multipliers busy depends on the CPU, hence
several tiles, of which the fastest counts. ``simd.dot4`` is the dot product, as the kernels have it.
"""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from egg.kernels.cpu.simd import BYTES, I32, I64, LANES, V_I32, address, aligned, broadcast, constant, dot4, load, store

TILES = ((4, 4), (1, 8), (2, 2), (1, 2))
"""Words broadcast a step, and vectors of weights: their product is the number of vectors of sums."""
STEPS = 512  # words of a row
ROW = 4 * STEPS  # bytes: four rows are 8 KB
TIMES = 256  # tiles between looks at the clock: 0.2 to 5 ms


@cache
def kernel(rows: int, vectors: int):
    """A function (x, w, out, times) that computes a tile's sums ``times`` times over.

    x : (rows, 4 STEPS) uint8
    w : (vectors, 64) int8, the same at each step
    out : (rows, vectors, 16) int32: out[r, v, lane] = sum over k of x[r, k] w[v, 4 lane + k % 4]
    """

    @intrinsic
    def tile(typing_context, x, w, out):
        signature = types.void(types.int64, types.int64, types.int64)

        def codegen(context, b, _, values):
            x, w, out = values
            ws = [load(b, b.add(w, I64(64 * v)), BYTES) for v in range(vectors)]
            before = b.block
            loop, done = b.append_basic_block("steps"), b.append_basic_block("done")
            b.branch(loop)
            b.position_at_end(loop)
            x_at, left = b.phi(I64), b.phi(I64)
            x_at.add_incoming(x, before)
            left.add_incoming(I64(STEPS), before)
            acc = [[b.phi(V_I32) for _ in range(vectors)] for _ in range(rows)]
            after = []
            for row in range(rows):
                word = load(b, b.add(x_at, I64(ROW * row)), I32)
                xs = b.bitcast(broadcast(b, word, V_I32), BYTES)
                after.append([dot4(b, acc[row][v], xs, ws[v]) for v in range(vectors)])
            for old, new in zip(sum(acc, []), sum(after, []), strict=True):
                old.add_incoming(constant(V_I32, 0), before)
                old.add_incoming(new, loop)
            x_at.add_incoming(b.add(x_at, I64(4)), loop)
            left_next = b.sub(left, I64(1))
            left.add_incoming(left_next, loop)
            b.cbranch(b.icmp_signed(">", left_next, I64(0)), loop, done)
            b.position_at_end(done)
            for at, value in enumerate(sum(after, [])):
                store(b, value, b.add(out, I64(4 * LANES * at)))
            return context.get_dummy_value()

        return signature, codegen

    # Not cached on disk: the code differs between instruction sets, the file does not
    @njit(nogil=True)
    def repeat(x, w, out, times):
        for _ in range(times):
            tile(address(x), address(w), address(out))

    return repeat


def operands(rows: int, vectors: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, w and out for ``kernel``: all byte values, in no order."""
    x = (np.arange(rows * ROW) * 37 % 256).astype(np.uint8).reshape(rows, ROW)
    w = (np.arange(vectors * 64) * 29 % 255 - 127).astype(np.int8).reshape(vectors, 64)
    aligned_x, aligned_w = aligned(x.shape, np.uint8), aligned(w.shape, np.int8)
    aligned_x[:], aligned_w[:] = x, w
    return aligned_x, aligned_w, aligned((rows, vectors, LANES), np.int32)


class Peak:
    """The peak of this CPU with the instruction set that ``egg.kernels.cpu.load`` chose; call that first.

    The making compiles every tile, and keeps the one that is fastest on one core.
    """

    def __init__(self, tiles: tuple[tuple[int, int], ...] = TILES):
        for tile in tiles:
            kernel(*tile)(*operands(*tile), 1)
        looks = [(_rate(tile, 1, 0.02), tile) for _ in range(3) for tile in tiles]
        _, self.tile = max(looks)

    def measure(self, threads: int, seconds: float) -> float:
        """Multiply-accumulates a second, in 1e9, of so many threads at once, measured for so long."""
        return _rate(self.tile, threads, seconds)


def _rate(tile: tuple[int, int], threads: int, seconds: float) -> float:
    rows, vectors = tile
    together = threading.Barrier(threads)

    def run():
        arrays, times = operands(rows, vectors), 0
        together.wait()
        began = now = time.perf_counter()
        while not times or now < began + seconds:
            kernel(rows, vectors)(*arrays, TIMES)
            times += TIMES
            now = time.perf_counter()
        return began, now, times

    with ThreadPoolExecutor(threads) as pool:
        runs = [f.result() for f in [pool.submit(run) for _ in range(threads)]]
    began, ended, times = zip(*runs, strict=True)
    products = sum(times) * rows * vectors * 4 * LANES * STEPS
    return products / (max(ended) - min(began)) / 1e9
