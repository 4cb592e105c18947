"""The loop of a run: steps, measurements, checkpoints, an orderly end."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from egg.config import Config, to_json
from egg.errors import EggError, telling
from egg.evolution.base import Evolution, StepReport
from egg.files import remove_unfinished, replace_file
from egg.model import checkpoint
from egg.model.evaluate import Evaluation, evaluate_parts
from egg.model.sample import Sampling, generate
from egg.optimizer import SHARE_BITS
from egg.run import retention
from egg.run.config_file import RUN_TOML, to_toml
from egg.run.log import (
    MEASURED,
    METRICS,
    SAMPLE,
    VALIDATION,
    Best,
    History,
    RunLog,
    best_of,
    due,
    log_spacing,
    read_history,
)
from egg.run.progress import Progress
from egg.run.signals import catch_signals
from egg.run.sinks import Sink
from egg.run.status import Status

SAMPLE_BYTES = 200
SMOOTHING = 0.98  # of the training score and the speed that are shown: about the last 50 steps


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    checkpoint: Path
    """The last checkpoint."""
    interrupted: int | None
    """The signal that ended it early, if one did."""
    evaluation: Evaluation | None
    """The last measurement on the validation text, None without one."""
    parts: dict[str, float]
    """Bits per byte of a mixture's parts in it."""
    best: Best | None
    """The best measurement."""
    seconds: float
    """Time the run has taken since its beginning, pauses not counted."""
    stale: int = 0
    """Measurements since the best, where they have ended the run."""


class Trainer:
    """Trains in a run's folder until a stop of the configuration, or a signal.

    All ranks take every step together; the first alone measures, writes and shows.

    evolution : fresh, or as loaded from the run's newest checkpoint
    validation : (n,) uint8, documents with a NUL before each: what measurements read
    corpus : summary of the corpus, for config.json
    key : of ``egg.run.log.MEASURED``: whether measurements read validation text or the training text
    parts : of a mixture: validation text by the names of its parts, each measured by itself too
    made_with : program, commit, processor and backend, for config.json and run.toml
    """

    def __init__(
        self,
        config: Config,
        evolution: Evolution,
        validation: np.ndarray,
        corpus: dict[str, Any],
        run: Path,
        progress: Progress | None = None,
        made_with: dict[str, str] | None = None,
        parts: Mapping[str, np.ndarray] | None = None,
        key: str = VALIDATION,
    ):
        self.config, self.evolution, self.validation = config.resolved(), evolution, validation
        self.parts, self.key = parts or {}, key
        self.ranks = evolution.ranks
        self.run_folder = run
        self.progress = progress or Progress()
        self.sinks: Sequence[Sink] = ()  # get every line of the log too
        self.made_with = made_with or {}
        self.content = to_json(self.config) | {"made_with": self.made_with, "corpus": corpus}
        self._measured: Evaluation | None = None
        self._parts: dict[str, float] = {}
        self._sample: str | None = None
        self._smooth: tuple[float, float] | None = None
        self._shown = 0  # steps that were averaged
        # Since the last line of the log: steps, sum of their bits per byte, seconds.
        self._window = (0, 0.0, 0.0)
        self._report: StepReport | None = None
        self.outcome: Outcome | None = None
        """How training ended, once it has."""
        self._begun = False
        self.stepping = 0.0
        """Seconds of all steps but the first, which may compile kernels."""
        self._signal: int | None = None
        self._history = History()
        if self.ranks.leader:
            self._history = read_history(run, evolution.step_number, config.run.eval_every, config.run.sample_every)
            if damaged := self._history.damaged:
                lines = f"line {damaged[0]:,}" + (f" and {len(damaged) - 1:,} more" if damaged[1:] else "")
                self.progress.note(f"{run / METRICS}: {lines} cannot be read: left as they are, and passed over")
        self._stale = self._history.stale  # measurements since the best

    @property
    def finished(self) -> bool:
        """Whether a stop is reached already."""
        return self.impatient or any(share >= 1 for share in self._shares(self._history.seconds))

    @property
    def impatient(self) -> bool:
        """Whether the last measurements end the run (--patience); known to the first rank."""
        patience = self.config.run.patience
        return patience is not None and self._stale >= patience

    def mend(self) -> None:
        """Finish what a run that was killed after its last checkpoint left undone; otherwise changes nothing."""
        run, step = self.config.run, self.evolution.step_number
        if measured := best_of(self.run_folder, step):
            retention.name_best(self.run_folder, measured)
        best = self._history.best
        retention.tidy(self.run_folder, run.checkpoint_every, run.keep, best and best.step)

    def train(self) -> Outcome:
        """Train until the stop or a signal; always leaves a checkpoint of the last step."""
        restore = catch_signals(self._receive_signal)
        try:
            for _ in self.reports():
                pass
        finally:
            restore()
        return self.outcome

    def reports(self) -> Iterator[StepReport]:
        """Train until the stop, and report each step; closing the iterator between two steps leaves a checkpoint too.

        Afterwards ``outcome`` says how training ended.
        """
        log = self._begin() if self.ranks.leader else None
        self._clock_zero = time.perf_counter() - self._history.seconds
        stop, interrupted = bool(self.ranks.maximum(self.finished)), None
        self.evolution.time_share = self._time_share()
        try:
            while not stop and not interrupted:
                stop = self._step(log)
                try:
                    yield self._report
                except BaseException:  # the caller's, or GeneratorExit
                    if self.ranks.size == 1:  # others would not save with this one
                        self._end(log, None)
                    raise
                # All ranks obey a signal to any one of them after the same step.
                interrupted = None if stop else self.ranks.maximum(self._signal or 0) or None
            self._end(log, interrupted)
        finally:
            self.progress.close()
            if log:
                log.drop()
            for sink in self.sinks:
                sink.close()

    def _end(self, log: RunLog | None, interrupted: int | None) -> None:
        """Log what is not logged yet, save, and set the outcome."""
        if log and self._window[0]:
            self._write(log)
        self._save(log)
        if log:
            log.close()
        saved = self.run_folder / checkpoint.CHECKPOINTS / checkpoint.step_name(self.evolution.step_number)
        stale = self._stale if self.impatient else 0
        self.outcome = Outcome(
            saved, interrupted, self._measured, self._parts, log and log.best, self._seconds(), stale
        )

    def _begin(self) -> RunLog:
        """Make the run's folder with its settings, and open its log, cut to the evolution's step."""
        settings = self._settings()
        for name in (*settings, METRICS, checkpoint.BEST):  # before anything is written
            if (self.run_folder / name).is_dir():
                raise EggError(f"{self.run_folder / name} is a folder, but a run has a file of that name: move it away")
        with telling(f"cannot write {self.run_folder}", "; give another folder with --out, or free space on the disk"):
            self.run_folder.mkdir(parents=True, exist_ok=True)
            remove_unfinished(self.run_folder)
            for name, content in settings.items():
                replace_file(self.run_folder / name, content)
        log = RunLog(self.run_folder, self._history)
        self._best = log.best
        return log

    def _settings(self) -> dict[str, bytes]:
        """The files that a run's folder has from the beginning: name -> content."""
        content = checkpoint.json_bytes(self.content)
        return {checkpoint.CONFIG: content, RUN_TOML: to_toml(self.config, self.made_with)}

    def _step(self, log: RunLog | None) -> bool:
        """One step, and its line in the log if one is due; returns whether a stop is reached."""
        e, run = self.evolution, self.config.run
        began = time.perf_counter()
        report = self._report = e.step()
        seconds = time.perf_counter() - began
        if self._begun:
            self.stepping += seconds
        else:
            self._begun = True
            self.ranks.reset_cost()
        steps, bits, spent = self._window
        self._window = steps + 1, bits + report.train_integer_bits_per_byte, spent + seconds
        e.time_share = self._time_share()
        stop = (
            (run.steps is not None and report.step >= run.steps)
            or (run.tokens is not None and report.tokens >= run.tokens)
            or e.time_share == 1 << SHARE_BITS
        )
        save, measure = due(report.step, run.checkpoint_every), due(report.step, run.eval_every)
        best_yet = False
        if log:
            if stop or save or measure or due(report.step, log_spacing(report.step, run.log_every)):
                sample = bool(run.sample_every) and (stop or due(report.step, run.eval_every * run.sample_every))
                self._write(log, measure=stop or measure, sample=sample)
                if measure:
                    # Not a measurement made only because the run ends: a run with a later stop would not make it.
                    self._best = log.best
                    self._stale = 0 if log.best.step == report.step else self._stale + 1
                    stop = stop or self.impatient
            best_yet = self._best is not None and self._best.step == report.step
            self._show(report, self.config.tokens_per_step / seconds, log.best, stop)
        if measure:
            save, stop = bool(self.ranks.maximum(save or best_yet)), bool(self.ranks.maximum(stop))
        if save:
            self._save(log)
        return stop

    def _write(self, log: RunLog, *, measure: bool = False, sample: bool = False) -> None:
        """The line of the steps since the last one."""
        report, (steps, bits, spent) = self._report, self._window
        self._window = 0, 0.0, 0.0
        record = {"step": report.step, "tokens": report.tokens, "train_integer_bits_per_byte": bits / steps}
        if measure:
            self._measured = self._evaluate()
            record[self.key] = self._measured.bits_per_byte
            record |= {f"{self.key}/{name}": bits for name, bits in self._parts.items()}
            self._report = replace(report, **{self.key: self._measured.bits_per_byte})
        if report.step_size is not None:
            record["step_size"] = report.step_size
        record |= {
            "changed_share": report.changed_share,
            "clipped_share": report.clipped_share,
            "tokens_per_second": round(steps * self.config.tokens_per_step / spent, 1),
            "seconds": round(self._seconds(), 4),
        }
        if sample:
            record[SAMPLE] = self._sample = self._write_text()
        log.write(record)
        for sink in self.sinks:
            sink.write(record)

    def _evaluate(self) -> Evaluation:
        evaluation, self._parts = evaluate_parts(self.evolution.network, self.validation, self.parts)
        return evaluation

    def _write_text(self) -> str:
        """What the model writes, as ``egg sample`` does with the run's seed plus the step."""
        seed = (self.config.evolution.seed + self.evolution.step_number) % 2**64
        (text,) = generate(self.evolution.network, b"", Sampling(length=SAMPLE_BYTES, seed=seed))
        return text.decode(errors="replace")

    def _save(self, log: RunLog | None) -> None:
        e, run = self.evolution, self.config.run
        state = e.state()  # all ranks' states are gathered here
        if log is None:
            return
        log.flush()  # the checkpoint's line is on disk before the checkpoint
        checkpoint.save_checkpoint(self.run_folder, e.step_number, self.content, e.shape, e.weights, state)
        retention.name_best(self.run_folder, log.best)
        best = self._best.step if self._best else None
        retention.tidy(self.run_folder, run.checkpoint_every, run.keep, best)

    def _seconds(self) -> float:
        return time.perf_counter() - self._clock_zero

    def _time_share(self) -> int:
        """The used share of the run's minutes, in 2**-17, by the first rank's clock."""
        minutes, share = self.config.run.minutes, 0
        if minutes is None:
            return 0
        if self.ranks.leader:
            share = int(min(1.0, self._seconds() / (60 * minutes)) * (1 << SHARE_BITS))
        return self.ranks.maximum(share)

    def _shares(self, seconds: float) -> list[float]:
        """The done share of the way to each stop."""
        stop, e = self.config.run, self.evolution
        done = ((e.step_number, stop.steps), (e.tokens, stop.tokens), (seconds / 60, stop.minutes))
        return [at / end for at, end in done if end is not None]

    def _show(self, report: StepReport, speed: float, best: Best | None, stop: bool) -> None:
        now = report.train_integer_bits_per_byte, speed
        before = self._smooth or now
        # The first step may compile kernels, so its speed is not counted; few steps are simply averaged.
        keep = min(SMOOTHING, 1 - 1 / max(1, self._shown))
        self._shown += 1
        self._smooth = tuple(keep * b + (1 - keep) * n for b, n in zip(before, now, strict=True))
        if not (stop or self.progress.due()):
            return
        train, speed = self._smooth
        known = self._shown > 1
        self.progress.show(
            Status(
                report.step,
                report.tokens,
                train,
                self._measured and self._measured.bits_per_byte,
                best and best.bits_per_byte,
                speed if known else None,
                min(1.0, max(self._shares(self._seconds()), default=0.0)),
                self._seconds_left(speed) if known else None,
                report.changed_share,
                report.clipped_share,
                report.step_size,
                self._sample,
                self._parts,
                MEASURED[self.key],
            )
        )

    def _seconds_left(self, speed: float) -> float:
        stop, e = self.config.run, self.evolution
        left = []
        if stop.steps is not None:
            left.append((stop.steps - e.step_number) * self.config.tokens_per_step / speed)
        if stop.tokens is not None:
            left.append((stop.tokens - e.tokens) / speed)
        if stop.minutes is not None:
            left.append(60 * stop.minutes - self._seconds())
        return max(0.0, min(left, default=0.0))

    def _receive_signal(self, number: int) -> None:
        self._signal = number
