"""egg plot and report.html; other places for the log."""

import html
import json
import shutil
import sys

import numpy as np
import pytest
from test_inspect import self_contained

from egg.errors import EggError
from egg.model.network import load
from egg.report.curves import SAMPLES, read_curves
from egg.run.log import log_spacing
from egg.view.figures import count
from egg.view.screen import CONTROLS

TRAIN = "train_integer_bits_per_byte"
PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tables):
    """Two small runs of one text, and one of another name."""
    from conftest import SMALL

    from egg.cli.main import main

    folder = tmp_path_factory.mktemp("plotted")
    for name in ("a", "b<i>"):
        out = str(folder / name)
        seed = str(len(name))
        arguments = ["--steps", "9", "--seed", seed, "--out", out, "--data", str(tables)]
        assert main(["train", *SMALL, *arguments]) == 0
    return folder / "a", folder / "b<i>"


def test_a_mixtures_parts_are_curves_of_their_own(runs, tmp_path, monkeypatch):
    """Beside the whole where a run is drawn alone, at most so many, and each named in the legend."""
    from matplotlib.axes import Axes

    from egg.report import curves
    from egg.report.draw import write

    run = tmp_path / "mixed"
    shutil.copytree(runs[0], run)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if (bits := line.get("validation_bits_per_byte")) is not None:
            line |= {f"validation_bits_per_byte/part {n}": bits + n for n in range(4)}
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr(curves, "MAX_PARTS", 3)
    read, drawn = read_curves(run), []
    assert list(read.parts) == ["part 0", "part 1", "part 2"] and read.name == "mixed"
    for n, points in enumerate(read.parts.values()):
        assert np.array_equal(points, read.validation + [0, 0, n])
    real = Axes.plot

    def plot(axes, *arguments, **options):
        drawn.append((axes.get_xlabel(), options.get("label") or ""))
        return real(axes, *arguments, **options)

    monkeypatch.setattr(Axes, "plot", plot)
    write([read], {}, tmp_path)
    last = read.validation[-1, 2]
    named = [label.strip() for _, label in drawn if "part" in label]
    assert named == 2 * [f"part {n}: {last + n:.3f} at the end" for n in range(3)]
    drawn.clear()
    write([read, read_curves(runs[1])], {}, tmp_path)
    assert not [label for _, label in drawn if "part" in label]
    line = lines[-1] | {"validation_bits_per_byte/part 0": "low"}
    (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(EggError, match="is no log of a run: the line of step 9 has no numbers"):
        read_curves(run)


def test_one_run_is_drawn_into_its_folder(egg, runs):
    for name in ("loss.png", "report.html"):
        (runs[0] / name).unlink()
    status, out, err = egg("plot", runs[0])
    assert (status, err) == (0, "")
    assert out.split() == [str(runs[0] / "loss.png"), str(runs[0] / "report.html")]
    assert (runs[0] / "loss.png").read_bytes().startswith(PNG)
    page = self_contained((runs[0] / "report.html").read_text(encoding="utf-8"))
    (run,) = page.data["runs"]
    lines = [json.loads(line) for line in (runs[0] / "metrics.jsonl").read_text().splitlines()]
    assert [p[0] for p in run["train"]] == [line["tokens"] for line in lines]
    measured = [line for line in lines if "validation_bits_per_byte" in line]
    assert [p[2] for p in run["validation"]] == [float(f"{line['validation_bits_per_byte']:.5g}") for line in measured]
    assert [p[1] for p in run["validation"]] == [round(line["seconds"], 2) for line in measured]
    assert all(run["figures"])


def test_the_lines_are_those_of_the_measured_text(egg, runs, tables):
    from egg import data
    from egg.model.baselines import baselines, trigram_bits

    corpus = data.open_corpus(str(tables))
    texts = corpus.split("train"), corpus.split("validation")
    simple = baselines(*texts)
    egg("plot", runs[0])
    page = self_contained((runs[0] / "report.html").read_text(encoding="utf-8"))
    assert page.data["lines"] == [
        ["unigram", round(simple.unigram, 4)],
        ["bigram", round(simple.bigram, 4)],
        ["trigram", round(trigram_bits(*texts), 4)],
        ["gzip -9", round(simple.gzip, 4)],
    ]


def test_a_page_shows_what_the_model_wrote_as_egg_sample_would(egg, train, tmp_path):
    run = tmp_path / "run"
    train("--steps", 8, "--seed", 7, "--sample-every", 1, "--keep", "all", "--out", run)
    sampled = [r for r in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if "sample" in r]
    page = (run / "report.html").read_text(encoding="utf-8")
    assert [r["step"] for r in sampled] == [4, 8]
    for record in sampled:
        network = load(run / f"checkpoints/step-{record['step']:08d}", backend="numpy")
        (text,) = network.generate(b"", 200, seed=7 + record["step"])
        assert record["sample"] == text.decode(errors="replace")
        assert f"<pre>\n{html.escape(record['sample'].translate(CONTROLS))}</pre>" in page
    assert page.index("step 8<br>") < page.index("step 4<br>")  # the latest first


def test_several_runs_are_drawn_over_one_another(egg, runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = egg("plot", *runs)
    assert (status, err) == (0, "") and out.split() == ["loss.png", "report.html"]
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = self_contained(text)
    assert [run["name"] for run in page.data["runs"]] == ["a", "b<i>"]
    assert "<i>" not in text.replace("<i></i>", "") and len(page.data["lines"]) == 4
    assert '<tr class="differs"><td>seed</td>' in text
    for run in runs:  # the speed of training alone, though measurements took most of the time
        curves = read_curves(run)
        assert 0 < curves.training_seconds < curves.end[1]
        assert f"<td>{count(curves.end[0] / curves.training_seconds)}</td></tr>" in text
    status, out, _ = egg("plot", *runs, "--out", tmp_path / "there")
    assert status == 0 and (tmp_path / "there/loss.png").read_bytes().startswith(PNG)


def test_a_name_is_no_formula(egg, runs, tmp_path):
    named = tmp_path / r"a$\frac{$ <i>"
    shutil.copytree(runs[0], named)
    for arguments in ([named], [named, runs[0], "--out", tmp_path]):
        status, _, err = egg("plot", *arguments)
        assert status == 0, err


@pytest.mark.parametrize("fingerprint", [[1], {}, 3])
def test_a_forged_fingerprint_is_no_texts(egg, runs, tmp_path, fingerprint):
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_bytes((runs[0] / "metrics.jsonl").read_bytes())
    (run / "config.json").write_text(json.dumps({"corpus": {"fingerprint": fingerprint}}))
    status, _, err = egg("plot", run)
    assert status == 0 and "not in the cache" in err


def test_without_the_text_there_are_curves_without_lines(egg, runs, cache, tmp_path):
    status, _, err = egg("plot", runs[0], "--out", tmp_path / "x")
    assert status == 0 and "not in the cache" in err
    assert self_contained((tmp_path / "x/report.html").read_text()).data["lines"] == []


def test_a_run_that_goes_on_or_was_killed_can_be_drawn(egg, runs, tmp_path):
    run = tmp_path / "going on"
    run.mkdir()
    (run / "config.json").write_bytes((runs[0] / "config.json").read_bytes())
    lines = (runs[0] / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:2]) + lines[2][:30])  # not measured, and torn
    assert egg("plot", run)[0] == 0
    (data,) = self_contained((run / "report.html").read_text()).data["runs"]
    assert len(data["train"]) == 2 and data["validation"] == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("", "RUN is missing"),
        ("{tmp}/nothing", "no such folder"),
        ("{tmp}", "no config.json"),
        ("{run}/checkpoints/step-00000009", "give its run"),
        ("{tmp}/empty", "no whole line"),
        ("{tmp}/damaged", "no log"),
        ("{run} --out {tmp}/empty/config.json", "--out"),
    ],
)
def test_what_cannot_be_drawn(egg, runs, tmp_path, arguments, says):
    for name in ("empty", "damaged"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "metrics.jsonl").touch()
    (tmp_path / "damaged/metrics.jsonl").write_text('{"step": 1, "seconds": 0.1}\n')
    words = [w.format(run=runs[0], tmp=tmp_path) for w in arguments.split()]
    status, out, err = egg("plot", *words)
    assert (status, out) == (2, "") and says in err and err.count("\n") == 1


# Elsewhere


@pytest.mark.parametrize(("flag", "module"), [("--tensorboard", "tensorboardX"), ("--wandb", "wandb")])
def test_without_the_extra_there_is_one_line_and_no_run(egg, tables, tmp_path, monkeypatch, flag, module):
    monkeypatch.setitem(sys.modules, module, None)
    status, out, err = egg("train", flag, "--data", tables, "--backend", "numpy", "--out", tmp_path / "run")
    assert status == 2 and f"pip install 'egg-lm[{flag[2:]}]'" in err and err.count("\n") == 1
    assert not (tmp_path / "run").exists()


class Recorded:
    """What a library of the extras is asked to log."""

    def __init__(self, *arguments, **options):
        self.options, self.logged, self.closed = options | {"at": arguments}, [], False
        Recorded.last = self

    def add_scalar(self, name, value, step):
        self.logged.append((step, name, value))

    def add_text(self, name, text, step):  # as Markdown, in which four spaces begin a line of code
        assert all(line.startswith("    ") for line in text.split("\n"))
        self.add_scalar(name, "\n".join(line[4:] for line in text.split("\n")), step)

    def log(self, figures, step):
        self.logged += [(step, name, value) for name, value in figures.items()]

    def close(self):
        self.closed = True

    def finish(self):
        self.closed = True


@pytest.mark.parametrize("flag", ["--tensorboard", "--wandb"])
def test_the_same_numbers_go_elsewhere(train, tmp_path, monkeypatch, flag):
    from types import SimpleNamespace

    module = SimpleNamespace(SummaryWriter=Recorded, init=Recorded)
    for name in ("tensorboardX", "wandb"):
        monkeypatch.setitem(sys.modules, name, module)
    train(flag, "--steps", 5, "--sample-every", 1, "--out", tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    figures = [
        (line["step"], name, value) for line in lines for name, value in line.items() if name not in ("step", "seconds")
    ]
    assert Recorded.last.logged == figures and Recorded.last.closed
    assert [step for step, name, _ in figures if name == "sample"] == [4, 5]


def test_a_run_of_weights_and_biases_has_the_project_and_name_it_is_given(egg, train, tmp_path, monkeypatch):
    from types import SimpleNamespace

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=Recorded))
    for flags, project, name in (
        (["--wandb"], "egg", "run-0"),
        (["--wandb-project", "letters"], "letters", "run-1"),
        (["--wandb-project", "letters", "--wandb-name", "the first"], "letters", "the first"),
    ):
        Recorded.last = None
        train(*flags, "--steps", 1, "--out", tmp_path / f"run-{len(list(tmp_path.iterdir()))}")
        assert (Recorded.last.options["project"], Recorded.last.options["name"]) == (project, name)
    status, out, err = egg("train", "--wandb-name", "", "--data", tmp_path, "--out", tmp_path / "none")
    assert (status, out) == (2, "") and "--wandb-name is empty: give a name" in err and err.count("\n") == 1


def test_tensorboard_reads_what_was_written(train, tmp_path):
    pytest.importorskip("tensorboardX")
    loading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train("--tensorboard", "--steps", 3, "--out", tmp_path / "run")
    events = loading.EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    shown = [(e.step, e.value) for e in events.Scalars("train_integer_bits_per_byte")]
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert shown == [(line["step"], pytest.approx(line["train_integer_bits_per_byte"])) for line in lines]


# Pictures


def test_ticks_that_are_read_as_they_are_meant(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    from egg.report.curves import Curves
    from egg.report.plots import log_axis, plot_runs

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, file, format: drawn.append(self))
    lines = np.array([[1000.0, 9.0, 5.0], [40_000.0, 185.0, 4.0]])
    plot_runs([Curves(tmp_path, "a", {}, 2, lines, lines, {}, (40_000, 185.0), [], 100.0)], {}, tmp_path / "a")
    tokens, minutes = drawn[0].axes
    assert "10k" in labels(tokens.xaxis)
    assert "0.5" in labels(minutes.xaxis) and "500m" not in labels(minutes.xaxis)

    panel = Figure().subplots()
    panel.plot([492_000, 2_007_000], [1, 2])
    panel.set_xscale("log")
    log_axis(panel.xaxis, [492_000, 2_007_000])
    assert labels(panel.xaxis) >= {"500k", "1M", "2M"}
    assert not any("10" in label and "^" in label for label in labels(panel.xaxis))


def labels(axis):
    """What stands at an axis' ticks."""
    axis.figure.canvas.draw()
    return {text.get_text() for text in axis.get_ticklabels(which="both")}


def test_a_log_of_any_length_is_drawn_in_bounded_memory(tmp_path):
    """Rows are thinned to means of neighbours; what is left has the same mean and the same ends."""
    (tmp_path / "config.json").write_text("{}")
    with open(tmp_path / "metrics.jsonl", "w") as file:
        for step in range(1, 40_001):
            line = {"step": step, "tokens": step, "seconds": step / 2, TRAIN: step % 7, "sample": str(step)}
            file.write(json.dumps(line) + "\n")
    curves = read_curves(tmp_path)
    assert curves.samples[-1] == (40_000, None, "40000") and len(curves.samples) <= SAMPLES
    assert curves.steps == 40_000 and curves.end == (40_000, 20_000.0) and len(curves.train) <= 300
    assert curves.train[:, 2].mean() == pytest.approx(3, abs=0.05) and (np.diff(curves.train[:, 0]) > 0).all()


@pytest.mark.parametrize(
    "forged", [{"tokens": "many"}, {"tokens": None}, {TRAIN: []}, {TRAIN: 1e999}, {"step_size": {}}, {"sample": 3}]
)
def test_a_forged_log_is_refused_in_one_line(egg, tmp_path, forged):
    (tmp_path / "config.json").write_text("{}")
    line = {"step": 1, "tokens": 16, "seconds": 0.1, TRAIN: 5.0, "step_size": 0.5}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line | forged) + "\n")
    status, out, err = egg("plot", tmp_path)
    assert (status, out) == (2, "") and "is no log of a run" in err and err.count("\n") == 1


def test_lines_come_more_rarely_in_a_long_run():
    due = [step for step in range(1, 200_001) if step % log_spacing(step, 1) == 0]
    assert due[:20_000] == list(range(1, 20_001)) and len(due) == 20_000 + 3 * 10_000 + 2_500
