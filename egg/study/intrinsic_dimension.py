"""d90: the size of the smallest subspace in which adapting gains 90 % of what adapting all weights gains.

Aghajanyan et al. (2020, arXiv 2012.13255) measured it with random subspaces and gradients; here random subspaces,
low-rank factors and subsets of tensors evolve, at equal tokens. Every result is a line of DIR/results.jsonl, so that no
trial is run twice.
"""

import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from egg.errors import EggError, telling
from egg.files import read_file
from egg.kernels.layout import Shape
from egg.model.adapter import voted_parameters
from egg.model.network import Network
from egg.run.adaptation import ALL_WEIGHTS, Subspace
from egg.run.log import is_number

RESULTS = "results.jsonl"
SHARE = 0.9  # of the gain of all weights
SHARES = (0.5, 0.8, SHARE)  # that are reported; lower shares need fewer parameters and are less uncertain
DRAWS = 2000  # resamplings of the seeds, for an interval
INTERVAL = (0.05, 0.95)
BITS, ACCURACY = "bits_per_byte", "accuracy"
MEASURES = {BITS: -1, "training_bits_per_byte": -1, ACCURACY: 1}
"""A figure of Scores -> 1 where more is better, else -1."""
FAMILIES = {"random": "random subspaces", "chosen": "adapters and whole tensors"}
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
    classify: bool
    """Whether accuracy is measured."""


@dataclass(frozen=True)
class Trial:
    """The settings of one adaptation."""

    base: str
    """Hash of the model, see ``egg.model.adapter.base_hash``."""
    rank: int | None
    tensors: str
    dimensions: int | None
    step_factor: float
    seed: int
    text: str
    tokens: int
    eval_bytes: int
    streams: int
    classify: bool


@dataclass(frozen=True)
class Scores:
    """How good a model is on the text that it is adapted to."""

    bits_per_byte: float
    """Of the held-out text."""
    training_bits_per_byte: float
    """Of the text that is adapted to."""
    accuracy: float | None
    """Share of the held-out documents whose class is found, see ``Classification``; None: not measured."""


@dataclass(frozen=True)
class TrialResult:
    """The outcome of a trial."""

    trial: Trial
    parameters: int
    scores: Scores
    seconds: float


@dataclass(frozen=True)
class Candidate:
    """A checkpoint to be measured."""

    path: str
    network: Network
    base: str
    pretraining: int | None
    """Tokens it was trained for, None if its config.json does not say."""
    before: Scores
    """Of the unadapted model."""

    @property
    def size(self) -> str:
        """Hidden size and layers, as 64/2."""
        return f"{self.network.shape.hidden_size}/{self.network.shape.num_layers}"


@dataclass(frozen=True)
class Gain:
    """What a subspace gained: a figure for each seed, of the model and of its adaptation."""

    subspace: Subspace
    parameters: int
    step_factor: float
    """The best of those tried with the first model and seed."""
    before: list[Scores]
    after: list[Scores]

    def of(self, measure: str) -> list[float]:
        """The gains in a measure of MEASURES."""
        sign = MEASURES[measure]
        pairs = zip(self.before, self.after, strict=True)
        return [sign * (getattr(after, measure) - getattr(before, measure)) for before, after in pairs]

    def mean(self, measure: str = BITS) -> float:
        """Mean over seeds."""
        return float(np.mean(self.of(measure)))

    @property
    def gap(self) -> float:
        """The gain on the text that was adapted to, beyond that on held-out text: mean over seeds, bits per byte."""
        return self.mean("training_bits_per_byte") - self.mean()


@dataclass(frozen=True)
class Dimension:
    """Parameters that reach a share of the gain of all weights."""

    value: float
    """inf: no subspace but all weights reaches the share."""
    low: float
    """Interval over seeds, see INTERVAL."""
    high: float


@dataclass(frozen=True)
class Estimate:
    """The dimensions of one family of subspaces, by one measure."""

    family: str
    """Of FAMILIES."""
    measure: str
    """BITS or ACCURACY."""
    dimensions: dict[float, Dimension]
    """For each of SHARES."""
    by_seed: list[float]
    """d90 of every seed by itself; inf as in ``Dimension``."""
    least: int
    """Parameters of the smallest subspace that was tried: a value equal to it is an upper bound."""
    most: int
    """Parameters of the largest, all weights aside."""

    @property
    def d90(self) -> Dimension:
        """The dimension at SHARE."""
        return self.dimensions[SHARE]


@dataclass(frozen=True)
class CheckpointDimensions:
    """Checkpoints of one size and as many tokens, with their gains and dimensions."""

    candidates: list[Candidate]
    """Models that differ in their seed."""
    gains: list[Gain]
    """By parameters, the fewest first; the last is that of all weights."""
    estimates: list[Estimate]
    """Of every family that was tried, by every measure."""

    @property
    def first(self) -> Candidate:
        """The first of the candidates."""
        return self.candidates[0]

    def before(self, measure: str = BITS) -> float:
        """A measure of the unadapted models, their mean."""
        return float(np.mean([getattr(c.before, measure) for c in self.candidates]))

    def share(self, gain: Gain, measure: str = BITS) -> float | None:
        """A subspace's share of the gain of all weights, means over seeds; None if all weights gain nothing."""
        whole = self.gains[-1].mean(measure)
        return gain.mean(measure) / whole if whole > 0 else None


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
                trial, scores = Trial(**record.pop("trial")), Scores(**record.pop("scores"))
                result = TrialResult(trial, scores=scores, **record)
                known = [value for value in asdict(scores).values() if value is not None]
                usable = all(map(is_number, known)) and hash(result.trial) is not None
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
    """Distinct subspaces by size, all weights last; raises EggError for one that the model does not have.

    Random ones with as many dimensions as the model has weights, or more, are left out: several models share a list.
    """
    most = voted_parameters(shape)
    fitting = [s for s in subspaces if s.dimensions is None or s.dimensions < most]
    known = {s: s.parameters(shape) for s in (*fitting, ALL_WEIGHTS)}
    return sorted(known, key=lambda s: (s == ALL_WEIGHTS, known[s]))


def count_trials(subspaces: int, factors: int, draws: int) -> int:
    """Smallest number of trials for checkpoints that count as one.

    draws : seeds of each checkpoint's adaptations, times checkpoints
    """
    return subspaces * (factors + draws - 1)


class Trials:
    """How many trials of a command are done, and how long the others take.

    planned : for checkpoints that count as one
    shapes : of their models
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


def alike(candidates: list[Candidate]) -> list[list[Candidate]]:
    """Checkpoints of one size and as many tokens together, which count as one; the smallest first."""
    groups: dict[Any, list[Candidate]] = {}
    for c in sorted(candidates, key=lambda c: (c.network.shape.parameters, c.pretraining or 0)):
        groups.setdefault(c.path if c.pretraining is None else (c.size, c.pretraining), []).append(c)
    return list(groups.values())


def sweep(
    candidates: list[Candidate],
    subspaces: list[Subspace],
    setting: Setting,
    factors: list[float],
    seeds: list[int],
    run: Callable[[Candidate, Subspace, Trial], TrialResult],
) -> Iterator[Gain]:
    """The gains of every subspace: the first model and seed try all step factors, the others use the best of them.

    Where the best of several factors is the smallest or the largest, half or twice that factor is tried too, and so on.

    candidates : that count as one
    run : runs a trial, or returns its known result
    """
    first, *others = [(candidate, seed) for candidate in candidates for seed in seeds]
    for subspace in subspaces:

        def scores(factor: float, candidate: Candidate, seed: int, subspace=subspace) -> Scores:
            trial = Trial(candidate.base, **asdict(subspace), step_factor=factor, seed=seed, **asdict(setting))
            return run(candidate, subspace, trial).scores

        tried = {factor: scores(factor, *first) for factor in factors}
        while True:
            best = min(tried, key=lambda factor, tried=tried: tried[factor].bits_per_byte)
            beyond = best / 2 if best == min(tried) else best * 2
            if len(tried) == 1 or best not in (min(tried), max(tried)) or not FACTORS[0] <= beyond <= FACTORS[1]:
                break
            tried[beyond] = scores(beyond, *first)
        after = [tried[best]] + [scores(best, *other) for other in others]
        before = [candidate.before for candidate, _ in (first, *others)]
        yield Gain(subspace, subspace.parameters(first[0].network.shape), best, before, after)


def estimate_dimensions(candidates: list[Candidate], gains: list[Gain]) -> CheckpointDimensions:
    """The dimensions of checkpoints that count as one, from the gains of ``sweep``, the last of all weights.

    Intervals come from resampled seeds, the same for all subspaces: a seed is a model, or its adaptations.
    """
    estimates = [
        _estimate([*some, gains[-1]], family, measure)
        for measure in (BITS, ACCURACY)
        if getattr(gains[-1].after[0], measure) is not None
        for family in FAMILIES
        if (some := [gain for gain in gains[:-1] if gain.subspace.family == family])
    ]
    return CheckpointDimensions(candidates, gains, estimates)


def _estimate(gains: list[Gain], family: str, measure: str) -> Estimate:
    sizes = [gain.parameters for gain in gains]
    table = np.array([gain.of(measure) for gain in gains])  # (subspaces, seeds)
    generator = np.random.default_rng(0)
    drawn = generator.integers(0, table.shape[1], (DRAWS, table.shape[1]))
    resampled = [table[:, seeds].mean(1) for seeds in drawn]
    dimensions = {}
    for share in SHARES:
        ordered = np.sort([smallest(sizes, means, share) for means in resampled])
        low, high = (float(ordered[int(at * (DRAWS - 1))]) for at in INTERVAL)
        dimensions[share] = Dimension(smallest(sizes, table.mean(1), share), low, high)
    by_seed = [smallest(sizes, column) for column in table.T]
    return Estimate(family, measure, dimensions, by_seed, sizes[0], sizes[-2])


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
            "checkpoints": [c.path for c in m.candidates],
            "hidden_size": m.first.network.shape.hidden_size,
            "num_layers": m.first.network.shape.num_layers,
            "parameters": m.first.network.shape.parameters,
            "pretraining_tokens": m.first.pretraining,
            "before": [asdict(c.before) for c in m.candidates],
            "full_gain": m.gains[-1].mean(),
            "estimates": [
                {
                    "family": e.family,
                    "measure": e.measure,
                    "d90": _finite(e.d90.value),
                    "d90_low": _finite(e.d90.low),
                    "d90_high": _finite(e.d90.high),
                    "d90_by_seed": [_finite(value) for value in e.by_seed],
                    "reached": math.isfinite(e.d90.value),
                    "dimensions": [
                        {"share": share, "value": _finite(d.value), "low": _finite(d.low), "high": _finite(d.high)}
                        for share, d in e.dimensions.items()
                    ],
                    "smallest_subspace": e.least,
                    "largest_subspace": e.most,
                }
                for e in m.estimates
            ],
            "subspaces": [
                {
                    "name": gain.subspace.name,
                    "family": gain.subspace.family,
                    "parameters": gain.parameters,
                    "step_factor": gain.step_factor,
                    "gain": gain.mean(),
                    "gains": gain.of(BITS),
                    "share": m.share(gain),
                    "gap": gain.gap,
                    "after": [asdict(scores) for scores in gain.after],
                }
                for gain in m.gains
            ],
        }
        for m in measured
    ]


def _finite(value: float) -> float | None:
    """A value for JSON, which has no infinity."""
    return value if math.isfinite(value) else None
