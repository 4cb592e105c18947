"""What follows many prompts, generated side by side, each up to a stop of its own."""

from collections.abc import Callable, Sequence

import numpy as np

from egg.kernels import Backend, Shape
from egg.kernels.arithmetic import sampling_weights
from egg.model.sample import DRAWN_AT_ONCE, NUL, PIECE, Sampling, choose, draws

SIDE_BY_SIDE = 64  # prompts: bounds memory


def continuations(
    backend: Backend,
    shape: Shape,
    weights: np.ndarray,
    prompts: Sequence[bytes],
    sampling: Sampling,
    until: Sequence[bytes] = (),
    *,
    done: Callable[[int], None] | None = None,
) -> list[bytes]:
    """One sample after each prompt, which ends before the first of ``until``, or before a NUL.

    weights : (parameters,) int8
    prompts : each read from state zero, after a NUL
    sampling : how bytes are drawn; its count has no meaning here, prompt i draws as sample i
    until : texts that are not part of a sample, nor what follows them; none of them empty
    done : is told now and then how many more prompts are done
    """
    model = backend.prepare(shape, weights)
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    texts = [b""] * len(prompts)
    for first in range(0, len(order), SIDE_BY_SIDE):
        numbers = np.array(order[first : first + SIDE_BY_SIDE])
        for i, text in _together(backend, model, shape, prompts, numbers, sampling, until).items():
            texts[i] = bytes(text)
        if done:
            done(len(numbers))
    return texts


def _together(backend, model, shape, prompts, numbers, sampling, until) -> dict[int, bytearray]:
    """``continuations`` of the prompts of these numbers."""
    texts = {i: bytearray() for i in numbers.tolist()}
    logits, states = _read(backend, model, shape, [prompts[i] for i in texts])
    weights = sampling_weights(sampling.temperature_256) if sampling.temperature_256 else None
    longest = max(map(len, until), default=0)
    for position in range(sampling.length):
        ahead = position % DRAWN_AT_ONCE
        if ahead == 0:
            drawn = draws(sampling.seed, numbers, position, DRAWN_AT_ONCE)
        chosen = choose(logits, drawn[:, ahead], weights, sampling.top_k)
        going = chosen != NUL
        for at, (i, byte) in enumerate(zip(numbers.tolist(), chosen.tolist(), strict=True)):
            if not going[at]:
                continue
            text = texts[i]
            text.append(byte)
            # A stop ends with the byte just drawn, or is not there
            tail = text[-longest:] if longest else b""
            if any(tail.endswith(stop) for stop in until):
                del text[min(text.find(stop) for stop in until if stop in tail) :]
                going[at] = False
        numbers, chosen, states, drawn = (a[going] for a in (numbers, chosen, states, drawn))
        if not numbers.size:
            break
        if position + 1 < sampling.length:
            logits, states = backend.forward(model, chosen[:, None], states)
            logits = logits[:, 0]
    return texts


def _read(backend, model, shape, prompts: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Logits (n, 256) int8 and states (n, L, D) int8 after the prompts."""
    longest = 1 + max(map(len, prompts))
    # A NUL resets the state: as many as there are before a prompt, it begins as after one.
    tokens = np.stack([np.frombuffer(p.rjust(longest, b"\0"), np.uint8) for p in prompts])
    states = np.zeros((len(prompts), shape.num_layers, shape.hidden_size), np.int8)
    length = max(1, PIECE // len(prompts))
    for at in range(0, longest, length):
        piece = np.ascontiguousarray(tokens[:, at : at + length])
        logits, states = backend.forward(model, piece, states)
    return logits[:, -1], states
