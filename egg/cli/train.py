"""``egg train``, which ``train.py`` is too."""

import os
import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated

from cyclopts import ArgumentCollection, Token

from egg.cli.corpus import facts, open_for_training
from egg.cli.folders import new_folder, refuse_a_run
from egg.cli.options import FLAT, ComputeFlags, one_of, parse
from egg.compute import Compute
from egg.config import (
    DEFAULT_PRESET,
    PRESET_HELP,
    PRESETS,
    STOPS,
    Config,
    EvolutionConfig,
    ModelConfig,
    RunConfig,
    differences,
    flag,
    from_json,
    preset,
    with_recipe,
    without_stops,
)
from egg.data import absolute
from egg.errors import EggError, telling
from egg.evolution.base import Evolution
from egg.evolution.recipes import recipe_class
from egg.model import checkpoint
from egg.model.evaluate import sample
from egg.model.state import check_memory
from egg.ranks.distributed import Alone, join
from egg.report.draw import draw_run
from egg.report.ending import report
from egg.run import sinks
from egg.run.config_file import read_settings
from egg.run.lock import locked
from egg.run.origin import made_with
from egg.run.progress import Progress
from egg.run.trainer import Trainer
from egg.view.figures import count

# What a resumed run may change.
ON_RESUME = (*STOPS, "eval_every", "eval_bytes", "log_every", "checkpoint_every", "keep")

DESCRIPTION = """\
Train a byte-level language model by evolution, with integers alone.

A token is a byte of text that is read, counted once for each reader that reads
it; in recipe paper every member is a reader. Numbers may be written 10M or 1e9.
Stops count from the run's beginning; one given here replaces the preset's. The
step size falls to the stop: with --minutes alone by the clock, and then no other
run repeats this one byte for byte. Ctrl-C saves, --resume goes on. Started by an
MPI launcher (mpiexec -n 8, srun), several processes divide the readers. Presets:
{presets}

For example:
  {prog} --preset quickstart
  {prog} --preset nano --data my/texts --minutes 60
  {prog} --config runs/nano-20261121-101500/run.toml --seed 1
  {prog} --resume runs/nano-20261121-101500 --minutes 90
"""


@dataclass(frozen=True, kw_only=True)
class TrainArguments:
    """All that ``egg train`` can be told."""

    model: Annotated[ModelConfig, FLAT] = ModelConfig()
    evolution: Annotated[EvolutionConfig, FLAT] = EvolutionConfig()
    run: Annotated[RunConfig, FLAT] = RunConfig()
    preset: Annotated[str, one_of(*PRESETS)] = DEFAULT_PRESET
    """Values that all other flags override; quickstart needs no network."""
    out: str | None = None
    """Folder of the run; none: runs/PRESET-DATE-TIME."""
    config: str | None = None
    """TOML file of settings, as every run leaves in its run.toml; flags override it, it the preset."""
    resume: str | None = None
    """Go on with the run in this folder, from its newest complete checkpoint."""
    compute: ComputeFlags = Compute()
    tensorboard: bool = False
    """Log to RUN/tensorboard too; needs pip install 'egg-lm[tensorboard]'."""
    wandb: bool = False
    """Log to Weights & Biases too; needs pip install 'egg-lm[wandb]'."""

    @property
    def trained(self) -> Config:
        """What these arguments train."""
        run = replace(self.run, data=absolute(self.run.data))
        return Config(self.preset, self.model, self.evolution, run).resolved()


def main(argv: list[str], prog: str) -> int:
    """Train as the arguments say; returns the exit status."""
    ranks = join()
    try:
        status = _main(argv, prog, ranks)
    except SystemExit:  # after --help
        ranks.close()
        raise
    ranks.close()
    return status


def _main(argv: list[str], prog: str, ranks: Alone) -> int:
    with ExitStack() as held:
        settings = Settings(ranks, held)
        arguments = _arguments(argv, prog, settings)
        if settings.resumed is None:
            run = Path(ranks.lead(lambda: str(new_folder(arguments.out, arguments.preset))))
            return _train(arguments, run, prog, ranks, held)
        _refuse_changes(arguments, settings)
        saved = Path(settings.saved) if settings.saved else None
        return _train(arguments, settings.resumed, prog, ranks, held, saved, settings.there, settings.damaged)


def _arguments(argv: list[str], prog: str, settings: "Settings") -> TrainArguments:
    """What a run is told: the preset or the resumed run, a file of settings over it, and flags over both."""
    presets = "\n".join(f"  {name:10}  {line}" for name, line in PRESET_HELP.items())
    description = DESCRIPTION.format(presets=presets, prog=prog)
    try:
        return parse(TrainArguments, argv, prog=prog, description=description, source=settings)
    except EggError:
        if settings.file:
            alone = Settings(settings.ranks, settings.held)
            try:
                parse(TrainArguments, [f"--config={settings.file}"], prog=prog, source=alone)
            except EggError as same:
                raise EggError(f"--config {settings.file}: {same}") from None
        raise


@dataclass
class Settings:
    """Gives values to the flags that a command line leaves away: from a file, then from a preset or a resumed run."""

    ranks: Alone
    held: ExitStack
    """What is let go when the run ends: the lock of its folder."""
    file: str | None = None
    """The TOML file that was read."""
    resumed: Path | None = None
    """The run to go on with; what follows is about it."""
    config: Config | None = None
    saved: str | None = None
    """Its newest complete checkpoint; None if it ended before its first."""
    there: dict | None = None
    """What is in the checkpoint's config.json."""
    damaged: Sequence[str] = ()
    """What is wrong with newer checkpoints."""

    def __call__(self, arguments: ArgumentCollection) -> None:
        """Append the values as tokens to the arguments without one."""
        run, file = _given(arguments, "resume"), _given(arguments, "config")
        if run is not None and file is not None:
            raise EggError(f"--config: the run in {run} has its settings, leave --config away")
        if run is not None:
            self._read_run(run)
        if file is not None:
            self._read_file(file, arguments)
        chosen = _given(arguments, "preset")
        config = self.config or preset(DEFAULT_PRESET if chosen is None else chosen)
        if _stops_given(arguments):
            config = without_stops(config)
        config = with_recipe(config, _given(arguments, "recipe") or config.evolution.recipe)
        _give(arguments, {"preset": config.preset})
        for section in (config.model, config.evolution, config.run):
            _give(arguments, {field.name: getattr(section, field.name) for field in fields(section)})

    def _read_file(self, path: str, arguments: ArgumentCollection) -> None:
        known = {"preset", "out", "backend", "threads", "device", "member_tokens"} | {
            field.name for kind in (ModelConfig, EvolutionConfig, RunConfig) for field in fields(kind)
        }
        there = read_settings(path, known)
        self.file = path
        if _stops_given(arguments):  # these replace all of the file's
            there = {name: value for name, value in there.items() if name not in (*STOPS, "member_tokens")}
        _give(arguments, there)

    def _read_run(self, path: str) -> None:
        if not path:
            raise EggError("--resume is empty: give the folder of a run")
        run = self.resumed = Path(path)
        self.saved, self.there, self.damaged = self.ranks.lead(lambda: _newest(run, self.held))
        self.config = from_json(self.there, f"{self.saved or run}/{checkpoint.CONFIG}")


def _given(arguments: ArgumentCollection, name: str) -> str | None:
    """The value that counts of a flag; None if it has none."""
    tokens = arguments[flag(name)].tokens
    return tokens[-1].value if tokens else None


def _stops_given(arguments: ArgumentCollection) -> bool:
    return any(_given(arguments, name) is not None for name in STOPS)


def _give(arguments: ArgumentCollection, values: dict[str, str | int | float | None]) -> None:
    """Values for the flags of these names that have none, a later one of a flag before the one before it."""
    free = [(name, value) for name, value in values.items() if not arguments[flag(name)].tokens]
    for name, value in free:
        arguments[flag(name)].append(Token(keyword=flag(name), value=str(value), implicit_value=value))


def _refuse_changes(arguments: TrainArguments, settings: Settings) -> None:
    """Refuse to go on with a run otherwise than it was begun."""
    run, config = settings.resumed, settings.config
    if arguments.out is not None and Path(arguments.out).resolve() != run.resolve():
        raise EggError(f"--out {arguments.out}: a resumed run stays in {run}, leave --out away")
    # A run of an older version may have kept a pattern or a mixture as it was given.
    kept = replace(config, run=replace(config.run, data=absolute(config.run.data)))
    for name in differences(kept, arguments.trained):
        if name not in ON_RESUME:
            raise EggError(
                f"{flag(name)}: the run in {run} was begun with {_value(config, name)} and "
                f"keeps it, leave {flag(name)} away"
            )


def _newest(run: Path, held: ExitStack) -> tuple[str | None, dict, list[str]]:
    """Where to go on, what its config.json holds, and what is wrong with newer ones; the run is locked.

    A run that was killed before its first checkpoint has nowhere to go on: None, and its own config.json.
    """
    if not run.is_dir():
        what = "is a file" if run.exists() else "there is no such folder"
        raise EggError(f"--resume {run}: {what}, give the folder of a run")
    if (run / checkpoint.MODEL).exists():
        raise EggError(f"--resume {run} is a checkpoint: give its run, {run.absolute().parent.parent}")
    if not os.access(run, os.W_OK | os.X_OK):
        raise EggError(f"--resume {run}: the folder cannot be written")
    held.enter_context(locked(run))
    if there := checkpoint.settings_of_unsaved(run):
        return None, there, []
    saved, damaged = checkpoint.newest_complete(run)
    return str(saved), checkpoint.read_config(saved), damaged


def _value(config: Config, name: str):
    sections = (config, config.model, config.evolution, config.run)
    return next(getattr(s, name) for s in sections if hasattr(s, name))


def _train(
    arguments: TrainArguments,
    run: Path,
    prog: str,
    ranks: Alone,
    held: ExitStack,
    saved: Path | None = None,
    there: dict | None = None,
    damaged: Sequence[str] = (),
) -> int:
    """Train in a folder, anew or from a saved checkpoint, and tell how it went.

    held : what is let go when the run ends: the lock of its folder
    there : what the run or checkpoint to go on from has in its config.json; None for a new run
    """
    config, progress = arguments.trained, Progress()
    wanted = [name for name in sinks.EXTRAS if getattr(arguments, name)]
    sinks.check(wanted)
    compute = arguments.compute
    if compute.threads is None:
        compute = replace(compute, threads=ranks.threads)
    notices: list[str] = []  # told when text and state are there: of bad ones, the error says all
    backend = compute.make(notices.append)
    what, notify = (config.run.data, config.run.data_column), progress.note
    if ranks.size > 1:  # one prepares the text, and tells; all read it
        ranks.lead(lambda: open_for_training(*what, progress.note) and None)
        notify = _nothing
    corpus, text, validation = open_for_training(*what, notify)
    recipe = recipe_class(config.evolution.recipe)
    check_memory(config, recipe.memory(config, text.size, ranks.size))
    state = None
    if there and ranks.leader:
        _check_text(there, corpus)
    if saved and ranks.leader:
        layout = recipe.state_layout(config.model.shape, config.evolution, text.size)
        state = checkpoint.read_state(saved, layout)
    for notice in notices:
        progress.note(notice)
    evolution = recipe(config, backend, text, ranks)
    if saved:
        evolution.load_state(state)
        ranks.lead(lambda: _check_step(evolution, saved))
    measured = sample(corpus.split(validation), config.run.eval_bytes)
    trainer = Trainer(config, evolution, measured, facts(corpus), run, progress, made_with(backend))
    for line in damaged:
        progress.note(f"not from there: {line}")
    if ranks.lead(lambda: trainer.finished):
        if saved and ranks.leader and not damaged:
            trainer.mend()
        progress.note(
            f"{run} has reached its stop at step {evolution.step_number:,}: nothing to do; "
            "give a later --steps, --tokens or --minutes to go on"
        )
        return 0
    progress.note(_opening(config, evolution, corpus, run))
    if saved:
        progress.note(f"going on from {saved}")
    elif there:
        progress.note(f"{run} was ended before its first checkpoint: it begins again at step 0")
    if ranks.size > 1:
        progress.note(f"{ranks.size} ranks share the readers")
    if remark := _about_horizon(config):
        progress.note(remark)
    if ranks.leader:
        if saved:
            checkpoint.set_aside_after(saved)
        elif not there:
            _take(run, held)
        trainer.sinks = sinks.open_all(wanted, run, evolution.step_number, trainer.content)
    outcome = trainer.train()
    if ranks.size > 1:
        progress.note(ranks.spent(trainer.stepping))
    if outcome.interrupted:
        progress.note(
            f"stopped at step {evolution.step_number:,}, saved {outcome.checkpoint}; "
            f"go on with: {prog} --resume {shlex.quote(str(run))}"
        )
        return 128 + outcome.interrupted
    if ranks.leader:
        drawn = draw_run(run, corpus.split(corpus.training_split), measured)
        report(run, evolution, outcome, drawn, corpus, validation, measured, progress)
    return 0


def _nothing(line: str) -> None:
    """Tells nobody."""


def _take(run: Path, held: ExitStack) -> None:
    """Make a new run's folder and lock it."""
    with telling(f"cannot write {run}", "; give another folder with --out, or free space there"):
        run.mkdir(parents=True, exist_ok=True)
    held.enter_context(locked(run))
    refuse_a_run(run)  # another process may have been faster


def _check_text(there: dict, corpus) -> None:
    """Refuse to go on with another text than the one a run was begun with."""
    began_with = there.get("corpus")
    fingerprint = began_with.get("fingerprint") if isinstance(began_with, dict) else None
    if fingerprint != corpus.fingerprint:
        raise EggError(
            f"--data: {corpus.name} is not the text the run was begun with (fingerprint "
            f"{corpus.fingerprint[:12]}, then {str(fingerprint)[:12]}): "
            "bring that back, or begin a new run"
        )


def _check_step(evolution: Evolution, saved: Path) -> None:
    weights = checkpoint.read_weights(saved, evolution.shape)
    same = (evolution.weights == weights).all()
    if not same or evolution.step_number != checkpoint.step_of(saved):
        raise EggError(
            f"{saved}: its {checkpoint.MODEL} and {checkpoint.STATE} are not of the same step, "
            "remove it to go on from the checkpoint before"
        )


def _opening(config: Config, evolution: Evolution, corpus, run: Path) -> str:
    begins = f"from step {evolution.step_number:,}, " if evolution.step_number else ""
    return (
        f"{evolution.shape.parameters:,} parameters, {evolution.description}\n"
        f"{corpus.name}, {count(corpus.bytes(corpus.training_split))} bytes, {begins}into {run}"
    )


def _about_horizon(config: Config) -> str | None:
    """What to know of a run that stops elsewhere than its step-size schedule ends."""
    e, end = config.evolution, config.end
    if e.recipe == "egg" and end is None and config.run.minutes is None:
        return f"nothing but Ctrl-C ends this run: its step size stays at {e.step_size:.3g}"
    if e.recipe != "egg" or e.schedule == "constant":
        return None
    if e.schedule_tokens == "time":
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
