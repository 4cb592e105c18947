"""A run from its settings to its pictures: what ``egg train`` and ``egg.train`` do when they know what to train."""

import os
import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from egg.compute import Compute
from egg.config import STOPS, Config, differences, flag, from_json
from egg.errors import EggError, telling
from egg.evolution.recipes import recipe_class
from egg.kernels import BackendError
from egg.model import checkpoint
from egg.model.evaluate import sample
from egg.model.state import check_memory
from egg.ranks.distributed import ALONE, Alone
from egg.report.draw import LOSS, REPORT, draw_run, drawn_or_told
from egg.report.ending import report
from egg.run import sinks
from egg.run.folders import refuse_a_run
from egg.run.lock import locked
from egg.run.origin import made_with
from egg.run.progress import Progress, Quiet
from egg.run.trainer import Outcome, Trainer
from egg.training.corpus import facts, located, open_for_training
from egg.view.figures import count

# What a resumed run may change.
ON_RESUME = (*STOPS, "eval_every", "eval_bytes", "log_every", "checkpoint_every", "keep")


class Begun(NamedTuple):
    """A run to go on with; all of it is JSON, so that ranks can share it."""

    saved: str | None
    """The newest complete checkpoint; None of a run that was ended before its first."""
    content: dict[str, Any]
    """What config.json holds, the checkpoint's or the run's own."""
    damaged: list[str]
    """What is wrong with newer checkpoints, a line each."""

    def config(self, run: Path) -> Config:
        """The configuration it was begun with."""
        return from_json(self.content, f"{self.saved or run}/{checkpoint.CONFIG}")


def find_begun(run: Path, held: ExitStack) -> Begun:
    """Where to go on with a run, which is locked until ``held`` is closed.

    Raises EggError, one line, for a folder without a run, or a run that another process has.
    """
    if not run.is_dir():
        what = "is a file" if run.exists() else "there is no such folder"
        raise EggError(f"--resume {run}: {what}, give the folder of a run")
    if (run / checkpoint.MODEL).exists():
        raise EggError(f"--resume {run} is a checkpoint: give its run, {run.absolute().parent.parent}")
    if not os.access(run, os.W_OK | os.X_OK):
        raise EggError(f"--resume {run}: the folder cannot be written")
    checkpoint.refuse_linked(run)
    held.enter_context(locked(run))
    if content := checkpoint.settings_of_unsaved(run):
        return Begun(None, content, [])
    saved, damaged = checkpoint.newest_complete(run)
    return Begun(str(saved), checkpoint.read_config(saved), damaged)


def refuse_changes(run: Path, begun: Config, trained: Config) -> None:
    """Raises EggError for the first setting that a resumed run would change, and may not."""
    # A run of an older version may have kept a pattern or a mixture as it was given.
    for name in differences(located(begun), trained):
        if name not in ON_RESUME:
            raise EggError(
                f"{flag(name)}: the run in {run} was begun with {_value(begun, name)} and "
                f"keeps it, leave {flag(name)} away"
            )


def _value(config: Config, name: str):
    sections = (config, config.model, config.evolution, config.run)
    return next(getattr(s, name) for s in sections if hasattr(s, name))


class Session:
    """A run that is ready: its text is open, its evolution stands where it begins or goes on, nothing is written.

    config : resolved, with a text that is ``located``
    run : its folder, a new one unless ``begun`` is given
    begun : where to go on; the run is locked then
    compute : where to compute; threads that it does not say are shared by a machine's ranks
    sinks : names of the sinks beside metrics.jsonl
    held : what is closed when the run ends: the lock of its folder
    Raises EggError, one line, for what cannot be trained here.
    """

    def __init__(
        self,
        config: Config,
        run: Path,
        begun: Begun | None = None,
        *,
        held: ExitStack,
        compute: Compute,
        sinks: Sequence[str] = (),
        ranks: Alone = ALONE,
        progress: Progress,
    ):
        self.config, self.run, self.begun = config, run, begun
        self.held, self.ranks, self.progress = held, ranks, progress
        self.sinks = list(sinks)
        try:
            self._prepare(compute if compute.threads is not None else replace(compute, threads=ranks.threads))
        except BackendError as error:
            raise EggError(str(error)) from error

    def _prepare(self, compute: Compute) -> None:
        config, ranks = self.config, self.ranks
        sinks.check(self.sinks)
        notices: list[str] = []  # shown when text and state are there: of bad ones, the error says all
        backend = compute.make(notices.append)
        text = self._open_text()
        recipe = recipe_class(config.evolution.recipe)
        check_memory(config, recipe.memory(config, text.size, ranks.size))
        state = None
        if self.begun and ranks.leader:
            self._check_text(self.begun)
        if self._saved and ranks.leader:
            layout = recipe.state_layout(config.model.shape, config.evolution, text.size)
            state = checkpoint.read_state(self._saved, layout)
        for notice in notices:
            self.progress.note(notice)
        self.evolution = recipe(config, backend, text, ranks)
        if self._saved:
            self.evolution.load_state(state)
            ranks.lead(partial(self._check_step, self._saved))
        self.measured = sample(self.corpus.split(self.validation), config.run.eval_bytes)
        self.trainer = Trainer(
            config, self.evolution, self.measured, facts(self.corpus), self.run, self.progress, made_with(backend)
        )

    @property
    def _saved(self) -> Path | None:
        return Path(self.begun.saved) if self.begun and self.begun.saved else None

    def _open_text(self):
        what, notify = (self.config.run.data, self.config.run.data_column), self.progress.note
        bar = not isinstance(self.progress, Quiet)
        if self.ranks.size > 1:  # one prepares the text, and tells; all read it
            self.ranks.lead(lambda: open_for_training(*what, notify, bar=bar) and None)
            notify = Quiet().note
        self.corpus, text, self.validation = open_for_training(*what, notify, bar=bar)
        return text

    def _check_text(self, begun: Begun) -> None:
        """Refuse to go on with another text than the one the run was begun with."""
        began_with = begun.content.get("corpus")
        fingerprint = began_with.get("fingerprint") if isinstance(began_with, dict) else None
        if fingerprint != self.corpus.fingerprint:
            raise EggError(
                f"--data: {self.corpus.name} is not the text the run was begun with (fingerprint "
                f"{self.corpus.fingerprint[:12]}, then {str(fingerprint)[:12]}): "
                "bring that back, or begin a new run"
            )

    def _check_step(self, saved: Path) -> None:
        weights = checkpoint.read_weights(saved, self.evolution.shape)
        same = (self.evolution.weights == weights).all()
        if not same or self.evolution.step_number != checkpoint.step_of(saved):
            raise EggError(
                f"{saved}: its {checkpoint.MODEL} and {checkpoint.STATE} are not of the same step, "
                "remove it to go on from the checkpoint before"
            )

    def begin(self) -> bool:
        """Take the folder, and say what is trained there; returns False where nothing is left to do.

        Raises EggError if the folder cannot be written, or another process has taken it.
        """
        note, ranks, trainer = self.progress.note, self.ranks, self.trainer
        step, damaged = self.evolution.step_number, self.begun.damaged if self.begun else ()
        for line in damaged:
            note(f"not from there: {line}")
        if ranks.lead(lambda: trainer.finished):
            if self._saved and ranks.leader and not damaged:
                trainer.mend()
            note(
                f"{self.run} has reached its stop at step {step:,}: nothing to do; "
                "give a later --steps, --tokens or --minutes to go on"
            )
            return False
        note(self._opening())
        if self._saved:
            note(f"going on from {self._saved}")
        elif self.begun:
            note(f"{self.run} was ended before its first checkpoint: it begins again at step 0")
        if ranks.size > 1:
            note(f"{ranks.size} ranks share the readers")
        if remark := _about_horizon(self.config):
            note(remark)
        if ranks.leader:
            if self._saved:
                checkpoint.set_aside_after(self._saved)
            elif not self.begun:
                self._take()
            trainer.sinks = sinks.open_all(self.sinks, self.run, step, trainer.content)
        return True

    def _take(self) -> None:
        """Make a new run's folder and lock it."""
        with telling(f"cannot write {self.run}", "; give another folder with --out, or free space there"):
            self.run.mkdir(parents=True, exist_ok=True)
        self.held.enter_context(locked(self.run))
        refuse_a_run(self.run)  # another process may have been faster

    def _opening(self) -> str:
        e, corpus = self.evolution, self.corpus
        begins = f"from step {e.step_number:,}, " if e.step_number else ""
        return (
            f"{e.shape.parameters:,} parameters, {e.description}\n"
            f"{corpus.name}, {count(corpus.bytes(corpus.training_split))} bytes, {begins}into {self.run}"
        )

    def follow(self, prog: str) -> int:
        """Train to the stop or a signal as a command does, which tells how it goes; returns its exit status.

        prog : what goes on with the run, for advice: ``egg train``
        """
        if not self.begin():
            return 0
        outcome = self.trainer.train()
        if self.ranks.size > 1:
            self.progress.note(self.ranks.spent(self.trainer.stepping))
        if outcome.interrupted:
            self.progress.note(
                f"stopped at step {self.evolution.step_number:,}, saved {outcome.checkpoint}; "
                f"go on with: {prog} --resume {shlex.quote(str(self.run))}"
            )
            return 128 + outcome.interrupted
        if self.ranks.leader:
            self.end(outcome)
        return 0

    def end(self, outcome: Outcome) -> None:
        """Draw a run that has reached its stop; tell how good the model is, unless nobody listens."""
        drawn = drawn_or_told(
            f"{LOSS} and no {REPORT}",
            lambda: draw_run(self.run, self.corpus.split(self.corpus.training_split), self.measured),
            self.progress.note,
            "; draw them with: egg plot RUN",
        )
        if not isinstance(self.progress, Quiet):
            report(self.run, self.evolution, outcome, drawn, self.corpus, self.validation, self.measured, self.progress)


def _about_horizon(config: Config) -> str | None:
    """What to know of a run that stops elsewhere than its step-size schedule ends."""
    e, end = config.evolution, config.end
    if e.recipe == "egg" and end is None and config.run.minutes is None:
        return f"nothing but Ctrl-C ends this run: its step size stays at {e.step_size:.3g}"
    if e.recipe != "egg" or e.schedule == "constant":
        return None
    if e.schedule_tokens is None or e.schedule_tokens == "time":
        return (
            "the step size follows the time of the run (--schedule-tokens time): "
            "no other run repeats this one byte for byte"
        )
    if end is None or abs(end - e.schedule_tokens) < config.tokens_per_step:
        return None
    return (
        f"the run stops at {count(end)} tokens,\n"
        f"the step size is scheduled for {count(e.schedule_tokens)} (--schedule-tokens)"
    )
