"""A run from its settings to its pictures, as ``egg train`` and ``egg.train`` share it."""

import os
import shlex
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
from egg.model.state import check_memory
from egg.ranks.distributed import ALONE, Alone
from egg.report.draw import LOSS, REPORT, draw_or_note, draw_run
from egg.report.ending import report
from egg.run.compiling import compile_recipe
from egg.run.folders import refuse_a_run
from egg.run.lock import locked
from egg.run.origin import made_with
from egg.run.progress import Progress, Quiet
from egg.run.sinks import Sinks
from egg.run.trainer import Outcome, Trainer
from egg.training.corpus import corpus_summary, located, measured_key, measured_texts, open_for_training
from egg.view.figures import count

# Settings that a resumed run may change.
ON_RESUME = (*STOPS, "patience", "eval_every", "eval_bytes", "sample_every", "log_every", "checkpoint_every", "keep")


class ResumedRun(NamedTuple):
    """A run to resume; all of it is JSON, so that ranks can share it."""

    saved: str | None
    """The newest complete checkpoint; None for a run that ended before its first."""
    content: dict[str, Any]
    """The content of the checkpoint's config.json, or else the run's."""
    damaged: list[str]
    """The damage of newer checkpoints, a line each."""

    def config(self, run: Path) -> Config:
        """The configuration that it was started with."""
        return from_json(self.content, f"{self.saved or run}/{checkpoint.CONFIG}")


def open_resumed_run(run: Path, held: ExitStack) -> ResumedRun:
    """Find where to resume a run, and lock it until ``held`` is closed.

    Raises EggError, one line, for a folder without a run, or a run that another process has locked.
    """
    if not run.is_dir():
        what = "is a file" if run.exists() else "no such folder"
        raise EggError(f"--resume {run}: {what}, give the folder of a run")
    if (run / checkpoint.MODEL).exists():
        raise EggError(f"--resume {run} is a checkpoint: give its run, {run.absolute().parent.parent}")
    if not os.access(run, os.W_OK | os.X_OK):
        raise EggError(f"--resume {run}: the folder cannot be written")
    checkpoint.refuse_linked(run)
    held.enter_context(locked(run))
    if content := checkpoint.settings_of_unsaved(run):
        return ResumedRun(None, content, [])
    saved, damaged = checkpoint.newest_complete(run)
    return ResumedRun(str(saved), checkpoint.read_config(saved), damaged)


def refuse_changes(run: Path, original: Config, changed: Config) -> None:
    """Raises EggError for the first changed setting that a resumed run must keep."""
    # Older versions kept a pattern or a mixture as it was given.
    for name in differences(located(original), changed):
        if name not in ON_RESUME:
            given = flag(name) + (" or --size" if hasattr(original.model, name) else "")
            raise EggError(
                f"{flag(name)}: the run in {run} was started with {_value(original, name)} and keeps it: remove {given}"
            )


def _value(config: Config, name: str):
    sections = (config, config.model, config.evolution, config.run)
    return next(getattr(s, name) for s in sections if hasattr(s, name))


class Session:
    """A run that is ready to train: its text and its evolution are loaded, nothing is written yet.

    config : resolved, with a text that is ``located``
    run : its folder, a new one unless ``resumed`` is given
    resumed : the run to resume, already locked; None for a new one
    compute : where to compute; threads that it leaves open are divided among a machine's ranks
    sinks : where lines go beside metrics.jsonl
    held : closed when the run ends; holds the lock of its folder
    Raises EggError, one line, for a run that cannot be trained here.
    """

    def __init__(
        self,
        config: Config,
        run: Path,
        resumed: ResumedRun | None = None,
        *,
        held: ExitStack,
        compute: Compute,
        sinks: Sinks = Sinks(),  # noqa: B008, it is frozen
        ranks: Alone = ALONE,
        progress: Progress,
    ):
        self.config, self.run, self.resumed = config, run, resumed
        self.held, self.ranks, self.progress = held, ranks, progress
        self.sinks = sinks
        try:
            self._prepare(compute if compute.threads is not None else replace(compute, threads=ranks.threads))
        except BackendError as error:
            raise EggError(str(error)) from error

    def _prepare(self, compute: Compute) -> None:
        config, ranks = self.config, self.ranks
        self.sinks.require_installed()
        notices: list[str] = []  # shown once text and state are loaded: otherwise the error says enough
        backend = compute.make(notices.append)
        text = self._open_text()
        recipe = recipe_class(config.evolution.recipe)
        check_memory(config, recipe.memory(config, text.size, ranks.size))
        state = None
        if self.resumed and ranks.leader:
            self._check_text(self.resumed)
        if self._saved and ranks.leader:
            layout = recipe.state_layout(config.model.shape, config.evolution, text.size)
            state = checkpoint.read_state(self._saved, layout)
        for notice in notices:
            self.progress.note(notice)
        compile_recipe(config, backend, self.progress)
        self.evolution = recipe(config, backend, text, ranks)
        if self._saved:
            self.evolution.load_state(state)
            ranks.lead(partial(self._check_step, self._saved))
        self.measured, parts = measured_texts(self.corpus, self.validation, config.run.eval_bytes)
        self.trainer = Trainer(
            config,
            self.evolution,
            self.measured,
            corpus_summary(self.corpus),
            self.run,
            self.progress,
            made_with(backend),
            parts,
            measured_key(self.corpus, self.validation),
        )

    @property
    def _saved(self) -> Path | None:
        return Path(self.resumed.saved) if self.resumed and self.resumed.saved else None

    def _open_text(self):
        run, notify = self.config.run, self.progress.note
        bar = not isinstance(self.progress, Quiet)
        if self.ranks.size > 1:  # one prepares the text, with notices; all read it
            self.ranks.lead(lambda: open_for_training(run, notify, bar=bar) and None)
            notify = Quiet().note
        self.corpus, text, self.validation = open_for_training(run, notify, bar=bar)
        return text

    def _check_text(self, resumed: ResumedRun) -> None:
        """Refuse to resume with another text than the run was started with."""
        original = resumed.content.get("corpus")
        fingerprint = original.get("fingerprint") if isinstance(original, dict) else None
        if fingerprint != self.corpus.fingerprint:
            raise EggError(
                f"--data: {self.corpus.name} is not the text that the run was started with (fingerprint "
                f"{self.corpus.fingerprint[:12]}, not {str(fingerprint)[:12]}): "
                "restore that text, or start a new run"
            )

    def _check_step(self, saved: Path) -> None:
        weights = checkpoint.read_weights(saved, self.evolution.shape)
        same = (self.evolution.weights == weights).all()
        if not same or self.evolution.step_number != checkpoint.step_of(saved):
            raise EggError(
                f"{saved}: its {checkpoint.MODEL} and {checkpoint.STATE} are not of the same step, "
                "remove it to resume from the checkpoint before"
            )

    def begin(self) -> bool:
        """Take the folder, and say what is trained; returns False where nothing is left to do.

        Raises EggError if the folder cannot be written, or another process has taken it.
        """
        note, ranks, trainer = self.progress.note, self.ranks, self.trainer
        step, damaged = self.evolution.step_number, self.resumed.damaged if self.resumed else ()
        for line in damaged:
            note(f"skipped: {line}")
        if ranks.lead(lambda: trainer.finished):
            if self._saved and ranks.leader and not damaged:
                trainer.mend()
            advice = "a larger --patience" if trainer.impatient else "a later --steps, --tokens or --minutes"
            self.progress.result(
                f"{self.run} has reached its stop at step {step:,}: nothing to do; give {advice} to continue"
            )
            return False
        note(self._opening())
        if self._saved:
            note(f"resuming from {self._saved}")
        elif self.resumed:
            note(f"{self.run} ended before its first checkpoint: it starts again at step 0")
        if ranks.size > 1:
            note(f"{ranks.size} ranks share the readers")
        if remark := _about_horizon(self.config):
            note(remark)
        if ranks.leader:
            if self._saved:
                checkpoint.set_aside_after(self._saved)
            elif not self.resumed:
                self._take()
            trainer.sinks = self.sinks.open(self.run, step, trainer.content)
        return True

    def _take(self) -> None:
        """Make a new run's folder and lock it."""
        with telling(f"cannot write {self.run}", "; give another folder with --out, or free space on the disk"):
            self.run.mkdir(parents=True, exist_ok=True)
        self.held.enter_context(locked(self.run))
        refuse_a_run(self.run)  # another process may have been faster

    def _opening(self) -> str:
        e, corpus, layers = self.evolution, self.corpus, self.evolution.shape.num_layers
        begins = f"from step {e.step_number:,}, " if e.step_number else ""
        held_out = (
            ""
            if self.validation == corpus.training_split
            else (f", {count(corpus.bytes(self.validation))} for validation")
        )
        return (
            f"{e.shape.parameters:,} parameters: hidden size {e.shape.hidden_size}, {layers} layer{'s'[: layers > 1]}\n"
            f"{e.description}\n"
            f"{corpus.name}, {count(corpus.bytes(corpus.training_split))} bytes{held_out}, {begins}into {self.run}"
        )

    def follow(self, prog: str) -> int:
        """Train to the stop or a signal as a command does, with notices; returns the exit status.

        prog : the command that resumes the run, for advice: ``egg train``
        """
        if not self.begin():
            return 0
        outcome = self.trainer.train()
        if self.ranks.size > 1:
            self.progress.note(self.ranks.exchange_cost(self.trainer.stepping))
        if outcome.interrupted:
            self.progress.result(
                f"stopped at step {self.evolution.step_number:,}, saved {outcome.checkpoint}; "
                f"resume with: {prog} --resume {shlex.quote(str(self.run))}"
            )
            return 128 + outcome.interrupted
        if self.ranks.leader:
            self.end(outcome)
        return 0

    def end(self, outcome: Outcome) -> None:
        """Draw a run that has reached its stop; report how good the model is, unless progress is quiet."""
        if outcome.stale and outcome.best:
            self.progress.note(
                f"no better than {outcome.best.bits_per_byte:.4f} bits per byte in {outcome.stale} "
                f"measurement{'s' * (outcome.stale > 1)}: stopped (--patience)"
            )
        drawn = draw_or_note(
            f"{LOSS} and no {REPORT}",
            lambda: draw_run(self.run, self.corpus.split(self.corpus.training_split), self.measured),
            self.progress.note,
            "; draw them with: egg plot RUN",
        )
        if isinstance(self.progress, Quiet):
            measured = f", {outcome.evaluation.bits_per_byte:.4f} bits per byte" if outcome.evaluation else ""
            self.progress.result(f"{outcome.checkpoint}: {count(self.evolution.tokens)} tokens{measured}")
        else:
            report(self.run, self.evolution, outcome, drawn, self.corpus, self.validation, self.measured, self.progress)


def _about_horizon(config: Config) -> str | None:
    """A remark on a run whose stop is not the end of its step-size schedule."""
    e, end = config.evolution, config.end
    if e.recipe == "egg" and end is None and config.run.minutes is None:
        return f"only Ctrl-C ends this run: its step size stays at {e.step_size:.3g}"
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
