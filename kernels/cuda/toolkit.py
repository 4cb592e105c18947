"""Where the CUDA toolkit's libraries and programs lie: in wheels of the environment, or in an installation."""

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path


def folders(*names: str) -> Iterator[Path]:
    """Folders of these names, such as "bin": of NVIDIA's wheels, then $CUDA_HOME's, then /usr/local/cuda's."""
    spec = find_spec("nvidia")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        for name in names:
            yield from sorted(Path(place).glob(f"*/{name}"))
    for home in filter(None, (os.environ.get("CUDA_HOME"), "/usr/local/cuda")):
        for name in names:
            yield Path(home) / name


def program(*names: str) -> str | None:
    """The first of these programs that is found, on PATH or in one of the folders; else None."""
    for name in names:
        for folder in (None, *folders("bin")):
            if found := shutil.which(name, path=folder and str(folder)):
                return found
    return None
