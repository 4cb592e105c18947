"""Adapting a frozen model to a text: the evolution of recipe ``egg`` over the factors of an adapter, and its loop."""

import numpy as np

from egg import checkpoint
from egg.adapter import ADAPTER, base_hash, file_bytes, initial_factors
from egg.errors import EggError
from egg.evaluate import Evaluation, evaluate
from egg.evolution import Evolution
from egg.optimizer import adapter_multipliers
from egg.runlog import RunLog
from egg.trainer import Trainer
from kernels import Adapter, AdapterShape
from kernels.arithmetic import MASTER_BITS
from kernels.backend import Backend


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


def fine_tune(evolution: Evolution, weights: np.ndarray) -> None:
    """Let a fresh evolution of all weights begin with these instead of random ones.

    weights : (parameters,) int8
    """
    evolution.weights = weights.copy()
    evolution.master = weights.astype(np.int16) << MASTER_BITS


class AdapterTrainer(Trainer):
    """Trains an adapter in a folder: config.json, metrics.jsonl, and the adapter as it is at every save."""

    evolution: AdapterEvolution

    def _evaluate(self) -> Evaluation:
        e = self.evolution
        return evaluate(e.backend, e.shape, e.base, self.validation, adapter=e.adapter)

    def _settings(self) -> dict[str, bytes]:
        return {checkpoint.CONFIG: checkpoint.json_bytes(self.content)}

    def _save(self, log: RunLog | None) -> None:
        log.flush()
        e, path = self.evolution, self.run_folder / ADAPTER
        try:
            checkpoint.replace_file(path, file_bytes(e.adapter, base_hash(e.shape, e.base)))
        except OSError as error:
            raise EggError(f"cannot write {path}: {error.strerror or error}") from error
