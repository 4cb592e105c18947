"""d90: the size of the smallest subspace in which adapting gains 90 % of what adapting all weights gains.

Aghajanyan et al. (2020, arXiv 2012.13255) measured it with random subspaces and gradients; here the subspaces are
low-rank factors and subsets of tensors, and all of them evolve, at equal tokens. Every result is a line of
DIR/results.jsonl, so that no trial is run twice.
"""

import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from egg.errors import EggError, telling
from egg.files import read_file
from egg.kernels.layout import Shape
from egg.model.network import Network
from egg.run.adaptation import ALL_WEIGHTS, Subspace
from egg.run.log import is_number

RESULTS = "results.jsonl"
SHARE = 0.9  # of the gain of all weights
SHARES = (0.5, 0.8, SHARE)  # that are reported; lower shares need fewer parameters and are less uncertain
DRAWS = 2000  # resamplings of the seeds, for an interval
INTERVAL = (0.05, 0.95)
FACTORS = (1 / 64, 8.0)  # of the default step size: bounds of the search


@dataclass(frozen=True)
class Setting:
    """What all trials of a sweep share."""

    text: str
    """Fingerprint of the corpus."""
    tokens: int
    """Bytes that each trial reads."""
    eval_bytes: int
    streams: int
    """Readers a step."""


@dataclass(frozen=True)
class Trial:
    """The settings of one adaptation."""

    base: str
    """Hash of the model, see ``egg.model.adapter.base_hash``."""
    rank: int | None
    tensors: str
    step_factor: float
    seed: int
    text: str
    tokens: int
    eval_bytes: int
    streams: int


@dataclass(frozen=True)
class TrialResult:
    """The outcome of a trial."""

    trial: Trial
    parameters: int
    bits_per_byte: float
    seconds: float


@dataclass(frozen=True)
class Candidate:
    """A checkpoint to be measured."""

    path: str
    network: Network
    base: str
    pretraining: int | None
    """Tokens it was trained for, None if its config.json does not say."""
    before: float
    """Bits per byte of the adaptation text's validation split, unadapted."""

    @property
    def size(self) -> str:
        """Hidden size and layers, as 64/2."""
        return f"{self.network.shape.hidden_size}/{self.network.shape.num_layers}"


@dataclass(frozen=True)
class Gain:
    """What a subspace gained on one checkpoint."""

    subspace: Subspace
    parameters: int
    step_factor: float
    """The best of those tried with the first seed."""
    gains: list[float]
    """Bits per byte below the unadapted model, one for each seed."""

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return float(np.mean(self.gains))


@dataclass(frozen=True)
class Dimension:
    """Parameters that reach a share of the gain of all weights."""

    value: float
    """inf: no subspace but all weights reaches the share."""
    low: float
    """Interval over seeds, see INTERVAL."""
    high: float
    bound: int
    """Parameters of the largest subspace that was tried, all weights aside."""
    least: int
    """Parameters of the smallest subspace that was tried: a value equal to it is an upper bound."""


@dataclass(frozen=True)
class CheckpointDimensions:
    """A checkpoint with its gains and dimensions."""

    candidate: Candidate
    gains: list[Gain]
    """By parameters, the fewest first; the last is that of all weights."""
    dimensions: dict[float, Dimension]
    """For each of SHARES."""
    by_seed: list[float]
    """d90 of every seed by itself; inf as in ``Dimension``."""

    @property
    def d90(self) -> Dimension:
        """The dimension at SHARE."""
        return self.dimensions[SHARE]

    def share(self, gain: Gain) -> float | None:
        """A subspace's share of the gain of all weights, means over seeds; None if all weights gain nothing."""
        whole = self.gains[-1].mean
        return gain.mean / whole if whole > 0 else None


class Records:
    """The results kept in a folder; a new one is on disk before the next trial begins."""

    def __init__(self, folder: Path):
        self.path = folder / RESULTS
        self.known: dict[Trial, TrialResult] = {}
        if self.path.is_symlink():
            raise EggError(f"{self.path} is a link: results are kept in their own folder, put the file in its place")
        if not self.path.exists():
            return
        with telling(f"cannot read {self.path}", "; move it away to measure all again"):
            content = read_file(self.path)
        whole = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                record = json.loads(line)
                result = TrialResult(Trial(**record.pop("trial")), **record)
                usable = is_number(result.bits_per_byte) and hash(result.trial) is not None
            except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
                usable = False
            if not usable:
                raise EggError(f"{self.path}, line {number} is no result: remove it to measure that again")
            self.known[result.trial] = result
        if len(whole) < len(content):  # killed while it was written
            with telling(f"cannot write {self.path}"), open(self.path, "rb+") as file:
                file.truncate(len(whole))

    def add(self, result: TrialResult) -> None:
        """Append a result."""
        self.known[result.trial] = result
        with telling(f"cannot write {self.path}"), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(result)) + "\n")
            file.flush()
            os.fsync(file.fileno())


def plan_subspaces(subspaces: list[Subspace], shape: Shape) -> list[Subspace]:
    """Distinct subspaces by size, all weights last; raises EggError for one that the model does not have."""
    known = {s: s.parameters(shape) for s in (*subspaces, ALL_WEIGHTS)}
    return sorted(known, key=lambda s: (s == ALL_WEIGHTS, known[s]))


def count_trials(subspaces: int, factors: int, seeds: int) -> int:
    """Smallest number of trials for one checkpoint."""
    return subspaces * (factors + seeds - 1)


class Trials:
    """How many trials of a command are done, and how long the others take.

    planned : for each checkpoint
    shapes : of the checkpoints' models
    """

    def __init__(self, planned: list[int], shapes: list[Shape]):
        self.total, self.number = sum(planned), 0
        # A trial takes about as long as its model has parameters.
        self._left = sum(n * shape.parameters for n, shape in zip(planned, shapes, strict=True))
        self._done, self._seconds = 0, 0.0

    def begin(self, shape: Shape, more: bool) -> None:
        """The next trial; ``more``: one beyond those that were planned."""
        self.number += 1
        self.total += more
        self._left -= 0 if more else shape.parameters

    def spend(self, shape: Shape, seconds: float) -> None:
        """The trial was not known, and took so long."""
        self._done, self._seconds = self._done + shape.parameters, self._seconds + seconds

    @property
    def seconds_left(self) -> float:
        """About as long take those that have not begun; after the first ``spend``."""
        return self._left * self._seconds / self._done


def sweep(
    candidate: Candidate,
    subspaces: list[Subspace],
    setting: Setting,
    factors: list[float],
    seeds: list[int],
    run: Callable[[Subspace, Trial], TrialResult],
) -> Iterator[Gain]:
    """The gains of every subspace: the first seed tries all step factors, the other seeds use the best of them.

    Where the best of several factors is the smallest or the largest, half or twice that factor is tried too, and so on.

    run : runs a trial, or returns its known result
    """
    for subspace in subspaces:

        def bits(factor: float, seed: int, subspace=subspace) -> float:
            trial = Trial(candidate.base, subspace.rank, subspace.tensors, factor, seed, **asdict(setting))
            return run(subspace, trial).bits_per_byte

        tried = {factor: bits(factor, seeds[0]) for factor in factors}
        best = min(tried, key=tried.__getitem__)
        while len(tried) > 1 and best in (min(tried), max(tried)):
            beyond = best / 2 if best == min(tried) else best * 2
            if not FACTORS[0] <= beyond <= FACTORS[1]:
                break
            tried[beyond] = bits(beyond, seeds[0])
            best = min(tried, key=tried.__getitem__)
        after = [tried[best]] + [bits(best, seed) for seed in seeds[1:]]
        gains = [candidate.before - value for value in after]
        yield Gain(subspace, subspace.parameters(candidate.network.shape), best, gains)


def estimate_dimensions(candidate: Candidate, gains: list[Gain]) -> CheckpointDimensions:
    """The dimensions of a checkpoint from the gains of ``sweep``, whose last is that of all weights.

    Intervals come from resampled seeds, each subspace resampled by itself.
    """
    sizes = [gain.parameters for gain in gains]
    table = np.array([gain.gains for gain in gains])  # (subspaces, seeds)
    generator = np.random.default_rng(0)
    drawn = generator.integers(0, table.shape[1], (DRAWS, *table.shape))
    resampled = [np.take_along_axis(table, seeds, 1).mean(1) for seeds in drawn]
    least, bound = (sizes[0], sizes[-2]) if len(sizes) > 1 else (0, 0)
    dimensions = {}
    for share in SHARES:
        ordered = np.sort([smallest(sizes, means, share) for means in resampled])
        low, high = (float(ordered[int(at * (DRAWS - 1))]) for at in INTERVAL)
        value = smallest(sizes, table.mean(1), share)
        dimensions[share] = Dimension(value, low, high, bound, least)
    by_seed = [smallest(sizes, column) for column in table.T]
    return CheckpointDimensions(candidate, gains, dimensions, by_seed)


def smallest(sizes: list[int], gains: np.ndarray, share: float = SHARE) -> float:
    """Parameters at which a share of the last gain is reached, inf if only the last reaches it.

    The curve is the best gain of any subspace up to a size, linear in the logarithm of the size between two; a
    result below the smallest size is given as that size.

    sizes : ascending, the last of all weights
    gains : (subspaces,) float64, bits per byte
    """
    if gains[-1] <= 0:
        return math.inf  # all weights gain nothing: no share to reach
    best = np.maximum.accumulate(gains[:-1]) / gains[-1]
    reached = np.flatnonzero(best >= share)
    if not len(reached):
        return math.inf
    at = int(reached[0])
    if at == 0 or sizes[at] == sizes[at - 1]:
        return float(sizes[at])
    part = (share - best[at - 1]) / (best[at] - best[at - 1])
    return float(sizes[at - 1] * (sizes[at] / sizes[at - 1]) ** part)


def dimensions_json(measured: list[CheckpointDimensions]) -> list[dict]:
    """All checkpoints as JSON; a d90 that is not reached is null, and so are the ends of its interval."""
    return [
        {
            "checkpoint": m.candidate.path,
            "hidden_size": m.candidate.network.shape.hidden_size,
            "num_layers": m.candidate.network.shape.num_layers,
            "parameters": m.candidate.network.shape.parameters,
            "pretraining_tokens": m.candidate.pretraining,
            "bits_per_byte": m.candidate.before,
            "full_gain": m.gains[-1].mean,
            "d90": _finite(m.d90.value),
            "d90_low": _finite(m.d90.low),
            "d90_high": _finite(m.d90.high),
            "d90_by_seed": [_finite(value) for value in m.by_seed],
            "reached": math.isfinite(m.d90.value),
            "dimensions": [
                {"share": share, "value": _finite(d.value), "low": _finite(d.low), "high": _finite(d.high)}
                for share, d in m.dimensions.items()
            ],
            "smallest_subspace": m.d90.least,
            "largest_subspace": m.d90.bound,
            "subspaces": [
                {
                    "rank": gain.subspace.rank or "whole",
                    "tensors": gain.subspace.tensors,
                    "parameters": gain.parameters,
                    "step_factor": gain.step_factor,
                    "gain": gain.mean,
                    "gains": gain.gains,
                    "share": m.share(gain),
                }
                for gain in m.gains
            ],
        }
        for m in measured
    ]


def _finite(value: float) -> float | None:
    """A value for JSON, which has no infinity."""
    return value if math.isfinite(value) else None
