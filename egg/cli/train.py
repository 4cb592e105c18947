"""``egg train``, also as ``train.py``."""

from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from cyclopts import ArgumentCollection, Token

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
    flag,
    preset,
    with_credit,
    with_recipe,
    with_size,
    without_stops,
)
from egg.errors import EggError
from egg.ranks.distributed import Alone, join
from egg.run.config_file import read_settings
from egg.run.folders import new_folder
from egg.run.progress import Progress, Quiet
from egg.run.sinks import Sinks
from egg.training.corpus import located
from egg.training.session import ResumedRun, Session, open_resumed_run, refuse_changes
from egg.training.settings import ALIASES, NAMES

DESCRIPTION = """\
Train a byte-level language model by evolution, with integers only.

A token is a byte of text, counted once for each reader that reads it; in recipe
paper every member is a reader. Numbers may be written 10M or 1e9. Stops count
from the run's beginning; a stop given here replaces the preset's. The step size
falls towards the stop: with --minutes alone by the clock, and then no other run
repeats this one byte for byte. Ctrl-C saves, --resume continues. Started by an
MPI launcher (mpiexec -n 8, srun), processes share the readers. Presets:
{presets}

For example:
  {prog} --size M --minutes 60 --data my/texts
  {prog} --preset quickstart
  {prog} --preset nano --data my/texts --minutes 60
  {prog} --config runs/nano-20261121-101500/run.toml --seed 1
  {prog} --resume runs/nano-20261121-101500 --minutes 90
"""


@dataclass(frozen=True, kw_only=True)
class TrainArguments:
    """Arguments of ``egg train``."""

    size: str | None = None
    """XS, S, M, L or XL, or a number of parameters, such as 500k: chooses --hidden-size, --num-layers, --streams and
    --seq-len, which override it; none: those of the preset."""
    model: Annotated[ModelConfig, FLAT] = ModelConfig()
    evolution: Annotated[EvolutionConfig, FLAT] = EvolutionConfig()
    run: Annotated[RunConfig, FLAT] = RunConfig()
    preset: Annotated[str, one_of(*PRESETS)] = DEFAULT_PRESET
    """Settings that all other flags override; quickstart needs no network."""
    out: str | None = None
    """Folder of the run; none: runs/PRESET-DATE-TIME."""
    config: str | None = None
    """TOML file of settings, such as a run's run.toml; it overrides the preset, and flags override it."""
    resume: str | None = None
    """Continue the run in this folder, from its newest complete checkpoint."""
    compute: ComputeFlags = Compute()
    quiet: bool = False
    """Print errors and one line at the end, nothing else."""
    sinks: Annotated[Sinks, FLAT] = Sinks()

    @property
    def trained(self) -> Config:
        """The configuration of the run."""
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
    with ExitStack() as stack:
        settings = Settings(ranks, stack)
        arguments = _arguments(argv, prog, settings)
        config, run = arguments.trained, settings.resumed
        if run is None:
            run = Path(ranks.lead(lambda: str(new_folder(arguments.out, arguments.preset))))
        else:
            if arguments.out is not None and Path(arguments.out).resolve() != run.resolve():
                raise EggError(f"--out {arguments.out}: a resumed run stays in {run}, omit --out")
            refuse_changes(run, settings.config, config)
        return Session(
            config,
            run,
            settings.begun,
            held=stack,
            compute=arguments.compute,
            sinks=arguments.sinks,
            ranks=ranks,
            progress=Quiet(results=True) if arguments.quiet else Progress(),
        ).follow(prog)


def _arguments(argv: list[str], prog: str, settings: "Settings") -> TrainArguments:
    """Flags, over a file of settings, over the preset or the resumed run."""
    presets = "\n".join(f"  {name:10}  {line}" for name, line in PRESET_HELP.items())
    description = DESCRIPTION.format(presets=presets, prog=prog)
    try:
        return parse(TrainArguments, argv, prog=prog, description=description, source=settings)
    except EggError:
        if settings.file:
            file_only = Settings(settings.ranks, settings.stack)
            try:
                parse(TrainArguments, [f"--config={settings.file}"], prog=prog, source=file_only)
            except EggError as error:
                raise EggError(f"--config {settings.file}: {error}") from None
        raise


@dataclass
class Settings:
    """Values for the flags that a command line omits: from a file, then from a preset or a resumed run."""

    ranks: Alone
    stack: ExitStack
    """Released when the run ends: the lock of its folder."""
    file: str | None = None
    """The TOML file that was read."""
    resumed: Path | None = None
    """The run to continue."""
    begun: ResumedRun | None = None
    """Its newest checkpoint."""
    config: Config | None = None
    """Its configuration."""

    def __call__(self, arguments: ArgumentCollection) -> None:
        """Append the values, as tokens, to the arguments without one: of --size first, of the preset last."""
        run, file = _value_of(arguments, "resume"), _value_of(arguments, "config")
        if run is not None and file is not None:
            raise EggError(f"--config: the run in {run} has its own settings, omit --config")
        if run is not None:
            self._read_run(run)
        values = self._file_values(file, arguments) if file is not None else {}
        name = _value_of(arguments, "preset") or values.get("preset", DEFAULT_PRESET)
        config = self.config or preset(name)
        recipe = _value_of(arguments, "recipe") or values.get("recipe", config.evolution.recipe)
        for given in ({"size": _value_of(arguments, "size")}, values):
            _fill(arguments, with_size(given, shape_alone=recipe == "paper" or run is not None))
        if _has_stop(arguments):
            config = without_stops(config)
        config = with_credit(with_recipe(config, recipe), _value_of(arguments, "credit"))
        _fill(arguments, {"preset": config.preset})
        for section in (config.model, config.evolution, config.run):
            _fill(arguments, {field.name: getattr(section, field.name) for field in fields(section)})

    def _file_values(self, path: str, arguments: ArgumentCollection) -> dict[str, str]:
        """The settings in a file, under the names of fields."""
        values = read_settings(path, NAMES, f"--config {path}") if path else None
        if values is None:
            raise EggError("--config is empty: give a TOML file, such as a run's run.toml")
        self.file = path
        values = {name.replace("-", "_"): str(value) for name, value in values.items()}
        values = {ALIASES.get(name, name): value for name, value in values.items()}
        if _has_stop(arguments):  # it replaces all stops of the file
            values = {name: value for name, value in values.items() if name not in STOPS}
        if _value_of(arguments, "credit") == "wire":  # which has no stations
            values.pop("stations", None)
        return values

    def _read_run(self, path: str) -> None:
        if not path:
            raise EggError("--resume is empty: give the folder of a run")
        run = self.resumed = Path(path)
        self.begun = ResumedRun(*self.ranks.lead(lambda: open_resumed_run(run, self.stack)))
        self.config = self.begun.config(run)


def _value_of(arguments: ArgumentCollection, name: str) -> str | None:
    """The last value of a flag; None if it has none."""
    tokens = arguments[flag(name)].tokens
    return tokens[-1].value if tokens else None


def _has_stop(arguments: ArgumentCollection) -> bool:
    return any(_value_of(arguments, name) is not None for name in STOPS)


def _fill(arguments: ArgumentCollection, values: dict[str, str | int | float | None]) -> None:
    """Give values to the flags of these names that have none."""
    missing = [(name, value) for name, value in values.items() if not arguments[flag(name)].tokens]
    for name, value in missing:
        converted = {} if isinstance(value, str) else {"implicit_value": value}  # a text is converted like a flag's
        arguments[flag(name)].append(Token(keyword=flag(name), value=str(value), **converted))
