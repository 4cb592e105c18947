"""What a training state is made of: its parts' shapes, known before any memory is taken, and their ranges."""

import os
from dataclasses import dataclass

import numpy as np

from egg.errors import EggError


@dataclass(frozen=True)
class Form:
    """What one part of a training state must be."""

    shape: tuple[int, ...]
    dtype: type
    low: int
    high: int
    """The smallest and the largest value that a training can have left there."""


STEP = Form((1,), np.int64, 0, (1 << 32) - 1)


def check_state(state: dict[str, np.ndarray], layout: dict[str, Form]) -> None:
    """Raises EggError for a state that no training of this configuration can have left.

    layout : what ``state_layout`` of a recipe's class says of it
    """
    for name, form in layout.items():
        there = state.get(name)
        if there is None:
            raise EggError(f"the training state has no {name!r}: it belongs to another recipe or version")
        if there.shape != form.shape or there.dtype != form.dtype:
            raise EggError(
                f"the training state's {name!r} is {there.dtype}{list(there.shape)}, this "
                f"configuration and corpus need {np.dtype(form.dtype)}{list(form.shape)}"
            )
        if there.size and not (form.low <= int(there.min()) and int(there.max()) <= form.high):
            raise EggError(f"the training state is out of range: {name}")


def check_memory(config, needed: int) -> None:
    """Raises EggError for a configuration that this machine has no memory for, before any is taken.

    config : an egg.config.Config
    needed : bytes, as ``memory`` of a recipe's class tells
    """
    e, available = config.evolution, _memory()
    if available and needed > available:
        readers = e.readers_field
        raise EggError(
            f"--{readers.replace('_', '-')} {getattr(e, readers)}: with hidden size "
            f"{config.model.hidden_size}, {config.model.num_layers} layers and --seq-len {e.seq_len} a step needs "
            f"{needed / 2**30:,.0f} GiB at the least, this machine has {available / 2**30:,.0f}: choose less of one"
        )


def _memory() -> int | None:
    """Bytes of the machine's memory, None where that is unknown."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
