"""What a run's metrics.jsonl holds, as curves."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from egg.errors import EggError, telling
from egg.kernels.values import ArrayValue
from egg.model import checkpoint
from egg.run.log import METRICS, VALIDATION, read_lines

POINTS = 300  # of a curve: each is the mean of as many lines as that takes
FIGURES = ("tokens_per_second", "step_size", "changed_share", "clipped_share")


@dataclass(frozen=True, eq=False)
class Curves(ArrayValue):
    """A run's figures over tokens and seconds."""

    run: Path
    name: str
    """What it is called beside other runs."""
    config: dict[str, Any] = field(repr=False)
    """What config.json holds."""
    steps: int
    train: np.ndarray
    """(n, 3) float64: tokens, seconds, integer bits per byte, at POINTS points at the most."""
    validation: np.ndarray
    """(m, 3): tokens, seconds, exact bits per byte, at every measurement."""
    figures: dict[str, np.ndarray]
    """Figure -> (n, 3), of FIGURES smoothed like ``train``."""
    end: tuple[int, float]
    """Tokens and seconds at the last step."""


def read_curves(run: Path, name: str | None = None) -> Curves:
    """Read a run's log.

    name : none: its folder's
    Raises EggError for a folder without a run, or a run without a step.
    """
    config = checkpoint.read_config(run) if run.is_dir() else None
    if config is None:
        raise EggError(f"{run}: no such folder; give the folder of a run")
    if (run / checkpoint.MODEL).exists():
        raise EggError(f"{run} is a checkpoint: give its run, {run.absolute().parent.parent}")
    rows: dict[str, list[tuple]] = {key: [] for key in ("train", VALIDATION, *FIGURES)}
    steps, at = 0, (0, 0.0)
    try:
        with telling(f"cannot read {run / METRICS}"):
            for _, _, record in read_lines(run / METRICS):
                steps, at = record["step"], (record["tokens"], record["seconds"])
                rows["train"].append((*at, record["train_integer_bits_per_byte"]))
                for key in (VALIDATION, *FIGURES):
                    if key in record:
                        rows[key].append((*at, record[key]))
    except (KeyError, TypeError) as error:
        raise EggError(f"{run / METRICS} is no log of a run: a line has no {error}") from error
    if not steps:
        raise EggError(f"{run / METRICS} has no whole line yet: nothing to draw")
    # The first step's speed is that of compiling.
    speeds = rows[FIGURES[0]]
    rows[FIGURES[0]] = speeds[1:] or speeds
    figures = {key: smooth(_array(rows[key])) for key in FIGURES}
    return Curves(
        run,
        name or run.resolve().name,
        config,
        steps,
        smooth(_array(rows["train"])),
        _array(rows[VALIDATION]),
        figures,
        at,
    )


def names(runs: list[Path]) -> list[str]:
    """Short names that differ: folders' own, or their paths where two are alike."""
    short = [run.resolve().name for run in runs]
    return [name if short.count(name) == 1 else str(run) for name, run in zip(short, runs, strict=True)]


def smooth(points: np.ndarray, most: int = POINTS) -> np.ndarray:
    """Means of neighbouring rows, ``most`` of them at the most."""
    if not len(points):
        return points
    each = -(-len(points) // most)
    at = np.arange(0, len(points), each)
    sizes = np.diff(np.append(at, len(points)))[:, None]
    return np.add.reduceat(points, at) / sizes


def _array(rows: list[tuple]) -> np.ndarray:
    return np.array(rows, np.float64).reshape(-1, 3)
