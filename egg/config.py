"""What is trained, how, and for how long: frozen dataclasses that the command line is generated from.

The docstring under a field is its help text. Where a run happens (backend, threads, folder) changes
no result, and is not part of the configuration.
"""

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from numbers import Real
from typing import Annotated, Any, ClassVar, Literal

from cyclopts import Parameter

from egg.errors import EggError, perhaps
from egg.kernels.arithmetic import MEMBER_ROWS, MIN_BRANCHES, STATIONS, VOTE_ROWS
from egg.kernels.layout import BackendError, Shape
from egg.optimizer import STEP_BITS, default_step_size, nominal_tokens
from egg.view.figures import number, whole_number

FORMAT = 2  # of config.json
VOCABULARY = 256
TOKENS = Parameter(alias="--member-tokens")  # the name of --tokens in older versions
USE_CLT = Parameter(negative="--no-use-clt")
ALPHA_DECAY = Parameter(alias="--alpha-decay-timestep")  # its name in the published program
MAX_LAYERS = 1024  # far beyond any sensible model; lists of more tensors could fill memory
DEFAULT_HORIZON = 8_000_000  # tokens: what the step size of a run without a known end is chosen for
# Fields of one recipe alone: the other recipe's stay at their defaults, and are in no file.
OWN_FIELDS = {
    "egg": (
        "streams",
        "branches",
        "credit",
        "stations",
        "schedule_tokens",
        "step_size",
        "schedule",
        "final_step_share",
    ),
    "paper": (
        "population_size",
        "group_size",
        "rank",
        "noise",
        "sigma_shift",
        "num_perturbations",
        "noise_reuse",
        "fitness",
        "use_clt",
        "alpha",
        "alpha_decay",
    ),
}
# Multiply-accumulates that a station adds to a token, in D**2 a layer: its branches, and with middle the votes of w_up.
STATION_WORK = {"gates": 2, "state": 1, "past": 1, "middle": 8, "mlp": 4}
DEFAULT_STATIONS = "gates", "state", "past"
# Fields that older files of this FORMAT lack, with what such a file means.
LATER: dict[str, Any] = {
    "credit": "wire",
    "stations": None,
    "group_size": 2,
    "rank": 1,
    "noise": "sign",
    "num_perturbations": 0,
    "noise_reuse": 1,
    "fitness": "sign",
    "use_clt": True,
    "alpha": 4.0,
    "alpha_decay": 1000,
    "validation_share": 0.0,
    "validation_data": None,
    "force_text": True,
    "sample_every": 1,
    "patience": None,
}


def flag(name: str) -> str:
    """The command line's spelling of a field: ``hidden_size`` is ``--hidden-size``."""
    return "--" + name.replace("_", "-")


def _stations(text: str) -> list[str]:
    """The names in what stands for stations: separated by commas, or all."""
    return list(STATIONS) if text.strip().lower() == "all" else [name.strip().lower() for name in text.split(",")]


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
    """egg: readers whose members branch off at every byte; paper: antithetic pairs of members, sign votes."""
    streams: int = 16
    """Texts that are read side by side in a step, each by one reader (recipe egg)."""
    seq_len: int = 32
    """Bytes that each reader reads in a step; in recipe paper every member is a reader."""
    branches: int | Literal["all"] = "all"
    """Members that branch off where the layers end, at every byte (recipe egg): all is one for each of the hidden
    size's dimensions; a power of two, 16 or more, is a sample of them."""
    credit: Literal["wire", "stations"] = "wire"
    """wire: every fitness is the true score of a byte, and credit passes along the residual stream alone; stations:
    members branch off at the inputs of the matrices as well, forward evaluations whose fitness is what their outputs
    are worth further on; more is learned from a token, a token costs more (recipe egg)."""
    stations: str | None = None
    """Where they branch off with credit stations: some of gates, state, past, middle, mlp, separated by commas (mlp
    needs middle), or all; none: gates, state and past, which learn most for their time (recipe egg)."""
    population_size: int = 2048
    """Members, an even number: perturbed copies of the model that read text at every step (recipe paper)."""
    group_size: int = 2
    """Members that read the same text, an even number that divides the population size (recipe paper)."""
    rank: Literal[1, 4, 16] = 1
    """Rank of a member's perturbation of a matrix: 1, 4 or 16, a sum of so many products over its root (recipe
    paper)."""
    noise: Literal["sign", "gaussian"] = "sign"
    """What perturbations are made of: signs, or int8 Gaussian numbers as in the publication (recipe paper)."""
    sigma_shift: int = 4
    """Size of the perturbation, 0 to 8: a weight moves by about 2^(4 - sigma_shift) int8 steps (recipe paper)."""
    num_perturbations: int = 0
    """Members with perturbations of their own, an even number; the others repeat them, in turns, on other texts; 0: all
    (recipe paper)."""
    noise_reuse: int = 1
    """Steps for which a member keeps its perturbation; 0: for ever (recipe paper)."""
    fitness: Literal["sign", "raw", "rank"] = "sign"
    """A pair's fitness: the sign of the difference of its two scores, the difference over its root mean square, or half
    the difference of the scores' ranks among all members (recipe paper)."""
    use_clt: Annotated[bool, USE_CLT] = True
    """Whether Gaussian perturbations vote as they are; --no-use-clt: with their signs (recipe paper)."""
    alpha: float = 4.0
    """About the share of the weights that move in a step; more than 1: the share falls from 1 to 2^-alpha (recipe
    paper)."""
    alpha_decay: Annotated[int, ALPHA_DECAY] = 1000
    """Steps in which it falls so far (recipe paper)."""
    seed: int = 0
    """Of every random draw, 0 to 2^64 - 1; equal seeds give equal runs, byte for byte."""
    schedule_tokens: int | Literal["time"] | None = None
    """Tokens over which the step size falls (recipe egg); none: as many as the run reads, or time if --minutes alone
    stops it: then it follows the clock, and no other run repeats this one byte for byte."""
    step_size: float | None = None
    """Largest step of a weight, in int8 steps (recipe egg); none: chosen from the model, the credit and the tokens of a
    step and of the run; if --minutes alone stops it, from the tokens that 150e9 multiply-accumulates a second read."""
    schedule: Literal["cosine", "linear", "constant"] = "linear"
    """How the step size falls from the run's beginning to the horizon (recipe egg); constant without a known end."""
    final_step_share: float = 0.05
    """The step size at the horizon and after it, as a share of the largest (recipe egg)."""

    def __post_init__(self) -> None:
        for recipe, names in OWN_FIELDS.items():
            for field in fields(self):
                if field.name not in names or recipe == self.recipe:
                    continue
                if getattr(self, field.name) != field.default:
                    raise EggError(
                        f"{flag(field.name)}: recipe {self.recipe} has none, remove it or choose --recipe {recipe}"
                    )
        self._check_stations()
        _at_least(self, 1, "streams", "seq_len", "population_size", "alpha_decay")
        _at_least(self, 0, "num_perturbations", "noise_reuse")
        if self.schedule_tokens != "time":
            _at_least(self, 1, "schedule_tokens")
        if not 0 <= self.sigma_shift <= 8:
            raise EggError(f"--sigma-shift {self.sigma_shift}: must be 0 to 8")
        if not 0 <= self.seed < 2**64:
            raise EggError(f"--seed {self.seed}: must be 0 to 2^64 - 1")
        if self.step_size is not None and not 0 < self.step_size <= 127:
            raise EggError(f"--step-size {self.step_size}: must be more than 0, 127 at most")
        if not 0 <= self.final_step_share <= 1:
            raise EggError(f"--final-step-share {self.final_step_share}: must be 0 to 1")
        self._check_members()
        if self.recipe == "egg" and self.streams * self.seq_len > VOTE_ROWS:
            raise EggError(
                f"--streams {self.streams} of --seq-len {self.seq_len}: at most {VOTE_ROWS:,} bytes in a step, "
                "more would overflow the sums of its votes"
            )

        if self.recipe == "paper" and self.seq_len > MEMBER_ROWS:
            raise EggError(f"--seq-len {self.seq_len}: at most {MEMBER_ROWS:,}, more would overflow a member's score")

    def _check_members(self) -> None:
        population = self.population_size
        if population % 2:
            raise EggError(f"--population-size {population}: recipe paper pairs its members, choose an even number")
        if self.group_size < 2 or self.group_size % 2 or population % self.group_size:
            raise EggError(
                f"--group-size {self.group_size}: must be an even number that divides the population size, {population}"
            )
        if self.num_perturbations % 2 or self.num_perturbations > population:
            raise EggError(
                f"--num-perturbations {self.num_perturbations}: must be an even number, the population size, "
                f"{population}, at most; 0: all members have their own"
            )
        if not 2**-16 <= self.alpha <= 16:
            raise EggError(f"--alpha {self.alpha}: must be 2^-16 to 16")
        if not self.use_clt and self.noise == "sign":
            raise EggError("--no-use-clt: noise sign has nothing but signs, remove it or choose --noise gaussian")

    def _check_stations(self) -> None:
        if self.stations is None:
            return
        if self.credit == "wire":
            raise EggError(f"--stations {self.stations}: credit wire has none, remove it or choose --credit stations")
        names = _stations(self.stations)
        for name in names:
            if name not in STATIONS:
                raise EggError(
                    f"--stations {self.stations}: unknown {name!r}{perhaps(name, STATIONS)}: choose of "
                    f"{', '.join(STATIONS)}"
                )
        if "mlp" in names and "middle" not in names:
            raise EggError(f"--stations {self.stations}: mlp needs middle, whose credit it passes on, add it")

    @property
    def station_names(self) -> tuple[str, ...]:
        """The stations that are on, in the order of ``STATIONS``; none with credit wire."""
        if self.credit == "wire":
            return ()
        names = DEFAULT_STATIONS if self.stations is None else _stations(self.stations)
        return tuple(name for name in STATIONS if name in names)

    @property
    def readers_field(self) -> str:
        """The name of the field that says how many read text in a step."""
        return "population_size" if self.recipe == "paper" else "streams"

    @property
    def tokens_per_step(self) -> int:
        """Bytes that all readers of a step read together."""
        return getattr(self, self.readers_field) * self.seq_len

    @property
    def used(self) -> tuple[str, ...]:
        """The names of the fields that this recipe has, with its credit."""
        others = (n for recipe, names in OWN_FIELDS.items() if recipe != self.recipe for n in names)
        unused = {*others, *(() if self.credit == "stations" else ("stations",))}
        return tuple(f.name for f in fields(self) if f.name not in unused)


@dataclass(frozen=True)
class RunConfig:
    """What it reads, when it stops, and what is measured and saved on the way."""

    data: str = "minipile"
    """Text to learn: stdlib, minipile, the path of a text, of JSONL or Parquet, or of a folder of them, a pattern,
    owner/name or owner/name:config on the Hugging Face hub, or a mixture with weights: stdlib:2,notes.txt:1."""
    data_column: str = "text"
    """Column of tables, or key of JSONL, that holds the text."""
    validation_share: float = 0.05
    """Share of a text without validation split that is held out for measuring, 0 to 0.5, also as 5%: whole documents,
    of a long one stretches; 0: none, the model is then measured on its training text."""
    validation_data: str | None = None
    """Text to measure on instead, as for --data: its validation or test split if it has one, or else all of it; nothing
    of --data is held out then."""
    force_text: bool = False
    """Read files that look like binary data, UTF-16, CSV or a JSON array too, as they are."""
    steps: int | None = None
    """Stop after so many steps, counted from the run's beginning; the first stop reached counts."""
    tokens: Annotated[int | None, TOKENS] = None
    """Stop after so many bytes of text, each counted once for each reader that reads it, from the run's beginning."""
    minutes: float | None = None
    """Stop after so many minutes of training, counted from the run's beginning."""
    patience: int | None = None
    """Stop after so many measurements in a row that are no better than the best; none: only the other stops count."""
    eval_every: int = 500
    """Steps between measurements on the validation split; 0: at the end alone."""
    eval_bytes: int = 262_144
    """Bytes of validation text that each measurement reads at most, the same each time; of a document at most a
    sixteenth of it, so that documents are read side by side; 0: all."""
    sample_every: int = 1
    """Measurements between samples, 200 bytes that the model writes, in metrics.jsonl, report.html and TensorBoard; the
    end has one besides; 0: none."""
    log_every: int = 20
    """Steps between lines of metrics.jsonl; a measurement, a checkpoint and the end have theirs besides."""
    checkpoint_every: int = 2000
    """Steps between checkpoints; 0: at the end alone. The best measured one is saved besides."""
    keep: int | Literal["all"] = 3
    """Checkpoints to keep: so many of the last, and the best on the validation split; or all."""

    def __post_init__(self) -> None:
        _at_least(self, 1, "steps", "tokens", "patience", "log_every")
        _at_least(self, 0, "eval_every", "eval_bytes", "sample_every", "checkpoint_every")
        if self.keep != "all":
            _at_least(self, 1, "keep")
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise EggError(f"--minutes {self.minutes}: must be more than 0, and finite")
        if not 0 <= self.validation_share <= 0.5:
            raise EggError(f"--validation-share {self.validation_share:g}: must be 0 to 0.5, such as 0.05 or 5%")
        if self.patience is not None and self.eval_every == 0:
            raise EggError(
                f"--patience {self.patience}: --eval-every 0 measures nothing on the way, set it to 1 or more"
            )
        if not self.data:
            raise EggError("--data is empty: give stdlib, minipile or a path")
        if self.validation_data == "":
            raise EggError("--validation-data is empty: give stdlib, minipile or a path, or leave it out")


@dataclass(frozen=True)
class Config:
    """Everything that determines a run's result, except the corpus itself."""

    preset: str = "nano"
    model: ModelConfig = ModelConfig()
    evolution: EvolutionConfig = EvolutionConfig()
    run: RunConfig = RunConfig()

    def __post_init__(self) -> None:
        e = self.evolution
        if e.branches != "all" and not (
            MIN_BRANCHES <= e.branches <= self.model.hidden_size and e.branches.bit_count() == 1
        ):
            raise EggError(
                f"--branches {e.branches}: must be all, or a power of two from {MIN_BRANCHES} to the hidden size, "
                f"{self.model.hidden_size}"
            )

    @property
    def tokens_per_step(self) -> int:
        """Bytes that all readers of a step read together."""
        return self.evolution.tokens_per_step

    @property
    def multiply_accumulates(self) -> int:
        """Of one token: its reading and, in recipe egg, branches and votes; docs/learning.md, "Honest accounting"."""
        e, shape = self.evolution, self.model.shape
        if e.recipe == "paper":
            return shape.multiply_accumulates
        branches = shape.hidden_size if e.branches == "all" else e.branches
        stations = sum(STATION_WORK[name] for name in e.station_names) * shape.hidden_size**2 * shape.num_layers
        return shape.multiply_accumulates + VOCABULARY * branches + shape.vote_work + stations

    @property
    def end(self) -> int | None:
        """Tokens after which the run stops; None where the clock alone stops it, or nothing does."""
        run = self.run
        ends = [run.tokens] if run.tokens else []
        ends += [run.steps * self.tokens_per_step] if run.steps else []
        return min(ends, default=None)

    def resolved(self) -> "Config":
        """The configuration with its open settings chosen: branches, stations, the step size and its schedule.

        Raises EggError for a schedule that follows the clock of a run without --minutes.
        """
        e = self.evolution
        if e.schedule_tokens == "time" and self.run.minutes is None:
            raise EggError("--schedule-tokens time: the step size follows the time of the run: set it with --minutes")
        if e.recipe == "paper":
            return self
        chosen: dict[str, Any] = {}
        if e.branches == "all":
            chosen["branches"] = self.model.hidden_size
        if e.credit == "stations":
            chosen["stations"] = ",".join(e.station_names)
        horizon = e.schedule_tokens or self.end
        if horizon is None and self.run.minutes is not None:
            horizon = "time"
        elif horizon is None:
            horizon = DEFAULT_HORIZON
            chosen["schedule"] = "constant"
        chosen["schedule_tokens"] = horizon
        if e.step_size is None:
            tokens = self._tokens_by_the_clock() if horizon == "time" else horizon
            shape = self.model.hidden_size, self.model.num_layers
            chosen["step_size"] = default_step_size(e.tokens_per_step, tokens, *shape, e.credit) / (1 << STEP_BITS)
        return replace(self, evolution=replace(e, **chosen))

    def _tokens_by_the_clock(self) -> int:
        """Estimate of the tokens of a run with --minutes, the same on every machine."""
        tokens = nominal_tokens(self.run.minutes or 0, self.multiply_accumulates)
        return min(tokens, self.end or tokens)


STOPS = ("steps", "tokens", "minutes")

PRESETS: dict[str, Config] = {
    "quickstart": Config(
        "quickstart",
        ModelConfig(hidden_size=256, num_layers=2),
        EvolutionConfig(credit="stations"),
        RunConfig(data="stdlib", tokens=3_000_000, eval_every=500, eval_bytes=131_072),
    ),
    "nano": Config(
        "nano",
        ModelConfig(hidden_size=256, num_layers=2),
        EvolutionConfig(credit="stations"),
        RunConfig(tokens=30_000_000, eval_every=2500, checkpoint_every=10_000),
    ),
    "base": Config(
        "base",
        ModelConfig(hidden_size=256, num_layers=2),
        EvolutionConfig(credit="stations"),
        RunConfig(tokens=400_000_000, eval_every=15_000, checkpoint_every=40_000, log_every=50),
    ),
    "paper": Config(
        "paper",
        ModelConfig(hidden_size=256, num_layers=6),
        EvolutionConfig(recipe="paper", population_size=262_144, seq_len=100),
        RunConfig(tokens=10_000_000_000, eval_every=5, checkpoint_every=20, log_every=1),
    ),
}
PRESET_HELP = {
    "quickstart": "1,706,240 parameters on Python's library, a minute on two cores",
    "nano": "1,706,240 parameters on MiniPile, ten minutes",
    "base": "1,706,240 parameters on MiniPile, two hours",
    "paper": "4,856,064 parameters on MiniPile, the published recipe",
}
DEFAULT_PRESET = "nano"


@dataclass(frozen=True)
class Size:
    """A model's shape, and the step of recipe egg that suits it."""

    hidden_size: int
    num_layers: int
    streams: int = 16
    seq_len: int = 32

    @property
    def parameters(self) -> int:
        """Parameters of a model of this shape."""
        return Shape(self.hidden_size, self.num_layers).parameters


SIZES: dict[str, Size] = {
    "XS": Size(64, 1),
    "S": Size(64, 2),
    "M": Size(256, 1),
    "L": Size(256, 2),
    "XL": Size(1024, 1),
}
"""What --size means; docs/scaling-laws.md says how it was measured."""
LADDER = (
    *SIZES.values(),
    Size(16, 1),
    Size(64, 1),
    Size(64, 2),
    Size(64, 6),
    Size(256, 1),
    Size(256, 2),
    Size(256, 6),
    Size(1024, 1),
    Size(1024, 2),
    Size(1024, 6),
)
"""What a number of parameters chooses from: of a shape that occurs twice, the first."""
SIZE_FIELDS = tuple(f.name for f in fields(Size))

ADAPT = "adapt"
"""The preset's name in the configuration of an adaptation."""


def preset(name: str) -> Config:
    """The configuration of a preset; raises EggError for an unknown name."""
    if name not in PRESETS:
        raise EggError(f"unknown preset {name!r}: choose {', '.join(PRESETS)}")
    return PRESETS[name]


def size_of(size: str | float) -> Size:
    """The size of a name in any case, or with the number of parameters that is nearest in ratio.

    Raises EggError for anything else.

    >>> size_of("m") == SIZES["M"], size_of("2M").hidden_size
    (True, 256)
    """
    name = str(size).strip().upper()
    if name in SIZES:
        return SIZES[name]
    try:
        parameters = whole_number(name)
    except ValueError:
        parameters = 0
    if parameters < 1 or isinstance(size, bool):
        raise EggError(f"--size {size}: choose {', '.join(SIZES)}, or a number of parameters such as 500k or 2M")
    return min(LADDER, key=lambda one: abs(math.log(one.parameters / parameters)))


def with_size(settings: Mapping[str, Any], shape_alone: bool) -> dict[str, Any]:
    """Settings without ``size``, but with what it means, which all others override.

    shape_alone : without streams and bytes of a step: for recipe paper, and for a run that is resumed
    Raises EggError for a size that does not exist.
    """
    others = {name: value for name, value in settings.items() if name != "size"}
    size = settings.get("size")
    if size is None or str(size).strip().lower() == "none":
        return others
    means = asdict(size_of(size))
    if shape_alone:
        means = {f.name: means[f.name] for f in fields(ModelConfig)}
    return means | others


def without_stops(config: Config) -> Config:
    """The configuration without its stops: one given on the command line replaces them all."""
    return replace(config, run=replace(config.run, **dict.fromkeys(STOPS)))


def with_recipe(config: Config, recipe: str) -> Config:
    """The configuration with another recipe; the old recipe's own fields return to their defaults."""
    e = config.evolution
    if recipe == e.recipe or recipe not in OWN_FIELDS:
        return config
    defaults = {f.name: f.default for f in fields(e) if f.name in OWN_FIELDS[e.recipe]}
    return replace(config, evolution=replace(e, recipe=recipe, **defaults))


def with_credit(config: Config, credit: str | None) -> Config:
    """The configuration without its stations, if the credit that is given, if any, is the wire's, which has none."""
    if str(credit).strip().lower() != "wire":
        return config
    return replace(config, evolution=replace(config.evolution, credit="wire", stations=None))


def with_settings(config: Config, settings: Mapping[str, Any]) -> Config:
    """The configuration with other values, by their fields' names; a stop replaces all stops.

    settings : a number may be the text that stands on a command line, as "10M" or "none"; a preset is its name alone,
        and names of no field are ignored
    Raises EggError for a value that its field cannot have.
    """
    if any(name in settings for name in STOPS):
        config = without_stops(config)
    config = with_recipe(config, settings.get("recipe", config.evolution.recipe))
    config = with_credit(config, settings.get("credit"))
    sections = {}
    for name in ("model", "evolution", "run"):
        section = getattr(config, name)
        hints = typing.get_type_hints(type(section))
        own = {f.name: settings[f.name] for f in fields(section) if f.name in settings}
        own = {key: as_field(key, value, hints[key]) for key, value in own.items()}
        sections[name] = replace(section, **own)
    return replace(config, preset=settings.get("preset", config.preset), **sections)


def as_field(name: str, value: Any, hint) -> Any:
    """A value converted to its field's type, from a text or a number; raises EggError for one that does not fit."""
    choices = _choices(hint)
    words = [word for choice in choices if typing.get_origin(choice) is Literal for word in typing.get_args(choice)]
    numbers = {str(word): word for word in words if isinstance(word, int)}
    text = isinstance(value, str) and str not in choices
    try:
        if isinstance(value, str) and value.strip().lower() == "none" and type(None) in choices:
            value = None
        elif text and hint is bool and value.strip().lower() in ("true", "false"):
            value = value.strip().lower() == "true"
        elif text and value.strip().lower() in words:
            value = value.strip().lower()
        elif text and value.strip() in numbers:
            value = numbers[value.strip()]
        elif text or (isinstance(value, Real) and not isinstance(value, bool)):  # 1e6, a NumPy integer
            if int in choices:
                value = whole_number(str(value))
            elif float in choices:
                value = number(str(value))
    except ValueError as error:
        raise EggError(f"{flag(name)}: {error}" + "".join(f", or {word}" for word in words)) from None
    if not _fits(value, hint):
        words = ["true", "false"] if hint is bool else words
        advice = f"choose {', '.join(map(str, words))}" if words else "not a valid value"
        raise EggError(f"{flag(name)} {value!r}: {advice}")
    return value


def differences(a: Config, b: Config) -> list[str]:
    """The names of the fields in which two configurations differ."""
    names = ["preset"] if a.preset != b.preset else []
    for section in ("model", "evolution", "run"):
        first, second = getattr(a, section), getattr(b, section)
        names += [f.name for f in fields(first) if getattr(first, f.name) != getattr(second, f.name)]
    return names


def to_json(config: Config) -> dict[str, Any]:
    """The content of config.json, with the fields of the recipe in use."""
    content = {"format": FORMAT, **asdict(config)}
    content["model"]["vocab_size"] = VOCABULARY
    content["evolution"] = {name: content["evolution"][name] for name in config.evolution.used}
    return content


def model_from_json(content: Any, where: str) -> ModelConfig:
    """The ``model`` object of config.json, which is all that a model needs; other keys are ignored.

    where : the file's name, for messages
    Raises EggError for anything but a model that this program reads.
    """
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise EggError(f'{where} is not a model\'s configuration: it has no "model" object')
    model = content["model"]
    for name in ("hidden_size", "num_layers"):
        if name not in model:
            raise EggError(f'{where} is not a model\'s configuration: its "model" has no {name!r}')
    if model.get("vocab_size", VOCABULARY) != VOCABULARY:
        raise EggError(f"{where}: vocab_size {model['vocab_size']!r}: must be {VOCABULARY}, this program reads bytes")
    return _section(ModelConfig, model, where)


def from_json(content: Any, where: str) -> Config:
    """The configuration in config.json; unknown keys are ignored, missing fields refused, except LATER.

    where : the file's name, for messages
    Raises EggError for anything but the configuration of a run that this version can train on.
    """
    model = model_from_json(content, where)
    version = content.get("format")
    if version == 1:
        raise EggError(
            f"{where} is of an older version's run, whose recipe this version does not have: resume with that version; "
            "egg eval, sample, export and plot read it"
        )
    if version != FORMAT:
        raise EggError(
            f"{where} has format {version!r}, this program reads {FORMAT}: resume with the version that wrote it"
        )
    sections = {"evolution": EvolutionConfig, "run": RunConfig}
    for name, kind in sections.items():
        part = content.get(name)
        values = part if isinstance(part, dict) else {}
        others = () if kind is RunConfig else OWN_FIELDS[_other(values.get("recipe"))]
        absent = [f.name for f in fields(kind) if f.name not in (*values, *others, *LATER)]
        if absent:
            raise EggError(f"{where} is not a run's configuration: no {name}.{absent[0]}")
    parts = {name: _section(kind, _as_of_its_time(kind, content[name]), where) for name, kind in sections.items()}
    name = content.get("preset", "")
    if name not in ("", ADAPT, *PRESETS):
        raise EggError(f"{where}: preset is {name!r:.100}, not one of {', '.join(PRESETS)}")
    try:
        return Config(name, model, **parts)
    except EggError as error:
        raise EggError(f"{where}: {error}") from error


def _as_of_its_time(kind: type, values: dict) -> dict:
    """The values of a section, with those that an older version did not have."""
    return {f.name: LATER[f.name] for f in fields(kind) if f.name in LATER} | values


def tokens_of_a_step(content: Any, where: str) -> int:
    """Bytes that all readers of a step read together, from the content of config.json, also of an older version.

    Arguments and errors as for ``from_json``.
    """
    evolution = content.get("evolution")
    if content.get("format") == 1 and isinstance(evolution, dict):
        readers, length = evolution.get("population_size"), evolution.get("seq_len")
        if type(readers) is int and type(length) is int and readers > 0 and length > 0:
            return readers * length
    return from_json(content, where).tokens_per_step


def _other(recipe: Any) -> str:
    """The recipe whose own fields do not apply."""
    return "egg" if recipe == "paper" else "paper"


def _section(kind: type, values: dict, where: str):
    """A dataclass from a JSON object, with the types of its values checked."""
    hints = typing.get_type_hints(kind)
    known = {f.name: values[f.name] for f in fields(kind) if f.name in values}
    for name, value in known.items():
        if not _fits(value, hints[name]):
            raise EggError(f"{where}: {name} is {value!r}, not a valid value of that field")
        if float in _choices(hints[name]) and isinstance(value, int):
            try:
                known[name] = float(value)
            except OverflowError:
                raise EggError(f"{where}: {name} is {value}, too large a number") from None
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
    if isinstance(value, bool) or hint is bool:
        return hint is bool and isinstance(value, bool)
    return isinstance(value, hint) or (hint is float and isinstance(value, int))
