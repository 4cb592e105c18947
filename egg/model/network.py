"""A trained model to read text with: ``egg.load``."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from egg.config import model_from_json, tokens_of_a_step
from egg.errors import EggError
from egg.kernels import Backend, Shape, get_backend
from egg.kernels.reference import scores
from egg.model import checkpoint, hub
from egg.model.sample import Sampling, generate, prompt_bytes


@dataclass(frozen=True)
class Model:
    """Unperturbed weights and the backend that computes with them."""

    shape: Shape
    """Hidden size, layers, and the tensors' places."""
    weights: np.ndarray = field(repr=False)
    """(parameters,) int8; ``shape.views(weights)`` has them by name."""
    backend: Backend = field(repr=False)
    """Results do not depend on which."""

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """What the model expects after each byte, read from state zero.

        tokens : (T,) uint8; a 0 separates documents and resets the state, so begin with one
        returns : (T, 256) int8, row t after byte t, in sixteenths of a bit: the probability of
            byte v is 2**(logits[t, v] / 16) over the row's sum of such powers
        Raises EggError for tokens of another shape or dtype.
        Source: arXiv 2511.16652 v2, appendix G; docs/arithmetic.md.
        """
        tokens = _checked(tokens)
        states = np.zeros((1, self.shape.num_layers, self.shape.hidden_size), np.int8)
        if not tokens.size:
            return np.zeros((0, 256), np.int8)
        model = self.backend.prepare(self.shape, self.weights)
        return self.backend.forward(model, tokens[None], states)[0][0]

    def scores(self, tokens: np.ndarray) -> np.ndarray:
        """The integer log-likelihood of each byte given those before it.

        tokens : (T,) uint8, as for ``logits``; T is at least 1
        returns : (T - 1,) int32 in sixteenths of a bit, entry t that of byte t + 1; at most 0 but
            for the tables' rounding, about 0.03 bits too good on average
        Raises EggError for tokens of another shape or dtype, or none at all.
        Source: arXiv 2511.16652 v2, appendix G; docs/arithmetic.md.
        """
        tokens = _checked(tokens)
        if not tokens.size:
            raise EggError("no tokens: scores need at least one byte")
        return scores(self.logits(tokens[:-1]), tokens[1:])

    def generate(
        self,
        prompt: bytes | str,
        length: int,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        seed: int = 0,
        count: int = 1,
    ) -> list[bytes]:
        """Text that goes on from a prompt, drawn byte by byte with integers alone.

        prompt : read from state zero as the beginning of a document (a NUL is read before it); of a
            str its UTF-8; may be empty. A NUL inside begins another document
        length : bytes of a sample, 1 to 2**32; it ends earlier where the model draws a NUL, the end of
            the document
        temperature : logits are divided by it, rounded to 1/256; 0 takes the likeliest byte, the
            lowest of equals
        top_k : only the k likeliest bytes are drawn, 1 to 256; 0 is all
        seed : of the draws, 0 to 2**64 - 1
        count : samples, 1 to 2**32, side by side; a model reads a byte for many almost as fast as for one
        returns : ``count`` samples without the prompt and without the NUL, each 0 to ``length`` bytes,
            which need not be whole UTF-8: ``.decode(errors="replace")``
        Equal arguments give equal bytes on every backend and machine; sample i does not depend on
        ``count``, and a longer ``length`` only appends to it.
        Raises EggError, one line, for an argument out of its range.
        Source: docs/arithmetic.md, "Sampling".
        """
        sampling = Sampling(length, temperature, top_k, seed, count)
        return generate(self.backend, self.shape, self.weights, prompt_bytes(prompt), sampling)


def load(path: str | Path, backend: str = "auto", threads: int | None = None, device: int | None = None) -> Model:
    """The model in a folder.

    path : a run (its newest checkpoint), RUN/best, a checkpoint, or any folder with a model.safetensors and a
        config.json that holds ``{"model": {"hidden_size": D, "num_layers": L, "vocab_size": 256}}``; or
        OWNER/NAME, a model on the Hugging Face Hub
    backend : "auto" (the fastest there is), "numpy", "numba" or "cupy"; results do not depend on it
    threads : of a CPU backend; None is as many as the process may use
    device : number of backend cupy's GPU; None is the first
    Raises EggError for a folder that holds no such model, egg.kernels.BackendError for a backend that is
        not there.
    """
    shape, weights, _ = read_model(path)
    return Model(shape, weights, get_backend(backend, threads=threads, device=device))


def read_model(path: str | Path) -> tuple[Shape, np.ndarray, dict[str, Any]]:
    """A folder's model without a backend: shape, (parameters,) int8, and what config.json holds.

    path : as for ``load``
    """
    folder = checkpoint.find(hub.fetch(path))
    config = checkpoint.read_config(folder)
    shape = model_from_json(config, str(folder / checkpoint.CONFIG)).shape
    return shape, checkpoint.read_weights(folder, shape), config


def trained_for(path: str | Path, config: dict[str, Any]) -> int | None:
    """Tokens that a checkpoint of a run was trained for; None where its name or configuration does not tell.

    path : as for ``load``
    config : what its config.json holds
    """
    try:
        step = checkpoint.step_of(checkpoint.find(hub.fetch(path)))
        return step * tokens_of_a_step(config, checkpoint.CONFIG)
    except EggError:
        return None


def _checked(tokens: np.ndarray) -> np.ndarray:
    tokens = np.asarray(tokens)
    if tokens.dtype != np.uint8 or tokens.ndim != 1:
        raise EggError(
            f"tokens are {tokens.dtype}{list(tokens.shape)}: a (T,) uint8 array is needed, "
            "np.frombuffer(bytes, np.uint8)"
        )
    return np.ascontiguousarray(tokens)
