"""A CUDA device through CuPy: arrays, compiled sources and launches, and what is wrong in one line."""

from contextlib import contextmanager

import numpy as np

from egg.kernels.cuda.sources import source
from egg.kernels.layout import BackendError

LEAST_CAPABILITY = (8, 0)  # of the devices that have the tensor cores' mma.m16n8k32
PINNED = 1 << 20  # bytes from which pinned memory is worth it
INSTALL = "pip install 'egg-lm[cuda]' (CUDA 12) or 'egg-lm[cuda13]'"


class CupyDevice:
    """One device of this machine.

    number : as the driver counts
    Raises BackendError for a device that is missing or too old, a driver that is missing or too old, or no CuPy.
    """

    def __init__(self, number: int = 0):
        try:
            import cupy
        except ImportError as error:
            raise BackendError(f"backend cupy: CuPy cannot be imported ({_first_line(error)}): {INSTALL}") from error
        self._cupy = cupy
        runtime = cupy.cuda.runtime
        try:
            count = runtime.getDeviceCount()
        except runtime.CUDARuntimeError as error:
            raise BackendError(f"backend cupy: {_no_device(runtime, error)}") from error
        if not 0 <= number < count:
            raise BackendError(f"backend cupy: no device {number}: this machine has {count}, numbered from 0")
        self._number, self._device = number, cupy.cuda.Device(number)
        properties = runtime.getDeviceProperties(number)
        capability = properties["major"], properties["minor"]
        name = properties["name"].decode()
        if capability < LEAST_CAPABILITY:
            raise BackendError(
                f"backend cupy: device {number}, {name}, has compute capability {capability[0]}.{capability[1]}: "
                "at least 8.0 is needed; use --backend numba"
            )
        self.shared_limit = int(properties["sharedMemPerBlockOptin"])
        self.multiprocessors = int(properties["multiProcessorCount"])
        self.description = f"CuPy {cupy.__version__}, device {number}: {name}"
        self._kernels: dict = {}
        self._errors = runtime.CUDARuntimeError, cupy.cuda.driver.CUDADriverError

    @contextmanager
    def on(self):
        """The device as the current one of this thread.

        Raises BackendError, one line, for what the driver refuses there: too little memory, a device that is taken, or
        a kernel that failed, of which the next call tells.
        """
        try:
            with self._device:
                yield
        except self._errors as error:
            raise BackendError(
                f"backend cupy: device {self._number}: {_first_line(error)}: see what else runs on it (nvidia-smi), "
                "or use --backend numba"
            ) from error

    def put(self, array: np.ndarray):
        """A copy on the device."""
        out = self.empty(array.shape, array.dtype)
        with self.on():
            out.set(np.ascontiguousarray(array))
        return out

    def holds(self, array) -> bool:
        """Whether an array is a device's."""
        return isinstance(array, self._cupy.ndarray)

    def get(self, array) -> np.ndarray:
        """A copy in host memory; waits for all that was launched. Large ones lie in pinned memory: faster."""
        with self.on():
            if array.nbytes < PINNED:
                return self._cupy.asnumpy(array)
            from cupyx import empty_pinned

            return self._cupy.ascontiguousarray(array).get(out=empty_pinned(array.shape, array.dtype))

    def empty(self, shape, dtype):
        """An array of left-over contents."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        with self.on():
            return self._or_full(lambda: self._cupy.empty(shape, dtype), size)

    def zeros(self, shape, dtype):
        """An array of zeros."""
        out = self.empty(shape, dtype)
        with self.on():
            out.fill(0)
        return out

    def free_bytes(self) -> int:
        """Memory that arrays could take now."""
        with self.on():
            return self._device.mem_info[0] + self._cupy.get_default_memory_pool().free_bytes()

    def launch(self, name, kernel, options, grid, threads, shared, arguments):
        """Start a kernel, compiled when first used.

        name : the source, a key of ``sources.KERNELS``
        options : the compiler's, from ``sources.defines``
        grid : (x, y) blocks of so many threads, each with ``shared`` bytes of dynamic shared memory
        arguments : device arrays and NumPy scalars of the parameters' widths
        """
        with self.on():
            function = self._kernels.get((name, kernel, options))
            if function is None:
                function = self._compiled(name, kernel, options, shared)
            function(grid, (threads, 1, 1), arguments, shared_mem=shared)

    def clock(self, call) -> float:
        """Seconds of a call between two events of the device."""
        with self.on():
            events = [self._cupy.cuda.Event() for _ in range(2)]
            events[0].record()
            call()
            events[1].record()
            events[1].synchronize()
            return self._cupy.cuda.get_elapsed_time(*events) / 1e3

    def _compiled(self, name, kernel, options, shared):
        try:
            module = self._cupy.RawModule(code=source(name), options=("-std=c++17", *options))
            function = module.get_function(kernel)
            if shared > 48 << 10:  # what a block may have without an attribute
                function.max_dynamic_shared_size_bytes = shared
        except Exception as error:  # the compiler's, the loader's or the driver's
            raise BackendError(
                f"backend cupy: {name} cannot be compiled here ({_first_line(error)}): {INSTALL}, "
                "or use --backend numba"
            ) from error
        self._kernels[name, kernel, options] = function
        return function

    def _or_full(self, make, size):
        try:
            return make()
        except self._cupy.cuda.memory.OutOfMemoryError as error:
            raise BackendError(
                f"backend cupy: out of memory: {size >> 20:,} MiB more were needed, "
                f"{self.free_bytes() >> 20:,} MiB are free: lower --hidden-size, --num-layers or --seq-len, "
                "or free some"
            ) from error


def _no_device(runtime, error) -> str:
    """Why the driver counts no device."""
    try:
        driver = runtime.driverGetVersion()
    except runtime.CUDARuntimeError:
        driver = 0
    if not driver:
        return "no CUDA driver is installed here; use --backend numba"
    if "InsufficientDriver" in str(error):
        needs = runtime.runtimeGetVersion() // 1000
        return (
            f"the driver is for CUDA {driver // 1000}.{driver % 1000 // 10}, CuPy needs {needs}: "
            "update the driver, or use --backend numba"
        )
    return f"no CUDA device: {_first_line(error)}; use --backend numba"


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
