"""Compiling the kernels of a run before its first step, so that the wait is shown and no step's time includes it."""

import time
from dataclasses import replace

import numpy as np

from egg.config import Config, ModelConfig
from egg.evolution.recipes import evolution
from egg.kernels.backend import Backend
from egg.model.evaluate import evaluate
from egg.run.progress import Progress
from egg.run.signals import hold_signal
from egg.view.figures import duration

CALLS = {
    "egg": ("prepare", "forward", "cast_votes", "update_rows"),
    "paper": ("prepare", "forward", "run_pairs", "cast_pair_votes", "update_signs"),
}
"""Recipe -> what a run calls of its backend."""


class _Text:
    """A few bytes to read."""

    size = 256

    def read(self, starts: np.ndarray, length: int) -> np.ndarray:
        """(len(starts), length) uint8."""
        return np.ones((len(starts), length), np.uint8)


def compile_kernels(config: Config, backend: Backend, progress: Progress) -> None:
    """Take a step of the smallest model and measure it: afterwards all that a run needs of its backend is compiled.

    A signal ends it between two kernels; those that are compiled by then stay compiled.
    """
    if backend.name != "numba":
        return
    from egg.kernels.cpu.compiling import watching

    e = config.evolution
    without = {"adapters", "adapted", *(() if e.station_names else ("stations",))}
    size = {"population_size": 2} if e.recipe == "paper" else {"streams": 1, "branches": "all"}
    small = replace(config, model=ModelConfig(16, 1), evolution=replace(e, seq_len=4, **size))
    began, compiled = time.monotonic(), 0

    def done(number: int, total: int) -> None:
        nonlocal compiled
        due()
        compiled, seconds = number, time.monotonic() - began
        left = f"about {duration(seconds * (total - number) / number)} left, " if number > 4 else ""
        progress.working(f"compiling {number} of {total} kernels, {left}once for this CPU")

    try:
        with hold_signal() as due, watching(CALLS[e.recipe], without, done):
            made = evolution(small, backend, _Text())
            made.step()
            evaluate(made.network, np.arange(2, dtype=np.uint8))
    except KeyboardInterrupt:
        if compiled:
            progress.note(
                f"interrupted after {compiled} kernels: no step was taken, and what is compiled is not compiled again"
            )
        raise
    if compiled:
        progress.note(f"compiled {compiled} kernels in {duration(time.monotonic() - began)}")
