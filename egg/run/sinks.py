"""Other destinations of the lines of metrics.jsonl: TensorBoard, Weights & Biases. Both are extras."""

import hashlib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from egg.errors import EggError, telling

KEYS = ("step", "seconds")  # of a record that are axes, not figures


EXTRAS = {"tensorboard": "tensorboardX", "wandb": "wandb"}
"""Flag, which is also the extra's name -> the module it needs."""


@dataclass(frozen=True, kw_only=True)
class Sinks:
    """Where the lines of a run's log go besides."""

    tensorboard: bool = False
    """Log to RUN/tensorboard too; needs pip install 'egg-lm[tensorboard]'."""
    wandb: bool = False
    """Log to Weights & Biases too; needs pip install 'egg-lm[wandb]'."""
    wandb_project: str | None = None
    """Project of Weights & Biases, which this chooses too; none: egg."""
    wandb_name: str | None = None
    """Name of the run there, which chooses Weights & Biases too; none: its folder's name."""

    @property
    def names(self) -> list[str]:
        """The names in EXTRAS of those that are chosen."""
        wandb = self.wandb or self.wandb_project is not None or self.wandb_name is not None
        return [name for name, on in (("tensorboard", self.tensorboard), ("wandb", wandb)) if on]

    def require_installed(self) -> None:
        """Raises EggError, one line, for the first that is not installed, or for an empty name."""
        for name in ("wandb_project", "wandb_name"):
            value = getattr(self, name)
            if value is not None and not value.strip():
                raise EggError(f"--{name.replace('_', '-')} is empty: give a name, or omit it")
        for name in self.names:
            _module(name)

    def open(self, run: Path, step: int, config: dict[str, Any]) -> list["Sink"]:
        """Open them for a run that continues after a step.

        config : the content of config.json
        """
        made: dict[str, Callable[[], Sink]] = {
            "tensorboard": lambda: TensorBoard(run, step),
            "wandb": lambda: WandB(run, config, self.wandb_project or "egg", self.wandb_name),
        }
        return [made[name]() for name in self.names]


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
    """A run of Weights & Biases that is resumed with its folder. Its own files go to RUN/wandb."""

    def __init__(self, run: Path, config: dict[str, Any], project: str, name: str | None):
        """Start or resume it; without a name it has the folder's.

        Raises EggError if wandb is not installed or does not start.
        """
        wandb = _module("wandb")
        name = name or run.resolve().name
        identity = hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:16]
        try:
            run.mkdir(parents=True, exist_ok=True)
            self._run = wandb.init(project=project, name=name, id=identity, resume="allow", config=config, dir=str(run))
        except Exception as error:  # wandb's own errors derive from it alone
            raise EggError(f"--wandb: {error} (WANDB_MODE=offline keeps it here)") from error

    def write(self, record):
        """One step's figures, under the names they have in metrics.jsonl."""
        figures = {name: value for name, value in record.items() if name not in KEYS}
        self._run.log(figures, step=record["step"])

    def close(self):
        """Finish the run of Weights & Biases."""
        self._run.finish()


def _module(name: str):
    try:
        return importlib.import_module(EXTRAS[name])
    except ImportError as error:
        raise EggError(f"--{name}: {error}; pip install 'egg-lm[{name}]'") from error
