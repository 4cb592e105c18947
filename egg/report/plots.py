"""Pictures of the loss over training, from runs' metrics.jsonl."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from egg.errors import EggError, telling
from egg.files import save_figure, shown
from egg.report.curves import Curves
from egg.run.log import MEASURED, METRICS, VALIDATION, is_number, measurement, read_records

LOSS = "loss.png"
PART_COLORS = ("C1", "C2", "C4", "C5", "C6", "C9")  # beside C0 and C3, training and validation
PART_NAME = 40  # characters of a part's name in the legend


def plot_runs(runs: Sequence[Curves], lines: Mapping[str, float], path: Path) -> None:
    """Draw runs' training and validation loss over tokens and over wall time.

    lines : baselines on the same text, name -> bits per byte
    path : of the picture
    """
    # Imported here, as it is slow; without pyplot, which would look for a display.
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(11, 4.5), dpi=110, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    seconds = max(run.end[1] for run in runs)
    per, unit = (3600, "hours") if seconds > 7200 else (60, "minutes") if seconds > 120 else (1, "seconds")
    for panel, column, scale, label in ((panels[0], 0, 1, "tokens"), (panels[1], 1, per, f"wall time, {unit}")):
        for number, run in enumerate(runs):
            color = f"C{number % 10}"
            alone = len(runs) == 1
            name = "training, integer score" if alone else None
            panel.plot(run.train[:, column] / scale, run.train[:, 2], color=color, alpha=0.45, linewidth=1, label=name)
            if len(run.validation):
                at, bits = run.validation[:, column] / scale, run.validation[:, 2]
                style = "o-" if len(bits) < 60 else "-"
                figures = f"{bits[-1]:.3f} at the end, {bits.min():.3f} at best"
                name = run.name if run.measured_on == MEASURED[VALIDATION] else f"{run.name}, {run.measured_on}"
                figures = f"{run.measured_on}, exact: {figures}" if alone else f"{name}: {figures}"
                panel.plot(at, bits, style, color="C3" if alone else color, markersize=3, label=figures)
                for part, (of, points) in enumerate(run.parts.items() if alone else ()):
                    at, shade = points[:, column] / scale, PART_COLORS[part % len(PART_COLORS)]
                    dashes = ("--", ":")[part // len(PART_COLORS) % 2]
                    name = f"    {shown(of, PART_NAME)}: {points[-1, 2]:.3f} at the end"
                    panel.plot(at, points[:, 2], dashes, color=shade, linewidth=1.2, label=name)
            elif not alone:
                panel.plot([], [], color=color, label=f"{run.name}: not measured")
        for name, bits in lines.items():
            panel.axhline(bits, color="gray", linestyle="--", linewidth=0.8)
            panel.annotate(
                f"{name} {bits:.2f}",
                (1, bits),
                xycoords=("axes fraction", "data"),
                xytext=(-4, 2),
                textcoords="offset points",
                ha="right",
                fontsize=7.5,
                color="dimgray",
                bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5},
            )
        panel.set_xlabel(label)
        panel.set_xlim(left=0)
        if column == 0:  # for hours 500m would look like 500 minutes
            panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("bits per byte")
    panels[0].legend(fontsize=8)
    if len(runs) == 1:
        figure.suptitle(runs[0].name, fontsize=11)
    save_figure(figure, path)


def log_axis(axis, values: Sequence[float]) -> None:
    """Ticks of a logarithmic axis, such as 500k and 2M; only at powers of ten where values span three decades."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    narrow = max(values) < 300 * min(values)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,)))
    axis.set_major_formatter(EngFormatter(sep=""))
    axis.set_minor_formatter(NullFormatter())  # the default would write 6 x 10^5 beside 1M


def plot_comparison(out: Path, results) -> Path:
    """Draw the validation loss of a comparison's runs, mean and range over seeds; returns the picture's path.

    results : egg.study.compare.RunResult of each run, whose folder is out/NAME/seed-N
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(11, 4.5), dpi=120, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for number, name in enumerate(dict.fromkeys(r.name for r in results)):
        curves = [_validation(out / name / f"seed-{r.seed}") for r in results if r.name == name]
        points = min(map(len, curves))  # (tokens, seconds, bits) at the same steps for every seed
        stacked = np.array([curve[:points] for curve in curves])
        bits, style = stacked[:, :, 2], {"color": f"C{number}"}
        for panel, x in zip(panels, (stacked[0, :, 0], stacked[:, :, 1].mean(0)), strict=True):
            panel.plot(x, bits.mean(0), "o-", markersize=3, label=name, **style)
            panel.fill_between(x, bits.min(0), bits.max(0), alpha=0.2, linewidth=0, **style)
    for panel, label in zip(panels, ("tokens", "seconds"), strict=True):
        panel.set_xlabel(label)
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel(f"bits per byte, {measured_on(results)}")
    panels[0].legend()
    path = out / "curves.png"
    save_figure(figure, path)
    return path


def plot_costs(costs, path: Path) -> Path:
    """Draw what each configuration reached over what it cost, a line for those that differ in budget alone.

    costs : egg.study.compare.Cost of each configuration
    path : of the picture, which is returned
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 5), dpi=110, layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    columns = {"tokens": "tokens", "multiply_accumulates": "multiply-accumulates", "seconds": "seconds of training"}
    for panel, (column, label) in zip(panels, columns.items(), strict=True):
        for number, family in enumerate(dict.fromkeys(c.family for c in costs)):
            members = sorted((c for c in costs if c.family == family), key=lambda c: c.tokens)
            means = np.array([c.mean for c in members])
            ends = np.array([(min(c.bits_per_byte), max(c.bits_per_byte)) for c in members]).T
            panel.errorbar(
                [getattr(c, column) for c in members],
                means,
                yerr=abs(ends - means),
                fmt="osD^v"[number // 10 % 5] + "-",
                color=f"C{number % 10}",
                markersize=4,
                capsize=2,
                label=family,
            )
        panel.set_xscale("log")
        log_axis(panel.xaxis, [getattr(c, column) for c in costs])
        if column == "seconds":  # 50m would look like 50 minutes
            panel.xaxis.set_major_formatter("{x:g}")
        panel.set_xlabel(label)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel(f"bits per byte, {measured_on(costs)}, at the run's end")
    panels[0].legend(fontsize=8)
    save_figure(figure, path)
    return path


def measured_on(runs) -> str:
    """What runs were measured on: Curves, or a comparison's RunResults or Costs."""
    return " or ".join(sorted({run.measured_on for run in runs}, reverse=True))


def _validation(run: Path) -> np.ndarray:
    """(n, 3): tokens, seconds and exact bits per byte at each of a run's measurements."""
    with telling(f"cannot read {run / METRICS}"):
        records = [(record, measured) for record in read_records(run / METRICS) if (measured := measurement(record))]
    if not records or not all(is_number(record.get("tokens")) for record, _ in records):
        raise EggError(f"{run / METRICS} holds no measurements: remove {run} and its line of results to run it again")
    return np.array([(r["tokens"], r["seconds"], bits) for r, (_, bits) in records], np.float64)
