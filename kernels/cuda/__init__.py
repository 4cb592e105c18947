"""The CUDA backend: ``load`` finds the device and compiles nothing yet."""


def load(device: int = 0):
    """The CuPy backend on a device of this machine.

    device : its number, as the driver counts
    Raises BackendError, one line: no CuPy, no driver or one too old, no such device, or one that is too old.
    """
    from egg.kernels.cuda.backend import CupyBackend
    from egg.kernels.cuda.device import CupyDevice

    return CupyBackend(CupyDevice(device))
