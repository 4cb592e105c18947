"""The checkpoints that a run keeps: the best and the last few; and best.json, which names the best.

The choice follows from the configuration and the log alone, so that an interrupted and resumed run
ends with the same checkpoints as one that never stopped.
"""

import contextlib
import shutil
from pathlib import Path
from typing import Any, Literal

from egg.errors import telling
from egg.files import read_file, replace_file
from egg.model.checkpoint import BEST, CHECKPOINTS, WRITING, checkpoints, json_bytes, step_name, step_of
from egg.run.log import Best

# Prefix of a checkpoint that is being removed, so that none is ever incomplete under its own name.
REMOVING = "removing-"


def kept_steps(steps: list[int], every: int, keep: int | Literal["all"], best: int | None) -> set[int]:
    """The steps whose checkpoints are kept.

    steps : steps of all checkpoints, in order
    every : steps between regular checkpoints
    keep : number of regular checkpoints to keep, the newest checkpoint among them; "all" keeps every one
    best : step of the best measurement, whose checkpoint is kept
    """
    if keep == "all":
        return set(steps)
    # One that was saved because the run was interrupted is kept until there is a newer one.
    regular = [step for step in steps if step == steps[-1] or (every and step % every == 0)]
    return {*regular[-keep:], best}


def tidy(run: Path, every: int, keep: int | Literal["all"], best: int | None) -> None:
    """Remove all of a run's checkpoints but those to keep; arguments as for ``kept_steps``."""
    folder = run / CHECKPOINTS
    found = {step_of(path): path for path in checkpoints(run)}
    superfluous = found.keys() - kept_steps(list(found), every, keep, best)
    for step in sorted(superfluous):
        with contextlib.suppress(OSError):  # one that cannot be removed is no reason to end a run
            found[step].rename(folder / (REMOVING + found[step].name))
    for prefix in (REMOVING, WRITING):  # left by a run that was killed, or just now
        for path in folder.glob(prefix + "*"):
            with contextlib.suppress(OSError):
                path.unlink() if path.is_symlink() else shutil.rmtree(path)


def name_best(run: Path, best: Best | None) -> None:
    """Write best.json, or remove it if nothing was measured; raises EggError if it cannot be written."""
    path = run / BEST
    with telling(f"cannot write {path}"):
        if best is None:
            path.unlink(missing_ok=True)
            return
        content: dict[str, Any] = {
            "step": best.step,
            best.key: best.bits_per_byte,
            "checkpoint": f"{CHECKPOINTS}/{step_name(best.step)}",
        }
        try:
            same = read_file(path) == json_bytes(content)
        except OSError:  # anything but a file is replaced too
            same = False
        if not same:
            replace_file(path, json_bytes(content))
