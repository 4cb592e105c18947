"""NVRTC from its wheel, through ctypes: compiles CUDA sources where there is neither a toolkit nor a GPU."""

import ctypes
from importlib.util import find_spec
from pathlib import Path


def library():
    """NVRTC of the wheel nvidia-cuda-nvrtc-cu12, or None where it is not installed."""
    try:
        spec = find_spec("nvidia.cuda_nvrtc")
    except ModuleNotFoundError:
        return None
    for folder in spec.submodule_search_locations if spec else ():
        for path in sorted(Path(folder).glob("lib/libnvrtc.so.*")):
            return ctypes.CDLL(str(path))
    return None


def compile_source(nvrtc, text: str, options: tuple[str, ...]) -> tuple[bool, str, bytes]:
    """Whether it compiled, the compiler's log, and the machine code."""
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    assert (
        nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"a.cu", 0, None, None) == 0
    )
    given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    done = nvrtc.nvrtcCompileProgram(program, len(options), given) == 0
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    code = b""
    if done:
        nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetCUBIN(program, buffer)
        code = buffer.raw
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return done, log.value.decode(), code
