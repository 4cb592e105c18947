"""NVRTC through ctypes: compiles the CUDA sources where there is neither CuPy nor a GPU."""

import ctypes
from functools import cache
from pathlib import Path

from egg.kernels.cuda.device import INSTALL
from egg.kernels.cuda.sources import SHAPED, defines, source, tile_for
from egg.kernels.cuda.toolkit import folders
from egg.kernels.layout import BackendError, Shape

ARCHITECTURE = "sm_90"
SHARED_LIMIT = 227 << 10  # bytes of shared memory that a block may have there


@cache
def library():
    """NVRTC, of a wheel (nvidia-cuda-nvrtc-cu12, nvidia-cuda-nvrtc) or of the CUDA toolkit.

    Raises BackendError, one line, where there is none.
    """
    for folder in folders("lib", "lib64"):
        for path in sorted(folder.glob("libnvrtc.so.*")) + sorted(folder.glob("libnvrtc.so")):
            return ctypes.CDLL(str(path))
    raise BackendError(f"the CUDA kernels cannot be compiled: NVRTC is not installed: {INSTALL} brings it")


def version() -> str:
    """Of NVRTC, such as 12.9."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


def compile_source(text: str, options: tuple[str, ...]) -> tuple[bool, str, bytes, str]:
    """Whether it compiled, the compiler's log, the machine code and the PTX.

    Raises BackendError where there is no NVRTC.
    """
    nvrtc, program = library(), ctypes.c_void_p()
    if nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"a.cu", 0, None, None):
        raise BackendError("NVRTC refuses to begin: is its libnvrtc-builtins beside it?")
    given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    done = nvrtc.nvrtcCompileProgram(program, len(options), given) == 0

    def got(name: str) -> bytes:
        size = ctypes.c_size_t()
        if getattr(nvrtc, f"nvrtcGet{name}Size")(program, ctypes.byref(size)):
            return b""
        buffer = ctypes.create_string_buffer(size.value)
        getattr(nvrtc, f"nvrtcGet{name}")(program, buffer)
        return buffer.raw

    log = got("ProgramLog").rstrip(b"\0").decode(errors="replace")
    code, ptx = (got("CUBIN"), got("PTX").rstrip(b"\0").decode()) if done else (b"", "")
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return done, log, code, ptx


@cache
def compiled(name: str, shape: Shape) -> tuple[bytes, str]:
    """Machine code and PTX of a source, a key of ``sources.KERNELS``, for ARCHITECTURE.

    Raises BackendError, one line, where there is no NVRTC, or for a source that it refuses.
    """
    shaped = defines(shape, tile_for(shape.hidden_size, SHARED_LIMIT)) if name in SHAPED else ()
    options = ("-std=c++17", f"--gpu-architecture={ARCHITECTURE}", *shaped)
    done, log, code, ptx = compile_source(source(name), options)
    if not done or not code:
        why = next((line for line in log.splitlines() if "error" in line), "no machine code")
        raise BackendError(f"{Path(name).name} cannot be compiled by NVRTC {version()}: {why}")
    return code, ptx
