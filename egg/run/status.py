"""The state of a run, as it is shown."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from egg.view.screen import CONTROLS


@dataclass(frozen=True)
class Status:
    """Figures of a run after a step."""

    step: int
    tokens: int
    train: float  # integer bits per byte, smoothed
    validation: float | None  # bits per byte, as last measured, of what measured_on says
    best: float | None
    speed: float | None  # tokens a second, None while it is unknown
    done: float  # share of the way to the stop, 0 to 1
    seconds_left: float | None
    changed: float | None = None  # share of the weights that the last step changed
    clipped: float | None = None  # share of the weights at +-127
    step_size: float | None = None  # in int8 steps (recipe egg)
    sample: str | None = None  # what the model wrote last
    parts: Mapping[str, float] = field(default_factory=dict)  # validation of a mixture's parts
    measured_on: str = "validation"


def one_line(text: str) -> str:
    """A text in quotes, with escapes for what would begin a line or move a terminal's cursor."""
    return json.dumps(text, ensure_ascii=False).translate(CONTROLS)
