"""Compiling the kernels of a run before its first step, so that the wait is shown and no step's time includes it."""

import time
from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np

from egg.config import Config, ModelConfig
from egg.evolution.recipes import evolution
from egg.kernels.backend import Backend
from egg.model.evaluate import evaluate
from egg.model.network import Network
from egg.run.progress import Progress
from egg.run.signals import hold_signal
from egg.view.figures import duration

CALLS = {
    "egg": ("prepare", "score", "cast_votes", "update_rows"),
    "paper": ("prepare", "score", "run_pairs", "cast_pair_votes", "update_signs"),
    "reward": ("prepare", "forward", "write", "read_adapter_pairs", "update_master"),
}
"""Recipe, or kind of adaptation -> what a run calls of its backend; besides ``write``, if it shows samples."""
SMALL = ModelConfig(16, 1)


class SmallText:
    """A few bytes to read."""

    size = 256

    def read(self, starts: np.ndarray, length: int) -> np.ndarray:
        """(len(starts), length) uint8."""
        return np.ones((len(starts), length), np.uint8)


def small_config(config: Config) -> Config:
    """A run's configuration for the smallest model and the smallest step."""
    e = config.evolution
    size: dict = {"streams": 1, "branches": "all"}
    if e.recipe == "paper":
        size = {"population_size": 2, "group_size": 2, "num_perturbations": 0}
    return replace(config, model=SMALL, evolution=replace(e, seq_len=4, **size))


def calls_of(config: Config) -> tuple[str, ...]:
    """What a run calls of its backend."""
    return CALLS[config.evolution.recipe] + (("write",) if config.run.sample_every else ())


def measure(network: Network, calls: Collection[str]) -> None:
    """Do what a run's measurements do, with few bytes."""
    for size in (2, 64):  # a text of a few longer sequences is read by kernels of its own
        evaluate(network, np.arange(size, dtype=np.uint8))
    if "write" in calls:
        network.generate(b"", 1)


def compile_recipe(config: Config, backend: Backend, progress: Progress) -> None:
    """Take a step of the smallest model and measure it: see ``compile_kernels``."""
    e = config.evolution
    calls = calls_of(config)

    def work() -> None:
        made = evolution(small_config(config), backend, SmallText())
        made.step()
        measure(made.network, calls)

    without, also = {"adapters", "adapted", *(() if e.station_names else ("stations",))}, set()
    if e.noise == "gaussian":
        without.add("pair_votes")
        also = {"noise", "gaussian_votes"}
    elif e.rank > 1:
        also = {"noise"}
    compile_kernels(backend, progress, calls, without, work, also)


def compile_kernels(
    backend: Backend,
    progress: Progress,
    calls: Collection[str],
    without: Collection[str],
    work: Callable[[], None],
    also: Collection[str] = (),
) -> None:
    """Do a small piece of work: afterwards all that a run needs of its backend is compiled.

    A signal ends it between two kernels; those that are compiled by then stay compiled.

    calls, without, also : as for ``egg.kernels.cpu.compiling.watching``
    """
    if backend.name != "numba":
        return
    from egg.kernels.cpu.compiling import watching

    began, compiled = time.monotonic(), 0

    def done(number: int, total: int) -> None:
        nonlocal compiled
        due()
        compiled, seconds = number, time.monotonic() - began
        left = f"about {duration(seconds * (total - number) / number)} left, " if number > 4 else ""
        progress.working(f"compiling {number} of {total} kernels, {left}once for this CPU")

    try:
        with hold_signal() as due, watching(calls, without, done, also):
            work()
    except KeyboardInterrupt:
        if compiled:
            progress.note(
                f"interrupted after {_kernels(compiled)}: no step was taken, and what is compiled is not compiled again"
            )
        raise
    if compiled:
        progress.note(f"compiled {_kernels(compiled)} in {duration(time.monotonic() - began)}")


def _kernels(number: int) -> str:
    return f"{number} kernel{'s' * (number != 1)}"
