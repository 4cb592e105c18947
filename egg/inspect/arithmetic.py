"""The integer tables beside float64: the errors of powers, logarithms and divisions, and their effect on a score."""

from pathlib import Path
from typing import Any

import numpy as np

from egg.files import save_figure
from egg.kernels.arithmetic import FINE, LIMIT, SIXTEENTHS, VOCABULARY, exp2_table, floor_log2, log2_thresholds
from egg.kernels.philox import words
from egg.kernels.reference import scores

SPREADS = (0, 4, 8, 16, 32, 48)  # standard deviations of logits, in sixteenths of a bit
ROWS = 4096  # of logits for each spread
STREAM = 98  # of the generator; no training draws from it


def powers() -> tuple[np.ndarray, np.ndarray]:
    """The table e[j] = floor(16 * 2**(j / 16)), and its relative error: (256,) int64 and (256,) float64."""
    table = exp2_table().astype(np.int64)
    exact = 16.0 * np.exp2(np.arange(VOCABULARY) / 16.0)
    return table, table / exact - 1


def logarithms(fraction: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums over one octave and the error of floor(fraction * log2(v / 16)) / fraction, in bits.

    fraction : 16 or 256
    returns : (n,) int64 from 2**16 to 2**17, (n,) float64
    """
    v = np.arange(1 << 16, (1 << 17) + 1, 16, dtype=np.int64)
    return v, floor_log2(v, fraction) / fraction - np.log2(v / 16)


def division() -> dict[str, Any]:
    """Every quotient that a norm can need, v // m for |v| <= 127 * 127 and m from 1 to 127, by multiplication.

    Quotients are limited to [-127, 127], as a norm limits them.

    For comparison floor(v * (1 / m)) in float64, which rounds differently.
    """
    from egg.kernels.cpu.reciprocal import divide

    v = np.arange(-LIMIT * LIMIT, LIMIT * LIMIT + 1, dtype=np.int64)
    wrong = float_wrong = 0
    largest = 0
    for m in range(1, LIMIT + 1):
        quotients, product = divide(v, m)
        largest = max(largest, product)
        wrong += int(np.count_nonzero(quotients != (v // m).clip(-LIMIT, LIMIT)))
        float_wrong += int(np.count_nonzero(np.floor(v * (1.0 / m)) != v // m))
    return {
        "quotients": LIMIT * len(v),
        "wrong": wrong,
        "wrong_by_float64_reciprocal": float_wrong,
        "largest_product": largest,
        "headroom_bits": float(32 - np.log2(largest)),
    }


def score_bias(spread: int) -> dict[str, float]:
    """The floors' effect on a score, on random logits of a given spread.

    spread : standard deviation of the logits in sixteenths of a bit; the targets do not matter, as both floors are in
        the sum
    returns : bits per byte, each a mean over ROWS rows of 256 logits
    """
    drawn = words(0, STREAM, np.arange(ROWS), spread, VOCABULARY // 2)
    halves = drawn.astype("<u4").view("<u2").reshape(ROWS, VOCABULARY)
    from egg.kernels.arithmetic import normal_table

    normal = normal_table()[halves].astype(np.int64)  # round(16 z)
    logits = np.clip((normal * spread) >> 4, -LIMIT, LIMIT).astype(np.int8)
    targets = logits.argmax(1).astype(np.uint8)
    chosen = np.take_along_axis(logits, targets[:, None].astype(np.intp), 1)[:, 0] / 16.0
    exact = np.log2(np.exp2(logits / 16.0).sum(1)) - chosen
    # e[l + 128] is 16 * 2**((l + 128) / 16): 8 bits above the logit
    summed = exp2_table().astype(np.int64)[logits.astype(np.int64) + 128].sum(1)
    floored_powers = np.log2(summed / 16.0) - 8.0 - chosen
    coarse = -scores(logits, targets) / SIXTEENTHS
    fine = -scores(logits, targets, FINE) / FINE
    return {
        "spread_bits": spread / 16,
        "exact": float(exact.mean()),
        "integer_16": float(coarse.mean()),
        "integer_256": float(fine.mean()),
        "bias_16": float((coarse - exact).mean()),
        "bias_256": float((fine - exact).mean()),
        "of_powers": float((floored_powers - exact).mean()),
        "of_logarithm_16": float((coarse - floored_powers).mean()),
        "of_logarithm_256": float((fine - floored_powers).mean()),
    }


def measure_arithmetic() -> dict[str, Any]:
    """The tables, their worst errors, and the bias of the score, as JSON."""
    table, error = powers()
    worst = int(np.abs(error).argmax())
    results: dict[str, Any] = {
        "exp2": {
            "table": table.tolist(),
            "worst_relative_error": float(error[worst]),
            "worst_at": worst,
            "mean_relative_error": float(error.mean()),
            "worst_bits": float(np.log2(1 + error).min()),
        },
        "division": division(),
        "score": [score_bias(spread) for spread in SPREADS],
    }
    for fraction in (SIXTEENTHS, FINE):
        v, off = logarithms(fraction)
        results[f"log2_{fraction}"] = {
            "thresholds": log2_thresholds(fraction).tolist(),
            "worst_error_bits": float(off.min()),
            "worst_at": int(v[off.argmin()]),
            "mean_error_bits": float(off.mean()),
        }
    return results


def print_arithmetic(results: dict[str, Any], out) -> None:
    """Print the tables and their effects."""
    from egg.view.screen import table

    e = results["exp2"]
    rows = []
    for first in range(0, VOCABULARY, 16):
        row = e["table"][first : first + 16]
        rows.append([f"e[{first}..{first + 15}]", f"{row[0]:,}", f"{row[8]:,}", f"{row[15]:,}", _worst(first)])
    columns = ["an octave", "first", "ninth", "last", "worst error"]
    out.print(table("Powers of two: e[j] = floor(16 * 2^(j/16)), of a logit j = l + 128", columns, rows))
    rows = []
    for fraction in (SIXTEENTHS, FINE):
        f = results[f"log2_{fraction}"]
        thresholds = f["thresholds"]
        rows.append(
            [
                f"1/{fraction} bit",
                f"{len(thresholds)}",
                f"{thresholds[1]:,}",
                f"{f['worst_error_bits']:.5f}",
                f"{f['mean_error_bits']:.5f}",
            ]
        )
    columns = ["step", "thresholds", "the second", "worst, bits", "mean, bits"]
    title = "Logarithm: floor(n * log2(S / 16)), by the top bit and thresholds ceil(2^(31 + j/n))"
    out.print(table(title, columns, rows))
    d = results["division"]
    formula = "((v + 127 m) * (floor(2^(16 + s) / m) + 1) >> (16 + s)) - 127"
    out.print(f"Division of the norm, v // m as {formula}", style="bold")
    out.print(
        f"all {d['quotients']:,} quotients: {d['wrong']} wrong\n"
        f"floor(v * (1 / m)) in float64: {d['wrong_by_float64_reciprocal']:,} wrong\n"
        f"largest product {d['largest_product']:,}, {d['headroom_bits']:.2f} doublings below the limit of uint32\n"
    )
    rows = [
        [
            f"{s['spread_bits']:.2f}",
            f"{s['exact']:.4f}",
            f"{s['integer_16']:.4f}",
            f"{s['bias_16']:+.4f}",
            f"{s['of_powers']:+.4f}",
            f"{s['of_logarithm_16']:+.4f}",
            f"{s['bias_256']:+.4f}",
        ]
        for s in results["score"]
    ]
    columns = ["logits' spread, bits", "exact", "score", "error", "by e", "by log2", "in 1/256"]
    out.print(table("Surprise in bits: exact, and by the integer score", columns, rows))
    out.print(
        "Both floors make the sum S too small, and every byte too likely. The floor to sixteenths of a bit takes "
        "1/32 = 0.03125 bit on average, the 0.03 of the score. The powers' floors take up to 4 % of the smallest "
        "powers, which hardly count in S. Recipe egg reports its readers' score in 1/256 bit; bits per byte are exact, "
        "from float64."
    )


def _worst(first: int) -> str:
    _, error = powers()
    return f"{100 * error[first : first + 16].min():.3f} %"


def plot_arithmetic(path: Path) -> None:
    """Draw the tables and their errors in one picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), dpi=90, layout="constrained")
    (a, b), (c, d) = figure.subplots(2, 2)
    table, error = powers()
    at = np.arange(VOCABULARY)
    a.semilogy(at, table, "o", markersize=2.5, base=2, label="e[j] = floor(16 * 2^(j/16))")
    a.semilogy(at, 16 * np.exp2(at / 16), linewidth=0.8, base=2, label="float64")
    a.set_xlabel("j = logit + 128")
    a.set_title("Powers of two")
    a.legend(fontsize=8)
    b.plot(at, 100 * error, ".-", linewidth=0.5, markersize=3)
    b.set_xlabel("j = logit + 128")
    b.set_ylabel("%")
    b.set_title("Their error: the floor of small ones")
    v, coarse = logarithms(SIXTEENTHS)
    _, fine = logarithms(FINE)
    c.plot(v / 65536, coarse, linewidth=0.9, label="1/16 bit: score_16")
    c.plot(v / 65536, fine, linewidth=0.9, label="1/256 bit: score_256")
    c.axhline(coarse.mean(), color="gray", linestyle="--", linewidth=1, label=f"mean {coarse.mean():.4f}")
    c.set_xlabel("S / 65,536, one octave")
    c.set_ylabel("bits")
    c.set_title("Error of the integer logarithm of S")
    c.legend(fontsize=8)
    results = [score_bias(spread) for spread in SPREADS]
    x = np.arange(len(results))
    powers_, logs = (np.array([s[k] for s in results]) for k in ("of_powers", "of_logarithm_16"))
    d.bar(x, logs, label="by the logarithm's floor")
    d.bar(x, powers_, bottom=logs, label="by the powers' floors")
    d.axhline(-1 / 32, color="gray", linestyle="--", linewidth=1, label="1/32 bit")
    d.set_xticks(x, [f"{s['spread_bits']:g}" for s in results])
    d.set_xlabel("spread of the logits, bits")
    d.set_ylabel("bits")
    d.set_title("How much too good the integer score reads")
    d.set_ylim(-0.05, 0)
    d.legend(fontsize=8, loc="lower center", ncols=3)
    for panel in (a, b, c, d):
        panel.grid(alpha=0.3)
    save_figure(figure, path, follow=True)
