"""Subspaces in which a model is adapted: low-rank factors beside some of its matrices, or some tensors themselves."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from egg.adaptation import AdapterEvolution, FineTuning, adapting, measured
from egg.adapter import KINDS, adapter_shape, named
from egg.config import Config, ModelConfig
from egg.evolution import Evolution, StepReport, Text
from egg.optimizer import STEP_BITS, adapter_step_size, default_step_size
from kernels.backend import Backend
from kernels.layout import Shape

ALL, VECTORS = "all", "vectors"
"""Every tensor: embedding, matrices, biases and norm gains; and of these the last two alone."""


@dataclass(frozen=True)
class Subspace:
    """What may move while the rest of a model stands still."""

    rank: int | None
    """Of the factors beside each matrix; None: the tensors themselves evolve."""
    tensors: str
    """Kinds or names of tensors, separated by commas, or ALL; see ``tensors_of`` and ``egg.adapter.matrices_of``."""

    @property
    def name(self) -> str:
        """As tables call it."""
        return f"{'whole' if self.rank is None else f'rank {self.rank}'} {self.tensors}"

    def parameters(self, shape: Shape) -> int:
        """How many numbers evolve; raises EggError for a subspace that a model of this shape does not have."""
        if self.rank is None:
            return sum(shape.tensors[name].size for name in tensors_of(shape, self.tensors))
        return adapter_shape(shape, self.rank, self.tensors).parameters


FULL = Subspace(None, ALL)


def tensors_of(shape: Shape, tensors: str) -> tuple[str, ...]:
    """A model's tensors of some kinds, in its order.

    tensors : ALL, or of VECTORS, embedding, gru, mlp, head, names such as w_up or ln1, and whole names; separated by
        commas
    Raises EggError for what names none.
    """
    if tensors == ALL:
        return tuple(shape.tensors)
    vectors = [name for name, tensor in shape.tensors.items() if len(tensor.shape) == 1]
    kinds = (VECTORS, "embedding", *KINDS)
    return named(tuple(shape.tensors), tensors, "--whole", "tensor", kinds, {VECTORS: vectors})


class PartialTuning(FineTuning):
    """Some tensors in training as in pretraining; votes on the others are left out.

    weights : (parameters,) int8, the model's
    tensors : names of those that move
    """

    def __init__(self, config, backend: Backend, text, weights: np.ndarray, tensors):
        super().__init__(config, backend, text, weights)
        self.moves = np.array([name in tensors for name in self.shape.tensors], np.int64)

    def multipliers(self) -> np.ndarray:
        """What votes are multiplied by: zero where nothing is to move."""
        return super().multipliers() * self.moves


def tune(
    backend: Backend,
    shape: Shape,
    weights: np.ndarray,
    text: Text,
    validation: np.ndarray,
    subspace: Subspace,
    *,
    member_tokens: int,
    step_factor: float = 1.0,
    seed: int = 0,
    stepped: Callable[[StepReport], None] = lambda report: None,
    **settings,
) -> float:
    """Adapt a model to a text within a subspace; returns its bits per byte on the validation text.

    weights : (parameters,) int8
    validation : (n,) uint8, a NUL before each document
    step_factor : of the default step size for the horizon, which an adapter has its own of
    stepped : is told of every step; what it raises ends the work
    settings : other fields of ``EvolutionConfig``
    """
    full = subspace.rank is None
    default = default_step_size if full else adapter_step_size
    step_size = step_factor * default(member_tokens) / (1 << STEP_BITS)
    evolving = adapting(member_tokens, full=full, step_size=step_size, seed=seed, **settings)
    config = Config("adapt", ModelConfig(shape.hidden_size, shape.num_layers), evolving)
    evolution: Evolution
    if full:
        tensors = tensors_of(shape, subspace.tensors)
        evolution = PartialTuning(config, backend, text, weights, tensors)
    else:
        layout = adapter_shape(shape, subspace.rank, subspace.tensors)
        evolution = AdapterEvolution(config, backend, text, weights, layout)
    for _ in range(member_tokens // config.tokens_per_step):
        stepped(evolution.step())
    return measured(evolution, validation).bits_per_byte
