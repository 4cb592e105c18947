"""Checkpoints: a folder each, complete or not there at all.

checkpoints/step-NNNNNNNN/
    config.json          the run's configuration
    model.safetensors    the int8 weights, with which ``egg.load`` is content
    state.safetensors    what exact continuation needs beside configuration and text
best.json                names the checkpoint that was best on the validation text; RUN/best means it
"""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from egg.errors import EggError
from kernels.arithmetic import LIMIT
from kernels.layout import Shape

CONFIG, MODEL, STATE = "config.json", "model.safetensors", "state.safetensors"
CHECKPOINTS = "checkpoints"
BEST = "best.json"
WRITING = "writing-"  # begins the name of what is not whole yet
FORMAT = "1"  # of state.safetensors
FORMAT_KEY = "egg_checkpoint"  # its place in the metadata; one key alone, for two would be saved in any order
_STEP = re.compile(r"step-(\d{8,})")


def step_name(step: int) -> str:
    """The name of a checkpoint's folder."""
    return f"step-{step:08d}"


def step_of(folder: Path) -> int:
    """The step in a checkpoint's name; raises EggError if there is none."""
    match = _STEP.fullmatch(folder.name)
    if not match:
        raise EggError(f"{folder} is not named step-NNNNNNNN, as a run's checkpoints are")
    return int(match[1])


def checkpoints(run: Path) -> list[Path]:
    """A run's complete checkpoints, oldest first."""
    folder = run / CHECKPOINTS
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _STEP.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=step_of)


def find(path: str | Path) -> Path:
    """The checkpoint meant by a path: itself, the newest of a run, or the best by ``RUN/best``.

    Raises EggError if there is none.
    """
    path = Path(path)
    if path.name == "best" and not path.exists() and path.parent.is_dir():
        return _best(path.parent)
    if not path.exists():
        raise EggError(f"{path}: no such folder; give a run or one of its checkpoints")
    if not path.is_dir():
        raise EggError(f"{path} is a file: give the folder of a run or of a checkpoint")
    if (path / MODEL).exists():
        return path
    saved = checkpoints(path)
    if saved:
        return saved[-1]
    if (path / CONFIG).exists():
        raise EggError(f"{path} has no checkpoint, nor a {MODEL}: give a run that has saved one")
    raise EggError(f"{path} holds neither a run nor a checkpoint: no {MODEL}, no {CHECKPOINTS}")


def _best(run: Path) -> Path:
    path = run / BEST
    try:
        folder = run / CHECKPOINTS / step_name(json.loads(path.read_bytes())["step"])
    except FileNotFoundError:
        raise EggError(f"{run} has no {BEST}: it is no run, or has measured nothing yet") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EggError(f"{path} cannot be read: {error}") from error
    if not folder.is_dir():
        raise EggError(f"{path} names {folder}, which is not there: give another checkpoint")
    return folder


def save_checkpoint(
    run: Path,
    step: int,
    config: dict[str, Any],
    shape: Shape,
    weights: np.ndarray,
    state: dict[str, np.ndarray],
) -> Path:
    """Write a run's checkpoint and return its folder; it appears under its name when it is whole.

    config : what config.json holds
    weights : (parameters,) int8
    state : arrays by name
    Raises EggError if it cannot be written.
    """
    folder = run / CHECKPOINTS / step_name(step)
    if folder.exists():
        return folder  # the same step of the same run has the same bytes
    temporary = run / CHECKPOINTS / f"{WRITING}{step_name(step)}"
    state = {name: np.ascontiguousarray(array) for name, array in state.items()}
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # left by a run that was killed
        temporary.mkdir(parents=True)
        write_synced(temporary / CONFIG, json_bytes(config))
        write_synced(temporary / MODEL, save(shape.views(weights)))
        write_synced(temporary / STATE, save(state, {FORMAT_KEY: FORMAT}))
        _sync_folder(temporary)
        temporary.rename(folder)
        _sync_folder(folder.parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise EggError(f"cannot write checkpoint {folder}: {error.strerror or error}") from error
    return folder


def json_bytes(content: dict[str, Any]) -> bytes:
    """An object as a readable JSON file."""
    return (json.dumps(content, indent=2) + "\n").encode()


def write_synced(path: Path, content: bytes) -> None:
    """Write a file through to the disk."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, content: bytes) -> None:
    """Put a file in another's place: at every moment there is one of them, whole."""
    temporary = path.with_name(f"{WRITING}{path.name}")
    write_synced(temporary, content)
    temporary.replace(path)


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened, and names are kept as they come
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_config(folder: Path) -> dict[str, Any]:
    """The object in a folder's config.json; raises EggError if there is none."""
    path = folder / CONFIG
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise EggError(f"{folder} has no {CONFIG}: give a run or a checkpoint") from error
    except (OSError, ValueError, RecursionError) as error:
        raise EggError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise EggError(f"{path} is not a configuration: it holds no JSON object")
    return content


def read_weights(folder: Path, shape: Shape) -> np.ndarray:
    """(parameters,) int8 from a folder's model.safetensors.

    Raises EggError for a file that is missing, cut short, foreign, or of another shape.
    """
    path = folder / MODEL
    tensors, _ = _read(path)
    for name, tensor in shape.tensors.items():
        if name not in tensors:
            raise EggError(f"{path} has no tensor {name!r}: it is no model of {_describe(shape)}")
        there = tensors[name]
        if there.dtype != np.int8 or there.shape != tensor.shape:
            raise EggError(
                f"{path}: {name} is {there.dtype}{list(there.shape)}, "
                f"a model of {_describe(shape)} has int8{list(tensor.shape)}"
            )
        if there.min() < -LIMIT:
            raise EggError(f"{path}: {name} holds -128, which no weight is: the file is damaged")
    return shape.flatten(tensors)


def read_state(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint's state.safetensors.

    Raises EggError for a file that is missing, cut short or foreign, or another version's.
    """
    path = folder / STATE
    tensors, metadata = _read(path)
    version = metadata.get(FORMAT_KEY)
    if version != FORMAT:
        raise EggError(
            f"{path} has checkpoint format {version}, this program reads {FORMAT}: "
            "train on with the version that wrote it"
        )
    return tensors


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    if not path.is_file():
        raise EggError(f"{path.parent} has no {path.name}: give a run or a complete checkpoint")
    try:
        with safe_open(path, "np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        raise EggError(f"{path} is damaged or no safetensors file: {error}") from error


def _describe(shape: Shape) -> str:
    return f"hidden size {shape.hidden_size} and {shape.num_layers} layers"
