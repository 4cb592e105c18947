"""Which checkpoints of a run stay: the best, the last few, and best.json, which names the best.

What stays follows from the configuration and the log alone, so that an interrupted and resumed run
ends with the same checkpoints as one that never stopped.
"""

import contextlib
import shutil
from pathlib import Path
from typing import Any, Literal

from egg.errors import telling
from egg.files import read_file, replace_file
from egg.model.checkpoint import BEST, CHECKPOINTS, WRITING, checkpoints, json_bytes, step_name, step_of
from egg.run.log import VALIDATION, Best

# Begins the name of what is being removed, so that no checkpoint is ever half there under its own.
REMOVING = "removing-"


def kept(steps: list[int], every: int, keep: int | Literal["all"], best: int | None) -> set[int]:
    """The steps whose checkpoints stay.

    steps : of all checkpoints, in order
    every : steps between those that a run saves without a reason
    keep : how many of these stay, the newest of all among them; "all" is every checkpoint there is
    best : step of the best measurement, whose checkpoint stays
    """
    if keep == "all":
        return set(steps)
    # One that was saved because the run was interrupted there stays until there is a newer one.
    regular = [step for step in steps if step == steps[-1] or (every and step % every == 0)]
    return {*regular[-keep:], best}


def tidy(run: Path, every: int, keep: int | Literal["all"], best: int | None) -> None:
    """Remove a run's checkpoints but those that stay; arguments as for ``kept``."""
    folder = run / CHECKPOINTS
    found = {step_of(path): path for path in checkpoints(run)}
    superfluous = found.keys() - kept(list(found), every, keep, best)
    for step in sorted(superfluous):
        with contextlib.suppress(OSError):  # what cannot be removed stays: no reason to end a run
            found[step].rename(folder / (REMOVING + found[step].name))
    for begun in (REMOVING, WRITING):  # left by a run that was killed, or just now
        for path in folder.glob(begun + "*"):
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
            VALIDATION: best.bits_per_byte,
            "checkpoint": f"{CHECKPOINTS}/{step_name(best.step)}",
        }
        try:
            same = read_file(path) == json_bytes(content)
        except OSError:  # what is no file is replaced too
            same = False
        if not same:
            replace_file(path, json_bytes(content))
