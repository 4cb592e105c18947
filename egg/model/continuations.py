"""Continuations of many prompts, generated side by side, each up to its own stop."""

from collections.abc import Callable, Sequence

import numpy as np

from egg.kernels.reference import Read
from egg.model.network import Network
from egg.model.sample import Sampling, Write, generate_steps, read_prompts, stop_at_end

SIDE_BY_SIDE = 64  # prompts: bounds memory


def continuations(
    network: Network, prompts: Sequence[bytes], sampling: Sampling, *, done: Callable[[int], None] | None = None
) -> list[bytes]:
    """One sample after each prompt, without the stop or the NUL that ends it.

    prompts : each read from state zero, after a NUL
    sampling : how bytes are drawn; its count has no meaning here, prompt i draws as sample i
    done : called from time to time with the number of prompts finished since the last call
    """
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    texts = [b""] * len(prompts)
    for first in range(0, len(order), SIDE_BY_SIDE):
        numbers = np.array(order[first : first + SIDE_BY_SIDE])
        chosen = [prompts[i] for i in numbers]
        states = network.zero_states(len(numbers))
        written = continue_prompts(network.forward, network.write, states, chosen, numbers, sampling)
        for i, text in zip(numbers.tolist(), written, strict=True):
            texts[i] = text
        if done:
            done(len(numbers))
    return texts


def continue_prompts(
    read: Read,
    write: Write,
    states: np.ndarray,
    prompts: Sequence[bytes],
    numbers: np.ndarray,
    sampling: Sampling,
    *,
    whole: bool = False,
) -> list[bytes]:
    """Continuations of prompts that are read together, as in ``continuations``.

    states : (n, L, D) int8, of any values
    numbers : (n,) int64, the samples' numbers, for the draws
    whole : as for ``generate_steps``
    """
    texts = [bytearray() for _ in prompts]
    logits, states = read_prompts(read, states, prompts)
    for rows, chosen in generate_steps(write, logits, states, numbers, sampling, whole=whole):
        for row, byte in zip(rows.tolist(), chosen.tolist(), strict=True):
            texts[row].append(byte)
    return [bytes(text[: len(text) - stop_at_end(text, sampling.stop)].removesuffix(b"\0")) for text in texts]
