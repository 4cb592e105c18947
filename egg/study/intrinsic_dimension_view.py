"""d90 as tables and pictures."""

import math
from pathlib import Path

from egg.files import save_figure
from egg.report.plots import log_axis
from egg.study.intrinsic_dimension import (
    ACCURACY,
    BITS,
    FAMILIES,
    INTERVAL,
    SHARE,
    SHARES,
    CheckpointDimensions,
    Estimate,
)
from egg.view.figures import count

PICTURE, CURVES, GAPS = "d90.png", "gains.png", "gaps.png"
NAMES = {BITS: "bits per byte", ACCURACY: "accuracy"}
MARKERS = {"random": ("o-", 3), "rank": ("^", 5), "whole": ("s", 4)}
"""First word of a subspace's name -> its marker and the marker's size; random ones have a line."""


def print_measured(measured: list[CheckpointDimensions], out) -> None:
    """Print d90 of every checkpoint, and the share of the gain that every subspace reached."""
    from egg.view.screen import table

    names = [f"d{100 * share:.0f}" for share in SHARES]
    columns = ["size", "trained for", "before", "gain", *names, "interval", "of all"]
    for family, measure in _kinds(measured):
        rows = []
        for m in measured:
            if (e := _estimate(m, family, measure)) is None:
                continue
            d, parameters = e.d90, m.first.network.shape.parameters
            rows.append(
                [
                    m.first.size,
                    _tokens(m),
                    f"{m.before(measure):.3f}",
                    f"{m.gains[-1].mean(measure):.3f}",
                    *(dimension_text(e, e.dimensions[share].value) for share in SHARES),
                    f"{dimension_text(e, d.low)} to {dimension_text(e, d.high)}",
                    f"{100 * d.value / parameters:.0f} %" if math.isfinite(d.value) else "-",
                ]
            )
        title = f"{FAMILIES[family]}: parameters for 50, 80, 90 % of the gain in {NAMES[measure]}"
        out.print(table(title[0].upper() + title[1:], columns, rows, left=2))
        out.print()
    out.print(
        "trained for: tokens; before: of the unadapted model; gain: of all weights; interval: of\n"
        f"d90, {100 * INTERVAL[0]:.0f} to {100 * INTERVAL[1]:.0f} % of resampled seeds; of all: d90 over all weights"
    )
    for size in dict.fromkeys(m.first.size for m in measured):
        group = [m for m in measured if m.first.size == size]
        columns = ["subspace", "parameters", *map(_tokens, group)]
        for measure in _measures(group):
            rows = [
                [g.subspace.name, f"{g.parameters:,}", *_shares(group, i, measure)]
                for i, g in enumerate(group[0].gains)
            ]
            out.print()
            out.print(table(f"{size}: share of the gain of all weights in {NAMES[measure]}", columns, rows))
        rows = [
            [g.subspace.name, f"{g.parameters:,}", *(f"{m.gains[i].gap:.3f}" for m in group)]
            for i, g in enumerate(group[0].gains)
        ]
        out.print()
        out.print(
            table(f"{size}: gain on the text adapted to, beyond that on held-out text, bits per byte", columns, rows)
        )


def dimension_text(e: Estimate, value: float) -> str:
    """A d90 in short: 3.1k; > 42k where it is not reached; <= 320 where the smallest subspace reaches it."""
    if not math.isfinite(value):
        return f"> {count(e.most)}"
    return f"<= {count(value)}" if value <= e.least else count(value)


def plot_dimension(measured: list[CheckpointDimensions], path: Path) -> None:
    """Draw d90 against pretraining tokens, a row a measure, a column a family, a line a size.

    An arrow where it is only known to be larger.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    kinds = _kinds(measured)
    families, measures = (list(dict.fromkeys(names)) for names in zip(*kinds, strict=True))
    figure = Figure(figsize=(6 * len(families), 4.6 * len(measures)), dpi=100, layout="constrained")
    panels = figure.subplots(len(measures), len(families), sharey=True, squeeze=False)
    known = [m for m in measured if m.first.pretraining]
    for family, measure in kinds:
        panel = panels[measures.index(measure), families.index(family)]
        for number, size in enumerate(dict.fromkeys(m.first.size for m in known)):
            group = [m for m in known if m.first.size == size and _estimate(m, family, measure)]
            estimates = [_estimate(m, family, measure) for m in group]
            color, parameters = f"C{number}", group[0].first.network.shape.parameters
            at = [m.first.pretraining for m in group]
            values = [e.d90.value if math.isfinite(e.d90.value) else e.most for e in estimates]
            panel.plot(at, values, "o-", color=color, label=f"{size}: {count(parameters)} parameters")
            for e, x, value in zip(estimates, at, values, strict=True):
                ends = [v if math.isfinite(v) else e.most for v in (e.d90.low, e.d90.high)]
                panel.plot([x, x], ends, color=color, linewidth=4, alpha=0.3, solid_capstyle="butt")
                if not math.isfinite(e.d90.high):
                    panel.annotate("", (x, value * 1.25), (x, value), arrowprops={"arrowstyle": "->", "color": color})
            panel.axhline(parameters, color=color, linewidth=0.8, linestyle=":")
        panel.set_title(f"{FAMILIES[family]}, {NAMES[measure]}", fontsize=10)
        panel.set_xlabel("tokens of pretraining")
        panel.grid(alpha=0.3, which="both")
        if known:
            panel.set_xscale("log")
            panel.set_yscale("log")
            log_axis(panel.xaxis, [m.first.pretraining for m in known])
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_major_formatter(EngFormatter(sep=""))
            panel.yaxis.set_minor_formatter(NullFormatter())
            bottom, top = panel.get_ylim()
            panel.set_ylim(bottom / 1.5, top * 1.1)  # a narrower range could lack a labelled tick
            panel.legend(fontsize=8)
            panel.set_ylabel("d90, trained parameters")
    figure.suptitle("dotted: all weights; bars: interval over seeds; arrows: not reached", fontsize=8)
    save_figure(figure, path, follow=True)


def plot_gains(measured: list[CheckpointDimensions], path: Path) -> None:
    """Draw the share of the gain that every subspace reached: a row a measure, a panel a size, a line a checkpoint."""
    measures = _measures(measured)

    def draw(panels, group):
        for panel, measure in zip(panels, measures, strict=True):
            _draw_over_parameters(panel, group, lambda m, gain, measure=measure: m.share(gain, measure))
            panel.axhline(SHARE, color="gray", linestyle="--", linewidth=0.8)
            panel.set_ylabel(f"share of the gain of all weights, {NAMES[measure]}")
            panel.set_ylim(bottom=0)

    _by_size(measured, len(measures), draw, path)


def plot_gaps(measured: list[CheckpointDimensions], path: Path) -> None:
    """Draw the gain on the text adapted to, beyond that on held-out text: a panel a size, a line a checkpoint."""

    def draw(panels, group):
        _draw_over_parameters(panels[0], group, lambda m, gain: gain.gap)
        panels[0].axhline(0, color="gray", linewidth=0.8)
        panels[0].set_ylabel("training gain - held-out gain, bits per byte")

    _by_size(measured, 1, draw, path)


def _by_size(measured, rows: int, draw, path: Path) -> None:
    """Pictures with a column for each size, whose panels ``draw`` fills."""
    from matplotlib.figure import Figure

    sizes = list(dict.fromkeys(m.first.size for m in measured))
    figure = Figure(figsize=(5 * len(sizes), 4.2 * rows), dpi=100, layout="constrained")
    panels = figure.subplots(rows, len(sizes), squeeze=False)
    for column, size in enumerate(sizes):
        draw(panels[:, column], [m for m in measured if m.first.size == size])
        panels[0, column].set_title(f"{size}; lines: random, triangles: adapters, squares: whole tensors", fontsize=8)
    save_figure(figure, path, follow=True)


def _draw_over_parameters(panel, group, value) -> None:
    """A color for each checkpoint of a size, a point for each subspace; ``value(m, gain)`` None has no point."""
    from matplotlib import colormaps

    colors = colormaps["viridis_r"]([(i + 1) / len(group) for i in range(len(group))])
    for m, color in zip(group, colors, strict=True):
        points = [(g.subspace.name.split()[0], g.parameters, value(m, g)) for g in m.gains]
        for kind, (marker, size) in MARKERS.items():
            some = [(parameters, found) for name, parameters, found in points if name == kind and found is not None]
            if some:
                label = _tokens(m) if kind == points[0][0] else None
                panel.plot(*zip(*some, strict=True), marker, color=color, markersize=size, linewidth=1, label=label)
    panel.set_xscale("log")
    log_axis(panel.xaxis, [gain.parameters for m in group for gain in m.gains])
    panel.set_xlabel("trained parameters")
    panel.grid(alpha=0.3)
    if panel.get_legend_handles_labels()[0]:
        panel.legend(fontsize=7, title="pretraining", title_fontsize=7)


def _kinds(measured) -> list[tuple[str, str]]:
    """Families and measures that were estimated."""
    return list(dict.fromkeys((e.family, e.measure) for m in measured for e in m.estimates))


def _measures(measured) -> list[str]:
    return [measure for measure in NAMES if getattr(measured[0].first.before, measure) is not None]


def _estimate(m: CheckpointDimensions, family: str, measure: str) -> Estimate | None:
    return next((e for e in m.estimates if (e.family, e.measure) == (family, measure)), None)


def _shares(group, number: int, measure: str) -> list[str]:
    """What a subspace reached of the gain of all weights, for each checkpoint of a size."""
    shares = [m.share(m.gains[number], measure) for m in group]
    return ["-" if share is None else f"{share:.3f}" for share in shares]


def _tokens(m: CheckpointDimensions) -> str:
    tokens = m.first.pretraining
    return "-" if tokens is None else count(tokens)
