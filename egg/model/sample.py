"""Text from a model: bytes drawn one after another, with integers alone; docs/arithmetic.md, "Sampling".

A small model reads a byte in the time of a few dozen NumPy calls: hence samples side by side, random words for many
positions at once, and weights from a table.
"""

import math
import operator
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np

from egg.errors import EggError
from egg.kernels import philox
from egg.kernels.arithmetic import FINE, VOCABULARY, round_div, sampling_weights

if TYPE_CHECKING:
    from egg.model.network import Network

NUL = 0  # separates documents: a sample ends at one
SIDE_BY_SIDE = 1024  # samples generated together: bounds memory
DRAWN_AT_ONCE = 16  # positions whose random words are drawn together
PIECE = 1 << 16  # bytes of the prompt read in one call: bounds the memory of their logits
HOTTEST = 4096.0  # higher temperatures all have the same weights (2**20 > 254 * 16 * 256)


@dataclass(frozen=True)
class Sampling:
    """How bytes are drawn, with integers alone."""

    length: int = 500
    """Bytes of a sample; it ends earlier where the model ends the document with a NUL."""
    temperature: float = 1.0
    """1: the model's own probabilities; less: likelier bytes are preferred; 0: always the likeliest."""
    top_k: int = 0
    """Draw from the k likeliest bytes alone, 1 to 256; 0: from all."""
    seed: int = 0
    """Seed of the draws, 0 to 2^64 - 1; equal seeds give equal samples, on every backend and machine."""
    count: int = 1
    """Samples, generated side by side; sample n does not depend on their number."""

    def __post_init__(self) -> None:
        for name, low, high in (
            # positions and samples are 32-bit words of the generator's counter
            ("length", 1, 2**32),
            ("top_k", 0, VOCABULARY),
            ("seed", 0, 2**64 - 1),
            ("count", 1, 2**32),
        ):
            _check_whole(name, getattr(self, name), low, high)
        number = self.temperature
        if not isinstance(number, Real) or not (math.isfinite(number) and number >= 0):
            raise EggError(f"--temperature {number}: must be a number of 0 or more, 1 is plain")

    @property
    def temperature_256(self) -> int:
        """The temperature in 1/256, rounded half up."""
        numerator, denominator = float(min(self.temperature, HOTTEST)).as_integer_ratio()
        return round_div(FINE * numerator, denominator)


def _check_whole(name: str, value, low: int, high: int) -> None:
    flag = "--" + name.replace("_", "-")
    try:
        fits = low <= operator.index(value) <= high
    except TypeError:
        raise EggError(f"{flag} {value!r} is no integer") from None
    if not fits:
        raise EggError(f"{flag} {value}: must be {low} to {high}")


def text_bytes(text: bytes | str, name: str = "prompt") -> bytes:
    """A text as the bytes that the model reads; a str as UTF-8.

    name : the text's name in errors
    Raises EggError for a str that UTF-8 cannot encode, and for anything but bytes or a str.
    """
    if isinstance(text, str):
        try:
            # Python holds a command line's invalid UTF-8 as lone surrogates, which stand for its bytes.
            return text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            raise EggError(f"the {name} cannot be written in UTF-8: {error.reason}") from None
    if isinstance(text, bytes | bytearray | memoryview):
        return bytes(text)
    raise EggError(f"the {name} is a {type(text).__name__}: bytes or a str is needed")


def generate(network: "Network", prompt: bytes, sampling: Sampling) -> list[bytes]:
    """All samples: continuations of the prompt up to the length, or to a NUL, which is left out."""
    texts = defaultdict(bytearray)
    for number, piece in in_order(stream(network, prompt, sampling), sampling):
        texts[number] += piece
    return [bytes(texts[i].removesuffix(b"\0")) for i in range(sampling.count)]


def in_order(steps: Iterator[tuple[np.ndarray, np.ndarray]], sampling: Sampling) -> Iterator[tuple[int, bytes]]:
    """The output of ``stream``, sample after sample, each piece as early as that order allows.

    yields : a sample's number and its next bytes, at least one; a NUL is a sample's last byte
    """
    held, current, sent = defaultdict(bytearray), 0, 0
    for numbers, chosen in steps:
        for number, byte in zip(numbers.tolist(), chosen.tolist(), strict=True):
            held[number].append(byte)
        while piece := bytes(held.pop(current, b"")):
            yield current, piece
            sent += len(piece)
            if piece[-1] != NUL and sent < sampling.length:
                break
            current, sent = current + 1, 0


def stream(network: "Network", prompt: bytes, sampling: Sampling) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Generate position after position, for all samples that are still active.

    prompt : read once for all samples, from state zero, after a NUL
    yields : the samples' numbers (n,) int64 and their next bytes (n,) uint8; a NUL is a sample's last.
        At most SIDE_BY_SIDE samples are active at a time; the next begin when these have ended.
    """
    beginning = read_prompts(network.forward, network.zero_states(1), [prompt])
    for first in range(0, sampling.count, SIDE_BY_SIDE):
        numbers = np.arange(first, min(first + SIDE_BY_SIDE, sampling.count))
        logits, states = (np.repeat(a, len(numbers), 0) for a in beginning)
        for rows, drawn, _ in generate_steps(network.forward, logits, states, numbers, sampling):
            yield numbers[rows], drawn


Read = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""``Network.forward``, or a function like it: tokens (n, T) uint8 and states (n, L, D) int8 -> logits (n, T, 256) int8
in sixteenths of a bit, and the states after."""


def read_prompts(read: Read, states: np.ndarray, prompts: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Logits (n, 256) int8 and states (n, L, D) int8 after prompts, each read after a NUL.

    states : (n, L, D) int8, of any values: the NUL resets them
    """
    longest = 1 + max(map(len, prompts))
    # A NUL resets the state: after any number of them a prompt begins as after one.
    tokens = np.stack([np.frombuffer(p.rjust(longest, b"\0"), np.uint8) for p in prompts])
    length = max(1, PIECE // len(prompts))
    for at in range(0, longest, length):
        logits, states = read(np.ascontiguousarray(tokens[:, at : at + length]), states)
    return logits[:, -1], states


def generate_steps(
    read: Read, logits: np.ndarray, states: np.ndarray, numbers: np.ndarray, sampling: Sampling, *, whole: bool = False
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The loop of all generation: samples side by side, a byte each at every position, until none is active.

    logits, states : (n, 256) int8 and (n, L, D) int8 after each sample's prompt
    numbers : (n,) int64, the samples' numbers: a sample's draws depend only on its number and the position
    sampling : its count has no meaning here
    whole : samples that have ended stay and read NULs until all have ended, which keeps members of a pair together
    yields : for the active samples, rows (m,) int64 of the arrays above, their next bytes (m,) uint8, and (m,) bool,
        whether they stay active: not after a NUL. A caller clears the entries of samples that it ends.
    """
    rows = np.arange(len(numbers))
    weights = sampling_weights(sampling.temperature_256) if sampling.temperature_256 else None
    for position in range(sampling.length):
        ahead = position % DRAWN_AT_ONCE
        if ahead == 0:
            words = draws(sampling.seed, numbers[rows], position, DRAWN_AT_ONCE)
        chosen = choose(logits, words[:, ahead], weights, sampling.top_k)
        active = chosen != NUL
        yield rows, chosen, active
        if not active.all():
            rows, chosen, words = rows[active], chosen[active], words[active]
            states = states if whole else states[active]
        if not rows.size or position + 1 == sampling.length:
            return
        if whole:
            tokens = np.zeros(len(numbers), np.uint8)
            tokens[rows] = chosen
            logits, states = read(tokens[:, None], states)
            logits = logits[rows, 0]
        else:
            logits, states = read(chosen[:, None], states)
            logits = logits[:, 0]


def draws(seed: int, numbers: np.ndarray, position: int, count: int) -> np.ndarray:
    """The 64 random bits of each sample at ``count`` positions.

    numbers : (n,), the samples' numbers
    position : the first position
    returns : (n, count) uint64
    """
    counter = np.zeros((len(numbers), count, 4), np.uint32)
    counter[..., 1] = philox.SAMPLING
    counter[..., 2] = numbers[:, None]
    counter[..., 3] = np.arange(position, position + count)
    seed = int(seed)
    words = philox.philox(counter, (seed & 0xFFFFFFFF, seed >> 32)).astype(np.uint64)
    return words[..., 0] | words[..., 1] << np.uint64(32)


def choose(logits: np.ndarray, drawn: np.ndarray, weights: np.ndarray | None, top_k: int) -> np.ndarray:
    """The next byte of each sample.

    logits : (n, 256) int8 in sixteenths of a bit
    drawn : (n,) uint64
    weights : (255,) uint64 of ``sampling_weights``; None is temperature 0
    top_k : number of likeliest bytes to draw from, 0 for all
    returns : (n,) uint8
    """
    if weights is None or top_k == 1:
        return logits.argmax(1).astype(np.uint8)  # the first of equals is the lowest byte
    below = logits.max(1, keepdims=True).astype(np.int32) - logits
    weight = weights.take(below)
    if 0 < top_k < VOCABULARY:
        rank = below * VOCABULARY + np.arange(VOCABULARY)  # no two equal, the lower byte first
        weight[rank > np.partition(rank, top_k - 1, 1)[:, top_k - 1, None]] = 0
    return inverse(weight.cumsum(1), drawn)


def inverse(cumulative: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """The first byte whose cumulative weight exceeds floor(drawn * total / 2**64).

    cumulative : (n, 256) uint64, rows that do not fall; the last of each, its total, is at least 1
    drawn : (n,) uint64
    returns : (n,) uint8
    """
    # The product has up to 104 bits: Python's integers hold it.
    totals = cumulative[:, -1].tolist()
    at = [u * total >> 64 for u, total in zip(drawn.tolist(), totals, strict=True)]
    return (cumulative <= np.array(at, np.uint64)[:, None]).sum(1).astype(np.uint8)
