"""report.html: runs' curves, figures and settings on one self-contained page."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from egg.report.curves import Curves
from egg.report.plots import LOSS, measured_on
from egg.view.figures import count, duration
from egg.view.html import build, escape
from egg.view.screen import CONTROLS

REPORT = "report.html"
CHARTS = (
    ("tokens_per_second", "Tokens per second", 1),
    ("changed_share", "Weights changed by a step, %", 100),
    ("clipped_share", "Weights at ±127, %", 100),
    ("step_size", "Step size, int8 steps", 1),
)
"""Figure, its title on the page, and its scale."""


def report_page(runs: Sequence[Curves], lines: Mapping[str, float]) -> str:
    """The page.

    lines : baselines on the same text, name -> bits per byte
    """
    names = ", ".join(run.name for run in runs)
    body = f"""<h1>{escape(names)}</h1>
<noscript><p>This page draws its curves by JavaScript, and fetches nothing; {LOSS} shows them too.</p></noscript>
<p><span role="group" aria-label="horizontal axis"><button id="tokens" aria-pressed="true">tokens</button>
<button id="time" aria-pressed="false">wall time</button>
<button id="log" aria-pressed="false">logarithmic</button></span></p>
<div id="legend"></div>
<div id="charts"></div>
<h2>Runs</h2>
<div class="wide">{_runs(runs)}</div>
{_samples(runs)}<h2>Settings</h2>
<div class="wide" id="settings">{_settings(runs)}</div>
<p class="soft">Bits per byte of {measured_on(runs)} are exact; the training curve is the readers' integer score, which
is about 0.03 too good. A token is one byte of text, counted once for each reader; tokens/s is of training alone,
without compilation, measurements and checkpoints.</p>"""
    data = {
        "lines": [[name, round(bits, 4)] for name, bits in lines.items()],
        "runs": [_curves(run) for run in runs],
        "charts": [[title] for _, title, _ in CHARTS],
    }
    return build(f"egg: {names}", body, data, ["page.css", "report.css"], "report.js")


def _curves(run: Curves) -> dict[str, Any]:
    def points(rows, scale=1.0):
        return [[round(a), round(b, 2), float(f"{c * scale:.5g}")] for a, b, c in rows.tolist()]

    return {
        "name": run.name,
        "train": points(run.train),
        "validation": points(run.validation),
        "measured_on": run.measured_on,
        "parts": [[name, points(rows)] for name, rows in run.parts.items()],
        "figures": [points(run.figures[key], scale) for key, _, scale in CHARTS],
    }


def _runs(runs: Sequence[Curves]) -> str:
    rows = [("run", "steps", "tokens", "wall time", "bits per byte", "best", "tokens/s")]
    for run in runs:
        bits = run.validation[:, 2]
        tokens, seconds = run.end
        rows.append(
            (
                run.name,
                f"{run.steps:,}",
                count(tokens),
                duration(seconds),
                f"{bits[-1]:.4f}" if len(bits) else "-",
                f"{bits.min():.4f}" if len(bits) else "-",
                count(tokens / run.training_seconds) if run.training_seconds else "-",
            )
        )
    return _table(rows)


def _samples(runs: Sequence[Curves]) -> str:
    """What the models wrote, the latest first."""
    parts = []
    for run in runs:
        rows = []
        for step, bits, text in reversed(run.samples):
            at = f"step {step:,}" + (f"<br>{bits:.4f} bits per byte" if bits is not None else "")
            # A line that directly follows the tag is not shown if it is empty.
            rows.append(f"<tr><td>{at}</td><td><pre>\n{escape(text.translate(CONTROLS))}</pre></td></tr>")
        if rows:
            name = f"<h3>{escape(run.name)}</h3>" if len(runs) > 1 else ""
            parts.append(name + '<div class="wide samples"><table>' + "\n".join(rows) + "</table></div>")
    return "<h2>Samples</h2>\n" + "\n".join(parts) + "\n" if parts else ""


def _settings(runs: Sequence[Curves]) -> str:
    """Every setting, one column per run; settings that differ between runs are bold."""
    columns = [_flat(run.config) for run in runs]
    rows = [("setting", *(run.name for run in runs))]
    different = set()
    for name in dict.fromkeys(key for settings in columns for key in settings):
        values = [str(settings.get(name, "-")) for settings in columns]
        if len(set(values)) > 1:
            different.add(len(rows))
        rows.append((name, *values))
    return _table(rows, different)


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    settings = {"preset": config.get("preset", "-")}
    for section in ("model", "evolution", "run"):
        if isinstance(config.get(section), dict):
            settings |= {name: "none" if v is None else v for name, v in config[section].items()}
    corpus = config.get("corpus")
    if isinstance(corpus, dict):
        settings["text"] = f"{corpus.get('name')}, fingerprint {str(corpus.get('fingerprint'))[:12]}"
    return settings


def _table(rows: list[tuple], bold: Collection[int] = ()) -> str:
    head, *body = rows
    lines = ["<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"]
    for number, row in enumerate(body, 1):
        kind = ' class="differs"' if number in bold else ""
        lines.append(f"<tr{kind}>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>")
    return "<table>" + "\n".join(lines) + "</table>"
