"""Adapting a model to a text: recipe ``egg`` over an adapter's factors, or over weights themselves, and its loop."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from egg.config import ADAPT, Config, EvolutionConfig, ModelConfig
from egg.errors import EggError, telling
from egg.evolution.base import StepReport, Text
from egg.evolution.branches import BranchEvolution
from egg.evolution.subspace import SubspaceEvolution
from egg.files import replace_file
from egg.kernels import Adapter, AdapterShape, Backend, BackendError, Shape
from egg.kernels.backend import Votes, fetch
from egg.kernels.layout import SubspaceShape
from egg.kernels.values import ArrayValue
from egg.model import checkpoint, hub
from egg.model.adapter import (
    ADAPTER,
    ALL,
    adapter_shape,
    base_hash,
    file_bytes,
    initial_factors,
    tensors_of,
    voted_parameters,
    voted_tensors,
)
from egg.model.evaluate import evaluate
from egg.model.network import Network
from egg.model.parameters import initial_weights
from egg.run.compiling import SMALL, SmallText, calls_of, compile_kernels, compile_recipe, measure, small_config
from egg.run.log import RunLog
from egg.run.progress import Progress
from egg.run.trainer import Trainer

ADAPTED = "gru,w_down,head"
"""The matrices that an adapter to a text has factors for by default: those that have votes."""


class AdapterEvolution(BranchEvolution):
    """An adapter in training; ``weights`` are its factors, ``base`` is the frozen model.

    config : an object with ``model`` and ``evolution``, of recipe egg with credit wire, see egg.config
    Raises EggError for credit stations.
    """

    def __init__(self, config, base: Network, text: Text, layout: AdapterShape):
        if config.evolution.credit != "wire":
            raise EggError("credit stations: an adapter's factors learn with credit wire, or choose all weights")
        super().__init__(config, base.backend, text)
        self.base, self.layout = base, layout
        self.begin_from(initial_factors(layout, self.config.seed))
        _ = self.network.prepared  # a backend without adapters raises before anything is written

    @property
    def network(self) -> Network:
        """The model with the adapter as it is now."""
        return self.base.with_adapter(Adapter(self.layout, self.weights))


class FineTuning(BranchEvolution):
    """Weights in training, as in pretraining, starting from a model's instead of random ones.

    tensors : names of those that move; votes on the others are zeroed
    """

    def __init__(self, config, base: Network, text: Text, tensors: Collection[str]):
        super().__init__(config, base.backend, text)
        self.begin_from(base.weights)
        self.frozen = [t.slice for name, t in self.shape.tensors.items() if name not in tensors]

    def _cast(self, *arguments) -> Votes:
        cast = super()._cast(*arguments)
        if not self.frozen:
            return cast
        votes = fetch(self.backend, cast.votes)
        for place in self.frozen:
            votes[place] = 0
        return replace(cast, votes=votes)


@dataclass(frozen=True)
class Subspace:
    """The part of a model that evolves while the rest is frozen."""

    rank: int | None
    """Of the factors beside each matrix, 1 to 16; None: the tensors themselves evolve."""
    tensors: str
    """Kinds or names of tensors, separated by commas, or ALL: see ``tensors_of`` and ``matrices_of``."""
    dimensions: int | None = None
    """Of a random subspace of all tensors; None: no random one."""

    @property
    def name(self) -> str:
        """The subspace's name in tables."""
        if self.dimensions is not None:
            return f"random {self.dimensions}"
        return f"{'whole' if self.rank is None else f'rank {self.rank}'} {self.tensors}"

    @property
    def family(self) -> str:
        """random, or chosen: by matrix or tensor."""
        return "chosen" if self.dimensions is None else "random"

    def layout(self, shape: Shape) -> AdapterShape | None:
        """The factors' layout, None where tensors evolve; raises EggError for a model that has no such subspace."""
        return None if self.rank is None else adapter_shape(shape, self.rank, self.tensors)

    def parameters(self, shape: Shape) -> int:
        """Number of parameters that evolve; raises EggError for a model that has no such subspace."""
        if self.dimensions is not None:
            return random_layout(shape, self.dimensions).parameters
        layout = self.layout(shape)
        return voted_parameters(shape, tensors_of(shape, self.tensors)) if layout is None else voted_parameters(layout)

    def evolution(self, config: Config, base: Network, text: Text) -> BranchEvolution:
        """An evolution within it that begins with the model as it is; raises EggError for a model without it."""
        if base.adapter is not None:
            raise EggError("the model has an adapter already: merge it into the weights first (egg adapt merge)")
        if self.dimensions is not None:
            places = [np.arange(t.offset, t.offset + t.size) for t in voted_tensors(base.shape)]
            layout = random_layout(base.shape, self.dimensions)
            return SubspaceEvolution(config, base, text, np.concatenate(places), layout)
        layout = self.layout(base.shape)
        if layout is None:
            return FineTuning(config, base, text, tensors_of(base.shape, self.tensors))
        return AdapterEvolution(config, base, text, layout)

    def compile(self, config: Config, backend: Backend, progress: Progress) -> None:
        """Compile what its evolution and measurements need, and show that: see ``egg.run.compiling``."""
        if self.rank is None:
            compile_recipe(config, backend, progress)
            return
        base, calls = small_network(backend), calls_of(config)

        def work() -> None:
            measure(base, ())
            made = Subspace(1, ADAPTED).evolution(small_config(config), base, SmallText())
            made.step()
            measure(made.network, calls)

        compile_kernels(backend, progress, calls, {"stations"}, work)


ALL_WEIGHTS = Subspace(None, ALL)


def small_network(backend: Backend) -> Network:
    """A model of the smallest shape, to compile with."""
    return Network(backend, SMALL.shape, initial_weights(SMALL.shape, 0, "egg"))


def random_subspace(dimensions: int) -> Subspace:
    """A random subspace of all weights that have votes; raises EggError for dimensions that are no power of two."""
    try:
        return Subspace(None, ALL, SubspaceShape(dimensions).parameters)
    except BackendError as error:
        raise EggError(str(error)) from error


def random_layout(shape: Shape, dimensions: int) -> SubspaceShape:
    """The coordinates of a random subspace; raises EggError for a number of dimensions that a model does not have."""
    random_subspace(dimensions)
    if dimensions > (most := voted_parameters(shape)):
        raise EggError(f"{dimensions} dimensions: a text has votes on {most:,} weights of the model, choose fewer")
    return SubspaceShape(dimensions)


def origin(path: str | Path, base: Network, layout: AdapterShape | None) -> dict[str, Any]:
    """The origin of an adaptation, as config.json records it.

    path : the base, as ``egg.load`` takes it
    layout : the adapter's layout; None if all weights evolve
    """
    return {
        "rank": "full" if layout is None else layout.rank,
        "matrices": None if layout is None else list(layout.matrices),
        "checkpoint": str(checkpoint.find(hub.fetch(path)).absolute()),
        "base": base_hash(base.shape, base.weights),
    }


@dataclass(frozen=True, eq=False)
class Adaptation(ArrayValue):
    """The result of adapting."""

    curve: list[tuple[int, float]]
    """(tokens, bits per byte) on the validation text, from (0, before) to (all, after)."""
    evolved: int
    """Parameters that evolved."""
    network: Network
    """The adapted model: the given weights with an adapter, or other weights."""

    @property
    def before(self) -> float:
        """Bits per byte of the model before adapting."""
        return self.curve[0][1]

    @property
    def after(self) -> float:
        """Bits per byte of the adapted model."""
        return self.curve[-1][1]


def adapt(
    network: Network,
    text: Text,
    validation: np.ndarray,
    *,
    rank: int | None,
    tensors: str | None = None,
    dimensions: int | None = None,
    tokens: int,
    step_factor: float = 1.0,
    measurements: int = 10,
    stepped: Callable[[StepReport], None] = lambda report: None,
    **settings,
) -> Adaptation:
    """Adapt a model to a text as ``egg adapt`` does, byte for byte, but without a folder.

    text : to adapt to
    validation : (n,) uint8, a NUL before each document: the text that bits per byte are measured on
    rank : rank of the adapter, 1 to 16; None: weights evolve
    tensors : matrices that are adapted, or tensors that evolve, see ``Subspace``; None: all that have votes
    dimensions : of a random subspace instead, a power of two; None: not in one
    tokens : bytes of text to read
    step_factor : factor of the step size that is chosen from the tokens
    measurements : points of the curve after its first
    stepped : called with the report of every step; an exception it raises ends the adaptation
    settings : other fields of ``EvolutionConfig``
    Raises EggError for an invalid rank, tensors or settings.
    """
    settings, shape = EvolutionConfig(schedule_tokens=tokens, **settings), network.shape
    config = Config(ADAPT, ModelConfig(shape.hidden_size, shape.num_layers), settings).resolved()
    step_size = step_factor * config.evolution.step_size
    config = replace(config, evolution=replace(config.evolution, step_size=step_size))
    steps = tokens // config.tokens_per_step
    if steps < 1:
        raise EggError(f"{tokens:,} tokens: a step takes {config.tokens_per_step:,}")
    subspace = Subspace(rank, tensors or (ALL if rank is None else ADAPTED), dimensions)
    evolved, evolution = subspace.parameters(shape), subspace.evolution(config, network, text)
    curve = [(0, evaluate(network, validation).bits_per_byte)]
    every = max(1, steps // measurements)
    for step in range(1, steps + 1):
        stepped(evolution.step())
        if step == steps or (step % every == 0 and steps - step >= every):
            curve.append((evolution.tokens, evaluate(evolution.network, validation).bits_per_byte))
    return Adaptation(curve, evolved, evolution.network)


class AdapterTrainer(Trainer):
    """Trains an adapter in a folder: config.json, metrics.jsonl, and the adapter at every save."""

    def _settings(self) -> dict[str, bytes]:
        return {checkpoint.CONFIG: checkpoint.json_bytes(self.content)}

    def _save(self, log: RunLog | None) -> None:
        log.flush()
        network, path = self.evolution.network, self.run_folder / ADAPTER
        with telling(f"cannot write {path}"):
            replace_file(path, file_bytes(network.adapter, base_hash(network.shape, network.weights)))
