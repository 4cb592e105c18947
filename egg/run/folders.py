"""The folder of a command's result, which must not hold another result."""

import os
import time
from pathlib import Path

from egg.config import ADAPT
from egg.errors import EggError
from egg.model import checkpoint
from egg.model.adapter import ADAPTER
from egg.run.config_file import RUN_TOML
from egg.run.log import METRICS


def new_folder(out: str | None, preset_name: str) -> Path:
    """The folder of a new run, which is not made yet."""
    if out is None:
        name = Path("runs") / f"{preset_name}-{time.strftime('%Y%m%d-%H%M%S')}"
        run, again = name, 1
        while run.exists():
            again += 1
            run = name.with_name(f"{name.name}-{again}")
    elif not out:
        raise EggError("--out is empty: give the run a folder")
    else:
        run = Path(out)
    if run.exists() and not run.is_dir():
        raise EggError(f"--out {run}: there is a file of that name, give a folder")
    refuse_a_run(run)
    if (run / RUN_TOML).exists():
        raise EggError(f"--out {run} holds a {RUN_TOML}, which the run would overwrite: give another folder")
    parent = run.absolute()
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise EggError(f"--out {run}: {parent} cannot be written, give another folder")
    return run


def refuse_a_run(run: Path) -> None:
    """Raises EggError for a folder that holds a run, or a link in the place of one's checkpoints."""
    for name in (checkpoint.CONFIG, METRICS, checkpoint.CHECKPOINTS):
        if (run / name).exists():
            raise EggError(f"--out {run} holds a run already: give another folder, or resume it with --resume {run}")
    checkpoint.refuse_linked(run)


def folder_for(out: str | None) -> Path:
    """The folder of an adapter; raises EggError for a folder that has one, or a run: neither can be continued."""
    names = () if out is None else (ADAPTER, checkpoint.CONFIG, METRICS, checkpoint.CHECKPOINTS)
    for name in names:
        if os.path.lexists(Path(out) / name):  # also a link to nothing
            raise EggError(f"--out {out} holds {name} already: give another folder")
    return new_folder(out, ADAPT)
