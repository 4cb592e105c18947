"""Adapting a frozen model to a text: the evolution of recipe ``egg`` over the factors of an adapter, and its loop."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from egg import checkpoint
from egg.adapter import ADAPTER, adapter_shape, base_hash, file_bytes, initial_factors
from egg.config import Config, EvolutionConfig, ModelConfig
from egg.errors import EggError
from egg.evaluate import Evaluation, evaluate
from egg.evolution import Evolution, StepReport, Text
from egg.optimizer import STEP_BITS, adapter_multipliers, adapter_step_size
from egg.runlog import RunLog
from egg.trainer import Trainer
from kernels import Adapter, AdapterShape, Shape
from kernels.arithmetic import MASTER_BITS
from kernels.backend import Backend

ALL_TENSORS = "gru,mlp,head"
SIGMA_SHIFT = 3  # of an adapter


class AdapterEvolution(Evolution):
    """An adapter in training; ``weights`` are its factors, ``base`` the model's weights, which stand still.

    config : has ``model`` and ``evolution``, of recipe egg, see egg.config
    weights : (parameters,) int8, the model's
    """

    def __init__(self, config, backend: Backend, text, weights: np.ndarray, layout: AdapterShape):
        super().__init__(config, backend, text)
        self.base, self.layout = weights, layout
        self.weights = initial_factors(layout, self.config.seed)
        self.master = self.weights.astype(np.int16) << MASTER_BITS
        self.prepare()  # a backend that knows no adapters says so before anything is written

    @property
    def adapter(self) -> Adapter:
        """The adapter as it is now."""
        return Adapter(self.layout, self.weights)

    def prepare(self):
        """The model with the adapter, as the backend wants it."""
        return self.backend.prepare(self.shape, self.base, self.adapter)

    def cast(self, *arguments, **settings):
        """Votes on the adapter's factors."""
        return self.backend.cast_adapter_votes(*arguments, **settings)

    def multipliers(self) -> np.ndarray:
        """What votes are multiplied by, one for each factor."""
        return adapter_multipliers(self.layout, self.step_size(), self.config.population_size)


class FineTuning(Evolution):
    """All weights in training, as in pretraining, from a model's instead of random ones.

    weights : (parameters,) int8, the model's
    """

    def __init__(self, config, backend: Backend, text, weights: np.ndarray):
        super().__init__(config, backend, text)
        self.weights = weights.copy()
        self.master = weights.astype(np.int16) << MASTER_BITS


def adapting(
    member_tokens: int,
    *,
    full: bool,
    step_size: float | None = None,
    sigma_shift: int | None = None,
    **settings,
) -> EvolutionConfig:
    """How an adapter evolves, or all weights do: the recipe of pretraining, the step falling to the end.

    full : all weights
    step_size : in int8 steps; None: chosen from the horizon
    sigma_shift : size of the perturbation; None: 3, or pretraining's for all weights
    settings : other fields of ``EvolutionConfig``
    """
    if step_size is None and not full:
        step_size = adapter_step_size(max(1, member_tokens)) / (1 << STEP_BITS)
    if sigma_shift is None and not full:
        sigma_shift = SIGMA_SHIFT
    return EvolutionConfig(
        schedule_tokens=member_tokens, step_size=step_size, sigma_shift=sigma_shift, **settings
    )


@dataclass(frozen=True)
class Adaptation:
    """What came of adapting."""

    curve: list[tuple[int, float]]
    """(member-tokens, bits per byte) on the validation text, from (0, before) to (all, after)."""
    evolved: int
    """Parameters that evolved."""
    weights: np.ndarray
    """(parameters,) int8: the model's, as they were given if an adapter evolved."""
    adapter: Adapter | None
    """None if all weights evolved."""

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
    tensors: str = ALL_TENSORS,
    member_tokens: int,
    seed: int = 0,
    measurements: int = 10,
    stepped: Callable[[StepReport], None] = lambda report: None,
    **settings,
) -> Adaptation:
    """Adapt a model to a text, without a folder: what ``egg adapt`` does, byte for byte.

    weights : (parameters,) int8
    text : to adapt to
    validation : (n,) uint8, a NUL before each document: what bits per byte are of
    rank : of the adapter, 1 to 16; None: all weights evolve
    tensors : matrices that are adapted, see ``egg.adapter.matrices_of``
    measurements : points of the curve after its first
    stepped : is told of every step; what it raises ends the adapting
    settings : other fields of ``EvolutionConfig``
    Raises EggError for a rank, tensors or settings that cannot be.
    """
    evolving = adapting(member_tokens, full=rank is None, seed=seed, **settings)
    config = Config("adapt", ModelConfig(shape.hidden_size, shape.num_layers), evolving)
    steps = member_tokens // config.tokens_per_step
    if steps < 1:
        raise EggError(f"{member_tokens:,} member-tokens: a step takes {config.tokens_per_step:,}")
    evolution: Evolution
    if rank is None:
        evolution = FineTuning(config, backend, text, weights)
    else:
        layout = adapter_shape(shape, rank, tensors)
        evolution = AdapterEvolution(config, backend, text, weights, layout)
    curve = [(0, evaluate(backend, shape, weights, validation).bits_per_byte)]
    every = max(1, steps // measurements)
    for step in range(1, steps + 1):
        stepped(evolution.step())
        if step == steps or (step % every == 0 and steps - step >= every):
            curve.append((evolution.member_tokens, measured(evolution, validation).bits_per_byte))
    if rank is None:
        return Adaptation(curve, shape.parameters, evolution.weights, None)
    return Adaptation(curve, evolution.layout.parameters, weights, evolution.adapter)


def measured(evolution: Evolution, validation: np.ndarray) -> Evaluation:
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
        try:
            checkpoint.replace_file(path, file_bytes(e.adapter, base_hash(e.shape, e.base)))
        except OSError as error:
            raise EggError(f"cannot write {path}: {error.strerror or error}") from error
