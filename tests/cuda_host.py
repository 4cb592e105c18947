"""A device that is the CPU: compiles the CUDA sources with a C++ compiler (cuda_host.h), and launches them.

What it shows is that the sources compute what the reference defines; that they run on a GPU, it cannot show.
"""

import ctypes
import hashlib
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np

from egg.kernels.cuda.sources import KERNELS, source

HEADER = Path(__file__).parent / "cuda_host.h"
FLAGS = "-std=c++17 -O1 -w -fwrapv -fno-strict-aliasing -shared -fPIC".split()
COMPILER = shutil.which("g++") or shutil.which("clang++")

ENTRY = """
static void body_KERNEL(void **args) { host::call(KERNEL, args); }
extern "C" void launch_KERNEL(void **args, unsigned x, unsigned y, unsigned threads, unsigned shared) {
  host::launch(body_KERNEL, args, x, y, threads, shared);
}
extern "C" int parameters_KERNEL() { return host::parameters(KERNEL); }
"""


class Held(np.ndarray):
    """An array of the device's, which a NumPy array is not."""


class HostDevice:
    """Stands in for egg.kernels.cuda.device.CupyDevice, and notes the bytes of every array that comes or goes."""

    description = "CUDA sources on the CPU"

    def __init__(self, folder: Path, *, shared_limit=227 << 10, multiprocessors=2, free=1 << 30):
        self.folder, self.shared_limit, self.multiprocessors = folder, shared_limit, multiprocessors
        self._free, self._libraries = free, {}
        self.brought, self.taken = [], []

    def free_bytes(self):
        return self._free

    def put(self, array):
        assert not self.holds(array)
        self.brought.append(array.nbytes)
        return np.array(array, order="C").view(Held)

    def holds(self, array):
        return isinstance(array, Held)

    def get(self, array):
        assert self.holds(array)
        self.taken.append(array.nbytes)
        return np.array(array, order="C", subok=False)

    def empty(self, shape, dtype):
        out = np.empty(shape, dtype)
        out.view(np.uint8)[...] = 0xA5  # nothing may rely on what lies there
        return out.view(Held)

    def zeros(self, shape, dtype):
        return np.zeros(shape, dtype).view(Held)

    def clock(self, call):
        began = time.perf_counter()
        call()
        return time.perf_counter() - began

    def launch(self, name, kernel, options, grid, threads, shared, arguments):
        assert all(0 < size for size in grid) and grid[1] < 65536 and shared <= self.shared_limit
        library = self._library(name, options)
        holders = []
        for a in arguments:
            if isinstance(a, np.ndarray):
                assert self.holds(a) and a.flags.c_contiguous
                holders.append(ctypes.c_void_p(a.ctypes.data))
            else:
                holders.append((ctypes.c_char * a.nbytes).from_buffer_copy(a.tobytes()))
        pointers = (ctypes.c_void_p * len(holders))(*map(ctypes.addressof, holders))
        function = getattr(library, "launch_" + kernel)
        count = getattr(library, "parameters_" + kernel)()
        assert count == len(holders), f"{kernel} takes {count} arguments, not {len(holders)}"
        function(pointers, *map(ctypes.c_uint, (*grid, threads, shared)))

    def _library(self, name, options):
        if (name, options) not in self._libraries:
            text = [source(name), *(ENTRY.replace("KERNEL", kernel) for kernel in KERNELS[name])]
            self._libraries[name, options] = compiled(self.folder, "\n".join(text), options)
        return self._libraries[name, options]


def compiled(folder: Path, text: str, options: tuple[str, ...]):
    """The loaded library of a source, compiled once for a folder."""
    text = '#include "cuda_host.h"\n' + text
    key = hashlib.sha256((text + HEADER.read_text() + " ".join(options)).encode()).hexdigest()[:16]
    path, library = folder / f"{key}.cpp", folder / f"{key}.so"
    if not library.exists():
        path.write_text(text)
        command = [COMPILER, *FLAGS, f"-I{HEADER.parent}", *options, str(path), "-o", str(library)]
        subprocess.run(command, check=True)
    return ctypes.CDLL(str(library))


def call_int(folder: Path, text: str, options: tuple[str, ...], function: str) -> int:
    """What a function without parameters of a source returns."""
    return getattr(compiled(folder, text, options), function)()
