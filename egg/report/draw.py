"""loss.png and report.html of runs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from egg.errors import telling
from egg.files import replace_file, shown
from egg.model.baselines import baselines, trigram_bits
from egg.report.curves import Curves, read_curves
from egg.report.page import REPORT, report_page
from egg.report.plots import LOSS, plot_runs


def draw_run(run: Path, training: np.ndarray, measured: np.ndarray) -> list[Path]:
    """Draw a run that has ended; returns the paths of loss.png and report.html.

    training, measured : (n,) uint8, the text it learned from, and the text it was measured on
    """
    return write([read_curves(run)], lines_of(training, measured), run)


def draw_or_note(names: str, draw: Callable[[], list[Path]], note: Callable[[str], None], advice: str) -> list[Path]:
    """Draw what has ended; returns the pictures' paths, none if that fails, which ``note`` then reports.

    What they show is saved, whatever matplotlib makes of its name or its folder: a picture's failure fails no run.

    names, advice : of the pictures, and what to do without them
    """
    try:
        return draw()
    except Exception as error:
        note(f"no {names}: {shown(error)}{advice}")
        return []


def write(runs: list[Curves], lines: dict[str, float], out: Path) -> list[Path]:
    """Write loss.png and report.html; returns their paths.

    Raises EggError if the folder cannot be written.
    """
    with telling(f"cannot write {LOSS} and {REPORT} in {out}", "; give another folder with --out"):
        out.mkdir(parents=True, exist_ok=True)
        plot_runs(runs, lines, out / LOSS)
        replace_file(out / REPORT, report_page(runs, lines).encode("utf-8", "replace"))
    return [out / LOSS, out / REPORT]


def lines_of(training: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    """Bits per byte of the baselines on a text, as horizontal lines: name -> bits per byte."""
    if not np.count_nonzero(measured):
        return {}
    simple = baselines(training, measured)
    trigram = trigram_bits(training, measured)
    return {"unigram": simple.unigram, "bigram": simple.bigram, "trigram": trigram, "gzip -9": simple.gzip}
