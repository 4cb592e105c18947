"""Other destinations of the lines of metrics.jsonl: TensorBoard, Weights & Biases. Both are extras."""

import hashlib
import importlib
from pathlib import Path
from typing import Any, Protocol

from egg.errors import EggError, telling

KEYS = ("step", "seconds")  # of a record that are axes, not figures


EXTRAS = {"tensorboard": "tensorboardX", "wandb": "wandb"}
"""Flag, which is also the extra's name -> the module it needs."""


class Sink(Protocol):
    """Takes the records of a run's log."""

    def write(self, record: dict[str, Any]) -> None:
        """One step's line."""

    def close(self) -> None:
        """The run has ended."""


class TensorBoard:
    """Event files in RUN/tensorboard."""

    def __init__(self, run: Path, step: int):
        """Open them; lines that a killed run logged after ``step`` are hidden.

        Raises EggError if tensorboardX is not installed, or the folder cannot be written.
        """
        writer = _module("tensorboard").SummaryWriter
        with telling(f"cannot write {run / 'tensorboard'}"):
            self._writer = writer(str(run / "tensorboard"), purge_step=step + 1)

    def write(self, record):
        """One step's figures, under the names they have in metrics.jsonl."""
        for name, value in record.items():
            if name not in KEYS:
                if isinstance(value, str):  # shown as Markdown: four spaces keep it as it is
                    self._writer.add_text(name, "    " + value.replace("\n", "\n    "), record["step"])
                else:
                    self._writer.add_scalar(name, value, record["step"])

    def close(self):
        """Write everything through."""
        self._writer.close()


class WandB:
    """A run of Weights & Biases, named after the folder and resumed with it. Its own files go to RUN/wandb."""

    def __init__(self, run: Path, config: dict[str, Any]):
        """Start or resume it.

        Raises EggError if wandb is not installed or does not start.
        """
        wandb = _module("wandb")
        name = run.resolve().name
        identity = hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:16]
        try:
            run.mkdir(parents=True, exist_ok=True)
            self._run = wandb.init(project="egg", name=name, id=identity, resume="allow", config=config, dir=str(run))
        except Exception as error:  # wandb's own errors derive from it alone
            raise EggError(f"--wandb: {error} (WANDB_MODE=offline keeps it here)") from error

    def write(self, record):
        """One step's figures, under the names they have in metrics.jsonl."""
        figures = {name: value for name, value in record.items() if name not in KEYS}
        self._run.log(figures, step=record["step"])

    def close(self):
        """Finish the run of Weights & Biases."""
        self._run.finish()


def require_installed(names: list[str]) -> None:
    """Raises EggError, one line, for the first of these sinks that is not installed."""
    for name in names:
        _module(name)


def open_all(names: list[str], run: Path, step: int, config: dict[str, Any]) -> list[Sink]:
    """The sinks of these names for a run that continues after a step.

    config : the content of config.json
    """
    made = []
    for name in names:
        made.append(TensorBoard(run, step) if name == "tensorboard" else WandB(run, config))
    return made


def _module(name: str):
    try:
        return importlib.import_module(EXTRAS[name])
    except ImportError as error:
        raise EggError(f"--{name}: {error}; pip install 'egg-lm[{name}]'") from error
