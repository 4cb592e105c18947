"""The arrays of a training state: their shapes, known before any memory is allocated, and their ranges."""

import os
from dataclasses import dataclass

import numpy as np

from egg.errors import EggError


@dataclass(frozen=True)
class Form:
    """The form that one array of a training state must have."""

    shape: tuple[int, ...]
    dtype: type
    low: int
    high: int
    """``low`` and ``high`` are the smallest and the largest value that training can leave in the array."""


STEP = Form((1,), np.int64, 0, (1 << 32) - 1)


def check_state(state: dict[str, np.ndarray], layout: dict[str, Form]) -> None:
    """Raises EggError for a state that no training of this configuration can leave.

    layout : the forms, by the ``state_layout`` of a recipe's class
    """
    for name, form in layout.items():
        array = state.get(name)
        if array is None:
            raise EggError(f"the training state has no {name!r}: it belongs to another recipe or version")
        if array.shape != form.shape or array.dtype != form.dtype:
            raise EggError(
                f"the training state's {name!r} is {array.dtype}{list(array.shape)}, this "
                f"configuration and corpus need {np.dtype(form.dtype)}{list(form.shape)}"
            )
        if array.size and not (form.low <= int(array.min()) and int(array.max()) <= form.high):
            raise EggError(f"the training state is out of range: {name}")


def check_memory(config, needed: int) -> None:
    """Raises EggError for a configuration that needs more memory than this machine has, before any is allocated.

    config : an egg.config.Config
    needed : bytes, by the ``memory`` of a recipe's class
    """
    e, available = config.evolution, _memory()
    if available and needed > available:
        readers = e.readers_field
        raise EggError(
            f"--{readers.replace('_', '-')} {getattr(e, readers)}: with hidden size "
            f"{config.model.hidden_size}, {config.model.num_layers} layers and --seq-len {e.seq_len} a step needs "
            f"{needed / 2**30:,.0f} GiB or more, this machine has {available / 2**30:,.0f}: reduce one of these"
        )


def _memory() -> int | None:
    """Bytes of the machine's memory, None where that is unknown."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
