"""What the device can do at the most: a large int8 product by cuBLAS, beside which the kernels are measured."""

import numpy as np

from egg.kernels.layout import BackendError

SIDE = 8192
OPERATION_N, OPERATION_T = 0, 1  # numbers of cuBLAS and of CUDA's data types
INT8, INT32, COMPUTE_INT32, DEFAULT_ALGORITHM = 3, 10, 72, -1


class Peak:
    """Products (SIDE, SIDE) by (SIDE, SIDE) int8 with int32 sums, on a ``CupyDevice``.

    Raises BackendError, one line, where cuBLAS is missing or refuses the product.
    """

    description = f"cuBLAS int8, {SIDE} cubed"

    def __init__(self, device):
        self.device = device
        signs = np.random.default_rng(0).integers(-127, 128, (SIDE, SIDE)).astype(np.int8)
        self._a, self._b = device.put(signs), device.put(signs[::-1])
        self._c = device.empty((SIDE, SIDE), np.int32)
        self._one, self._zero = np.ones(1, np.int32), np.zeros(1, np.int32)
        try:
            # On that device, whichever is current; and the library loads.
            device.clock(self._multiply)
        except (ImportError, RuntimeError) as error:
            raise BackendError(
                f"backend cupy: cuBLAS, by which the device's peak is measured, fails: {' '.join(str(error).split())}"
            ) from error

    def _multiply(self):
        """c = a^T b in cuBLAS's order of columns, the layout its int8 kernels want."""
        from cupy.cuda.device import get_cublas_handle
        from cupy_backends.cuda.libs import cublas

        cublas.gemmEx(
            get_cublas_handle(),
            OPERATION_T,
            OPERATION_N,
            SIDE,
            SIDE,
            SIDE,
            self._one.ctypes.data,
            self._a.data.ptr,
            INT8,
            SIDE,
            self._b.data.ptr,
            INT8,
            SIDE,
            self._zero.ctypes.data,
            self._c.data.ptr,
            INT32,
            SIDE,
            COMPUTE_INT32,
            DEFAULT_ALGORITHM,
        )

    def measure(self, repeats: int = 10) -> float:
        """1e9 multiply-accumulates a second, over some products in a row."""

        def multiply():
            for _ in range(repeats):
                self._multiply()

        return repeats * SIDE**3 / self.device.clock(multiply) / 1e9
