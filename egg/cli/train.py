"""``egg train``, which ``train.py`` is too."""

import os
import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated

import tyro

from egg.cli.corpus import facts, open_for_training
from egg.cli.folders import new_folder, refuse_a_run
from egg.cli.options import given, one_of, parse
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
from egg.run.config_file import read_flags
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


@dataclass(frozen=True)
class TrainArguments:
    """All that ``egg train`` can be told."""

    model: ModelConfig
    evolution: EvolutionConfig
    run: RunConfig
    preset: Annotated[str, one_of(*PRESETS)] = DEFAULT_PRESET
    """Values that all other flags override; quickstart needs no network."""
    out: str | None = None
    """Folder of the run; none: runs/PRESET-DATE-TIME."""
    config: str | None = None
    """TOML file of settings, as every run leaves in its run.toml; flags override it, it the preset."""
    resume: str | None = None
    """Go on with the run in this folder, from its newest complete checkpoint."""
    compute: Compute = Compute()
    tensorboard: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Log to RUN/tensorboard too; needs pip install 'egg[tensorboard]'."""
    wandb: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Log to Weights & Biases too; needs pip install 'egg[wandb]'."""

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
    resumed = given(argv, "resume")
    if resumed:
        if not resumed[-1]:
            raise EggError("--resume is empty: give the folder of a run")
        return _resume(Path(resumed[-1]), argv, prog, ranks)
    arguments = _arguments(argv, prog)
    run = Path(ranks.lead(lambda: str(new_folder(arguments.out, arguments.preset))))
    with ExitStack() as held:
        return _train(arguments, run, prog, ranks, held)


def _arguments(argv: list[str], prog: str) -> TrainArguments:
    """What a new run is told: the preset, a file of settings over it, and flags over both."""

    def read(argv: list[str]) -> TrainArguments:
        chosen = (given(argv, "preset") or [DEFAULT_PRESET])[-1]
        return _parse(argv, prog, preset(chosen))

    files = given(argv, "config")
    if not files:
        return read(argv)
    settings = read_flags(files[-1], _in_file())
    if any(given(argv, name) for name in STOPS):  # these replace all of the file's
        settings = [s for s in settings if not any(given([s], name) for name in STOPS)]
    try:
        return read(settings + argv)
    except EggError as error:
        try:
            read(settings)
        except EggError as same:
            raise EggError(f"--config {files[-1]}: {same}") from None
        raise error from None


def _in_file() -> set[str]:
    """The settings that --config reads."""
    kinds = (ModelConfig, EvolutionConfig, RunConfig)
    return {"preset", "out", "backend", "threads", "device", "member_tokens"} | {
        f.name for kind in kinds for f in fields(kind)
    }


def _parse(argv: list[str], prog: str, default: Config) -> TrainArguments:
    if any(given(argv, name) for name in STOPS):
        default = without_stops(default)
    default = with_recipe(default, (given(argv, "recipe") or [default.evolution.recipe])[-1])
    presets = "\n".join(f"  {name:10}  {line}" for name, line in PRESET_HELP.items())
    return parse(
        TrainArguments,
        argv,
        prog=prog,
        description=DESCRIPTION.format(presets=presets, prog=prog),
        default=TrainArguments(default.model, default.evolution, default.run, default.preset),
    )


def _resume(run: Path, argv: list[str], prog: str, ranks: Alone) -> int:
    with ExitStack() as held:
        saved, there, damaged = ranks.lead(lambda: _newest(run, argv, held))
        config = from_json(there, f"{saved or run}/{checkpoint.CONFIG}")
        arguments = _parse(argv, prog, config)
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
        return _train(arguments, run, prog, ranks, held, Path(saved) if saved else None, there, damaged)


def _newest(run: Path, argv: list[str], held: ExitStack) -> tuple[str | None, dict, list[str]]:
    """Where to go on, what its config.json holds, and what is wrong with newer ones; the run is locked.

    A run that was killed before its first checkpoint has nowhere to go on: None, and its own config.json.
    """
    if not run.is_dir():
        what = "is a file" if run.exists() else "there is no such folder"
        raise EggError(f"--resume {run}: {what}, give the folder of a run")
    if (run / checkpoint.MODEL).exists():
        raise EggError(f"--resume {run} is a checkpoint: give its run, {run.absolute().parent.parent}")
    if given(argv, "config"):
        raise EggError(f"--config: the run in {run} has its settings, leave --config away")
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
