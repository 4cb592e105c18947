"""A trace as a page: the text coloured by surprise, and the stages of the selected byte."""

from typing import Any

from egg.inspect.trace import Trace, byte_label
from egg.inspect.trace_screen import BEYOND, SCALE, characters
from egg.view.html import build, escape


def page(traced: Trace, model: str) -> str:
    """The page.

    model : the model's name in the heading
    """
    bits = traced.surprise_bits
    legend, low = [], 0.0
    for end, color in SCALE:
        legend.append(f'<span style="background:{color}">{low:g} to {end:g}</span>')
        low = end
    legend.append(f'<span style="background:{BEYOND}">more than {low:g}</span>')
    body = f"""<h1>{escape(model)}: how surprised it is</h1>
<p>{len(bits):,} bytes, <b>{bits.mean():.3f} bits per byte</b>, perplexity {2.0 ** bits.mean():.2f}.
Click a byte, or use the arrow keys.</p>
<p class="legend">Surprise in bits: {"".join(legend)}</p>
<noscript><p>This page needs JavaScript to show the text; it fetches nothing.</p></noscript>
<div id="layout">
<div id="text"></div>
<div id="details"></div>
</div>
<p class="soft">Stages in the order of docs/arithmetic.md; matrices (grey) are int32 sums before shift and clip, the
others int8. clipped: share at ±127, for sums the share that the clip changes. room: doublings left in int32. open:
mean of (f + 127) / 254 of the gate, 0 keeps the state, 1 renews it.</p>"""
    return build(f"egg trace: {model}", body, _data(traced), ["page.css", "trace.css"], "trace.js")


def _data(traced: Trace) -> dict[str, Any]:
    return {
        "scale": SCALE,
        "beyond": BEYOND,
        "bytes": traced.tokens.tolist(),
        "names": [byte_label(b) for b in traced.tokens.tolist()],
        "characters": characters(traced.text),
        "characters_of": [byte_label(b) for b in range(256)],
        "surprise": traced.surprise_bits.round(4).tolist(),
        "rank": (traced.rank + 1).tolist(),
        "next": [
            [[int(b), round(float(p), 5)] for b, p in zip(bytes_, shares, strict=True)]
            for bytes_, shares in zip(traced.expected, traced.probabilities, strict=True)
        ],
        "stages": [
            {
                "name": stage.name,
                "sum": stage.is_sum,
                "min": stage.min.tolist(),
                "max": stage.max.tolist(),
                "mean": stage.mean_magnitude.round(1).tolist(),
                "clipped": stage.clipped.round(4).tolist(),
                "headroom": _rounded(stage.headroom_bits, 1),
                "open": _rounded(stage.openness, 3),
            }
            for stage in traced.stages
        ],
    }


def _rounded(values, digits: int) -> list[float] | None:
    return None if values is None else values.round(digits).tolist()
