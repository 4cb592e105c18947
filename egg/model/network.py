"""A trained model that reads text: ``egg.load``, and the value that represents it everywhere, ``Network``."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np

from egg.config import VOCABULARY, model_from_json, tokens_of_a_step
from egg.errors import EggError, telling
from egg.files import replace_file
from egg.kernels import Adapter, Backend, Choice, Shape, get_backend
from egg.kernels.values import ArrayValue
from egg.model import checkpoint, hub
from egg.model.adapter import ADAPTER, base_hash, file_bytes, merge, read_adapter
from egg.model.endings import score_texts
from egg.model.evaluate import FRACTION_BITS, DocumentScore, evaluate
from egg.model.sample import Sampling, generate, text_bytes

TextLike: TypeAlias = str | bytes | np.ndarray
"""What a network reads. A str (as UTF-8) or bytes is a document: the NUL that begins every document is read before it,
and a NUL inside begins another document. A (T,) uint8 array is read as it is, from state zero; a 0 in it resets the
state, and the array should begin with one, as the documents that models are trained on do."""
TextList: TypeAlias = list[str] | list[bytes] | list[np.ndarray] | list[TextLike] | tuple[TextLike, ...]
"""Texts that are read side by side, each from state zero."""


@dataclass(frozen=True, eq=False)
class Network(ArrayValue):
    """A model's weights, an optional adapter, and the backend that computes with them.

    Networks are equal if shape, weights and adapter are, whatever their backends, and then have equal hashes. A
    network caches what its backend makes of the weights, so do not write to them: make another network.

    >>> network = egg.load("runs/nano", backend="numpy")
    >>> network
    Network(shape=Shape(hidden_size=16, num_layers=1))
    >>> network == egg.load("runs/nano") and network in {network}
    True
    """

    backend: Backend = field(repr=False, compare=False)
    """Results do not depend on which."""
    shape: Shape
    """Hidden size D, layers L, and the layout of the tensors."""
    weights: np.ndarray = field(repr=False)
    """(parameters,) int8; ``shape.views(weights)`` gives them by name."""
    adapter: Adapter | None = field(default=None, repr=False)
    """Low-rank factors beside the weights, as ``egg adapt`` makes them."""

    # For the rest of the program

    @cached_property
    def prepared(self) -> Any:
        """The model in the form that the backend's other calls take.

        Raises egg.kernels.BackendError for an adapter, if the backend has none.
        """
        return self.backend.prepare(self.shape, self.weights, self.adapter)

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}  # ``prepared`` holds addresses: it is not pickled

    def forward(self, tokens: np.ndarray, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read sequences side by side, as ``egg.kernels.Backend.forward``.

        tokens : (sequences, T) uint8, T at least 1; a 0 resets the state before it is read
        states : (sequences, L, D) int8
        returns : logits (sequences, T, 256) int8 in sixteenths of a bit, and the states after, as ``states``

        >>> logits, states = network.forward(np.zeros((3, 1), np.uint8), network.zero_states(3))
        >>> logits.shape, states.shape
        ((3, 1, 256), (3, 1, 16))
        """
        return self.backend.forward(self.prepared, tokens, states)

    def write(
        self, logits: np.ndarray, states: np.ndarray, numbers: np.ndarray, positions: range, choice: Choice
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw bytes side by side, as ``egg.kernels.Backend.write``; ``generate`` is the convenient form.

        logits : (sequences, 256) int8 after the bytes before
        states : (sequences, L, D) int8
        numbers : (sequences,) int64, the samples' numbers
        positions : of the bytes to draw
        choice : how they are drawn
        returns : the bytes (sequences, positions) uint8, and logits and states after the last of them

        >>> logits, states = network.forward(np.zeros((3, 1), np.uint8), network.zero_states(3))
        >>> network.write(logits[:, 0], states, np.arange(3), range(5), egg.kernels.Choice(None))[0].shape
        (3, 5)
        """
        return self.backend.write(self.prepared, logits, states, numbers, positions, choice)

    def zero_states(self, sequences: int) -> np.ndarray:
        """(sequences, L, D) int8: state zero, before anything is read."""
        return np.zeros((sequences, self.shape.num_layers, self.shape.hidden_size), np.int8)

    # For use from Python

    def logits(self, text: TextLike) -> np.ndarray:
        """The model's prediction after each byte that it reads, from state zero.

        text : T bytes are read: a str's or bytes' own and the NUL before them, a (T,) uint8 array's own only, see
            ``TextLike``
        returns : (T, 256) int8, row t after byte t, in sixteenths of a bit: the probability of byte v is
            2**(logits[t, v] / 16) over the row's sum of such powers. For a str or bytes row 0 predicts its first
            byte, and the last row the byte after it
        Raises EggError for any other text.
        Source: arXiv 2511.16652 v2, appendix G; docs/arithmetic.md.

        >>> network.logits("text").shape
        (5, 256)
        >>> tokens = np.frombuffer(b"\\0text", np.uint8)
        >>> np.array_equal(network.logits(tokens), network.logits("text"))
        True
        """
        tokens = _tokens(text)
        if not tokens.size:
            return np.zeros((0, VOCABULARY), np.int8)
        return self.forward(tokens[None], self.zero_states(1))[0][0]

    @overload
    def scores(self, text: TextLike) -> np.ndarray: ...
    @overload
    def scores(self, text: TextList) -> list[np.ndarray]: ...
    def scores(self, text):
        """The integer log-likelihood of each byte given those before it.

        text : as for ``logits``, an array of at least one byte; or a list of such texts, read side by side, which is
            faster and gives the same
        returns : (T - 1,) int32 in sixteenths of a bit, entry t for byte t + 1 of those read, so one entry for each
            byte of a str or bytes; at most 0 but for the tables' rounding, about 0.03 bits too high on average. For a
            list, a list
        Raises EggError for any other text, or an empty array.
        Source: arXiv 2511.16652 v2, appendix G; docs/arithmetic.md.

        >>> network.scores(b"text").shape
        (4,)
        >>> [scores.shape for scores in network.scores(["a", "few", "documents"])]
        [(1,), (3,), (9,)]
        """
        texts = [_tokens(each) for each in _as_list(text)]
        if not all(tokens.size for tokens in texts):
            raise EggError("no tokens: scores need at least one byte")
        found = score_texts(self, texts)
        return found if _is_list(text) else found[0]

    @overload
    def bits_per_byte(self, text: TextLike) -> float: ...
    @overload
    def bits_per_byte(self, text: TextList) -> list[float]: ...
    def bits_per_byte(self, text):
        """Mean of -log2 of the probability of each byte, exactly as ``egg eval`` measures it.

        text : a str or bytes, a document; a (n,) uint8 array of documents, a 0 before each; or a list of such texts,
            read side by side. The NULs before documents are not predicted, and not counted
        returns : float64 bits, 8 being a uniform guess: equal on every backend, to the last digit, whatever else is
            read beside it. For a list, a list
        Raises EggError for any other text, an array that does not begin with a 0, or a text without a byte to
        predict.
        Source: docs/evaluation.md.

        >>> one, other = network.bits_per_byte(["a document", "another"])
        >>> one == network.bits_per_byte("a document"), 0 < other < 24
        (True, True)
        """
        texts = [_tokens(each) for each in _as_list(text)]
        for tokens in texts:
            if not tokens.any():
                raise EggError("the text has no byte to predict: its documents are empty")
            if tokens[0]:
                raise EggError("the array does not begin with a 0, as every document does: add one, or give bytes")
        if not texts:
            return []
        documents: list[DocumentScore] = []
        evaluate(self, np.concatenate(texts), scored=documents.append)
        scored, found = iter(documents), []
        for tokens in texts:
            own = [next(scored) for _ in range(np.count_nonzero(tokens == 0))]
            size = sum(d.bytes for d in own)
            found.append(sum(d.surprise for d in own) / (size << FRACTION_BITS))
        return found if _is_list(text) else found[0]

    def hidden_states(self, text: TextLike) -> np.ndarray:
        """The recurrent state of every layer after each byte that the model reads, from state zero.

        text : T bytes are read, as for ``logits``: for a str or bytes row 0 is the state after the NUL before it
        returns : (T, L, D) int8, the h of docs/arithmetic.md, in -127..127. It is read byte after byte: ``egg
            geometry`` is for long texts
        Raises EggError for anything but a text.

        >>> network.hidden_states("text").shape
        (5, 1, 16)
        """
        tokens, state = _tokens(text), self.zero_states(1)
        found = np.empty((tokens.size, *state.shape[1:]), np.int8)
        for at in range(tokens.size):
            _, state = self.forward(tokens[None, at : at + 1], state)
            found[at] = state[0]
        return found

    def state(self) -> np.ndarray:
        """(L, D) int8: the state where a document begins, its NUL already read; for ``step``."""
        return self.forward(np.zeros((1, 1), np.uint8), self.zero_states(1))[1][0]

    def step(self, data: int | TextLike, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Continue from a state: pieces of a text give the logits that ``logits`` gives for the whole.

        data : a byte as an integer, 0 to 255; or several, as a str (read as UTF-8), bytes or (T,) uint8, read without
            a NUL before them
        state : (L, D) int8, from ``state()`` or an earlier step; it is not written to
        returns : logits int8 in sixteenths of a bit after each byte, (256,) for an integer and (T, 256) for several
            bytes, and the state after the last, (L, D) int8
        Raises EggError for other data, or a state of another shape or dtype.

        >>> state = network.state()
        >>> first, state = network.step("te", state)
        >>> second, state = network.step(ord("x"), state)
        >>> whole = network.logits("tex")
        >>> np.array_equal(whole[1:3], first) and np.array_equal(whole[3], second)
        True
        """
        state, expected = np.asarray(state), (self.shape.num_layers, self.shape.hidden_size)
        if state.dtype != np.int8 or state.shape != expected:
            raise EggError(
                f"the state is {state.dtype}{list(state.shape)}, this model's are int8{list(expected)}: "
                "begin with network.state()"
            )
        one = isinstance(data, int | np.integer)
        if one and not 0 <= data < VOCABULARY:
            raise EggError(f"byte {data}: must be 0 to 255")
        tokens = np.array([data], np.uint8) if one else _own_bytes(data)
        if not tokens.size:
            return np.zeros((0, VOCABULARY), np.int8), state
        logits, states = self.forward(tokens[None], state[None])
        return (logits[0, 0] if one else logits[0]), states[0]

    def generate(
        self,
        prompt: TextLike,
        length: int,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        stop: str | bytes | Sequence[str | bytes] = (),
        seed: int = 0,
        count: int = 1,
    ) -> list[bytes]:
        """Continuations of a prompt, drawn byte by byte with integers alone.

        prompt : read from state zero as the beginning of a document: a NUL is read before it, also before an array
            that does not begin with one; may be empty. A NUL inside begins another document
        length : bytes of a sample, 1 to 2**32; it ends earlier where the model draws a NUL, the end of the document
        temperature : logits are divided by it, rounded to 1/256; 0 takes the likeliest byte, the lowest of equals
        top_k : draw from the k likeliest bytes only, 1 to 256; 0 for all
        top_p : draw from the fewest likeliest bytes whose share of the probability is this, above 0 to 1, rounded to
            1/65536; 1 for all. The share is that of the k likeliest, if there is a top_k
        stop : texts, each of which ends a sample and is left out
        seed : seed of the draws, 0 to 2**64 - 1
        count : samples, 1 to 2**32, side by side; a model reads a byte for many almost as fast as for one
        returns : ``count`` samples without the prompt, the stop and the NUL, each 0 to ``length`` bytes, which need not
            be valid UTF-8: ``.decode(errors="replace")``
        Equal arguments give equal bytes on every backend and machine; sample i does not depend on
        ``count``, and a longer ``length`` only appends to it.
        Raises EggError, one line, for an argument out of its range.
        Source: docs/arithmetic.md, "Sampling".

        >>> texts = network.generate("def ", 20, temperature=0.8, seed=1, count=4)
        >>> len(texts), texts == network.generate(b"def ", 20, temperature=0.8, seed=1, count=4)
        (4, True)
        """
        stops = (stop,) if isinstance(stop, str | bytes) else tuple(stop)
        sampling = Sampling(length, temperature, top_k, top_p, stops, seed, count)
        prompt = _checked(prompt).tobytes() if isinstance(prompt, np.ndarray) else text_bytes(prompt)
        return generate(self, prompt, sampling)

    def with_adapter(self, adapter: Adapter | str | Path | None) -> "Network":
        """The network with another adapter, or with none.

        adapter : adapter.safetensors of ``egg adapt``, or its folder; or an Adapter for this shape
        Raises EggError, one line, for an adapter that is missing, damaged, or of another model.

        >>> adapted = network.with_adapter("runs/letters")
        >>> adapted == egg.load("runs/nano", adapter="runs/letters"), adapted == network
        (True, False)
        >>> adapted.with_adapter(None) == network
        True
        """
        if isinstance(adapter, str | Path):
            adapter = read_adapter(adapter, self.shape, self.weights)
        if adapter is not None and adapter.shape.base != self.shape:
            raise EggError(f"the adapter is for {adapter.shape.base}, this model is {self.shape}: give one of its own")
        return replace(self, adapter=adapter)

    def merged(self) -> "Network":
        """The network with its adapter merged into the weights: an approximation, see docs/adapting.md.

        >>> adapted.merged().adapter is None
        True
        """
        if self.adapter is None:
            return self
        return Network(self.backend, self.shape, merge(self.weights, self.adapter))

    def save(self, folder: str | Path) -> None:
        """Write a folder that ``load`` and every command read: model.safetensors and config.json.

        folder : made if it does not exist; files of these names in it are replaced. An adapter is written too, as
            adapter.safetensors: ``load(folder, adapter=folder)``
        Raises EggError, one line, if it cannot be written.

        >>> adapted.save("copy")
        >>> egg.load("copy") == network, egg.load("copy", adapter="copy") == adapted
        (True, True)
        """
        folder, shape = Path(folder), self.shape
        sizes = {"hidden_size": shape.hidden_size, "num_layers": shape.num_layers, "vocab_size": VOCABULARY}
        checkpoint.write_model(folder, {"model": sizes}, shape, self.weights)
        if self.adapter is not None:
            with telling(f"cannot write {folder}"):
                replace_file(folder / ADAPTER, file_bytes(self.adapter, base_hash(shape, self.weights)))


def load(
    path: str | Path,
    backend: str = "auto",
    threads: int | None = None,
    device: int | None = None,
    *,
    adapter: Adapter | str | Path | None = None,
) -> Network:
    """The model in a folder.

    path : a run (its newest checkpoint), RUN/best, a checkpoint, or any folder with a model.safetensors and a
        config.json that holds ``{"model": {"hidden_size": D, "num_layers": L, "vocab_size": 256}}``; or
        OWNER/NAME, a model on the Hugging Face Hub; or "pretrained", the model that comes with egg
    backend : "auto" (NumPy for some thousand bytes, after them the fastest available, which may have to be compiled
        first), "numpy", "numba" or "cupy"; results do not depend on it
    threads : threads of a CPU backend; None for as many as the process may use
    device : number of backend cupy's GPU; None for the first
    adapter : as for ``Network.with_adapter``
    Raises EggError for a folder that holds no such model, or an adapter of another; egg.kernels.BackendError for a
        backend that is not available.

    >>> network = egg.load("runs/nano/best")
    >>> network.weights.dtype, network.weights.size == network.shape.parameters
    (dtype('int8'), True)
    """
    shape, weights, _ = read_model(path)
    network = Network(get_backend(backend, threads=threads, device=device, tiered=True), shape, weights)
    return network if adapter is None else network.with_adapter(adapter)


def read_model(path: str | Path) -> tuple[Shape, np.ndarray, dict[str, Any]]:
    """A folder's model without a backend: shape, (parameters,) int8, and the content of config.json.

    path : as for ``load``
    """
    folder = checkpoint.find(hub.fetch(path))
    config = checkpoint.read_config(folder)
    shape = model_from_json(config, str(folder / checkpoint.CONFIG)).shape
    return shape, checkpoint.read_weights(folder, shape), config


def trained_for(path: str | Path, config: dict[str, Any]) -> int | None:
    """Tokens that a checkpoint of a run was trained for; None where its name or configuration does not say.

    path : as for ``load``
    config : the content of its config.json
    """
    try:
        step = checkpoint.step_of(checkpoint.find(hub.fetch(path)))
        return step * tokens_of_a_step(config, checkpoint.CONFIG)
    except EggError:
        return None


def _is_list(text) -> bool:
    return isinstance(text, list | tuple)


def _as_list(text) -> TextList:
    return text if _is_list(text) else [text]


def _tokens(text: TextLike) -> np.ndarray:
    """(T,) uint8: the bytes to read for a text from state zero, see ``TextLike``."""
    tokens = _own_bytes(text)
    return tokens if isinstance(text, np.ndarray) else np.concatenate([np.zeros(1, np.uint8), tokens])


def _own_bytes(text: TextLike) -> np.ndarray:
    """(T,) uint8: a text's own bytes, without a NUL before them."""
    if isinstance(text, np.ndarray):
        return _checked(text)
    if isinstance(text, str | bytes | bytearray | memoryview):
        return np.frombuffer(text_bytes(text, "text"), np.uint8)
    raise EggError(f"the text is of type {type(text).__name__}: a str, bytes or a (T,) uint8 array is needed")


def _checked(tokens: np.ndarray) -> np.ndarray:
    if tokens.dtype != np.uint8 or tokens.ndim != 1:
        raise EggError(
            f"tokens are {tokens.dtype}{list(tokens.shape)}: a (T,) uint8 array is needed, "
            "np.frombuffer(bytes, np.uint8), or bytes, or a str"
        )
    return np.ascontiguousarray(tokens)
