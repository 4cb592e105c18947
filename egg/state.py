"""What a training state is made of: its parts' shapes, known before any memory is taken, and their ranges."""

import os

import numpy as np

from egg.errors import EggError
from kernels.arithmetic import CREDIT_SCALE_FLOOR, LIMIT, MASTER_BITS
from kernels.layout import Shape

STREAMS = 4096  # texts that take turns in recipe egg: few would tie the model to the documents they are in


def stream_count(config, text_size: int) -> int:
    """Streams of text that a population's states belong to.

    config : an EvolutionConfig
    """
    if config.recipe == "paper":
        return config.population_size // 2
    groups = config.population_size // config.group_size
    return groups * max(1, min(STREAMS // groups, text_size // (64 * groups)))


def state_layout(shape: Shape, config, text_size: int) -> dict[str, tuple[tuple[int, ...], type]]:
    """Shape and dtype of each part of a training state, by name; takes no memory.

    config : an EvolutionConfig
    """
    streams = stream_count(config, text_size)
    layers = shape.num_layers, shape.hidden_size
    one = (1,), np.int64
    if config.recipe == "paper":
        weights = {"weights": ((shape.parameters,), np.int8)}
        return {"step": one, "states": ((2 * streams, *layers), np.int8)} | weights
    master = {"master": ((shape.parameters,), np.int16), "credit_scale": one}
    return {"step": one, "states": ((streams, *layers), np.int8)} | master


def check_state(state: dict[str, np.ndarray], layout, config) -> None:
    """Raises EggError for a state that no training of this configuration can have left.

    layout : what ``state_layout`` says of it
    config : an EvolutionConfig
    """
    for name, (shape, dtype) in layout.items():
        there = state.get(name)
        if there is None:
            raise EggError(
                f"the training state has no {name!r}: it belongs to another recipe or version"
            )
        if there.shape != shape or there.dtype != dtype:
            raise EggError(
                f"the training state's {name!r} is {there.dtype}{list(there.shape)}, this "
                f"configuration and corpus need {np.dtype(dtype)}{list(shape)}"
            )
    if not 0 <= int(state["step"][0]) < 1 << 32 or state["states"].min(initial=0) < -LIMIT:
        raise EggError("the training state is out of range: step or states")
    if config.recipe == "egg":
        low, high = -LIMIT << MASTER_BITS, LIMIT << MASTER_BITS
        # A token's score in 1/256 bit is less than 2**13 from zero, either way.
        most = max(CREDIT_SCALE_FLOOR, config.seq_len << 14)
        if not CREDIT_SCALE_FLOOR <= int(state["credit_scale"][0]) <= most:
            raise EggError("the training state is out of range: credit_scale")
        if state["master"].min() < low or state["master"].max() > high:
            raise EggError("the training state is out of range: master")
    elif state["weights"].min() < -LIMIT:
        raise EggError("the training state is out of range: weights")


def check_memory(config, text_size: int, ranks: int = 1) -> None:
    """Raises EggError for a configuration that this machine has no memory for, before any is taken.

    config : an egg.config.Config
    text_size : bytes of the text to learn from
    ranks : processes that share the population
    """
    e, shape = config.evolution, config.model.shape
    streams = stream_count(e, text_size)
    members = -(-e.population_size // ranks)
    # Weights in int8, int16 and packed, their votes in int64; a stream's start and order; a member's score; the text
    # of the step and of what a group's members saw of it.
    states = (2 * streams if e.recipe == "egg" else 2 * members) * shape.num_layers
    texts = members if e.recipe == "paper" else -(-members // e.group_size)
    needed = 12 * shape.parameters + states * shape.hidden_size + 32 * streams + 16 * members
    needed += texts * e.seq_len * (1 if e.recipe == "paper" else 1 + 4 * shape.hidden_size)
    there = _memory()
    if there and needed > there:
        raise EggError(
            f"--population-size {e.population_size}: with hidden size {shape.hidden_size}, "
            f"{shape.num_layers} layers and --seq-len {e.seq_len} a step needs {needed / 2**30:,.0f} GiB at the "
            f"least, this machine has {there / 2**30:,.0f}: choose less of one"
        )


def _memory() -> int | None:
    """Bytes of the machine's memory, None where that is unknown."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
