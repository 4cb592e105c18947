"""The Numba backend for CPUs: ``load`` chooses the instruction set, and where compiled code is kept."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from egg.kernels.cpu.isa import InstructionSet, detect
from egg.kernels.layout import BackendError


def load(threads: int | None = None, notify: Callable[[str], None] | None = None):
    """The Numba backend for this CPU; compiles nothing yet.

    notify : called with one line if nothing has been compiled for this CPU before
    Raises BackendError if EGG_CPU names an instruction set that this CPU lacks.
    """
    from numba.core import config

    from egg.kernels.cpu import simd

    chosen = detect()
    if simd.instruction_set not in (None, chosen.name):
        raise BackendError(
            f"EGG_CPU={chosen.name}: this process has already compiled for {simd.instruction_set}; start a new one"
        )
    simd.instruction_set = chosen.name
    if "EGG_CPU" in os.environ and chosen.cpu:
        config.CPU_NAME, config.CPU_FEATURES = chosen.cpu, ""
    # Numba keys its cache by a function's own file; ours is keyed by all sources and the instruction set.
    folder = code_folder(chosen)
    if notify and not any(folder.rglob("*.nbi")):
        notify("the kernels are compiled for this CPU when first used: about half a minute, once")
    before, config.CACHE_DIR = config.CACHE_DIR, str(folder)
    try:
        from egg.kernels.cpu import coder  # noqa: F401, so that its code is kept there too
        from egg.kernels.cpu.backend import NumbaBackend
    finally:
        config.CACHE_DIR = before
    return NumbaBackend(chosen, threads)


def code_folder(instruction_set: InstructionSet) -> Path:
    """Where compiled code is kept: below EGG_CACHE or the platform's cache folder, else a temporary one."""
    import numba
    from platformdirs import user_cache_dir

    key = hashlib.sha256(f"{numba.__version__} {instruction_set.name}".encode())
    here = Path(__file__).parent
    for source in sorted([*here.glob("*.py"), *here.parent.glob("*.py")]):
        key.update(source.read_bytes())
    root = Path(os.environ.get("EGG_CACHE") or user_cache_dir("egg"))
    folder = root / "kernels" / f"{instruction_set.name}-{key.hexdigest()[:16]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return Path(tempfile.mkdtemp(prefix="egg-kernels-"))
