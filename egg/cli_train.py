"""``egg train``, which ``train.py`` is too."""

import os
import shlex
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated

import tyro

from egg import checkpoint, sinks
from egg.cli_corpus import absolute, facts, open_for_training
from egg.cli_options import BackendName, given, one_of, parse
from egg.cli_plot import draw_run
from egg.cli_report import report
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
    without_stops,
)
from egg.config_file import RUN_TOML, read_flags
from egg.errors import EggError
from egg.evaluate import sample
from egg.evolution import Evolution
from egg.progress import Progress, count
from egg.runlog import METRICS
from egg.trainer import Trainer
from kernels import get_backend

# What a resumed run may change.
ON_RESUME = (*STOPS, "eval_every", "eval_bytes", "checkpoint_every", "keep")

DESCRIPTION = """\
Train a byte-level language model by evolution, with integers alone.

A member-token is one byte read by one member of the population. Numbers may be
written 10M or 1e9. Stops count from the run's beginning; one given here replaces
the preset's. Ctrl-C saves, --resume goes on. Presets:
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
    """Go on with the run in this folder, from its newest checkpoint."""
    backend: BackendName = "auto"
    """What computes; changes the speed, not the result."""
    threads: int | None = None
    """Threads of a CPU backend; none: as many as the process may use."""
    tensorboard: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Log to RUN/tensorboard too; needs pip install 'egg[tensorboard]'."""
    wandb: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Log to Weights & Biases too; needs pip install 'egg[wandb]'."""

    @property
    def trained(self) -> Config:
        """What these arguments train."""
        run = replace(self.run, data=absolute(self.run.data))
        return Config(self.preset, self.model, self.evolution, run)


def main(argv: list[str], prog: str) -> int:
    """Train as the arguments say; returns the exit status."""
    resumed = given(argv, "resume")
    if resumed:
        if not resumed[-1]:
            raise EggError("--resume is empty: give the folder of a run")
        return _resume(Path(resumed[-1]), argv, prog)
    arguments = _arguments(argv, prog)
    run = _new_folder(arguments.out, arguments.preset)
    return _train(arguments, run, prog)


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
    return {"preset", "out", "backend", "threads"} | {
        f.name for kind in kinds for f in fields(kind)
    }


def _parse(argv: list[str], prog: str, default: Config) -> TrainArguments:
    if any(given(argv, name) for name in STOPS):
        default = without_stops(default)
    presets = "\n".join(f"  {name:10}  {line}" for name, line in PRESET_HELP.items())
    return parse(
        TrainArguments,
        argv,
        prog=prog,
        description=DESCRIPTION.format(presets=presets, prog=prog),
        default=TrainArguments(default.model, default.evolution, default.run, default.preset),
    )


def _new_folder(out: str | None, preset_name: str) -> Path:
    """Where a new run goes; nothing is made yet."""
    if out is None:
        name = Path("runs") / f"{preset_name}-{time.strftime('%Y%m%d-%H%M%S')}"
        run, again = name, 1
        while run.exists():
            again += 1
            run = name.with_name(f"{name.name}-{again}")
    elif not out:
        raise EggError("--out is empty: give the run a folder")
    else:
        run = Path(out)
    if run.exists() and not run.is_dir():
        raise EggError(f"--out {run}: there is a file of that name, give a folder")
    for name in (checkpoint.CONFIG, METRICS, checkpoint.CHECKPOINTS):
        if (run / name).exists():
            raise EggError(
                f"--out {run} holds a run already: give another folder, or go on with --resume {run}"
            )
    if (run / RUN_TOML).exists():
        raise EggError(
            f"--out {run} holds a {RUN_TOML}, in whose place the run would write its own: "
            "give another folder"
        )
    parent = run.absolute()
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise EggError(f"--out {run}: {parent} cannot be written, give another folder")
    return run


def _resume(run: Path, argv: list[str], prog: str) -> int:
    if not run.is_dir():
        what = "is a file" if run.exists() else "there is no such folder"
        raise EggError(f"--resume {run}: {what}, give the folder of a run")
    if (run / checkpoint.MODEL).exists():
        raise EggError(
            f"--resume {run} is a checkpoint: give its run, {run.absolute().parent.parent}"
        )
    if given(argv, "config"):
        raise EggError(f"--config: the run in {run} has its settings, leave --config away")
    saved = checkpoint.find(run)
    there = checkpoint.read_config(saved)
    config = from_json(there, str(saved / checkpoint.CONFIG))
    arguments = _parse(argv, prog, config)
    if arguments.out is not None and Path(arguments.out).resolve() != run.resolve():
        raise EggError(f"--out {arguments.out}: a resumed run stays in {run}, leave --out away")
    for name in differences(config, arguments.trained):
        if name not in ON_RESUME:
            raise EggError(
                f"{flag(name)}: the run in {run} was begun with {_value(config, name)} and keeps it, "
                f"leave {flag(name)} away"
            )
    if not os.access(run, os.W_OK | os.X_OK):
        raise EggError(f"--resume {run}: the folder cannot be written")
    return _train(arguments, run, prog, saved, there)


def _value(config: Config, name: str):
    sections = (config, config.model, config.evolution, config.run)
    return next(getattr(s, name) for s in sections if hasattr(s, name))


def _train(
    arguments: TrainArguments,
    run: Path,
    prog: str,
    saved: Path | None = None,
    there: dict | None = None,
) -> int:
    """Train in a folder, anew or from a saved checkpoint, and tell how it went."""
    config, progress = arguments.trained, Progress()
    wanted = [name for name in sinks.EXTRAS if getattr(arguments, name)]
    sinks.check(wanted)
    backend = get_backend(arguments.backend, threads=arguments.threads, notify=progress.note)
    corpus, text, validation = open_for_training(
        config.run.data, config.run.data_column, progress.note
    )
    evolution = Evolution(config, backend, text)
    if saved:
        _restore(evolution, saved, there, corpus)
    measured = sample(corpus.split(validation), config.run.eval_bytes)
    trainer = Trainer(config, evolution, measured, facts(corpus), run, progress)
    if trainer.finished:
        progress.note(
            f"{run} has reached its stop at step {evolution.step_number:,}: nothing to do; "
            "give a later --steps, --member-tokens or --minutes to go on"
        )
        return 0
    progress.note(_opening(config, evolution, corpus, run))
    if remark := _about_horizon(config):
        progress.note(remark)
    trainer.sinks = sinks.open_all(wanted, run, evolution.step_number, trainer.content)
    outcome = trainer.train()
    if outcome.interrupted:
        progress.note(
            f"stopped at step {evolution.step_number:,}, saved {outcome.checkpoint}; "
            f"go on with: {prog} --resume {shlex.quote(str(run))}"
        )
        return 128 + outcome.interrupted
    drawn = draw_run(run, corpus.split(corpus.training_split), measured)
    report(run, evolution, outcome, drawn, corpus, validation, measured, progress)
    return 0


def _restore(evolution: Evolution, saved: Path, there: dict, corpus) -> None:
    """Put a fresh evolution where a checkpoint stands."""
    began_with = there.get("corpus")
    fingerprint = began_with.get("fingerprint") if isinstance(began_with, dict) else None
    if fingerprint != corpus.fingerprint:
        raise EggError(
            f"{corpus.name} is not the text the run was begun with (fingerprint "
            f"{corpus.fingerprint[:12]}, then {str(fingerprint)[:12]}): "
            "bring that back, or begin a new run"
        )
    weights = checkpoint.read_weights(saved, evolution.shape)
    try:
        evolution.load_state(checkpoint.read_state(saved))
    except EggError as error:
        raise EggError(f"{saved / checkpoint.STATE}: {error}") from error
    same = (evolution.weights == weights).all()
    if not same or evolution.step_number != checkpoint.step_of(saved):
        raise EggError(
            f"{saved}: its {checkpoint.MODEL} and {checkpoint.STATE} are not of the same step, "
            "remove it to go on from the checkpoint before"
        )


def _opening(config: Config, evolution: Evolution, corpus, run: Path) -> str:
    e = config.evolution
    begins = f"from step {evolution.step_number:,}, " if evolution.step_number else ""
    return (
        f"{evolution.shape.parameters:,} parameters, recipe {e.recipe}, "
        f"{e.population_size:,} members x {e.seq_len} bytes a step\n"
        f"{corpus.name}, {count(corpus.bytes(corpus.training_split))} bytes, {begins}into {run}"
    )


def _about_horizon(config: Config) -> str | None:
    """What to know of a run that stops elsewhere than its step-size schedule ends."""
    e, stop = config.evolution, config.run
    ends = [stop.member_tokens] if stop.member_tokens else []
    ends += [stop.steps * config.tokens_per_step] if stop.steps else []
    at_end = not ends or abs(min(ends) - e.schedule_tokens) < config.tokens_per_step
    if at_end or e.recipe != "egg" or e.schedule == "constant":
        return None
    return (
        f"the run stops at {count(min(ends))} member-tokens,\n"
        f"the step size is scheduled for {count(e.schedule_tokens)} (--schedule-tokens)"
    )
