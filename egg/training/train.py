"""``egg.train``: a run from Python, a report a step."""

import os
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from egg.compute import Compute
from egg.config import Config, as_field, with_settings, with_size
from egg.errors import EggError
from egg.evolution.base import StepReport
from egg.ranks.distributed import launched
from egg.run.folders import new_folder
from egg.run.progress import Progress, Quiet
from egg.run.sinks import Sinks
from egg.training.corpus import located
from egg.training.session import Session, open_resumed_run, refuse_changes
from egg.training.settings import backend_name, configuration, known


class Training(Iterator[StepReport]):
    """A run as an iterator over its steps; what ``egg.train`` returns."""

    def __init__(self, folder: Path, open_session: Callable[[ExitStack], Session]):
        self.folder = folder
        """Where the run's files are, for ``egg.load``."""
        self._open = open_session
        self._reports = _reports(open_session)

    def __next__(self) -> StepReport:
        return next(self._reports)

    def close(self) -> None:
        """Stop early: save a checkpoint of the last step and unlock the folder. A second call does nothing."""
        self._reports.close()

    def follow(self) -> int:
        """Train to the stop as the command does, which catches Ctrl-C and SIGTERM; returns its exit status."""
        with ExitStack() as held:
            return self._open(held).follow("egg train")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def train(
    base: str | os.PathLike | Mapping[str, Any] | Config | None = None,
    /,
    *,
    out: str | os.PathLike | None = None,
    resume: str | os.PathLike | None = None,
    backend: str | None = None,
    threads: int | None = None,
    device: int | None = None,
    tensorboard: bool = False,
    wandb: bool = False,
    wandb_project: str | None = None,
    wandb_name: str | None = None,
    progress: bool = False,
    **settings: Any,
) -> Training:
    """Train a model: an iterator that takes a step and reports it at each ``next``.

    The run's folder is byte for byte what the command ``egg train`` leaves with the same settings. The call itself
    checks the settings and writes nothing: ``for report in egg.train(...)`` trains to the stop. Leaving
    the loop early (``break``, an exception in its body) saves a checkpoint of the last step, from which ``resume``
    continues; to stop an iterator that is kept in a variable, call ``close()`` or use
    ``with egg.train(...) as training:``. Signals are Python's: Ctrl-C within a step ends the run as
    a kill does, at the checkpoint before; ``egg.train(...).follow()`` catches it as the command does.

    base : a preset's name, an ``egg.config.Config``, a dict of settings, or the path of a TOML file such as a run's
        run.toml; None is preset nano. Not with ``resume``.
    out : folder of the run; None is runs/PRESET-DATE-TIME. ``Training.folder`` says which.
    resume : the folder of a run to resume, from its newest complete checkpoint
    backend : "auto", "numpy", "numba" or "cupy"; results do not depend on it
    threads, device : threads of a CPU backend, None for all; number of the GPU, None for the first
    tensorboard, wandb : log to it too
    wandb_project, wandb_name : of Weights & Biases, which each of them chooses too; None are egg, and the folder's name
    progress : print the command's output on standard output
    settings : any other flag of ``egg train`` by its name, ``hidden_size=64`` for ``--hidden-size 64``; they override
        the base. Numbers may be texts, as "10M". A stop (steps, tokens, minutes) replaces all of the base's. ``size``
        ("M", or a number of parameters) chooses hidden_size, num_layers, streams and seq_len, unless they are given.
    returns : an iterator of ``StepReport``: step, tokens, train_integer_bits_per_byte, step_size, changed_share,
        clipped_share, and validation_bits_per_byte, which is None where nothing was measured (of a text that holds
        nothing out, training_text_bits_per_byte). A report holds the weights before and after its step: to keep many
        steps, keep figures and not reports.
    Raises EggError, one line, for an unknown setting, an invalid value, or a folder that cannot be used.

    >>> training = egg.train("quickstart", data="book.txt", out="runs/book", steps=3, hidden_size=16, backend="numpy")
    >>> for report in training:
    ...     print(report.step, report.tokens)
    1 512
    2 1024
    3 1536
    >>> network = egg.load(training.folder)
    >>> for report in egg.train(resume="runs/book", steps=5, backend="numpy"):
    ...     print(report.step, report.validation_bits_per_byte is not None)
    4 False
    5 True
    """
    if (processes := launched()[1]) > 1:
        raise EggError(
            f"{processes} processes were started: only the command egg train divides its work among several: "
            "start one process"
        )
    settings = known(settings)
    place = {"out": out, "backend": backend, "threads": threads, "device": device}
    if resume is not None:
        if base is not None:
            raise EggError(f"the run in {resume} keeps its settings: remove the first argument")
        folder = Path(resume)
        if out is not None and Path(out).resolve() != folder.resolve():
            raise EggError(f"--out {out}: a resumed run stays in {folder}: remove out")
        session = partial(_resumed, folder, settings)
    else:
        config, own = configuration(base, settings)
        place |= {name: value for name, value in own.items() if place[name] is None}
        folder = new_folder(None if place["out"] is None else os.fspath(place["out"]), config.preset)
        session = partial(Session, located(config).resolved(), folder)
    chosen = {
        "compute": Compute(
            backend_name(place["backend"] or "auto"),
            as_field("threads", place["threads"], int | None),
            as_field("device", place["device"], int | None),
        ),
        "sinks": Sinks(tensorboard=tensorboard, wandb=wandb, wandb_project=wandb_project, wandb_name=wandb_name),
        "progress": Progress() if progress else Quiet(),
    }
    return Training(folder, lambda held: session(held=held, **chosen))


def _reports(open_session: Callable[[ExitStack], Session]) -> Generator[StepReport]:
    with ExitStack() as held:
        session = open_session(held)
        if session.begin():
            yield from session.trainer.reports()
            if outcome := session.trainer.outcome:
                session.end(outcome)


def _resumed(folder: Path, settings: Mapping[str, Any], held: ExitStack, **chosen: Any) -> Session:
    """A session that resumes a run."""
    resumed = open_resumed_run(folder, held)
    original = resumed.config(folder)
    config = located(with_settings(original, with_size(settings, shape_alone=True))).resolved()
    refuse_changes(folder, original, config)
    return Session(config, folder, resumed, held=held, **chosen)
