"""Curves from a run's metrics.jsonl."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from egg.errors import EggError, telling
from egg.files import shown
from egg.kernels.values import ArrayValue
from egg.model import checkpoint
from egg.run.log import MEASURED, METRICS, SAMPLE, VALIDATION, Pace, is_number, measurement, read_records

SAMPLES = 24  # in memory; of more every other one is dropped
POINTS = 300  # of a curve at the most; each is the mean of equally many rows
MAX_ROWS = 1 << 14  # of a log, in memory
MAX_PARTS = 12  # of a mixture: more curves than that could not be told apart
FIGURES = ("tokens_per_second", "step_size", "changed_share", "clipped_share")


@dataclass(frozen=True, eq=False)
class Curves(ArrayValue):
    """A run's figures over tokens and seconds."""

    run: Path
    name: str
    """Its name among the runs of a picture."""
    config: dict[str, Any] = field(repr=False)
    """The content of config.json."""
    steps: int
    train: np.ndarray
    """(n, 3) float64: tokens, seconds, integer bits per byte, at POINTS points at the most."""
    validation: np.ndarray
    """(m, 3): tokens, seconds, exact bits per byte, at every measurement, of what ``measured_on`` says."""
    figures: dict[str, np.ndarray]
    """Figure -> (n, 3), of FIGURES smoothed like ``train``."""
    end: tuple[int, float]
    """Tokens and seconds at the last step."""
    samples: list[tuple[int, float | None, str]]
    """Step, bits per byte of validation, and what the model wrote; of many the latest are the densest."""
    training_seconds: float
    """Of all steps, without measurements, checkpoints and compilation; 0 if the log has no speeds."""
    measured_on: str = MEASURED[VALIDATION]
    """Of MEASURED: what was measured last."""
    parts: dict[str, np.ndarray] = field(default_factory=dict)
    """Of a mixture: name -> the same as ``validation`` of that part; the first MAX_PARTS."""


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
    rows = {key: _Rows() for key in ("train", VALIDATION, *FIGURES)}
    of_parts: dict[str, _Rows] = {}
    at: tuple[int, float] = (0, 0.0)
    steps, first_speed, measured_on = 0, None, MEASURED[VALIDATION]
    pace, samples = Pace(), []
    with telling(f"cannot read {run / METRICS}"):
        for record in read_records(run / METRICS):
            values: dict[str, Any] = {"train": record.get("train_integer_bits_per_byte")}
            values |= {key: record[key] for key in FIGURES if key in record}
            if measured := measurement(record):
                values[VALIDATION], measured_on = measured[1], MEASURED[measured[0]]
            begin = f"{measured[0]}/" if measured else None
            parts = {key.removeprefix(begin): record[key] for key in record if begin and key.startswith(begin)}
            if not all(map(is_number, (record.get("tokens"), *values.values(), *parts.values()))):
                raise EggError(f"{run / METRICS} is no log of a run: the line of step {record['step']} has no numbers")
            if (text := record.get(SAMPLE)) is not None:
                if not isinstance(text, str):
                    raise EggError(
                        f"{run / METRICS} is no log of a run: the sample of step {record['step']} is no text"
                    )
                samples.append((record["step"], measured and measured[1], text))
                samples = samples if len(samples) <= SAMPLES else samples[::-2][::-1]
            if (speed := values.get(FIGURES[0], 0)) > 0:
                pace.add(record["tokens"], speed)
            # The first step's speed may include compilation.
            if steps == 0:
                first_speed = values.pop(FIGURES[0], None)
            steps, at = record["step"], (record["tokens"], record["seconds"])
            for key, value in values.items():
                rows[key].append((*at, value))
            for part, value in parts.items():
                if part in of_parts or len(of_parts) < MAX_PARTS:
                    of_parts.setdefault(part, _Rows()).append((*at, value))
    if not steps:
        raise EggError(f"{run / METRICS} has no whole line yet: nothing to draw")
    if not rows[FIGURES[0]].rows and first_speed is not None:
        rows[FIGURES[0]].append((at[0], at[1], first_speed))
    figures = {key: rows[key].smooth() for key in FIGURES}
    return Curves(
        run,
        shown(name or run.resolve().name),
        config,
        steps,
        rows["train"].smooth(),
        rows[VALIDATION].array(),
        figures,
        at,
        samples,
        pace.seconds,
        measured_on,
        {shown(part): points.array() for part, points in of_parts.items()},
    )


def names(runs: list[Path]) -> list[str]:
    """Short names that differ: those of the folders, or the paths of folders with equal names."""
    short = [run.resolve().name for run in runs]
    return [name if short.count(name) == 1 else str(run) for name, run in zip(short, runs, strict=True)]


class _Rows:
    """Rows of a log of any length in bounded memory: whenever there are MAX_ROWS, neighbours are averaged in pairs."""

    def __init__(self):
        self.rows: list[tuple[float, float, float]] = []
        self._lines_per_row, self._pending = 1, []  # a row is the mean of so many lines; those of the next row

    def append(self, row: tuple[float, float, float]) -> None:
        """Add a line's values."""
        if self._lines_per_row > 1:
            self._pending.append(row)
            if len(self._pending) < self._lines_per_row:
                return
            row = tuple(np.mean(self._pending, 0).tolist())
            self._pending.clear()
        self.rows.append(row)
        if len(self.rows) == MAX_ROWS:
            self.rows = np.array(self.rows).reshape(-1, 2, 3).mean(1).tolist()
            self._lines_per_row *= 2

    def array(self) -> np.ndarray:
        """(n, 3) float64."""
        rest = [np.mean(self._pending, 0).tolist()] if self._pending else []
        return np.array([*self.rows, *rest], np.float64).reshape(-1, 3)

    def smooth(self) -> np.ndarray:
        """Means of neighbouring rows, at most POINTS."""
        points = self.array()
        if not len(points):
            return points
        rows_per_point = -(-len(points) // POINTS)
        at = np.arange(0, len(points), rows_per_point)
        sizes = np.diff(np.append(at, len(points)))[:, None]
        return np.add.reduceat(points, at) / sizes
