"""Integer arithmetic: its definition (``reference``), and the same on the CPU (``cpu``) and the GPU (``cuda``)."""

from collections.abc import Callable
from typing import Literal, TypeAlias, cast, get_args

from egg.kernels.backend import Adapter, Backend, Choice, Draw, Noise, Votes
from egg.kernels.layout import AdapterShape, BackendError, Shape

__all__ = [
    "BACKENDS",
    "Adapter",
    "AdapterShape",
    "Backend",
    "BackendError",
    "BackendName",
    "Choice",
    "Draw",
    "Noise",
    "Shape",
    "Votes",
    "get_backend",
    "get_coder",
]

BackendName: TypeAlias = Literal["auto", "numpy", "numba", "cupy"]
BACKENDS = get_args(BackendName)
EARLY = 3 << 30
"""Weights times bytes that backend auto leaves to NumPy: some four seconds, 1,887 bytes at 256/2. Compiling the kernels
takes several times as long, but only once on a machine."""


def get_backend(
    name: str = "auto",
    *,
    threads: int | None = None,
    device: int | None = None,
    notify: Callable[[str], None] | None = None,
    tiered: bool = False,
    work: int | None = None,
) -> Backend:
    """The backend of that name, ready to use; only ``auto`` falls back to another.

    name : "auto" (the fastest on the CPU: no GPU has checked the CUDA kernels yet), "numpy", "numba" or "cupy"
    threads : of the CPU backend; None is as many as the process may use. Results do not depend on it.
    device : number of backend cupy's device; None is the first
    notify : called with a line on what was chosen and why, after a line on compilation where that is needed
    tiered : ``auto`` reads the first bytes by NumPy and loads the fastest after them, see ``egg.kernels.tiered``
    work : weights times bytes that will be read, if that is known: for little of it ``auto`` is NumPy
    Raises BackendError, one line, for an unknown name or a backend that is not available.
    """
    if name not in BACKENDS:
        raise BackendError(f"unknown backend {name!r}: choose one of {', '.join(BACKENDS)}")
    if threads is not None and threads < 1:
        raise BackendError(f"{threads} threads: at least 1 is needed")
    if device is not None and name != "cupy":
        raise BackendError(f"device {device}: backend {name} has no devices; choose backend cupy")
    short = name == "auto" and work is not None and work <= EARLY
    if tiered and name == "auto":
        from egg.kernels.tiered import TieredBackend

        # It finds the protocol's other calls when they are made.
        return cast(Backend, TieredBackend(get_backend, EARLY, threads=threads, notify=notify))
    if name == "cupy":
        from egg.kernels import cuda

        backend, why = cuda.load(device or 0), "asked for"
    elif name == "numpy" or short:
        from egg.kernels.reference import NumpyBackend

        backend, why = NumpyBackend(), "asked for" if name == "numpy" else "little to read"
    else:
        try:
            from egg.kernels.cpu import load

            why = "asked for" if name == "numba" else "the fastest here"
            backend = load(threads, notify)
        except ModuleNotFoundError as error:
            if error.name not in ("numba", "llvmlite"):
                raise
            if name == "numba":
                raise BackendError(f"backend numba: {error}; pip install numba") from error
            from egg.kernels.reference import NumpyBackend

            backend, why = NumpyBackend(), f"numba cannot be imported ({error})"
    if notify:
        notify(f"backend {backend.name}: {backend.description} ({why})")
    return backend


def get_coder(backend: Backend):
    """The module whose ``Encoder`` and ``Decoder`` go with a backend; all of them write the same bytes.

    The compiled one but for the definition's own backend, and where Numba is missing.
    """
    if backend.name != "numpy":
        try:
            from egg.kernels.cpu import load

            if backend.name != "numba":
                load()  # which says where compiled code is kept
            from egg.kernels.cpu import coder

            return coder
        except ModuleNotFoundError as error:
            if error.name not in ("numba", "llvmlite"):
                raise
    from egg.kernels import coder

    return coder
