"""NumPy for the first bytes and Numba for the rest, so that a short text does not wait for the compiler."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from egg.kernels.backend import Adapter, Backend, Choice, Likelihoods
from egg.kernels.layout import Shape
from egg.kernels.reference import NumpyBackend


class TieredBackend:
    """Two backends as one. The results are those of either.

    Whatever is no reading of text is left to the second, which is loaded when it is first needed.
    """

    name = "auto"
    description = "NumPy for the first bytes, then the compiled kernels"

    def __init__(self, load: Callable[..., Backend], early: int, **options):
        """Load ``load("auto", **options)`` when it is needed.

        early : weights times bytes that NumPy reads before
        """
        self._load, self._options, self._left = load, options, early
        self._first = NumpyBackend()

    @cached_property
    def second(self) -> Backend:
        """The backend that does the rest."""
        return self._load("auto", **self._options)

    def prepare(self, shape: Shape, weights: np.ndarray, adapter: Adapter | None = None) -> "TieredModel":
        """A model in both forms, each made when it is needed; see ``Backend.prepare``."""
        return TieredModel(self, shape, weights, adapter)

    def forward(self, model: "TieredModel", tokens: np.ndarray, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See ``Backend.forward``."""
        backend, form = self._chosen(model, tokens.size)
        return backend.forward(form, tokens, states)

    def score(self, model: "TieredModel", tokens: np.ndarray, states: np.ndarray) -> Likelihoods:
        """See ``Backend.score``."""
        backend, form = self._chosen(model, tokens.size)
        return backend.score(form, tokens, states)

    def write(
        self,
        model: "TieredModel",
        logits: np.ndarray,
        states: np.ndarray,
        numbers: np.ndarray,
        positions: range,
        choice: Choice,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See ``Backend.write``."""
        backend, form = self._chosen(model, len(numbers) * len(positions))
        return backend.write(form, logits, states, numbers, positions, choice)

    def _chosen(self, model: "TieredModel", tokens: int) -> tuple[Backend, Any]:
        """The backend that reads so many tokens, and the model in its form."""
        work = tokens * model.shape.parameters
        if work <= self._left:
            self._left -= work
            return self._first, model.first
        self._left = 0
        return self.second, model.second

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # what copying and pickling ask for
            raise AttributeError(name)
        call = getattr(self.second, name)
        return lambda *arguments, **options: call(
            *(a.second if isinstance(a, TieredModel) else a for a in arguments), **options
        )


class TieredModel:
    """What ``TieredBackend.prepare`` makes of a model."""

    def __init__(self, backend: TieredBackend, shape: Shape, weights: np.ndarray, adapter: Adapter | None):
        self.shape = shape
        self._backend, self._parts = backend, (shape, weights, adapter)

    @cached_property
    def first(self) -> Any:
        """As NumPy reads it."""
        return self._backend._first.prepare(*self._parts)

    @cached_property
    def second(self) -> Any:
        """As the second backend reads it."""
        return self._backend.second.prepare(*self._parts)
