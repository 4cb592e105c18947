"""``egg train``, which ``train.py`` is too."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from egg.cli.options import BackendFlag, DeviceFlag, given, one_of, parse
from egg.config import (
    DEFAULT_PRESET,
    PRESET_HELP,
    PRESETS,
    STOPS,
    Config,
    EvolutionConfig,
    ModelConfig,
    RunConfig,
    preset,
    with_recipe,
    without_stops,
)
from egg.errors import EggError
from egg.ranks.distributed import Alone, join
from egg.run.config_file import read_flags
from egg.run.folders import new_folder
from egg.run.progress import Progress
from egg.run.sinks import EXTRAS
from egg.training.corpus import located
from egg.training.session import Begun, Session, find_begun, refuse_changes
from egg.training.settings import NAMES

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
    backend: BackendFlag = "auto"
    threads: int | None = None
    """Threads of a CPU backend; none: as many as the process may use, shared by a machine's ranks."""
    device: DeviceFlag = None
    tensorboard: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Log to RUN/tensorboard too; needs pip install 'egg[tensorboard]'."""
    wandb: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Log to Weights & Biases too; needs pip install 'egg[wandb]'."""

    @property
    def trained(self) -> Config:
        """What these arguments train."""
        return located(Config(self.preset, self.model, self.evolution, self.run)).resolved()


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
    settings = read_flags(files[-1], NAMES)
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
    if given(argv, "config"):
        raise EggError(f"--config: the run in {run} has its settings, leave --config away")
    with ExitStack() as held:
        begun = Begun(*ranks.lead(lambda: find_begun(run, held)))
        config = begun.config(run)
        arguments = _parse(argv, prog, config)
        if arguments.out is not None and Path(arguments.out).resolve() != run.resolve():
            raise EggError(f"--out {arguments.out}: a resumed run stays in {run}, leave --out away")
        refuse_changes(run, config, arguments.trained)
        return _train(arguments, run, prog, ranks, held, begun)


def _train(
    arguments: TrainArguments, run: Path, prog: str, ranks: Alone, held: ExitStack, begun: Begun | None = None
) -> int:
    session = Session(
        arguments.trained,
        run,
        begun,
        held=held,
        backend=arguments.backend,
        threads=arguments.threads,
        device=arguments.device,
        sinks=[name for name in EXTRAS if getattr(arguments, name)],
        ranks=ranks,
        progress=Progress(),
    )
    return session.follow(prog)
