"""Numbers as people read and write them."""

from decimal import Decimal

UNITS = {"K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9, "T": 10**12}


def count(number: float) -> str:
    """A number in three digits and a letter: 45.3M."""
    for unit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        value = number / unit
        if value >= 0.9995:
            return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}{letter}"
    return f"{number:.0f}"


def duration(seconds: float) -> str:
    """A duration in minutes and seconds, hours, or days: 1:07, 2:03:04, 3d 04h."""
    if not 0 <= seconds < 1e9:
        return "?"
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24}d {hours % 24:02d}h"
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"


def whole_number(text: str) -> int:
    """An integer as people write it: 4096, 10_000_000, 10M, 1e9, 0.5G."""
    plain = text.strip().replace("_", "").replace(",", "")
    unit = UNITS.get(plain[-1:].upper(), 1)
    try:
        number = Decimal(plain[:-1] if unit > 1 else plain) * unit
        # The bound is far beyond any sensible number, and keeps 1e999999999 from filling memory.
        if number.is_finite() and abs(number) < 10**30 and number == int(number):
            return int(number)
    except ArithmeticError:  # not a number, or out of Decimal's range
        pass
    raise ValueError(f"{text!r} is no integer: write it like 4096, 10_000, 10M or 1e9")


def number_or(word: str, text: str) -> int | str:
    """An integer, or the word."""
    if text.strip().lower() == word:
        return word
    try:
        return whole_number(text)
    except ValueError as error:
        raise ValueError(f"{error}, or {word}") from None


def number(text: str) -> float:
    """A real number, also as 5%."""
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise ValueError(f"{text!r} is no number: write it like 0.5") from None
