"""Text from a model: bytes drawn one after another, with integers alone; docs/arithmetic.md, "Sampling".

A small model reads a byte in the time of a few NumPy calls: hence samples side by side, and a call of the backend for
many positions.
"""

import math
import operator
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Annotated

import numpy as np
from cyclopts import Parameter

from egg.errors import EggError
from egg.kernels import Choice
from egg.kernels.arithmetic import FINE, SHARES, VOCABULARY, round_div, sampling_weights
from egg.kernels.reference import Read

if TYPE_CHECKING:
    from egg.model.network import Network

NUL = 0  # separates documents: a sample ends at one
SIDE_BY_SIDE = 1024  # samples generated together: bounds memory
WRITTEN_AT_ONCE = 16  # bytes of each sample that a call writes: after a sample's end they are lost
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
    top_p: float = 1.0
    """Draw from the fewest likeliest bytes whose share of the probability is this, above 0 to 1; 1: from all."""
    stop: Annotated[tuple[str | bytes, ...], Parameter(metavar="TEXT", allow_leading_hyphen=True)] = ()
    """Text that ends a sample, and is not part of it; may be given several times. A newline is $'\\n' in bash."""
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
        if not isinstance(self.top_p, Real) or not 0 < self.top_p <= 1:
            raise EggError(f"--top-p {self.top_p}: must be a number above 0, at most 1, which is all bytes")
        object.__setattr__(self, "stop", tuple(text_bytes(stop, "stop") for stop in self.stop))
        if b"" in self.stop:
            raise EggError("--stop: an empty text would end every sample at once; give at least one character")

    @property
    def temperature_256(self) -> int:
        """The temperature in 1/256, rounded half up."""
        numerator, denominator = float(min(self.temperature, HOTTEST)).as_integer_ratio()
        return round_div(FINE * numerator, denominator)

    @property
    def top_p_65536(self) -> int:
        """The share of top_p in 1/65536, rounded half up, at least one of them."""
        numerator, denominator = float(self.top_p).as_integer_ratio()
        return max(1, round_div(SHARES * numerator, denominator))


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
    """All samples: continuations of the prompt up to the length, or to a NUL or a stop, which are left out."""
    texts = defaultdict(bytearray)
    for number, piece in in_order(stream(network, prompt, sampling), sampling):
        texts[number] += piece
    return [bytes(texts[i].removesuffix(b"\0")) for i in range(sampling.count)]


def in_order(steps: Iterator[tuple[np.ndarray, np.ndarray]], sampling: Sampling) -> Iterator[tuple[int, bytes]]:
    """The output of ``stream``, sample after sample, each piece as early as that order allows.

    yields : a sample's number and its next bytes; a NUL is a sample's last byte. Bytes that may begin a stop wait for
        the next, and a stop is left out: a sample's last bytes may be none
    """
    held, current, sent = defaultdict(bytearray), 0, 0
    for numbers, chosen in steps:
        for number, byte in zip(numbers.tolist(), chosen.tolist(), strict=True):
            held[number].append(byte)
        while text := held.pop(current, None):
            stop = stop_at_end(text, sampling.stop)
            if ended := stop > 0 or text[-1] == NUL or sent + len(text) == sampling.length:
                del text[len(text) - stop :]
            else:
                held[current] = text[len(text) - _begun(text, sampling.stop) :]
                del text[len(text) - len(held[current]) :]
            if text or ended:
                yield current, bytes(text)
            sent += len(text)
            if not ended:
                break
            current, sent = current + 1, 0


def stop_at_end(text: bytes | bytearray, stops: Sequence[bytes]) -> int:
    """Bytes of the longest stop that a text ends with; 0 if it ends with none."""
    return max((len(stop) for stop in stops if text.endswith(stop)), default=0)


def _begun(text: bytearray, stops: Sequence[bytes]) -> int:
    """Bytes at the end of a text that may be the beginning of a stop."""
    longest = max((len(stop) - 1 for stop in stops), default=0)
    sizes = range(min(longest, len(text)), 0, -1)
    return next((n for n in sizes if any(stop.startswith(text[-n:]) for stop in stops)), 0)


def stream(network: "Network", prompt: bytes, sampling: Sampling) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Generate position after position, for all samples that are still active.

    prompt : read once for all samples, from state zero, after a NUL
    yields : the samples' numbers (n,) int64 and their next bytes (n,) uint8; a sample's last is a NUL, or ends a stop.
        At most SIDE_BY_SIDE samples are active at a time; the next begin when these have ended.
    """
    beginning = read_prompts(network.forward, network.zero_states(1), [prompt])
    for first in range(0, sampling.count, SIDE_BY_SIDE):
        numbers = np.arange(first, min(first + SIDE_BY_SIDE, sampling.count))
        logits, states = (np.repeat(a, len(numbers), 0) for a in beginning)
        for rows, drawn in generate_steps(network.write, logits, states, numbers, sampling):
            yield numbers[rows], drawn


Write = Callable[[np.ndarray, np.ndarray, np.ndarray, range, Choice], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""``Network.write``, or a function like it, see ``egg.kernels.Backend.write``."""


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
    write: Write,
    logits: np.ndarray,
    states: np.ndarray,
    numbers: np.ndarray,
    sampling: Sampling,
    *,
    whole: bool = False,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The loop of all generation: samples side by side, a byte each at every position, until none is active.

    logits, states : (n, 256) int8 and (n, L, D) int8 after each sample's prompt
    numbers : (n,) int64, the samples' numbers: a sample's draws depend only on its number and the position
    sampling : its count has no meaning here
    whole : samples that have ended are written on until all have ended, which keeps members of a pair together
    yields : for the active samples, rows (m,) int64 of the arrays above, and their next bytes (m,) uint8; a sample is
        active until a NUL, or the last byte of a stop
    """
    rows = kept = np.arange(len(numbers))  # of the active samples, and of those that are written
    longest = max(map(len, sampling.stop), default=0)
    tails = [b""] * len(numbers)  # the last bytes of each row's sample, where there are stops
    weights = sampling_weights(sampling.temperature_256) if sampling.temperature_256 else None
    choice = Choice(weights, sampling.top_k, sampling.top_p_65536, int(sampling.seed))
    for begin in range(0, sampling.length, WRITTEN_AT_ONCE):
        positions = range(begin, min(begin + WRITTEN_AT_ONCE, sampling.length))
        written, logits, states = write(logits, states, numbers[kept], positions, choice)
        places = kept.searchsorted(rows)  # of the active samples among them
        for chosen in written.T:
            chosen = chosen[places]
            yield rows, chosen
            active = chosen != NUL
            if sampling.stop:
                for at, (row, byte) in enumerate(zip(rows.tolist(), chosen.tolist(), strict=True)):
                    tails[row] = (tails[row] + bytes([byte]))[-longest:]
                    if stop_at_end(tails[row], sampling.stop):
                        active[at] = False
            if not active.all():
                rows, places = rows[active], places[active]
                if not rows.size:
                    return
        if not whole and len(rows) < len(kept):
            logits, states, kept = logits[places], states[places], rows


class Conversation:
    """A document that is written in turns: what is given is read where the document ends, and then continued."""

    def __init__(self, network: "Network", sampling: Sampling) -> None:
        """Begin a document.

        sampling : of every turn; its count has no meaning here, turn n draws as sample n
        """
        self._network, self._sampling, self._turns = network, sampling, 0
        self._logits, self._states = read_prompts(network.forward, network.zero_states(1), [b""])

    def turn(self, text: bytes) -> Iterator[bytes]:
        """Read a text, and continue it; a NUL is the last byte of a document, and the next turn begins another.

        yields : the next bytes, as ``in_order``
        """
        self._read(text)
        numbers, written = np.array([self._turns]), bytearray()
        self._turns += 1
        steps = generate_steps(self._network.write, self._logits, self._states, numbers, self._sampling)
        for _, piece in in_order(steps, self._sampling):
            written += piece
            yield piece
        self._read(bytes(written))  # once more: without the stop, and with the last byte

    def _read(self, text: bytes) -> None:
        for at in range(0, len(text), PIECE):
            logits, self._states = self._network.forward(
                np.frombuffer(text[at : at + PIECE], np.uint8)[None], self._states
            )
            self._logits = logits[:, -1]
