"""Adapting a model to a text: recipe ``egg`` over an adapter's factors, or over weights themselves, and its loop."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np

from egg.config import Config, EvolutionConfig, ModelConfig
from egg.errors import EggError, telling
from egg.evolution.base import StepReport, Text
from egg.evolution.branches import BranchEvolution
from egg.kernels import Adapter, AdapterShape, Shape
from egg.kernels.backend import Backend, Votes
from egg.model import checkpoint
from egg.model.adapter import ADAPTER, ALL, adapter_shape, base_hash, evolving, file_bytes, initial_factors, tensors_of
from egg.model.evaluate import Evaluation, evaluate
from egg.run.log import RunLog
from egg.run.trainer import Trainer

ADAPTED = "gru,w_down,head"
"""The matrices that an adapter to a text stands beside, if nothing else is said: those that have votes."""


class AdapterEvolution(BranchEvolution):
    """An adapter in training; ``weights`` are its factors, ``base`` the model's weights, which stand still.

    config : has ``model`` and ``evolution``, of recipe egg, see egg.config
    weights : (parameters,) int8, the model's
    """

    def __init__(self, config, backend: Backend, text, weights: np.ndarray, layout: AdapterShape):
        super().__init__(config, backend, text)
        self.base, self.layout = weights, layout
        self.begin_from(initial_factors(layout, self.config.seed))
        self.prepare()  # a backend that knows no adapters says so before anything is written

    @property
    def adapter(self) -> Adapter:
        """The adapter as it is now."""
        return Adapter(self.layout, self.weights)

    def prepare(self):
        """The model with the adapter, as the backend wants it."""
        return self.backend.prepare(self.shape, self.base, self.adapter)


class FineTuning(BranchEvolution):
    """Weights in training, as in pretraining, from a model's instead of random ones.

    weights : (parameters,) int8, the model's
    tensors : names of those that move; votes on the others are left out
    """

    def __init__(self, config, backend: Backend, text, weights: np.ndarray, tensors: Collection[str]):
        super().__init__(config, backend, text)
        self.begin_from(weights)
        self.still = [t.slice for name, t in self.shape.tensors.items() if name not in tensors]

    def _cast(self, *arguments) -> Votes:
        cast = super()._cast(*arguments)
        for place in self.still:
            cast.votes[place] = 0
        return cast


@dataclass(frozen=True)
class Adaptation:
    """What came of adapting."""

    curve: list[tuple[int, float]]
    """(tokens, bits per byte) on the validation text, from (0, before) to (all, after)."""
    evolved: int
    """Parameters that evolved."""
    weights: np.ndarray
    """(parameters,) int8: the model's, as they were given if an adapter evolved."""
    adapter: Adapter | None
    """None if weights evolved."""

    @property
    def before(self) -> float:
        """Bits per byte of the model as it was."""
        return self.curve[0][1]

    @property
    def after(self) -> float:
        """Bits per byte in the end."""
        return self.curve[-1][1]


def adapt(
    backend: Backend,
    shape: Shape,
    weights: np.ndarray,
    text: Text,
    validation: np.ndarray,
    *,
    rank: int | None,
    tensors: str | None = None,
    tokens: int,
    step_factor: float = 1.0,
    measurements: int = 10,
    stepped: Callable[[StepReport], None] = lambda report: None,
    **settings,
) -> Adaptation:
    """Adapt a model to a text, without a folder: what ``egg adapt`` does, byte for byte.

    weights : (parameters,) int8
    text : to adapt to
    validation : (n,) uint8, a NUL before each document: what bits per byte are of
    rank : of the adapter, 1 to 16; None: weights evolve
    tensors : matrices that are adapted, or tensors that evolve, see ``egg.model.adapter``; None: all that have votes
    tokens : bytes of text to read
    step_factor : times the step size that is chosen from the tokens
    measurements : points of the curve after its first
    stepped : is told of every step; what it raises ends the adapting
    settings : other fields of ``EvolutionConfig``
    Raises EggError for a rank, tensors or settings that cannot be.
    """
    settings = EvolutionConfig(schedule_tokens=tokens, **settings)
    config = Config("adapt", ModelConfig(shape.hidden_size, shape.num_layers), settings).resolved()
    step_size = step_factor * config.evolution.step_size
    config = replace(config, evolution=replace(config.evolution, step_size=step_size))
    steps = tokens // config.tokens_per_step
    if steps < 1:
        raise EggError(f"{tokens:,} tokens: a step takes {config.tokens_per_step:,}")
    evolution: BranchEvolution
    if rank is None:
        moving = tensors_of(shape, tensors or ALL)
        evolved = evolving(shape, moving)
        evolution = FineTuning(config, backend, text, weights, moving)
    else:
        layout = adapter_shape(shape, rank, tensors or ADAPTED)
        evolved = evolving(layout)
        evolution = AdapterEvolution(config, backend, text, weights, layout)
    curve = [(0, evaluate(backend, shape, weights, validation).bits_per_byte)]
    every = max(1, steps // measurements)
    for step in range(1, steps + 1):
        stepped(evolution.step())
        if step == steps or (step % every == 0 and steps - step >= every):
            curve.append((evolution.tokens, measured(evolution, validation).bits_per_byte))
    if rank is None:
        return Adaptation(curve, evolved, evolution.weights, None)
    return Adaptation(curve, evolved, weights, evolution.adapter)


def measured(evolution: BranchEvolution, validation: np.ndarray) -> Evaluation:
    """Bits per byte of what evolves, as it is now."""
    e = evolution
    if isinstance(e, AdapterEvolution):
        return evaluate(e.backend, e.shape, e.base, validation, adapter=e.adapter)
    return evaluate(e.backend, e.shape, e.weights, validation)


class AdapterTrainer(Trainer):
    """Trains an adapter in a folder: config.json, metrics.jsonl, and the adapter as it is at every save."""

    evolution: AdapterEvolution

    def _evaluate(self) -> Evaluation:
        return measured(self.evolution, self.validation)

    def _settings(self) -> dict[str, bytes]:
        return {checkpoint.CONFIG: checkpoint.json_bytes(self.content)}

    def _save(self, log: RunLog | None) -> None:
        log.flush()
        e, path = self.evolution, self.run_folder / ADAPTER
        with telling(f"cannot write {path}"):
            checkpoint.replace_file(path, file_bytes(e.adapter, base_hash(e.shape, e.base)))
