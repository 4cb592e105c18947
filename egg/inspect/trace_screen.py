"""A trace on the terminal: the text coloured by surprise, its bytes, and the stages."""

import unicodedata

import numpy as np

from egg.inspect.trace import Stage, Trace, byte_label
from egg.view.screen import table

SCALE = ((0.5, "#0b6e4f"), (1.5, "#3d8b37"), (3.0, "#8a8d1f"), (5.0, "#c0771a"), (8.0, "#c1471f"))
"""Surprise in bits up to which a colour goes; beyond the last is BEYOND."""
BEYOND = "#a3123f"
MAX_ROWS = 64  # of the table of bytes; the page and --json have all


def color(bits: float) -> str:
    """The background of a byte by its surprise."""
    return next((c for end, c in SCALE if bits <= end), BEYOND)


def print_trace(traced: Trace, byte: int | None, out) -> None:
    """Print the text, its bytes and the stages; with ``byte``, only those of that byte (0: the NUL before the text)."""
    from rich.text import Text

    bits = traced.surprise_bits
    out.print(Text("Surprise in bits: ", style="bold") + _legend())
    out.print(colored(traced))
    out.print(f"\n{len(bits):,} bytes, {bits.mean():.3f} bits per byte, perplexity {2.0 ** bits.mean():.2f}\n")
    if byte is None:
        out.print(_bytes(traced, range(1, len(traced.tokens))[:MAX_ROWS]))
        if len(bits) > MAX_ROWS:
            out.print(f"and {len(bits) - MAX_ROWS:,} bytes more (--html, --json)")
        out.print(_stages(traced.stages, f"Stages, over all {len(traced.tokens)} bytes, the NUL among them", None))
    else:
        if byte:
            out.print(_bytes(traced, [byte]))
        name = f"byte {byte}, {byte_label(traced.tokens[byte])}"
        out.print(_stages(traced.stages, f"Stages of {name}", byte))
        likely = zip(traced.expected[byte], traced.probabilities[byte], strict=True)
        out.print("expected next: " + ", ".join(f"{byte_label(b)} {100 * p:.1f} %" for b, p in likely))
    out.print(
        "clipped: at ±127, for sums what the clip changes. headroom: doublings left in int32. "
        "open: 0 keeps the state, 1 renews it."
    )


def _legend():
    from rich.text import Text

    line, low = Text(), 0.0
    for end, background in SCALE:
        line.append(f" {low:g}–{end:g} ", style=f"bold white on {background}")
        low = end
    return line.append(f" more than {low:g} ", style=f"bold white on {BEYOND}")


def colored(traced: Trace):
    """The text as a rich Text; a character of several bytes is coloured by the sum of their surprise."""
    from rich.text import Text

    line = Text(overflow="fold")
    for text, first, count in characters(traced.text):
        bits = float(traced.surprise_bits[first - 1 : first - 1 + count].sum())
        line.append(text, style=f"white on {color(bits)}")
        if text == "⏎":
            line.append("\n")
    line.rstrip()  # printing ends the last line
    return line


def characters(text: bytes) -> list[tuple[str, int, int]]:
    """A text's printable characters, each with the position of its first byte, from 1, and its number of bytes."""
    found, at = [], 1
    for character in text.decode("utf-8", "surrogateescape"):
        size = len(character.encode("utf-8", "surrogateescape"))
        if size == 1:
            byte = text[at - 1]
            visible = chr(byte) if 32 <= byte < 127 else byte_label(byte) if byte in b"\n\t\r" else "�"
        else:  # control characters, and marks that combine or reorder, would move others
            visible = character if unicodedata.category(character)[0] in "LNPS" else "�"
        found.append((visible, at, size))
        at += size
    return found


def _bytes(traced: Trace, positions):
    rows, styles = [], []
    gates = [stage.openness for stage in traced.stages if stage.openness is not None]
    for t in positions:
        bits = float(traced.surprise_bits[t - 1])
        rows.append(
            [
                str(t),
                byte_label(int(traced.tokens[t])),
                _bits(bits),
                f"{100 * 2.0**-bits:.1f} %",
                str(traced.rank[t - 1] + 1),
                byte_label(int(traced.expected[t - 1, 0])),
                f"{100 * traced.probabilities[t - 1, 0]:.1f} %",
                " ".join(f"{gate[t]:.2f}" for gate in gates[:6]),
            ]
        )
        styles.append(None)
    columns = ["#", "byte", "surprise", "had", "rank", "expected", "with", "gates open, by layer"]
    return table("Bytes", columns, rows, left=0, styles=styles)


def _bits(bits: float):
    from rich.text import Text

    return Text(f" {bits:5.2f} ", style=f"white on {color(bits)}")


def _stages(stages: list[Stage], title: str, t: int | None):
    """One row per stage; over all bytes the extremes, the means, and the least headroom."""
    rows, styles = [], []
    for stage in stages:
        where = slice(None) if t is None else slice(t, t + 1)
        rows.append(
            [
                stage.name.removesuffix(".weight"),
                "sum" if stage.is_sum else "int8",
                f"{stage.min[where].min():,}",
                f"{stage.max[where].max():,}",
                f"{stage.mean_magnitude[where].mean():,.1f}",
                f"{100 * stage.clipped[where].mean():.2f} %",
                _cell(stage.headroom_bits, where, np.min, ".1f"),
                _cell(stage.openness, where, np.mean, ".3f"),
            ]
        )
        styles.append("dim" if stage.is_sum else None)
    columns = ["stage", "", "min", "max", "mean |v|", "clipped", "headroom", "open"]
    return table(title, columns, rows, left=2, styles=styles)


def _cell(values: np.ndarray | None, where: slice, reduce, form: str) -> str:
    return "" if values is None else format(float(reduce(values[where])), form)
