"""Times of a backend: repeats of each case in turn, which then share the machine's noise."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from egg.bench.cases import Case, Job, Work, make_ready
from egg.kernels.backend import Backend
from egg.kernels.layout import Shape


@dataclass
class Row:
    """What was measured of a case."""

    case: Case
    work: Work
    seconds: list[float] = field(default_factory=list)
    """A call's time, at each repeat."""

    @property
    def rates(self) -> list[float | None]:
        """Tokens a second: median, lowest, highest; None where a difference of times came out at nothing."""
        seconds = statistics.median(self.seconds), max(self.seconds), min(self.seconds)
        return [self.work.tokens / s if s > 0 else None for s in seconds]

    @property
    def gmacs(self) -> float | None:
        """1e9 multiply-accumulates a second, the median."""
        seconds = statistics.median(self.seconds)
        return self.work.multiply_accumulates / seconds / 1e9 if seconds > 0 else None


@dataclass(frozen=True)
class Patience:
    """How long to measure."""

    seconds: float = 8.0
    """For each row: repeats begin until so much has passed, between the two numbers below."""
    fewest: int = 3
    most: int = 9
    total: float = 400.0
    """Seconds from the first warm-up on, after which only what has not been measured at all still is."""

    @property
    def sample(self) -> float:
        """Least time of a repeat, in seconds: short calls are repeated for this long."""
        return self.seconds / 4 / self.most


def measure(
    cases: list[Case],
    backend_of: Callable[[], Backend],
    *,
    patience: Patience | None = None,
    beside: Callable[[], None] = lambda: None,
    notify: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """Time all cases, one repeat of each in turn, so that a busy moment of the machine hits them alike.

    backend_of : makes a backend; each model has one of its own, which keeps its buffers
    beside : called before every repeat of every row
    notify : called with a line on the progress
    """
    patience = patience or Patience()
    began = time.perf_counter()
    backends: dict[Shape, Backend] = {}
    jobs, rows = [], []
    for case in cases:
        notify(f"warming up: {case}")
        if case.shape not in backends:
            backends[case.shape] = backend_of()
        job = make_ready(case, backends[case.shape])
        for _, other in job.others:
            other()
        jobs.append(job)
        rows.append(Row(case, job.call()))
    spent = [0.0] * len(rows)
    for repeat in range(patience.most):
        waiting = [i for i, s in enumerate(spent) if repeat < patience.fewest or s < patience.seconds]
        if waiting:
            notify(f"repeat {repeat + 1}: {len(waiting)} of {len(rows)} rows")
        for i in waiting:
            now = time.perf_counter()
            if repeat and now > began + patience.total:
                return rows
            beside()
            clock = getattr(backends[rows[i].case.shape], "clock", wall_clock)
            rows[i].seconds.append(_seconds(jobs[i], patience.sample, clock))
            spent[i] += time.perf_counter() - now
    return rows


def wall_clock(call: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _seconds(job: Job, least: float, clock=wall_clock) -> float:
    """What counts of a call's time: the mean of so many that they take ``least`` seconds, the caches filled by one."""
    whole, counted = _time(job, clock)
    if whole >= least:
        return counted
    calls = math.ceil(least / whole)
    return sum(_time(job, clock)[1] for _ in range(calls)) / calls


def _time(job: Job, clock) -> tuple[float, float]:
    """Seconds that a call took, with the others, and those that count."""
    times = [(factor, clock(call)) for factor, call in ((job.factor, job.call), *job.others)]
    return sum(seconds for _, seconds in times), sum(f * seconds for f, seconds in times)
