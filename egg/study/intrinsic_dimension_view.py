"""d90 as tables and pictures."""

import math
from pathlib import Path

from egg.files import save_figure
from egg.report.plots import log_axis
from egg.study.intrinsic_dimension import INTERVAL, SHARE, SHARES, CheckpointDimensions
from egg.view.figures import count

PICTURE, CURVES = "d90.png", "gains.png"


def print_measured(measured: list[CheckpointDimensions], out) -> None:
    """Print d90 of every checkpoint, and the share of the gain that every subspace reached."""
    from egg.view.screen import table

    rows = []
    for m in measured:
        c, d = m.candidate, m.d90
        rows.append(
            [
                c.size,
                _tokens(m),
                f"{c.before:.3f}",
                f"{m.gains[-1].mean:.3f}",
                *(dimension_text(m, m.dimensions[share].value) for share in SHARES),
                f"{dimension_text(m, d.low)} to {dimension_text(m, d.high)}",
                f"{100 * d.value / c.network.shape.parameters:.0f} %" if math.isfinite(d.value) else "-",
            ]
        )
    names = [f"d{100 * share:.0f}" for share in SHARES]
    columns = ["size", "trained for", "before", "gain", *names, "interval", "of all"]
    out.print(table("Trained parameters that reach 50, 80, 90 % of the gain of all weights", columns, rows, left=2))
    out.print(
        "trained for: tokens; before: bits per byte, unadapted; gain: of all weights, below that;\n"
        f"interval: of d90, {100 * INTERVAL[0]:.0f} to {100 * INTERVAL[1]:.0f} % of resampled seeds; "
        "of all: d90 as a share of all weights"
    )
    for size in dict.fromkeys(m.candidate.size for m in measured):
        group = [m for m in measured if m.candidate.size == size]
        rows = []
        for number, gain in enumerate(group[0].gains):
            shares = [m.share(m.gains[number]) for m in group]
            shares = ["-" if share is None else f"{share:.3f}" for share in shares]
            rows.append([gain.subspace.name, f"{gain.parameters:,}", *shares])
        columns = ["subspace", "parameters", *map(_tokens, group)]
        out.print()
        out.print(table(f"{size}: share of the gain of all weights", columns, rows))


def dimension_text(m: CheckpointDimensions, value: float) -> str:
    """A d90 in short: 3.1k; > 42k where it is not reached; <= 320 where the smallest subspace reaches it."""
    if not math.isfinite(value):
        return f"> {count(m.d90.bound)}"
    return f"<= {count(value)}" if value <= m.d90.least else count(value)


def plot_dimension(measured: list[CheckpointDimensions], path: Path) -> None:
    """Draw d90 against pretraining tokens, a line a size; an arrow where it is only known to be larger."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    figure = Figure(figsize=(7, 4.5), dpi=120, layout="constrained")
    panel = figure.subplots()
    known = [m for m in measured if m.candidate.pretraining]
    for number, size in enumerate(dict.fromkeys(m.candidate.size for m in known)):
        group = sorted((m for m in known if m.candidate.size == size), key=lambda m: m.candidate.pretraining)
        color, parameters = f"C{number}", group[0].candidate.network.shape.parameters
        at = [m.candidate.pretraining for m in group]
        values = [m.d90.value if math.isfinite(m.d90.value) else m.d90.bound for m in group]
        panel.plot(at, values, "o-", color=color, label=f"{size}: {count(parameters)} parameters")
        for m, x, value in zip(group, at, values, strict=True):
            ends = [v if math.isfinite(v) else m.d90.bound for v in (m.d90.low, m.d90.high)]
            panel.plot([x, x], ends, color=color, linewidth=4, alpha=0.3, solid_capstyle="butt")
            if not math.isfinite(m.d90.high):
                panel.annotate("", (x, value * 1.25), (x, value), arrowprops={"arrowstyle": "->", "color": color})
        panel.axhline(parameters, color=color, linewidth=0.8, linestyle=":")
    if known:
        panel.set_xscale("log")
        panel.set_yscale("log")
        log_axis(panel.xaxis, [m.candidate.pretraining for m in known])
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter(EngFormatter(sep=""))
        panel.yaxis.set_minor_formatter(NullFormatter())
        bottom, top = panel.get_ylim()
        panel.set_ylim(bottom / 1.5, top * 1.1)  # a narrower range could lack a labelled tick
        panel.legend(fontsize=8)
    panel.set_xlabel("tokens of pretraining")
    panel.set_ylabel("d90, trained parameters")
    panel.set_title("dotted: all weights; bars: interval over seeds; arrows: not reached", fontsize=8)
    panel.grid(alpha=0.3, which="both")
    save_figure(figure, path, follow=True)


def plot_gains(measured: list[CheckpointDimensions], path: Path) -> None:
    """Draw the share of the gain that every subspace reached: a panel a size, a line a checkpoint."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    sizes = list(dict.fromkeys(m.candidate.size for m in measured))
    figure = Figure(figsize=(5.5 * len(sizes), 4.3), dpi=110, layout="constrained")
    for panel, size in zip(figure.subplots(1, len(sizes), squeeze=False)[0], sizes, strict=True):
        group = [m for m in measured if m.candidate.size == size]
        group.sort(key=lambda m: m.candidate.pretraining or 0)
        colors = colormaps["viridis_r"]([(i + 1) / len(group) for i in range(len(group))])
        for m, color in zip(group, colors, strict=True):
            if m.share(m.gains[-1]) is None:
                continue
            points = [(g.parameters, m.share(g), g.subspace.rank) for g in m.gains]
            best, envelope = 0.0, []
            for parameters, share, _ in points:
                best = max(best, share)
                envelope.append((parameters, best))
            panel.plot(*zip(*envelope, strict=True), color=color, linewidth=1, label=_tokens(m))
            for marker, low in (("o", True), ("s", False)):
                same_kind = [(p, s) for p, s, rank in points if (rank is not None) == low]
                if same_kind:
                    panel.plot(*zip(*same_kind, strict=True), marker, color=color, markersize=4)
        panel.axhline(SHARE, color="gray", linestyle="--", linewidth=0.8)
        panel.set_xscale("log")
        log_axis(panel.xaxis, [gain.parameters for m in group for gain in m.gains])
        panel.set_title(f"{size}; round: adapters, square: whole tensors; lines: best so far", fontsize=8)
        panel.set_xlabel("trained parameters")
        panel.set_ylabel("share of the gain of all weights")
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
        if panel.get_legend_handles_labels()[0]:
            panel.legend(fontsize=7, title="pretraining", title_fontsize=7)
    save_figure(figure, path, follow=True)


def _tokens(m: CheckpointDimensions) -> str:
    tokens = m.candidate.pretraining
    return "-" if tokens is None else count(tokens)
