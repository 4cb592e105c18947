"""Evolution, step by step: what the two recipes share. docs/arithmetic.md has every formula."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np

from egg.kernels.arithmetic import LIMIT
from egg.kernels.backend import Backend, fetch
from egg.kernels.layout import Layout, Shape
from egg.kernels.values import ArrayValue
from egg.model.network import Network
from egg.model.parameters import initial_weights
from egg.model.state import Form, check_state
from egg.ranks.distributed import ALONE, Alone


class Text(Protocol):
    """Bytes to learn from; ``egg.training.corpus.CorpusText`` is one."""

    size: int

    def read(self, starts: np.ndarray, length: int) -> np.ndarray:
        """(len(starts), length) uint8 from each start on, wrapping round at the end."""
        ...


@dataclass(frozen=True, eq=False)
class StepReport(ArrayValue):
    """The figures of a step, and the weights before and after it."""

    step: int
    """Steps done, this one included."""
    tokens: int
    """Bytes read since the beginning, each counted once for each reader."""
    train_integer_bits_per_byte: float
    """Mean integer score of the readers, in bits; it reads a little too good, see docs/arithmetic.md."""
    step_size: float | None
    """About the size of a weight's move, in int8 steps (recipe egg)."""
    held: tuple[Any, Any] = field(repr=False)
    """The weights before and after, where the backend computes."""
    fetch: Callable[[Any], np.ndarray] = field(repr=False, compare=False)
    """Makes a NumPy array of either."""
    validation_bits_per_byte: float | None = None
    """Exact bits per byte, where a run measured the weights after the step."""
    training_text_bits_per_byte: float | None = None
    """The same of a run that has no validation text, and measures its training text."""

    # Properties, as each passes over all weights, and may bring them from a device: only lines of the log need them.
    @cached_property
    def before(self) -> np.ndarray:
        """(parameters,) int8: the weights before the step."""
        return self.fetch(self.held[0])

    @cached_property
    def after(self) -> np.ndarray:
        """The same after it."""
        return self.fetch(self.held[1])

    @property
    def changed_share(self) -> float:
        """Share of the int8 weights that this step changed."""
        return float(np.count_nonzero(self.before != self.after)) / self.after.size

    @property
    def clipped_share(self) -> float:
        """Share of the int8 weights that are at +-127."""
        return float(np.count_nonzero(np.abs(self.after) == LIMIT)) / self.after.size


class Evolution(ABC):
    """A model in training. Everything that evolves is an integer, and follows exactly from config and text.

    config : an egg.config.Config, or an object with its ``model``, ``evolution`` and ``resolved()``
    backend : computes; results do not depend on which one
    text : the bytes to learn from
    ranks : the processes that share the readers; the results do not depend on their number
    """

    def __init__(self, config, backend: Backend, text: Text, ranks: Alone = ALONE):
        self.config, self.backend, self.text = config.resolved().evolution, backend, text
        self.ranks = ranks
        self.shape = Shape(config.model.hidden_size, config.model.num_layers)
        self.layout: Layout = self.shape  # of what evolves
        self.step_number = 0
        self.time_share = 0
        """The share of its time that the run has used, in 2**-17: the position in a schedule over time."""
        self.weights = initial_weights(self.shape, self.config.seed, self.config.recipe)
        streams = self.stream_count(self.config, text.size)
        self.starts = np.arange(streams, dtype=np.int64) * text.size // streams

    @property
    def tokens(self) -> int:
        """Bytes read since the beginning, each counted once for each reader."""
        return self.step_number * self.config.tokens_per_step

    @property
    def weights(self) -> np.ndarray:
        """(parameters,) int8: the model as it is now."""
        if self._weights is None:
            self._weights = fetch(self.backend, self._held)
        return self._weights

    @weights.setter
    def weights(self, weights: Any) -> None:
        """From where the backend computes, or NumPy's."""
        self._held, self._weights = weights, None

    @property
    def network(self) -> Network:
        """The model as it is now."""
        return Network(self.backend, self.shape, self.weights)

    def _to_exchange(self, held: Any) -> Any:
        """A held array as the ranks exchange it, NumPy's; as it is where there is one rank."""
        return held if self.ranks.size == 1 else fetch(self.backend, held)

    def step(self) -> StepReport:
        """Read the next chunk of text, and move the weights."""
        before = self._held
        bits, step_size = self._step()
        self.step_number += 1
        held = before, self._held
        return StepReport(self.step_number, self.tokens, bits, step_size, held, partial(fetch, self.backend))

    @property
    @abstractmethod
    def description(self) -> str:
        """The recipe and what a step reads, in words."""

    @abstractmethod
    def _step(self) -> tuple[float, float | None]:
        """Replace ``weights`` by a new array; returns the readers' bits per byte, and the step size in int8 steps."""

    @abstractmethod
    def state(self) -> dict[str, np.ndarray]:
        """The state that exact continuation needs besides configuration and text: name -> array.

        All ranks call it; the result is whole on rank 0.
        """

    def load_state(self, state: dict[str, np.ndarray] | None) -> None:
        """Continue from what ``state`` gave; all ranks call it, all but rank 0 with None.

        Raises EggError if a part is missing or of another shape, dtype or range.
        """
        layout = self.state_layout(self.shape, self.config, self.text.size)
        state = state or {}
        if self.ranks.leader:
            check_state(state, layout)
        self._load(state, layout)

    @abstractmethod
    def _load(self, state: dict[str, np.ndarray], layout: dict[str, Form]) -> None:
        """Take over a checked state; ranks other than the first get an empty one."""

    @staticmethod
    @abstractmethod
    def stream_count(config, text_size: int) -> int:
        """Streams of text that the states of a run belong to.

        config : an EvolutionConfig
        """

    @classmethod
    @abstractmethod
    def state_layout(cls, shape: Shape, config, text_size: int) -> dict[str, Form]:
        """The form of each part of a training state, by name; takes no memory.

        config : an EvolutionConfig
        """

    @classmethod
    @abstractmethod
    def memory(cls, config, text_size: int, ranks: int = 1) -> int:
        """Least number of bytes that a step needs on one of ``ranks`` ranks.

        config : an egg.config.Config
        """
