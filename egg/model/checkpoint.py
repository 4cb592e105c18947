"""Checkpoints: a folder each, complete or absent.

checkpoints/step-NNNNNNNN/
    config.json          the run's configuration
    model.safetensors    the int8 weights, with which ``egg.load`` is content
    state.safetensors    what exact continuation needs beside configuration and text
    manifest.json        size and SHA-256 of the three, checked whenever one of them is read
best.json                names the checkpoint that was best on the validation text; RUN/best means it
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from egg.errors import EggError, perhaps, telling
from egg.files import open_file, read_file, replace_file, sync_folder, write_synced
from egg.kernels.arithmetic import LIMIT
from egg.kernels.layout import Shape
from egg.model.state import Form

CONFIG, MODEL, STATE = "config.json", "model.safetensors", "state.safetensors"
ADAPTER = "adapter.safetensors"  # of egg.model.adapter, beside the model that it is for
MANIFEST = "manifest.json"
CHECKPOINTS = "checkpoints"
BEST = "best.json"
DAMAGED = "damaged-"  # prefix of a checkpoint that a run could not resume from
WRITING = "writing-"  # prefix of a checkpoint that is not whole yet
FORMAT = "2"  # of state.safetensors
FORMAT_KEY = "egg_checkpoint"  # its key in the metadata; a single key, as several would be saved in any order
MAX_JSON = 1 << 20  # bytes: a longer file is no configuration or manifest, and is not read
_STEP = re.compile(r"step-(\d{8,10})")


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


def refuse_linked(run: Path) -> None:
    """Raises EggError for a run whose checkpoints would be written, and removed, elsewhere."""
    if (run / CHECKPOINTS).is_symlink():
        raise EggError(
            f"{run / CHECKPOINTS} is a link: a run writes into its own folder alone, put what it leads to in its place"
        )


def find(path: str | Path) -> Path:
    """The checkpoint meant by a path: itself, the newest of a run, or the best by ``RUN/best``.

    Raises EggError if there is none.
    """
    path = Path(path)
    if path.name == "best" and not path.exists() and path.parent.is_dir():
        return _best(path.parent)
    if not path.exists():
        raise EggError(f"{path}: no such folder{_nearest(path)}; give a run or one of its checkpoints")
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


def _nearest(path: Path) -> str:
    """The nearest name of a model beside a path, as ``perhaps`` gives it."""
    names = ["pretrained"] if path.parent == Path() else []  # what comes with egg
    with suppress(OSError):
        names += [each.name for each in path.parent.iterdir() if each.is_dir()]
    return perhaps(path.name, names)


def _best(run: Path) -> Path:
    path = run / BEST
    try:
        folder = run / CHECKPOINTS / step_name(_read_json(path)["step"])
    except FileNotFoundError:
        raise EggError(f"{run} has no {BEST}: it is no run, or has measured nothing yet") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise EggError(f"{path} cannot be read: {error}") from error
    if not folder.is_dir():
        raise EggError(f"{path} names {folder}, which does not exist: give another checkpoint")
    return folder


def newest_complete(run: Path) -> tuple[Path, list[str]]:
    """The newest checkpoint to resume from, and a line for each newer one that is damaged.

    Raises EggError if there is none; the message is about the newest, if there are damaged ones.
    """
    damaged = []
    for folder in reversed(checkpoints(run)):
        if damage := damage_of(folder):
            damaged.append(damage)
        else:
            return folder, damaged
    if damaged:
        raise EggError(f"{damaged[0]}; {run} has no complete checkpoint")
    return find(run), []


def settings_of_unsaved(run: Path) -> dict[str, Any] | None:
    """The content of config.json in the folder of a run that ended before its first checkpoint; None elsewhere.

    Raises EggError if the file cannot be read.
    """
    saved = checkpoints(run) or any((run / CHECKPOINTS).glob(f"{DAMAGED}*"))
    if saved or (run / BEST).exists() or not (run / CONFIG).exists():
        return None
    config = read_config(run)
    return config if "corpus" in config else None  # every run has it: without it, the folder is no run


def damage_of(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files, in one line; None if they are as they were written.

    Without a manifest, which older versions did not write, only unreadable files are found.
    """
    try:
        read_config(folder)
        for name in (MODEL, STATE):
            if not (folder / name).is_file():
                return f"{folder} has no {name}: it is no complete checkpoint"
            with opened(folder / name):
                pass
    except EggError as error:
        return str(error)
    return None


def set_aside_after(saved: Path) -> None:
    """Rename the damaged checkpoints that are newer than the one a run resumes from: damaged-STEP."""
    for folder in checkpoints(saved.parent.parent):
        if step_of(folder) > step_of(saved):
            kept = folder.with_name(f"{DAMAGED}{folder.name}")
            with telling(f"cannot rename {folder}"):
                shutil.rmtree(kept, ignore_errors=True)
                folder.rename(kept)


def _verify(path: Path) -> None:
    """Check a file against its folder's manifest, if there is one; raises EggError if it differs."""
    manifest = path.with_name(MANIFEST)
    if not (manifest.exists() and path.exists()):
        return
    try:
        entry = _read_json(manifest)["files"][path.name]
        size, sha256 = entry["bytes"], entry["sha256"]
        actual = path.stat().st_size
        if actual != size:
            raise EggError(f"{path} is damaged: {actual:,} bytes, its {MANIFEST} says {size!r}"[:400])
        with open_file(path) as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise EggError(f"{path} is damaged: its bytes do not have the checksum in {MANIFEST}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise EggError(f"{manifest} cannot be read: {error!r}"[:400]) from error


def _read_json(path: Path) -> Any:
    """A small file of JSON; raises OSError or ValueError."""
    return json.loads(read_file(path, MAX_JSON))


def save_checkpoint(
    run: Path, step: int, config: dict[str, Any], shape: Shape, weights: np.ndarray, state: dict[str, np.ndarray]
) -> Path:
    """Write a run's checkpoint and return its folder; it appears under its name when it is whole.

    config : what config.json holds
    weights : (parameters,) int8
    state : arrays by name
    Raises EggError if it cannot be written.
    """
    refuse_linked(run)
    folder = run / CHECKPOINTS / step_name(step)
    temporary = run / CHECKPOINTS / f"{WRITING}{step_name(step)}"
    state = {name: np.ascontiguousarray(array) for name, array in state.items()}
    with telling(f"cannot write checkpoint {folder}", "; earlier checkpoints are intact"):
        try:
            if folder.exists():
                if damage_of(folder) is None:
                    return folder  # the same step of the same run has the same bytes
                shutil.rmtree(folder)
            if not run.is_dir():  # made again, it would hold half a run
                raise FileNotFoundError(None, "the folder of the run is gone")
            folder.parent.mkdir(exist_ok=True)
            shutil.rmtree(temporary, ignore_errors=True)  # left by a run that was killed
            temporary.mkdir()  # raises if a link has its name
            files = {}
            for name, content in (
                (CONFIG, lambda: json_bytes(config)),
                (MODEL, lambda: save(shape.views(weights))),
                (STATE, lambda: save(state, {FORMAT_KEY: FORMAT})),
            ):
                files[name] = _write_hashed(temporary / name, content())
            write_synced(temporary / MANIFEST, json_bytes({"format": 1, "files": files}))
            sync_folder(temporary)
            temporary.rename(folder)
            sync_folder(folder.parent)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return folder


def _write_hashed(path: Path, content: bytes) -> dict[str, Any]:
    """Write a file through to the disk; returns its entry in the manifest."""
    write_synced(path, content)
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def write_model(folder: Path, config: dict[str, Any], shape: Shape, weights: np.ndarray) -> None:
    """Write a folder with a model alone: config.json and model.safetensors.

    weights : (parameters,) int8
    Raises EggError if it cannot be written.
    """
    with telling(f"cannot write {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / MODEL, save(shape.views(weights)))
        replace_file(folder / CONFIG, json_bytes(config))


def json_bytes(content: dict[str, Any]) -> bytes:
    """An object as a readable JSON file."""
    return (json.dumps(content, indent=2) + "\n").encode()


def read_config(folder: Path) -> dict[str, Any]:
    """The object in a folder's config.json; raises EggError if there is none."""
    path = folder / CONFIG
    try:
        _verify(path)
        content = _read_json(path)
    except FileNotFoundError as error:
        raise EggError(f"{folder} has no {CONFIG}: give a run or a checkpoint") from error
    except (OSError, ValueError, RecursionError) as error:
        raise EggError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise EggError(f"{path} is not a configuration: it holds no JSON object")
    return content


def read_weights(folder: Path, shape: Shape) -> np.ndarray:
    """(parameters,) int8 from a folder's model.safetensors.

    Raises EggError for a file that is missing, damaged, foreign, or of another shape.
    """
    path = folder / MODEL
    with opened(path) as file:
        names = set(file.keys())
        for name, tensor in shape.tensors.items():
            if name not in names:
                raise EggError(f"{path} has no tensor {name!r}: it is no model of {_describe(shape)}")
            dtype, actual = _form(file, name)
            if dtype != "I8" or actual != tensor.shape:
                raise EggError(
                    f"{path}: {name} is {_NAMES.get(dtype, dtype)}{list(actual)}, "
                    f"a model of {_describe(shape)} has int8{list(tensor.shape)}"
                )
        tensors = {name: file.get_tensor(name) for name in shape.tensors}
    for name, tensor in tensors.items():
        if tensor.min() < -LIMIT:
            raise EggError(f"{path}: {name} holds -128, which no weight is: the file is damaged")
    return shape.flatten(tensors)


def read_state(folder: Path, layout: dict[str, Form]) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint's state.safetensors: name -> array.

    layout : the form of each array, see ``egg.model.state``; arrays of another form are not read
    Raises EggError for a file that is missing, damaged, foreign, or of another form or version.
    """
    path = folder / STATE
    with opened(path) as file:
        version = (file.metadata() or {}).get(FORMAT_KEY)
        if version != FORMAT:
            raise EggError(
                f"{path} has checkpoint format {version}, this program reads {FORMAT}: "
                "resume with the version that wrote it"
            )
        names = set(file.keys())
        for name, form in layout.items():
            if name not in names:
                raise EggError(f"{path}: the training state has no {name!r}: it belongs to another recipe or version")
            kind, actual = _form(file, name)
            kind, expected = _NAMES.get(kind, kind), np.dtype(form.dtype).name
            if (kind, actual) != (expected, form.shape):
                raise EggError(
                    f"{path}: the training state's {name!r} is {kind}{list(actual)}, this "
                    f"configuration and corpus need {expected}{list(form.shape)}"
                )
        return {name: file.get_tensor(name) for name in layout}


_NAMES = {
    **{"I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64", "U8": "uint8"},
    **{"F16": "float16", "F32": "float32", "F64": "float64"},
}


def _form(file, name: str) -> tuple[str, tuple[int, ...]]:
    """A tensor's dtype, as safetensors calls it, and shape, from the file's header alone."""
    tensor = file.get_slice(name)
    return tensor.get_dtype(), tuple(tensor.get_shape())


@contextmanager
def opened(path: Path) -> Iterator:
    """Open a safetensors file whose bytes match its manifest; its errors become EggErrors."""
    if not path.is_file():
        raise EggError(f"{path.parent} has no {path.name}: give a run or a complete checkpoint")
    _verify(path)
    with telling(f"{path} cannot be read"):
        path.open("rb").close()  # safetensors reports an unreadable file as missing
    try:
        with safe_open(path, "np") as file:
            yield file
    except EggError:
        raise
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise EggError(f"{path} is damaged or no safetensors file: {error}"[:400]) from error


def _describe(shape: Shape) -> str:
    return f"hidden size {shape.hidden_size} and {shape.num_layers} layers"
