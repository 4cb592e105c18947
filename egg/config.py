"""What is trained, how, and for how long: frozen dataclasses that the command line is generated from.

The docstring under a field is its help text. Where a run happens (backend, threads, folder) changes
no result and is not part of the configuration.
"""

import types
import typing
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Literal

from egg.errors import EggError
from kernels.layout import BackendError, Shape

FORMAT = 1  # of config.json
VOCABULARY = 256
MAX_LAYERS = 1024  # far beyond any sensible model, and before lists of tensors fill memory
MAX_GROUP_SIZE = 64
MAX_GROUP_WIDTH = 32768  # group size * hidden size: what the sums of a group's votes have room for


def flag(name: str) -> str:
    """The command line's spelling of a field: ``hidden_size`` is ``--hidden-size``."""
    return "--" + name.replace("_", "-")


def _at_least(config, low: int, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not value >= low:  # "not >=" refuses NaN as well
            raise EggError(f"{flag(name)} {value}: must be {low} or more")


@dataclass(frozen=True)
class ModelConfig:
    """The model."""

    hidden_size: int = 64
    """Width D of a layer: 16, 64, 256 or 1024, a power of four so that every division is a shift."""
    num_layers: int = 2
    """Layers L, each a gated recurrent unit and an MLP."""
    vocab_size: ClassVar[int] = VOCABULARY  # bytes, always

    def __post_init__(self) -> None:
        if self.num_layers > MAX_LAYERS:
            raise EggError(f"--num-layers {self.num_layers}: must be {MAX_LAYERS} or less")
        try:
            Shape(self.hidden_size, self.num_layers)
        except BackendError as error:
            raise EggError(str(error)) from error

    @property
    def shape(self) -> Shape:
        """Names, shapes and places of the tensors."""
        return Shape(self.hidden_size, self.num_layers)


@dataclass(frozen=True)
class EvolutionConfig:
    """How it evolves; docs/arithmetic.md has the formulas."""

    recipe: Literal["egg", "paper"] = "egg"
    """egg: votes are traced through what each member read; paper: antithetic pairs, sign votes."""
    population_size: int = 2048
    """Members: perturbed copies of the model that read text at every step."""
    group_size: int = 16
    """Members that read the same text and are compared (recipe egg); a multiple of 4."""
    seq_len: int = 4
    """Bytes that each member reads in a step."""
    sigma_shift: int | None = None
    """Size of the perturbation, 0 to 8: a weight moves by 2^(4 - sigma_shift) int8 steps; none: 4, or 3 for input."""
    perturbation: Literal["sign", "input"] = "sign"
    """sign: random signs on both sides of a matrix; input: along the matrix's own input (recipe egg)."""
    seed: int = 0
    """Of every random draw, 0 to 2^64 - 1; equal seeds give equal runs, byte for byte."""
    schedule_tokens: int = 1_000_000_000
    """Horizon of the step-size schedule, in member-tokens; it does not follow where the run stops."""
    step_size: float | None = None
    """Largest step of a weight, in int8 steps (recipe egg); none: chosen from the horizon."""
    schedule: Literal["cosine", "linear", "constant"] = "linear"
    """How the step size falls from the run's beginning to the horizon (recipe egg)."""
    final_step_share: float = 0.05
    """The step size at the horizon and after it, as a share of the largest (recipe egg)."""

    def __post_init__(self) -> None:
        _at_least(self, 1, "population_size", "group_size", "seq_len", "schedule_tokens")
        if self.sigma_shift is not None and not 0 <= self.sigma_shift <= 8:
            raise EggError(f"--sigma-shift {self.sigma_shift}: must be 0 to 8")
        if not 0 <= self.seed < 2**64:
            raise EggError(f"--seed {self.seed}: must be 0 to 2^64 - 1")
        if self.step_size is not None and not 0 < self.step_size <= 127:
            raise EggError(f"--step-size {self.step_size}: must be more than 0, 127 at most")
        if not 0 <= self.final_step_share <= 1:
            raise EggError(f"--final-step-share {self.final_step_share}: must be 0 to 1")
        if self.recipe == "paper":
            if self.population_size % 2:
                raise EggError(
                    f"--population-size {self.population_size}: recipe paper pairs its members, "
                    "choose an even number"
                )
            if self.perturbation != "sign":
                raise EggError(
                    f"--perturbation {self.perturbation}: recipe paper draws signs, "
                    "choose --perturbation sign or --recipe egg"
                )
            return
        if self.group_size % 4 or self.group_size > MAX_GROUP_SIZE:
            raise EggError(
                f"--group-size {self.group_size}: must be a multiple of 4, {MAX_GROUP_SIZE} at most"
            )
        if self.population_size % self.group_size:
            raise EggError(
                f"--population-size {self.population_size}: must be a multiple of the group size "
                f"{self.group_size} (--group-size)"
            )


@dataclass(frozen=True)
class RunConfig:
    """What it reads, when it stops, and what is measured and saved on the way."""

    data: str = "minipile"
    """Text to learn: stdlib, minipile, the path of a text, of JSONL or Parquet, or of a folder of them, a
    pattern, owner/name on the Hugging Face hub, or a mixture with weights: stdlib:2,notes.txt:1."""
    data_column: str = "text"
    """Column of tables, or key of JSONL, that holds the text."""
    steps: int | None = None
    """Stop after so many steps, counted from the run's beginning; the first stop reached counts."""
    member_tokens: int | None = None
    """Stop after so many bytes read by all members together, counted from the run's beginning."""
    minutes: float | None = None
    """Stop after so many minutes of training, counted from the run's beginning."""
    eval_every: int = 500
    """Steps between measurements on the validation split; 0: at the end alone."""
    eval_bytes: int = 262_144
    """Bytes of validation text that each measurement reads at most, the same each time; of a document at most a
    sixteenth of it, so that documents are read side by side; 0: all."""
    checkpoint_every: int = 2000
    """Steps between checkpoints; 0: at the end alone. The best measured one is saved besides."""
    keep: int | Literal["all"] = 3
    """Checkpoints to keep: so many of the last, and the best on the validation split; or all."""

    def __post_init__(self) -> None:
        _at_least(self, 1, "steps", "member_tokens")
        _at_least(self, 0, "eval_every", "eval_bytes", "checkpoint_every")
        if self.keep != "all":
            _at_least(self, 1, "keep")
        if self.minutes is not None and not self.minutes > 0:
            raise EggError(f"--minutes {self.minutes}: must be more than 0")
        if not self.data:
            raise EggError("--data is empty: give stdlib, minipile or a path")


@dataclass(frozen=True)
class Config:
    """All that a run's result follows from, the corpus itself aside."""

    preset: str = "nano"
    model: ModelConfig = ModelConfig()
    evolution: EvolutionConfig = EvolutionConfig()
    run: RunConfig = RunConfig()

    def __post_init__(self) -> None:
        width = self.evolution.group_size * self.model.hidden_size
        if self.evolution.recipe == "egg" and width > MAX_GROUP_WIDTH:
            raise EggError(
                f"--group-size {self.evolution.group_size}: with hidden size "
                f"{self.model.hidden_size} at most {MAX_GROUP_WIDTH // self.model.hidden_size}, "
                "the sums of a group's votes have no room for more"
            )

    @property
    def tokens_per_step(self) -> int:
        """Member-tokens of one step."""
        return self.evolution.population_size * self.evolution.seq_len


STOPS = ("steps", "member_tokens", "minutes")

PRESETS: dict[str, Config] = {
    "quickstart": Config(
        "quickstart",
        evolution=EvolutionConfig(schedule_tokens=100_000_000),
        run=RunConfig(data="stdlib", member_tokens=100_000_000, eval_every=2000, eval_bytes=0),
    ),
    "nano": Config(
        "nano",
        run=RunConfig(member_tokens=1_000_000_000, eval_every=2000, checkpoint_every=10_000),
    ),
    "base": Config(
        "base",
        ModelConfig(hidden_size=256, num_layers=6),
        EvolutionConfig(population_size=4096, schedule_tokens=10_000_000_000),
        RunConfig(member_tokens=10_000_000_000, eval_every=2000, checkpoint_every=5000),
    ),
    "paper": Config(
        "paper",
        ModelConfig(hidden_size=256, num_layers=6),
        EvolutionConfig(
            recipe="paper",
            population_size=262_144,
            seq_len=100,
            sigma_shift=4,
            schedule_tokens=10_000_000_000,
        ),
        RunConfig(member_tokens=10_000_000_000, eval_every=5, checkpoint_every=20),
    ),
}
PRESET_HELP = {
    "quickstart": "131,648 parameters on the standard library's sources, minutes on two cores",
    "nano": "131,648 parameters on MiniPile",
    "base": "4,856,064 parameters on MiniPile",
    "paper": "4,856,064 parameters on MiniPile, the published recipe",
}
DEFAULT_PRESET = "nano"


def preset(name: str) -> Config:
    """The configuration of a preset; raises EggError for an unknown name."""
    if name not in PRESETS:
        raise EggError(f"unknown preset {name!r}: choose {', '.join(PRESETS)}")
    return PRESETS[name]


def without_stops(config: Config) -> Config:
    """The same, with no stop: one given on the command line replaces all of them."""
    return replace(config, run=replace(config.run, **dict.fromkeys(STOPS)))


def differences(a: Config, b: Config) -> list[str]:
    """The names of the fields in which two configurations differ."""
    names = ["preset"] if a.preset != b.preset else []
    for section in ("model", "evolution", "run"):
        first, second = getattr(a, section), getattr(b, section)
        names += [
            f.name for f in fields(first) if getattr(first, f.name) != getattr(second, f.name)
        ]
    return names


def to_json(config: Config) -> dict[str, Any]:
    """The object that config.json holds."""
    there = {"format": FORMAT, **asdict(config)}
    there["model"]["vocab_size"] = VOCABULARY
    return there


def model_from_json(there: Any, where: str) -> ModelConfig:
    """The ``model`` part of config.json, all that a model needs; other keys are ignored.

    where : the file's name, for messages
    Raises EggError for anything else than a model of this program.
    """
    if not isinstance(there, dict) or not isinstance(there.get("model"), dict):
        raise EggError(f'{where} is not a model\'s configuration: it has no "model" object')
    model = there["model"]
    for name in ("hidden_size", "num_layers"):
        if name not in model:
            raise EggError(f'{where} is not a model\'s configuration: its "model" has no {name!r}')
    if model.get("vocab_size", VOCABULARY) != VOCABULARY:
        raise EggError(
            f"{where}: vocab_size {model['vocab_size']!r}: this program reads bytes, {VOCABULARY}"
        )
    return _section(ModelConfig, model, where)


def from_json(there: Any, where: str) -> Config:
    """The configuration that config.json holds; unknown keys are ignored, absent fields refused.

    where : the file's name, for messages
    Raises EggError for what is no run's configuration.
    """
    model = model_from_json(there, where)
    version = there.get("format")
    if version != FORMAT:
        raise EggError(
            f"{where} has format {version!r}, this program reads {FORMAT}: "
            "train on with the version that wrote it"
        )
    if isinstance(there.get("run"), dict):
        # Runs that were begun before there was a choice kept all.
        there = there | {"run": {"keep": "all"} | there["run"]}
    sections = {"evolution": EvolutionConfig, "run": RunConfig}
    for name, kind in sections.items():
        part = there.get(name)
        there_is = part if isinstance(part, dict) else {}
        absent = [f.name for f in fields(kind) if f.name not in there_is]
        if absent:
            raise EggError(f"{where} is not a run's configuration: no {name}.{absent[0]}")
    parts = {name: _section(kind, there[name], where) for name, kind in sections.items()}
    try:
        return Config(str(there.get("preset", "")), model, **parts)
    except EggError as error:
        raise EggError(f"{where}: {error}") from error


def _section(kind: type, there: dict, where: str):
    """A dataclass from an object of JSON, with its values' types checked."""
    hints = typing.get_type_hints(kind)
    known = {f.name: there[f.name] for f in fields(kind) if f.name in there}
    for name, value in known.items():
        if not _fits(value, hints[name]):
            raise EggError(f"{where}: {name} is {value!r}, not a value that field can have")
        if float in _choices(hints[name]) and isinstance(value, int):
            known[name] = float(value)
    try:
        return kind(**known)
    except EggError as error:
        raise EggError(f"{where}: {error}") from error


def _choices(hint) -> tuple:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _fits(value, hint) -> bool:
    choices = _choices(hint)
    if len(choices) > 1:
        return any(_fits(value, choice) for choice in choices)
    if typing.get_origin(hint) is Literal:
        return value in typing.get_args(hint)
    if isinstance(value, bool):
        return False
    return isinstance(value, hint) or (hint is float and isinstance(value, int))
