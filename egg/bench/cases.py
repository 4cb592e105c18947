"""The cases that the bench times, and the useful work in each.

Useful work is counted in multiply-accumulates (MAC). A byte that a reader reads costs M = 12 D^2 L + 256 D. In recipe
``egg`` a token's K branches of the wire cost 256 K, one addition to every logit of each branch, and its votes V =
8 D^2 L + 256 D, an outer product for every matrix with votes: gates, w_down and head. A token of a whole step counts

    M + 256 K + V

and with stations what ``Config.multiply_accumulates`` adds for them. A byte that ``compress`` codes and learns is read
twice, and learned with all stations. Look-ups, the head's branches, the credit and the update are not counted. In
recipe ``paper`` a member's token counts M, and a pair's votes, once per step, an outer product for every matrix and for
the embedding, M + 256 D.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from egg.config import Config, EvolutionConfig, ModelConfig
from egg.errors import EggError
from egg.evolution.classic import ClassicSettings, read_pair
from egg.evolution.recipes import evolution
from egg.kernels.arithmetic import LIMIT, MASTER_BITS, MIN_BRANCHES, VOCABULARY, first_shifts
from egg.kernels.backend import Backend, Draw, Noise
from egg.kernels.layout import BackendError, Shape
from egg.kernels.philox import words
from egg.model.compress import CHUNK, LEARNED_SEGMENT, LEARNED_STREAMS, STEP_SIZE, compress
from egg.model.evaluate import evaluate
from egg.model.network import Network
from egg.model.parameters import initial_weights
from egg.model.sample import Sampling, stream

NAMES = {
    "forward": "readers read a chunk of text with unperturbed weights",
    "branches": "members branch off where the wire ends, and are scored",
    "votes": "credit becomes votes on the weights",
    "update": "votes move the weights",
    "step": "a whole step of training, from weights to weights",
    "stations": "a whole step with credit stations",
    "eval": "bits per byte of documents, with unperturbed weights",
    "generate": "samples drawn side by side, byte after byte",
    "compress": "a text predicted, coded and learned",
}
"""Case -> what it times."""
WITHOUT_RECIPE = "eval", "generate", "compress"
PERTURBATION = "perturbation"
"""A case with its own table: the cost of a member of full rank, beside those of recipe paper."""
SIGMA_SHIFT = 4
LOW_RANK = {
    "rank 1": Noise(0, 0, SIGMA_SHIFT),
    "rank 4": Noise(0, 0, SIGMA_SHIFT, 4),
    "rank 16": Noise(0, 0, SIGMA_SHIFT, 16),
    "Gaussian": Noise(0, 0, SIGMA_SHIFT, gaussian=True),
}
"""The perturbations of recipe paper that are timed; Gaussian is of rank 1."""
RANKS = (*LOW_RANK, "full rank")
RECIPES = ("egg", "paper")
PAPER_LENGTH = 100  # bytes that a member of recipe paper reads in a step
DOCUMENT = 256  # mean bytes of a document; they have half to one and a half times as many


@dataclass(frozen=True)
class Sizes:
    """How much one call reads or writes: enough to be typical, and quick to measure."""

    members: int
    """Members of recipe paper."""
    documents: int
    """Documents evaluated."""
    length: int
    """Bytes per sample, of 1,024 that are generated side by side; of a single one four times as many."""


SIZES = {16: Sizes(1024, 4096, 64), 64: Sizes(1024, 2048, 64), 256: Sizes(256, 512, 32), 1024: Sizes(64, 256, 8)}
"""By hidden size."""
FULL_RANK_MEMBERS = {16: 256, 64: 64, 256: 16, 1024: 2}
"""Members of full rank, by hidden size."""
MODELS = ((64, 2), (256, 2), (1024, 2))
"""Hidden size and layers of the models measured by default."""
PERTURBED = tuple((d, 2) for d in FULL_RANK_MEMBERS)
"""The same for the cost of perturbations."""
LARGEST = 256  # hidden size up to which recipe paper and compress are measured by default
SAMPLES = 1024, 1


@dataclass(frozen=True)
class Case:
    """What one row of the table times."""

    name: str
    """One of NAMES."""
    recipe: str
    """egg or paper (WITHOUT_RECIPE do not depend on it); for a perturbation its rank, one of RANKS."""
    shape: Shape
    readers: int
    """Streams of recipe egg, members of recipe paper, documents of eval, samples of generate, segments of compress."""
    seq_len: int
    """Bytes that each reads in a step; the mean of documents, and the bytes drawn for a sample."""

    def __str__(self) -> str:
        return f"{self.name} {self.recipe} {self.shape.hidden_size}/{self.shape.num_layers}"


@dataclass(frozen=True)
class Work:
    """What one call does."""

    tokens: int
    """Bytes read by all readers; for generate, bytes drawn."""
    multiply_accumulates: int


@dataclass(frozen=True)
class Job:
    """A case ready to time: its time is the sum of ``factor`` times that of ``call``, and likewise of ``others``."""

    call: Callable[[], Work]
    factor: float = 1.0
    others: tuple[tuple[float, Callable[[], object]], ...] = ()


def choose_cases(
    only: str | None = None,
    hidden_size: int | None = None,
    num_layers: int | None = None,
    readers: int | None = None,
    recipe: str | None = None,
) -> list[Case]:
    """The cases to time; each argument that is not None narrows them.

    Raises EggError, one line, for arguments that leave none.
    """
    if only not in (None, *NAMES, PERTURBATION):
        raise EggError(f"--only {only}: choose {', '.join((*NAMES, PERTURBATION))}")
    if recipe not in (None, *RECIPES):
        raise EggError(f"--recipe {recipe}: choose {', '.join(RECIPES)}")
    if readers is not None and (readers < 2 or readers % 2):
        raise EggError(f"--readers {readers}: must be an even number, 2 or more")
    cases = []
    default = EvolutionConfig()
    for shape in _shapes(hidden_size, num_layers, MODELS if only != PERTURBATION else ()):
        size = SIZES[shape.hidden_size]
        if recipe != "paper":
            for name in ("forward", "branches", "votes", "update", "step", "stations"):
                if name != "branches" or shape.hidden_size > MIN_BRANCHES:
                    cases.append((name, "egg", shape, default.streams, default.seq_len))
        if recipe == "paper" or (recipe is None and shape.hidden_size <= LARGEST):
            cases.append(("step", "paper", shape, size.members, PAPER_LENGTH))
        if recipe != "paper":
            cases.append(("eval", "egg", shape, size.documents, DOCUMENT))
            for samples in SAMPLES:
                cases.append(("generate", "egg", shape, samples, size.length * (4 if samples == 1 else 1)))
            if shape.hidden_size <= LARGEST or only == "compress":
                cases.append(("compress", "egg", shape, LEARNED_STREAMS, CHUNK))
    for shape in _shapes(hidden_size, num_layers, PERTURBED if recipe is None else ()):
        for rank in RANKS:
            d = shape.hidden_size
            count = SIZES[d].members if rank in LOW_RANK else FULL_RANK_MEMBERS[d]
            cases.append((PERTURBATION, rank, shape, count, PAPER_LENGTH))
    chosen = [
        Case(name, kind, shape, readers or count, length)
        for name, kind, shape, count, length in cases
        if only in (None, name) and not (readers and name == "generate" and count == 1)
    ]
    if recipe == "paper" and only not in (None, "step"):
        raise EggError(f"--only {only}: of recipe paper only a step is timed, omit --recipe")
    if only == "branches" and not chosen and hidden_size == MIN_BRANCHES and num_layers:
        raise EggError(f"--only branches: with hidden size {hidden_size} they are timed with votes")
    if not [case for case in chosen if only or case.name != PERTURBATION]:
        models = ", ".join(f"{d}/{layers}" for d, layers in (PERTURBED if only == PERTURBATION else MODELS))
        raise EggError(f"none of the models {models}: give both --hidden-size and --num-layers")
    return chosen


def _shapes(hidden_size: int | None, num_layers: int | None, defaults) -> list[Shape]:
    """The default models of this hidden size and number of layers, or the one model that both define."""
    if not defaults:
        return []
    if hidden_size is not None and num_layers is not None:
        try:
            return [Shape(hidden_size, num_layers)]
        except BackendError as error:
            raise EggError(str(error)) from error
    return [Shape(d, layers) for d, layers in defaults if hidden_size in (None, d) and num_layers in (None, layers)]


def branch_work(shape: Shape) -> int:
    """Multiply-accumulates of one token's branches, all D of them."""
    return VOCABULARY * shape.hidden_size


def make_job(case: Case, backend: Backend) -> Job:
    """Prepare what a case needs before the clock starts."""
    return {
        "forward": _chunk,
        "branches": _chunk,
        "votes": _chunk,
        "update": _update,
        "step": _step,
        "stations": _step,
        "eval": _evaluation,
        "generate": _generation,
        "compress": _compression,
        PERTURBATION: _low_rank if case.recipe in LOW_RANK else _full_rank,
    }[case.name](case, backend)


def _chunk(case: Case, backend: Backend) -> Job:
    """Parts of ``cast_votes``, separated by timing it with few branches and with all.

    A branch costs the difference divided by the number of branches added; the votes cost the rest, less forward.
    """
    shape, d = case.shape, case.shape.hidden_size
    model = backend.prepare(shape, initial_weights(shape, 0, "paper"))
    tokens, states = _tokens(case.readers, case.seq_len), _states(case.readers, shape)
    shifts = first_shifts(shape.num_layers)
    count = case.readers * case.seq_len
    per_token = {"forward": shape.multiply_accumulates, "branches": branch_work(shape), "votes": shape.vote_work}
    work = Work(count, count * per_token[case.name])

    def forward():
        backend.forward(model, tokens[:, :-1], states)
        return work

    def cast(branches: int):
        draw = Draw(0, 0, branches, shifts)

        def call():
            backend.cast_votes(model, tokens, states, draw)
            return work

        return call

    if case.name == "forward":
        return Job(forward)
    if d == MIN_BRANCHES:
        return Job(cast(d), others=((-1.0, forward),))
    share = d / (d - MIN_BRANCHES)
    if case.name == "branches":
        return Job(cast(d), share, ((-share, cast(MIN_BRANCHES)),))
    return Job(cast(MIN_BRANCHES), share, ((1 - share, cast(d)), (-1.0, forward)))


def _update(case: Case, backend: Backend) -> Job:
    shape = case.shape
    master = initial_weights(shape, 0, "paper").astype(np.int32) << MASTER_BITS
    squares = np.zeros(shape.rows, np.int64)
    votes = np.random.default_rng(0).integers(-(1 << 12), 1 << 12, shape.parameters, np.int32)
    work = Work(case.readers * case.seq_len, 0)

    def update():
        backend.update_rows(shape, master, squares, votes, 100, 1 << 12)
        return work

    return Job(update)


def _step(case: Case, backend: Backend) -> Job:
    shape, readers, length = case.shape, case.readers, case.seq_len
    if case.recipe == "egg":
        credit = "stations" if case.name == "stations" else "wire"
        settings = EvolutionConfig(recipe="egg", seq_len=length, streams=readers, credit=credit)
    else:
        settings = EvolutionConfig(recipe="paper", seq_len=length, population_size=readers)
    config = Config("bench", ModelConfig(shape.hidden_size, shape.num_layers), settings)
    training = evolution(config, backend, ArrayText(_text(1 << 13)))
    work = readers * length * config.multiply_accumulates
    if case.recipe == "paper":
        work += readers // 2 * (shape.multiply_accumulates + VOCABULARY * shape.hidden_size)

    def step():
        training.step()
        return Work(readers * length, work)

    return Job(step)


def _evaluation(case: Case, backend: Backend) -> Job:
    text = _text(case.readers)
    weights = initial_weights(case.shape, 0, "paper")

    def read():
        size = evaluate(Network(backend, case.shape, weights), text).bytes
        return Work(size, size * case.shape.multiply_accumulates)

    return Job(read)


def _generation(case: Case, backend: Backend) -> Job:
    network = Network(backend, case.shape, initial_weights(case.shape, 0, "paper"))
    sampling = Sampling(length=case.seq_len, count=case.readers)

    def draw():
        drawn = sum(len(numbers) for numbers, _ in stream(network, b"", sampling))
        # All samples begin with the logits after one NUL; then every byte is read but the last of each sample.
        read = 1 + drawn - sampling.count
        return Work(drawn, read * case.shape.multiply_accumulates)

    return Job(draw)


def _compression(case: Case, backend: Backend) -> Job:
    shape = case.shape
    text = _text(case.readers * LEARNED_SEGMENT // DOCUMENT + 1)[: case.readers * LEARNED_SEGMENT].tobytes()
    network = Network(backend, shape, initial_weights(shape, 0, "paper"))
    learning = Config(
        "bench", ModelConfig(shape.hidden_size, shape.num_layers), EvolutionConfig(credit="stations", stations="all")
    )
    work = Work(len(text), len(text) * (shape.multiply_accumulates + learning.multiply_accumulates))

    def code():
        compress(network, text, step_size=STEP_SIZE, streams=case.readers)
        return work

    return Job(code)


def _low_rank(case: Case, backend: Backend) -> Job:
    """Members of recipe paper."""
    shape, members, length = case.shape, case.readers, case.seq_len
    model = backend.prepare(shape, initial_weights(shape, 0, "paper"))
    tokens, states = _tokens(members // 2, length), _states(members, shape)
    noise = LOW_RANK[case.recipe]
    work = Work(members * length, members * length * shape.multiply_accumulates)

    def read():
        backend.run_pairs(model, tokens, states, noise)
        return work

    return Job(read)


def _full_rank(case: Case, backend: Backend) -> Job:
    """Members of full rank, one after another: noise goes onto the weights in place, then they are packed and read."""
    shape, members, length = case.shape, case.readers, case.seq_len
    settings = ClassicSettings(1, sigma_shift=SIGMA_SHIFT)
    room = LIMIT - settings.amount
    weights = initial_weights(shape, 0, "paper").clip(-room, room)
    tokens = _tokens(members // 2, length)
    noise = Noise(0, 0, settings.sigma_shift)
    work = Work(members * length, members * length * shape.multiply_accumulates)

    def read():
        for pair, text in enumerate(tokens):
            read_pair(backend, shape, weights, text[None], noise, pair, settings.amount)
        return work

    return Job(read)


class ArrayText:
    """A text in memory, as ``egg.evolution.base`` reads it."""

    def __init__(self, text: np.ndarray):
        self.text, self.size = text, text.size

    def read(self, starts: np.ndarray, length: int) -> np.ndarray:
        """(len(starts), length) uint8 from each start on, wrapping round at the end."""
        return self.text[(starts[:, None] + np.arange(length)) % self.size]


def _tokens(readers: int, length: int) -> np.ndarray:
    """(readers, length + 1) uint8: for each reader a chunk of text and its targets."""
    text = ArrayText(_text(readers * length // DOCUMENT + 2))
    return text.read(np.arange(readers) * length, length + 1)


def _states(readers: int, shape: Shape) -> np.ndarray:
    """(readers, L, D) int8, zero."""
    return np.zeros((readers, shape.num_layers, shape.hidden_size), np.int8)


@cache
def _text(documents: int) -> np.ndarray:
    """(n,) uint8: random documents, a NUL before each, DOCUMENT bytes long on average."""
    lengths = DOCUMENT // 2 + np.arange(documents) * 7919 % (DOCUMENT + 1)
    ends = np.cumsum(lengths + 1)
    text = (words(0, 99, 0, 0, int(ends[-1])) % 255 + 1).astype(np.uint8)
    text[ends - lengths - 1] = 0
    return text
