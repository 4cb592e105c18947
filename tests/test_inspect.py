"""egg inspect model, trace and arithmetic: what they say is what is there."""

import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from conftest import forge

from egg.inspect.arithmetic import division, logarithms, powers, score_bias
from egg.inspect.model import _edges, measure_model, plot_histograms
from egg.inspect.trace import stage_names, trace
from egg.inspect.trace_screen import characters
from egg.kernels import Shape, get_backend
from egg.kernels.arithmetic import product_shift
from egg.kernels.reference import norm
from egg.model.network import Network, load

PNG = b"\x89PNG"
SHAPE = Shape(16, 2)
TEXT = 'if x < 0: # <script>alert("1")</script> café\n\treturn'


@pytest.fixture(scope="module")
def weights():
    drawn = np.random.default_rng(3).standard_normal(SHAPE.parameters) * 25
    return np.clip(drawn, -127, 127).astype(np.int8)


@pytest.fixture(scope="module")
def run(tmp_path_factory, tables):
    """A small trained run."""
    from conftest import SMALL

    from egg.cli.main import main

    folder = tmp_path_factory.mktemp("inspected") / "a run"
    assert main(["train", *SMALL, "--data", str(tables), "--steps", "6", "--out", str(folder)]) == 0
    return folder


# The model


def test_a_models_tensors(egg, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, _ = egg("inspect", "model", run, "--plot")
    assert status == 0 and (tmp_path / "model.png").read_bytes().startswith(PNG)
    model = load(run, backend="numpy")
    for name in model.shape.tensors:
        assert name in out
    found = json.loads(egg("inspect", "model", run, "--json", "--plot", "other.png")[1])
    assert (tmp_path / "other.png").exists()
    assert found["parameters"] == model.shape.parameters
    for row in found["tensors"]:
        w = model.shape.views(model.weights)[row["name"]]
        assert row["shape"] == list(w.shape) and row["bytes"] == w.size
        assert (row["min"], row["max"]) == (w.min(), w.max())
        assert row["mean_magnitude"] == pytest.approx(np.abs(w.astype(int)).mean())
        _, counts = np.unique(w, return_counts=True)
        shares = counts / w.size
        assert row["entropy_bits"] == pytest.approx(-(shares * np.log2(shares)).sum())
        assert row["limit_share"] == np.mean(np.abs(w.astype(int)) == 127)
    assert 0 < found["all"]["changed_share"] <= 1


def test_a_histogram_has_the_range_of_its_tensor(run, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, file, format: drawn.append(self))
    model = measure_model(str(run))
    plot_histograms(model, tmp_path / "model.png")
    views, first = model.shape.views(model.weights), model.shape.views(model.first)
    for panel, (name, weights) in zip(drawn[0].axes, views.items(), strict=False):
        assert panel.get_title() == name
        both = [weights.ravel(), first[name].ravel()]
        (low, high), (bottom, top) = panel.get_xlim(), panel.get_ylim()
        least, most = min(w.min() for w in both), max(w.max() for w in both)
        width = (high - low) / len(panel.patches[0].get_data().values)
        assert all(np.mean((low < w) & (w < high)) >= 0.999 for w in both)
        assert low >= least - 5 and high <= most + 5 + width  # no wider than the weights, or nine levels
        bars = [patch.get_data().values for patch in panel.patches]
        assert bottom == 0 and np.max(bars) < top < 1.5 * np.max(bars) and all(b.sum() >= 99.9 for b in bars)
    # A few weights far away do not make the others narrow.
    shares = np.zeros(255)
    shares[[0, 120, 127, 134, 254]] = 0.0004, 0.3, 0.3992, 0.3, 0.0004
    assert _edges(shares).tolist() == [n - 0.5 for n in range(-7, 9)]


def test_what_changed_is_counted_from_the_runs_own_beginning(egg, train, tmp_path):
    train("--steps", 1, "--seed", 5, "--out", tmp_path / "run")
    model = measure_model(str(tmp_path / "run"))
    from egg.model.parameters import initial_weights

    first = initial_weights(model.shape, 5, "egg")
    assert model.whole.changed_share == np.mean(first != model.weights) < 0.9
    config = tmp_path / "run/checkpoints/step-00000001/config.json"
    config.write_text('{"model": {"hidden_size": 16, "num_layers": 1}}')
    forge(config.parent)
    bare = json.loads(egg("inspect", "model", config.parent, "--json")[1])
    assert bare["all"]["changed_share"] is None
    assert egg("inspect", "model", config.parent, "--plot", tmp_path / "bare.png")[0] == 0


# The trace


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_traces_logits_are_the_backends(weights, backend):
    if backend == "numba":
        pytest.importorskip("numba")
    traced = trace(SHAPE, weights, TEXT.encode())
    computing = get_backend(backend)
    states = np.zeros((1, SHAPE.num_layers, SHAPE.hidden_size), np.int8)
    logits, _ = computing.forward(computing.prepare(SHAPE, weights), traced.tokens[None], states)
    np.testing.assert_array_equal(traced.logits, logits[0])


def test_a_traces_stages_follow_the_formulas(weights):
    """Some stages, computed again by hand for the text's first byte."""
    traced = trace(SHAPE, weights, b"a")
    stages = {stage.name: stage for stage in traced.stages}
    assert [stage.name for stage in traced.stages] == stage_names(SHAPE)
    w = SHAPE.views(weights.astype(np.int64))
    x = w["embedding.weight"][0]  # the NUL comes first, from state zero
    assert stages["embedding"].min[0] == x.min() and stages["embedding"].max[0] == x.max()
    u = norm(x[None], w["layers.0.ln1.weight"])[0]
    assert stages["layers.0.ln1"].mean_magnitude[0] == np.abs(u).mean()
    acc = w["layers.0.gru.w_f"] @ u
    product = stages["layers.0.gru.w_f"]
    assert product.is_sum and (product.min[0], product.max[0]) == (acc.min(), acc.max())
    shifted = acc >> product_shift(16)
    assert product.clipped[0] == np.mean(np.abs(shifted) > 127)
    assert product.headroom_bits[0] == pytest.approx(31 - np.log2(np.abs(acc).max()))
    f = np.clip(np.clip(shifted, -127, 127) + w["layers.0.gru.b_f"], -127, 127)  # h is zero
    gate = stages["layers.0.gate"]
    assert gate.openness[0] == pytest.approx(((f + 127) / 254).mean())
    assert gate.clipped[0] == np.mean(np.abs(f) == 127)
    assert stages["layers.0.past"].max[0] == stages["layers.0.past"].min[0] == 0
    assert all((stage.headroom_bits is not None) == stage.is_sum for stage in traced.stages)


def test_a_traces_surprise_is_that_of_eval(weights, monkeypatch):
    from egg.model.evaluate import evaluate

    text = TEXT.encode()
    traced = trace(SHAPE, weights, text)
    whole = np.frombuffer(b"\0" + text, np.uint8)
    result = evaluate(Network(get_backend("numpy"), SHAPE, weights), whole)
    assert traced.surprise_bits.mean() == pytest.approx(result.bits_per_byte, abs=1e-9)
    exact = np.exp2(traced.logits / 16.0)
    exact /= exact.sum(1, keepdims=True)
    for t, byte in enumerate(text):
        assert 2.0 ** -traced.surprise_bits[t] == pytest.approx(exact[t, byte])
        assert traced.expected[t, 0] == exact[t].argmax()
        assert traced.probabilities[t, 0] == pytest.approx(exact[t].max())
        assert traced.rank[t] == np.count_nonzero(exact[t] > exact[t, byte])


def test_a_traces_stages_do_not_touch_the_model(weights):
    """The hook that the trace uses changes nothing: members of a population pass it too."""
    a, b = trace(SHAPE, weights, b"ab"), trace(SHAPE, weights, b"abc")
    for one, two in zip(a.stages, b.stages, strict=True):
        np.testing.assert_array_equal(one.max, two.max[:3])


def test_trace_on_the_terminal(egg, run):
    status, out, _ = egg("inspect", "trace", run, "--text", TEXT)
    assert status == 0 and f"{len(TEXT.encode())} bytes, " in out
    assert "if x < 0" in out and "café" in out and "layers.0.mlp.w_down" in out
    assert "\x1b" not in out  # no terminal, no colours
    status, out, _ = egg("inspect", "trace", run, "--text", TEXT, "--byte", 3)
    assert status == 0 and "Stages of byte 3" in out and "expected next" in out
    assert egg("inspect", "trace", run, "--text", TEXT, "--byte", 0)[0] == 0


def test_trace_as_json(egg, run):
    found = json.loads(egg("inspect", "trace", run, "--text", "abc", "--json")[1])
    assert found["bytes"] == 3 and [p["byte"] for p in found["positions"]] == [0, 97, 98, 99]
    last = found["positions"][3]
    assert {"surprise_bits", "predicted_byte", "predicted_probability"} <= set(last)
    gate = next(stage for stage in last["stages"] if stage["stage"] == "layers.0.gate")
    assert 0 <= gate["gate_openness"] <= 1 and gate["share_clipped"] >= 0
    product = next(stage for stage in last["stages"] if stage["stage"] == "head.weight")
    assert 0 < product["headroom_bits"] <= 31


class Page(HTMLParser):
    """Tags with their attributes, and the data of the page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.data, self._inside = [], None, False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._inside = dict(attributes).get("id") == "data"

    def handle_data(self, data):
        if self._inside:
            self.data, self._inside = json.loads(data), False


def self_contained(text: str) -> Page:
    """A page that fetches nothing, by its tags and by its own policy."""
    page = Page(text)
    for _, attributes in page.tags:
        assert not {"src", "href", "srcset", "action"} & set(attributes)
    assert not re.search(r"@import|url\(|fetch\(|https?://(?!www\.w3\.org/2000/svg)", text)
    assert "default-src 'none'" in text
    return page


def test_trace_as_a_page(egg, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = egg("inspect", "trace", run, "--text", TEXT, "--html", "--plot", "x.png")
    assert status == 0 and "wrote trace.html" in err
    assert (tmp_path / "x.png").read_bytes().startswith(PNG)
    text = (tmp_path / "trace.html").read_text(encoding="utf-8")
    page = self_contained(text)
    assert "<script>alert" not in text and [t for t, _ in page.tags].count("script") == 2
    assert "".join(c for c, *_ in page.data["characters"]) == TEXT.replace("\n", "⏎").replace("\t", "⇥")
    assert page.data["bytes"] == [0, *TEXT.encode()]
    assert len(page.data["stages"]) == len(stage_names(Shape(16, 1)))
    assert all(len(stage["min"]) == len(page.data["bytes"]) for stage in page.data["stages"])
    egg("inspect", "trace", run, "--text-file", tmp_path / "trace.html", "--html", "named.html")
    assert (tmp_path / "named.html").exists() == (len(text) <= 20_000)


def test_bytes_that_are_no_characters_are_shown_as_such():
    assert characters(b"a\xc3\xa9\xff\n\x1b\xe2\x80\xae") == [
        ("a", 1, 1),
        ("é", 2, 2),
        ("�", 4, 1),
        ("⏎", 5, 1),
        ("�", 6, 1),
        ("�", 7, 3),
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("", "choose kernels"),
        ("nothing", "Available commands: kernels"),
        ("trace {run}", "--text or --text-file"),
        ("trace {run} --text a --text-file b", "give either --text or --text-file"),
        ("trace {run} --text=", "empty"),
        ("trace {run} --text-file no/such", "no/such"),
        ("trace {run} --text ab --byte 3", "1 to 2"),
        ("trace {run} --text ab --byte=-1", "1 to 2"),
        ("trace {tmp} --text ab", "neither a run nor a checkpoint"),
        ("trace {run} --text ab --html no/such/x.html", "no/such/x.html"),
        ("model {tmp}", "neither a run nor a checkpoint"),
        ("model {run} --plot no/such/x.png", "no/such/x.png"),
        ("model", "PATH"),
        ("arithmetic --speed", "--speed"),
    ],
)
def test_what_cannot_be_inspected(egg, run, tmp_path, arguments, says):
    words = [w.format(run=run, tmp=tmp_path) for w in arguments.split()]
    status, out, err = egg("inspect", *words)
    if not words:
        assert status == 0 and "kernels" in out  # its help
        return
    assert (status, out) == (2, "") and says in err and err.count("\n") == 1


def test_a_text_with_a_nul_or_without_end_is_refused(egg, run, tmp_path):
    for content, says in ((b"a\0b", "NUL"), (b"x" * 20_001, "20,000")):
        (tmp_path / "text").write_bytes(content)
        status, _, err = egg("inspect", "trace", run, "--text-file", tmp_path / "text")
        assert status == 2 and says in err and err.count("\n") == 1


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("what", ["kernels", "model", "trace", "arithmetic"])
def test_help_fits(egg, monkeypatch, columns, what):
    monkeypatch.setenv("COLUMNS", str(columns))
    status, out, _ = egg("inspect", what, "--help")
    assert status == 0 and f"egg inspect {what}" in out.partition("For example:")[2]
    assert max(map(len, out.splitlines())) <= columns


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 160])
def test_tables_fit_the_terminal(egg, run, monkeypatch, columns):
    for words in (["model", run], ["trace", run, "--text", TEXT], ["arithmetic"]):
        monkeypatch.setenv("COLUMNS", "300")
        whole = egg("inspect", *words)[1]
        monkeypatch.setenv("COLUMNS", str(columns))
        out = egg("inspect", *words)[1]
        assert max(map(len, out.splitlines())) <= columns, words
        # No number and no heading is folded.
        tables = [line for line in whole.splitlines() if line.startswith(" ") and "─" not in line]
        assert {word for line in tables for word in line.split()} <= set(out.split()), words


def test_a_narrow_table_is_printed_in_parts():
    from egg.view.screen import console, table

    out = io.StringIO()
    rows = [["forward", "1,234,567", "89"], ["vote", "12", "3"]]
    console(out, width=20).print(table("Counts", ["step", "vector", "scalar"], rows))
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert lines[0] == ["Counts"]
    parts = (
        ["step", "vector"],
        ["forward", "1,234,567"],
        ["vote", "12"],
        ["step", "scalar"],
        ["forward", "89"],
        ["vote", "3"],
    )
    assert [words for words in lines[1:] if words and "─" not in words[0]] == list(parts)


# The arithmetic


def test_the_errors_of_the_tables():
    table, error = powers()
    exact = 16 * np.exp2(np.arange(256) / 16)
    assert np.all(table <= exact) and np.all(table > exact - 1)
    assert -0.05 < error.min() < -0.04 and error.max() <= 0
    for fraction in (16, 256):
        _, off = logarithms(fraction)
        assert off.max() <= 1e-12 and -1 / fraction <= off.min() < -0.99 / fraction
        assert off.mean() == pytest.approx(-0.5 / fraction, rel=0.01)


def test_division_is_exact_everywhere():
    pytest.importorskip("numba")
    found = division()
    assert found["wrong"] == 0 < found["wrong_by_float64_reciprocal"]
    assert found["quotients"] == 127 * (2 * 127 * 127 + 1) and found["largest_product"] < 2**31
    assert found["headroom_bits"] > 1


def test_why_the_score_reads_too_good():
    """About 0.03 bits in sixteenths, nearly all of it the logarithm's floor."""
    for spread in (8, 16, 32):
        bias = score_bias(spread)
        assert -0.034 < bias["bias_16"] < -0.029
        assert abs(bias["of_powers"]) < 0.001
        assert bias["of_powers"] + bias["of_logarithm_16"] == pytest.approx(bias["bias_16"])
        assert abs(bias["bias_256"]) < 0.003
    assert score_bias(0)["exact"] == score_bias(0)["integer_16"] == 8.0


def test_inspect_arithmetic(egg, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, _ = egg("inspect", "arithmetic", "--plot")
    assert status == 0 and "0 wrong" in out and "0.03125" in out
    assert (tmp_path / "arithmetic.png").read_bytes().startswith(PNG)
    found = json.loads(egg("inspect", "arithmetic", "--json")[1])
    assert len(found["exp2"]["table"]) == 256 and len(found["log2_16"]["thresholds"]) == 16
    assert found["division"]["wrong"] == 0
