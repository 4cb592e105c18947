"""Times of a backend: the cases take turns, so that all share the machine's noise."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from egg.bench.cases import Case, Job, Work, make_job
from egg.kernels.backend import Backend
from egg.kernels.layout import Shape


@dataclass
class Timing:
    """The times of a case."""

    case: Case
    work: Work
    seconds: list[float] = field(default_factory=list)
    """Seconds per call, one number for each repeat."""

    @property
    def rates(self) -> list[float | None]:
        """Tokens per second: median, lowest, highest; None where a difference of times is not positive."""
        seconds = statistics.median(self.seconds), max(self.seconds), min(self.seconds)
        return [self.work.tokens / s if s > 0 else None for s in seconds]

    @property
    def gmacs(self) -> float | None:
        """1e9 multiply-accumulates per second, the median."""
        seconds = statistics.median(self.seconds)
        return self.work.multiply_accumulates / seconds / 1e9 if seconds > 0 else None


@dataclass(frozen=True)
class Budget:
    """How long to measure."""

    seconds: float = 6.0
    """For each case: repeats start until these have passed, within the two limits below."""
    min_repeats: int = 3
    max_repeats: int = 9
    total: float = 230.0
    """Seconds from the first warm-up; after them only cases that have no repeat yet are timed."""

    @property
    def sample(self) -> float:
        """Least seconds of a repeat: short calls are repeated for this long."""
        return self.seconds / 4 / self.max_repeats


def time_cases(
    cases: list[Case],
    make_backend: Callable[[], Backend],
    *,
    budget: Budget | None = None,
    before_repeat: Callable[[], None] = lambda: None,
    notify: Callable[[str], None] = lambda line: None,
) -> list[Timing]:
    """Time all cases, one repeat of each in turn, so that a busy moment of the machine hits them alike.

    make_backend : called once for each model, whose backend keeps its buffers
    before_repeat : called before every repeat of every case
    notify : called with a line on the progress
    """
    budget = budget or Budget()
    began = time.perf_counter()
    backends: dict[Shape, Backend] = {}
    jobs, timings = [], []
    for case in cases:
        notify(f"warming up: {case}")
        if case.shape not in backends:
            backends[case.shape] = make_backend()
        job = make_job(case, backends[case.shape])
        for _, other in job.others:
            other()
        jobs.append(job)
        timings.append(Timing(case, job.call()))
    spent = [0.0] * len(timings)
    for repeat in range(budget.max_repeats):
        waiting = [i for i, s in enumerate(spent) if repeat < budget.min_repeats or s < budget.seconds]
        if waiting:
            notify(f"repeat {repeat + 1}: {len(waiting)} of {len(timings)} rows")
        for i in waiting:
            now = time.perf_counter()
            if repeat and now > began + budget.total:
                return timings
            before_repeat()
            clock = getattr(backends[timings[i].case.shape], "clock", wall_clock)
            timings[i].seconds.append(_seconds(jobs[i], budget.sample, clock))
            spent[i] += time.perf_counter() - now
    return timings


def wall_clock(call: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _seconds(job: Job, least: float, clock=wall_clock) -> float:
    """Mean seconds of as many calls as take ``least`` seconds together, after one that fills the caches."""
    whole, counted = _time(job, clock)
    if whole >= least:
        return counted
    calls = math.ceil(least / whole)
    return sum(_time(job, clock)[1] for _ in range(calls)) / calls


def _time(job: Job, clock) -> tuple[float, float]:
    """Seconds that all calls of a job take, and their sum weighted by the factors."""
    times = [(factor, clock(call)) for factor, call in ((job.factor, job.call), *job.others)]
    return sum(seconds for _, seconds in times), sum(f * seconds for f, seconds in times)
