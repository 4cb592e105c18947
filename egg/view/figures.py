"""Numbers as a person reads them."""


def count(number: float) -> str:
    """A number in three digits and a letter: 45.3M."""
    for unit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        value = number / unit
        if value >= 0.9995:
            return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}{letter}"
    return f"{number:.0f}"


def duration(seconds: float) -> str:
    """A time in minutes and seconds, or hours, or days: 1:07, 2:03:04, 3d 04h."""
    if not 0 <= seconds < 1e9:
        return "?"
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24}d {hours % 24:02d}h"
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"
