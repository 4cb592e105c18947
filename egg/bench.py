"""How fast a backend is: what is timed, and the useful work in it.

Useful work is counted in multiply-accumulates. A byte that a member reads costs M = 12 D^2 L + 256 D of them (the
head's second score reuses its sums). Votes cost, in recipe ``egg``, an outer product of every matrix for each
group and token, M / group size a member-token; in recipe ``paper``, one of every matrix and of the embedding
for each pair, M + 256 D.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from egg.classic import ClassicSettings, read_pair
from egg.config import Config, EvolutionConfig, ModelConfig
from egg.errors import EggError
from egg.evaluate import evaluate
from egg.evolution import Evolution
from egg.parameters import initial_weights
from egg.sample import Sampling, stream
from kernels.arithmetic import CREDIT_SCALE_FLOOR, LIMIT, VOCABULARY
from kernels.backend import Backend, Noise
from kernels.layout import BackendError, Shape
from kernels.philox import words

NAMES = {
    "forward": "all members read a chunk of text with perturbed weights, and are scored",
    "votes": "what the members saw becomes a vote on every weight",
    "train_step": "a whole step: pack the weights, read, score, credit, vote, update",
    "eval": "bits per byte of documents, with unperturbed weights",
    "generate": "samples drawn side by side, byte after byte",
}
"""What is timed."""
PERTURBATION = "perturbation"
"""A table of its own: what a member costs whose weights all differ, beside one whose perturbation has rank 1."""
RANKS = ("rank 1", "full rank")
RECIPES = ("egg", "paper")
SEQ_LEN = {"egg": 4, "paper": 100}  # bytes a member reads in a step
SIGMA_SHIFT = 4  # of both recipes
GROUP_SIZE = EvolutionConfig.group_size
DOCUMENT = 256  # mean bytes of a document; they have half to one and a half times as many


@dataclass(frozen=True)
class Sizes:
    """How much of a model is measured at once: enough to be typical, little enough not to take long."""

    egg: int
    """Members of recipe egg."""
    paper: int
    """Members of recipe paper."""
    documents: int
    """Documents evaluated."""
    length: int
    """Bytes of a sample."""
    samples: int = 1024
    """Samples generated side by side."""


SIZES = {
    16: Sizes(2048, 1024, 4096, 64),
    64: Sizes(2048, 1024, 2048, 64),
    256: Sizes(4096, 256, 512, 32),
    1024: Sizes(1024, 64, 256, 8),
}
"""By hidden size."""
ONE_BY_ONE = {16: 256, 64: 64, 256: 16, 1024: 2}
"""Members of full rank, by hidden size."""
MODELS = ((64, 2), (256, 6), (1024, 4))
"""Hidden size and layers of the models measured by default."""
PERTURBED = tuple((d, 2) for d in ONE_BY_ONE)
"""The same where the cost of perturbations is."""
PAPER_LARGEST = 256  # hidden size up to which recipe paper is measured by default


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    name: str
    """One of NAMES."""
    recipe: str
    """egg or paper, eval and generate do not depend on it; of a perturbation its rank, one of RANKS."""
    shape: Shape
    population_size: int
    """Members, or documents of eval, or samples of generate."""
    seq_len: int
    """Bytes each of them reads; of documents the mean, of samples what is drawn."""

    def __str__(self) -> str:
        return f"{self.name} {self.recipe} {self.shape.hidden_size}/{self.shape.num_layers}"


@dataclass(frozen=True)
class Work:
    """What one call does."""

    member_tokens: int
    """Bytes read by all members; of generate, bytes drawn."""
    multiply_accumulates: int


@dataclass(frozen=True)
class Job:
    """A case made ready: its time is that of ``call``, less that of ``part`` where only the rest counts."""

    call: Callable[[], Work]
    part: Callable[[], object] | None = None


def plan(
    only: str | None = None,
    hidden_size: int | None = None,
    num_layers: int | None = None,
    population_size: int | None = None,
    recipe: str | None = None,
) -> list[Case]:
    """The cases to measure; each argument that is not None narrows them.

    Raises EggError, one line, for what cannot be measured.
    """
    if only not in (None, *NAMES, PERTURBATION):
        raise EggError(f"--only {only}: choose {', '.join((*NAMES, PERTURBATION))}")
    if recipe not in (None, *RECIPES):
        raise EggError(f"--recipe {recipe}: choose {', '.join(RECIPES)}")
    if population_size is not None and (population_size < 1 or population_size % GROUP_SIZE):
        raise EggError(f"--population-size {population_size}: must be a multiple of {GROUP_SIZE}")
    cases = []
    for shape in _shapes(hidden_size, num_layers, MODELS if only != PERTURBATION else ()):
        size = SIZES[shape.hidden_size]
        for kind in RECIPES:
            if recipe not in (None, kind):
                continue
            if kind == "paper" and recipe is None and shape.hidden_size > PAPER_LARGEST:
                continue
            for name in ("forward", "votes", "train_step"):
                count = size.egg if kind == "egg" else size.paper
                cases.append((name, kind, shape, count, SEQ_LEN[kind]))
        if recipe != "paper":
            cases.append(("eval", "egg", shape, size.documents, DOCUMENT))
            cases.append(("generate", "egg", shape, size.samples, size.length))
    for shape in _shapes(hidden_size, num_layers, PERTURBED if recipe is None else ()):
        for rank in RANKS:
            d = shape.hidden_size
            count = SIZES[d].paper if rank == "rank 1" else ONE_BY_ONE[d]
            cases.append((PERTURBATION, rank, shape, count, SEQ_LEN["paper"]))
    chosen = [
        Case(name, kind, shape, population_size or count, length)
        for name, kind, shape, count, length in cases
        if only in (None, name)
    ]
    if not chosen and recipe is not None and only in ("eval", "generate", PERTURBATION):
        raise EggError(f"--only {only} does not depend on the recipe: leave --recipe out")
    if not [case for case in chosen if only or case.name != PERTURBATION]:
        models = ", ".join(
            f"{d}/{layers}" for d, layers in (PERTURBED if only == PERTURBATION else MODELS)
        )
        raise EggError(f"none of the models {models}: give --hidden-size and --num-layers both")
    return chosen


def _shapes(hidden_size: int | None, num_layers: int | None, models) -> list[Shape]:
    """Those of some models that fit, or the one that both numbers give."""
    if not models:
        return []
    if hidden_size is not None and num_layers is not None:
        try:
            return [Shape(hidden_size, num_layers)]
        except BackendError as error:
            raise EggError(str(error)) from error
    return [
        Shape(d, layers)
        for d, layers in models
        if hidden_size in (None, d) and num_layers in (None, layers)
    ]


def vote_work(case: Case) -> int:
    """Multiply-accumulates of a step's votes."""
    shape, members = case.shape, case.population_size
    if case.recipe == "egg":
        return members // GROUP_SIZE * case.seq_len * shape.multiply_accumulates
    return members // 2 * (shape.multiply_accumulates + VOCABULARY * shape.hidden_size)


def make_ready(case: Case, backend: Backend) -> Job:
    """Everything a case needs before the clock starts."""
    return {
        "forward": _members,
        "votes": _members,
        "train_step": _train_step,
        "eval": _evaluation,
        "generate": _generation,
        PERTURBATION: _one_by_one if case.recipe == "full rank" else _side_by_side,
    }[case.name](case, backend)


def _members(case: Case, backend: Backend) -> Job:
    """Forward or votes of a recipe."""
    shape, members, length = case.shape, case.population_size, case.seq_len
    tokens = ArrayText(_text(members * length // DOCUMENT + 2)).read(
        np.arange(members) * length, length + 1
    )
    states = np.zeros((members, shape.num_layers, shape.hidden_size), np.int8)
    pair_tokens, group_tokens = tokens[::2].copy(), tokens[::GROUP_SIZE].copy()
    group_states = states[::GROUP_SIZE].copy()
    fitness = np.where(np.arange(members // 2) % 2, 1, -1).astype(np.int8)
    noise = Noise(0, 0, SIGMA_SHIFT)
    model = backend.prepare(shape, initial_weights(shape, 0, case.recipe))
    reading = Work(members * length, members * length * shape.multiply_accumulates)
    voting = Work(members * length, vote_work(case))

    def forward():
        backend.run_pairs(model, pair_tokens, states, noise)
        return reading

    def traced_votes():
        backend.cast_traced_votes(
            model, group_tokens, group_states, noise,
            group_size=GROUP_SIZE, credit_scale=CREDIT_SCALE_FLOOR,
        )  # fmt: skip
        return voting

    def pair_votes():
        backend.cast_pair_votes(shape, fitness, noise)
        return voting

    if case.name == "forward":
        return Job(forward)
    return Job(traced_votes, forward) if case.recipe == "egg" else Job(pair_votes)


def _train_step(case: Case, backend: Backend) -> Job:
    shape, members, length = case.shape, case.population_size, case.seq_len
    config = Config(
        "bench",
        ModelConfig(shape.hidden_size, shape.num_layers),
        EvolutionConfig(
            recipe=case.recipe,
            population_size=members,
            group_size=GROUP_SIZE,
            seq_len=length,
        ),
    )
    evolution = Evolution(config, backend, ArrayText(_text(1 << 13)))
    reading = members * length * shape.multiply_accumulates
    work = Work(members * length, reading + vote_work(case))

    def step():
        evolution.step()
        return work

    return Job(step)


def _evaluation(case: Case, backend: Backend) -> Job:
    text = _text(case.population_size)
    weights = initial_weights(case.shape, 0, "paper")

    def read():
        size = evaluate(backend, case.shape, weights, text).bytes
        return Work(size, size * case.shape.multiply_accumulates)

    return Job(read)


def _generation(case: Case, backend: Backend) -> Job:
    weights = initial_weights(case.shape, 0, "paper")
    sampling = Sampling(length=case.seq_len, count=case.population_size)

    def draw():
        drawn = sum(
            len(numbers) for numbers, _ in stream(backend, case.shape, weights, b"", sampling)
        )
        # All samples begin with the logits after one NUL; each byte but a sample's last is then read.
        read = 1 + drawn - sampling.count
        return Work(drawn, read * case.shape.multiply_accumulates)

    return Job(draw)


def _side_by_side(case: Case, backend: Backend) -> Job:
    """Members of rank 1, as recipe paper's."""
    return _members(replace(case, name="forward", recipe="paper"), backend)


def _one_by_one(case: Case, backend: Backend) -> Job:
    """Members of full rank: noise on all weights in place, which are packed and read, member after member."""
    shape, members, length = case.shape, case.population_size, case.seq_len
    settings = ClassicSettings(1, sigma_shift=SIGMA_SHIFT)
    room = LIMIT - settings.amount
    weights = initial_weights(shape, 0, "paper").clip(-room, room)
    tokens = ArrayText(_text(members * length // DOCUMENT + 2)).read(
        np.arange(members // 2) * length, length + 1
    )
    noise = Noise(0, 0, settings.sigma_shift)
    work = Work(members * length, members * length * shape.multiply_accumulates)

    def read():
        for pair, text in enumerate(tokens):
            read_pair(backend, shape, weights, text[None], noise, pair, settings.amount)
        return work

    return Job(read)


class ArrayText:
    """A text in memory, as ``egg.evolution`` reads it."""

    def __init__(self, text: np.ndarray):
        self.text, self.size = text, text.size

    def read(self, starts: np.ndarray, length: int) -> np.ndarray:
        """(len(starts), length) uint8 from each start on, wrapping round at the end."""
        return self.text[(starts[:, None] + np.arange(length)) % self.size]


@cache
def _text(documents: int) -> np.ndarray:
    """(n,) uint8: random documents, a NUL before each, DOCUMENT bytes long on average."""
    lengths = DOCUMENT // 2 + np.arange(documents) * 7919 % (DOCUMENT + 1)
    ends = np.cumsum(lengths + 1)
    text = (words(0, 99, 0, 0, int(ends[-1])) % 255 + 1).astype(np.uint8)
    text[ends - lengths - 1] = 0
    return text
