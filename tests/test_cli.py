"""The command line: what a run leaves behind, and what bad input is told."""

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL, forge

from egg import __version__
from egg.cli.main import main
from egg.cli.options import whole_number
from egg.config import OWN_FIELDS, PRESET_HELP
from egg.run import progress
from egg.run.progress import Progress
from egg.run.status import Status
from egg.view.figures import count, duration
from egg.view.screen import CONTROLS

ROOT = Path(__file__).parent.parent
KEYS = [
    "step",
    "tokens",
    "train_integer_bits_per_byte",
    "validation_bits_per_byte",
    "step_size",
    "changed_share",
    "clipped_share",
    "tokens_per_second",
    "seconds",
]


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


# What a run leaves behind


def test_a_run_directory(train, tmp_path):
    run = tmp_path / "run"
    out = train("--steps", 10, "--out", run)
    assert {p.name for p in run.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "loss.png",
        "report.html",
        "checkpoints",
        "best.json",
        "run.toml",
    }
    lines = metrics(run)
    best = min((line["validation_bits_per_byte"], line["step"]) for line in (lines[3], lines[7]))[1]
    assert {p.name for p in (run / "checkpoints").iterdir()} == {f"step-{n:08d}" for n in (6, 9, 10, best)}
    assert [line["step"] for line in lines] == list(range(1, 11))
    assert [line["tokens"] for line in lines] == [128 * n for n in range(1, 11)]
    for line in lines:
        absent = set() if line["step"] in (4, 8, 10) else {"validation_bits_per_byte"}
        assert list(line) == [k for k in KEYS if k not in absent]
        assert line["tokens_per_second"] > 0
        assert 0 <= line["changed_share"] <= 1
    assert lines[0]["train_integer_bits_per_byte"] == 8.0
    assert all(a["seconds"] < b["seconds"] for a, b in pairwise(lines))
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert (run / "report.html").read_text().startswith("<!doctype html>")
    config = json.loads((run / "config.json").read_text())
    assert config == json.loads((run / "checkpoints/step-00000010/config.json").read_text())
    assert config["preset"] == "nano" and config["format"] == 2
    assert config["model"] == {"hidden_size": 16, "num_layers": 1, "vocab_size": 256}
    assert config["run"]["steps"] == 10 and config["run"]["tokens"] is None
    assert config["corpus"]["fingerprint"]
    # What was chosen is told, and what it was made with.
    assert config["evolution"]["branches"] == 16 and 0.89 < config["evolution"]["step_size"] < 0.9
    assert lines[0]["step_size"] == config["evolution"]["step_size"] > lines[1]["step_size"] > lines[9]["step_size"] > 0
    made_with = config["made_with"]
    assert made_with["egg"] == __version__ and made_with["backend"].startswith("numpy: ")
    assert made_with["cpu"] and set(made_with) <= {"egg", "commit", "cpu", "backend"}
    toml = (run / "run.toml").read_text()
    assert all(f"# {name}: " in toml for name in made_with)
    settings = tomllib.loads(toml)
    assert settings["branches"] == 16 and settings["step_size"] == lines[0]["step_size"]
    assert not {"population_size", "sigma_shift"} & settings.keys()  # the other recipe's
    # Without a terminal: plain lines, few of them, and nothing that moves the cursor.
    assert "\r" not in out and "\x1b" not in out
    assert "step 10" in out and str(run / "checkpoints" / "step-00000010") in out


def test_eval_says_what_the_end_of_training_says(train, egg, tmp_path):
    run = tmp_path / "run"
    out = train("--steps", 5, "--out", run, "--eval-bytes", 0)
    status, text, notices = egg("eval", run, "--json", "--backend", "numpy")
    assert status == 0
    result = json.loads(text)
    assert list(result) == [
        "bits_per_byte",
        "byte_perplexity",
        "word_perplexity",
        "integer_bits_per_byte",
        "documents",
        "bytes",
        "words",
        "seconds",
        "backend",
    ]
    assert result["bits_per_byte"] == metrics(run)[-1]["validation_bits_per_byte"]
    assert f"{result['bits_per_byte']:.4f}" in out
    assert result["byte_perplexity"] == 2 ** result["bits_per_byte"]
    assert result["backend"] == "numpy" and "numpy" in notices
    assert result["documents"] == 4  # the empty one is none
    of_checkpoint = egg("eval", run / "checkpoints/step-00000003", "--json", "--backend", "numpy")
    assert json.loads(of_checkpoint[1])["bits_per_byte"] != result["bits_per_byte"]


def test_the_end_of_a_run_tells_how_good_it_is(train, egg, tables, tmp_path):
    from egg import data
    from egg.model.baselines import baselines

    run = tmp_path / "a run"
    out = train("--steps", 9, "--eval-bytes", 200, "--out", run)
    corpus = data.open_corpus(str(tables))
    simple = baselines(corpus.split("train"), corpus.split("validation"))
    table = out.partition("$ egg sample ")[0]  # lines of the sample are set in as well
    rows = {line[:13].strip(): line[13:].split()[0] for line in table.splitlines() if line[:2] == "  "}
    assert rows["bigram"] == f"{simple.bigram:.4f}" and rows["unigram"] == f"{simple.unigram:.4f}"
    assert rows["gzip -9"] == f"{simple.gzip:.4f}"
    # All of the validation split, not the part that is measured on the way.
    of_all = json.loads(egg("eval", run, "--json", "--backend", "numpy")[1])
    assert rows["this model"] == f"{of_all['bits_per_byte']:.4f}"
    assert f"{of_all['bytes']:,} bytes in 4 documents" in out
    # The sample is what the command beside it gives.
    command, *lines = out.partition("egg sample ")[2].splitlines()
    status, text, _ = egg("sample", *shlex.split(command), "--backend", "numpy")
    assert status == 0
    assert [line[2:] for line in lines] == text.translate(CONTROLS).splitlines()


def test_a_best_before_the_end_is_named(train, tmp_path, monkeypatch):
    from egg.model.evaluate import Evaluation
    from egg.run import trainer

    bits = {4: 5.0, 6: 6.0}
    monkeypatch.setattr(
        trainer.Trainer, "_evaluate", lambda self: Evaluation(bits[self.evolution.step_number], 8.0, 1, 210, 0.0)
    )
    run = tmp_path / "run"
    out = train("--steps", 6, "--out", run)
    assert f"best: {run / 'best'}, 5.0000 at step 4" in out


def test_eval_of_other_splits_and_other_text(train, egg, tmp_path, book):
    run = tmp_path / "run"
    train("--steps", 1, "--out", run)
    for arguments in (["--split", "test"], ["--split", "train"], ["--data", book]):
        status, out, err = egg("eval", run, "--backend", "numpy", *arguments)
        assert status == 0, err
        assert "bits per byte" in out and len(out.splitlines()) == 5
    assert "all" in out and "no validation split" in err
    status, out, err = egg("eval", run, "--split", "all")
    assert (status, out) == (2, "") and "--split all" in err.splitlines()[-1]


def test_eval_beside_simpler_models(train, egg, tmp_path, tables):
    from egg import data
    from egg.model.baselines import baselines, strong_baselines

    run = tmp_path / "run"
    train("--steps", 1, "--out", run)
    corpus = data.open_corpus(str(tables))
    pair = corpus.split("train"), corpus.split("test")
    simple, strong = baselines(*pair), strong_baselines(*pair)
    arguments = ["eval", run, "--split", "test", "--baselines", "--backend", "numpy"]
    status, out, err = egg(*arguments, "--json")
    assert status == 0, err
    found = json.loads(out)["baselines"]
    assert found == {
        "trigram": strong.trigram,
        "bigram": simple.bigram,
        "unigram": simple.unigram,
        "xz": strong.xz,
        "zstd": strong.zstd,
        "gzip": simple.gzip,
    }
    lines = egg(*arguments)[1].splitlines()
    table = [float(line.split()[1 + line.startswith("  this model")]) for line in lines[7:]]
    assert len(table) == 7 and table == sorted(table)
    assert {f"{bits:.4f}" for bits in found.values()} < {f"{bits:.4f}" for bits in table}


def test_eval_of_each_document(train, egg, tmp_path):
    run, path = tmp_path / "run", tmp_path / "documents.jsonl"
    train("--steps", 1, "--out", run)
    arguments = ["eval", run, "--json", "--backend", "numpy", "--per-document"]
    status, out, err = egg(*arguments, path)
    assert status == 0, err
    whole, lines = json.loads(out), [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(whole["documents"]))
    for key in ("bytes", "words"):
        assert sum(line[key] for line in lines) == whole[key]
    bits = sum(line["bits_per_byte"] * line["bytes"] for line in lines)
    assert bits / whole["bytes"] == pytest.approx(whole["bits_per_byte"], abs=1e-12)
    assert lines[0]["byte_perplexity"] == 2 ** lines[0]["bits_per_byte"]
    for wrong in (tmp_path, tmp_path / "none" / "file.jsonl"):
        status, out, err = egg(*arguments, wrong)
        assert (status, out) == (2, "") and str(wrong) in err.splitlines()[-1]


def test_a_bar_is_for_people_and_for_long_work(monkeypatch):
    from egg.cli import bar as cli_bar

    class Terminal(io.StringIO):
        def isatty(self):
            return self.looked_at

    for looked_at, total in ((False, 1 << 30), (True, 1000), (True, 1 << 20)):
        stream = Terminal()
        stream.looked_at = looked_at
        monkeypatch.setattr(sys, "stderr", stream)
        with cli_bar.bar(total, "reading") as read:
            if read:
                read(total // 2)
                read(total // 2)
        shown = looked_at and total > cli_bar.MIN_BYTES
        assert ("reading" in stream.getvalue()) == shown == (read is not None)


def test_eval_of_a_bare_model_needs_data(train, egg, tmp_path, book):
    run, bare = tmp_path / "run", tmp_path / "bare"
    train("--steps", 1, "--out", run)
    bare.mkdir()
    shutil.copy(run / "checkpoints/step-00000001/model.safetensors", bare)
    (bare / "config.json").write_text('{"model": {"hidden_size": 16, "num_layers": 1}}')
    status, out, err = egg("eval", bare)
    assert (status, out) == (2, "") and "--data" in err
    assert egg("eval", bare, "--data", book, "--backend", "numpy")[0] == 0


def test_a_text_without_validation_is_measured_on_itself(egg, tmp_path, book):
    run = tmp_path / "run"
    status, out, err = egg(
        "train",
        *"--preset quickstart --hidden-size 16 --num-layers 1 --streams 8".split(),
        *"--steps 2 --backend numpy".split(),
        "--data",
        book,
        "--out",
        run,
    )
    assert status == 0, err
    assert "has no validation text: the model is measured on its training text" in out
    assert json.loads((run / "config.json").read_text())["run"]["data"] == str(book)
    assert "training_text_bits_per_byte" in metrics(run)[-1]


def test_a_run_of_recipe_paper(train, egg, tmp_path):
    run = tmp_path / "run"
    train("--recipe", "paper", "--seq-len", 10, "--sigma-shift", 3, "--steps", 2, "--out", run)
    assert metrics(run)[-1]["tokens"] == 2 * 32 * 10
    assert [k for k in KEYS if k not in metrics(run)[-1]] == ["step_size"]
    there = json.loads((run / "config.json").read_text())["evolution"]
    given = {"recipe": "paper", "seq_len": 10, "population_size": 32, "sigma_shift": 3, "seed": 0}
    assert set(there) == {*given, *OWN_FIELDS["paper"]} and there | given == there
    assert egg("eval", run, "--backend", "numpy")[0] == 0


def test_flags_override_the_preset_and_later_ones_win(train, tmp_path):
    run = tmp_path / "run"
    train(
        "--preset",
        "base",
        "--preset",
        "paper",
        "--recipe",
        "egg",
        "--tokens",
        "1e12",
        "--seed",
        1,
        "--seed=2",
        "--steps=2",
        "--out",
        tmp_path / "other",
        "--out",
        run,
    )
    config = json.loads((run / "config.json").read_text())
    assert config["preset"] == "paper" and config["model"]["hidden_size"] == 16
    assert config["run"]["eval_bytes"] == 262_144  # of the preset
    assert config["evolution"]["seed"] == 2
    assert config["run"]["tokens"] == 10**12 and config["run"]["steps"] == 2
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("flag", "value", "steps"),
    [
        ("--steps", "3", 3),
        ("--tokens", "300", 3),
        ("--member-tokens", "300", 3),
        ("--member_tokens=300", None, 3),
        ("--minutes", "1e-9", 1),
    ],
)
def test_one_stop_replaces_those_of_the_preset(train, tmp_path, flag, value, steps):
    run = tmp_path / "run"
    train(*([flag] if value is None else [flag, value]), "--out", run)
    assert len(metrics(run)) == steps
    stops = json.loads((run / "config.json").read_text())["run"]
    assert sum(stops[k] is not None for k in ("steps", "tokens", "minutes")) == 1


def test_the_first_of_two_stops_counts(train, tmp_path):
    train("--steps", 9, "--tokens", 256, "--out", tmp_path / "run")
    assert len(metrics(tmp_path / "run")) == 2


def test_a_stop_away_from_the_schedules_end_is_remarked(train, tmp_path):
    assert "scheduled for 10.0k" in train("--steps", 2, "--out", tmp_path / "a")
    for n, flags in enumerate((["--schedule-tokens", 256], ["--schedule", "constant"])):
        assert "scheduled" not in train("--steps", 2, *flags, "--out", tmp_path / str(n))


def test_the_step_size_may_follow_the_clock(train, egg, tmp_path):
    run = tmp_path / "run"
    out = train("--schedule-tokens", "none", "--minutes", 0.02, "--out", run)
    assert "no other run repeats this one" in out
    lines = metrics(run)
    sizes = [line["step_size"] for line in lines]
    assert sizes == sorted(sizes, reverse=True)
    first = json.loads((run / "config.json").read_text())["evolution"]
    assert first["schedule_tokens"] == "time"
    assert 0.99 * first["step_size"] < sizes[0] <= first["step_size"]
    # 1.2 s, of which the last step has had nearly all: the line from the whole step to a twentieth of it.
    done = lines[-2]["seconds"] / 1.2
    assert sizes[-1] == pytest.approx(sizes[0] * (1 - 0.95 * done), abs=0.05 * sizes[0])
    status, _, err = egg("train", "--resume", run, "--steps", 9999, "--backend", "numpy")
    assert status == 2 and "--schedule-tokens time" in err and err.count("\n") == 1
    status, _, err = egg("train", "--resume", run, "--minutes", 0.03, "--backend", "numpy")
    assert status == 0, err
    assert metrics(run)[len(lines)]["step_size"] > sizes[-1]  # as the end is farther away


def test_without_an_end_the_step_size_stays(train, tmp_path, monkeypatch):
    from egg.evolution.base import Evolution

    step = Evolution.step

    def third_time_interrupted(self):
        if self.step_number == 2:
            signal.raise_signal(signal.SIGTERM)
        return step(self)

    monkeypatch.setattr(Evolution, "step", third_time_interrupted)
    with pytest.raises(AssertionError):  # it ends by a signal
        train("--tokens", "none", "--schedule-tokens", "none", "--out", tmp_path / "run")
    there = json.loads((tmp_path / "run/config.json").read_text())["evolution"]
    assert there["schedule"] == "constant" and there["schedule_tokens"] == 8_000_000
    assert {line["step_size"] for line in metrics(tmp_path / "run")} == {there["step_size"]}


def test_lines_of_the_log_come_seldom(train, tmp_path):
    """A line is the mean of the steps since the one before; measurements, checkpoints and the end have one."""
    every, seldom = tmp_path / "every", tmp_path / "seldom"
    for run, flags in ((every, []), (seldom, ["--log-every", 5])):
        train("--steps", 13, "--checkpoint-every", 6, *flags, "--out", run)
    lines = metrics(seldom)
    assert [line["step"] for line in lines] == [4, 5, 6, 8, 10, 12, 13]
    bits = [line["train_integer_bits_per_byte"] for line in metrics(every)]
    before = 0
    for line in lines:
        mean = sum(bits[before : line["step"]]) / (line["step"] - before)
        assert line["train_integer_bits_per_byte"] == mean
        before = line["step"]
    name = "checkpoints/step-00000013/model.safetensors"
    assert (seldom / name).read_bytes() == (every / name).read_bytes()


def test_runs_go_to_a_folder_of_their_own(train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train("--steps", 1, "--preset", "base")
    train("--steps", 1, "--preset", "base")
    names = sorted(p.name for p in (tmp_path / "runs").iterdir())
    assert len(names) == 2
    assert all(re.fullmatch(r"base-\d{8}-\d{6}(-2)?", name) for name in names)


def test_equal_seeds_give_equal_runs(train, tmp_path):
    weights = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train("--steps", 2, "--seed", seed, "--out", tmp_path / name)
        path = tmp_path / name / "checkpoints/step-00000002/model.safetensors"
        weights[name] = path.read_bytes()
    assert weights["a"] == weights["b"] != weights["c"]


def test_train_py_is_egg_train(tables, tmp_path):
    command = [
        sys.executable,
        str(ROOT / "train.py"),
        *"--hidden-size 16 --num-layers 1".split(),
        *"--streams 8 --steps 1 --backend numpy --data".split(),
        str(tables),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("runs/nano-*/checkpoints/step-00000001"))) == 1
    done = subprocess.run(command + ["--steps", "x"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "egg: Invalid value for --steps: 'x' is no integer: write it like 4096, 10_000, 10M or 1e9 "
        "(python train.py --help)"
    ]


def test_the_first_command_learns(tmp_path):
    """The README's first command, shortened: it must do better than any code of single bytes."""
    from egg import data

    command = "--preset quickstart --tokens 100K --threads 2".split()
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *command], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (run,) = tmp_path.glob("runs/quickstart-*")
    validation = data.open_corpus("stdlib").split("validation")
    shares = np.bincount(validation[validation != 0]) / np.count_nonzero(validation)
    shares = shares[shares > 0]
    unigram = -(shares * np.log2(shares)).sum()
    assert 4.5 < unigram < 5.0
    assert metrics(run)[-1]["validation_bits_per_byte"] < unigram - 0.5


def test_without_the_harness_there_is_one_line(egg, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    status, out, err = egg("lm-eval", "run", "--help")
    assert (status, out) == (2, "") and err.count("\n") == 1
    assert "pip install 'egg-lm[lm-eval]'" in err


# Help


def test_version_and_help(egg):
    assert egg("--version") == (0, f"egg {__version__}\n", "")
    for arguments in ((), ("--help",), ("-h",)):
        status, out, _ = egg(*arguments)
        assert status == 0 and "train" in out and "eval" in out


def test_help_shows_the_chosen_presets_values(egg):
    status, out, _ = egg("train", "--preset", "paper", "--help")
    assert status == 0
    words = " ".join(out.replace("│", " ").split())
    assert "[default: 262144]" in words and "[default: paper]" in words and "[default: 10G]" in words
    assert "--hidden-size" in words and "--model" not in words and "vocab" not in words
    for name, line in PRESET_HELP.items():
        assert f"{name} {line}" in words
    assert "[default: 30M]" in " ".join(egg("train", "--help")[1].replace("│", " ").split())
    assert egg("eval", "--help")[0] == 0


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(("name", "value", "colored"), [("X", "1", True), ("NO_COLOR", "1", False)])
def test_no_color_is_respected_on_a_terminal(name, value, colored):
    import pty

    ours, theirs = pty.openpty()
    code = "from egg.cli.main import main; main(['eval', '--help'])"
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=theirs,
        env=os.environ | {"TERM": "xterm", name: value},
        check=True,
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # Linux's end of file
        while block := os.read(ours, 1 << 16):
            shown += block
    os.close(ours)
    assert b"--split" in shown and (b"\x1b[" in shown) == colored


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("command", ["train", "eval", "sample", "data", "plot"])
def test_help_fits_the_terminal_and_gives_an_example(egg, monkeypatch, columns, command):
    monkeypatch.setenv("COLUMNS", str(columns))
    status, out, _ = egg(command, "--help")
    assert status == 0 and f"egg {command} " in out.partition("For example:")[2]
    assert max(map(len, out.splitlines())) <= columns


# Bad input

BAD = {
    "unknown preset": ("--preset huge", "quickstart"),
    "unknown flag": ("--speed 3", "--speed"),
    "misspelt flag": ("--stream 64", "--streams"),
    "a flag of other programs": ("--lr 0.1", "unknown option --lr: here it is --step-size"),
    "such a flag in other letters": ("--Learning_Rate=0.1", "here it is --step-size"),
    "stray word": ("hello", "unknown argument hello"),
    "no value": ("--hidden-size", "--hidden-size"),
    "hidden size": ("--hidden-size 100", "power of four"),
    "hidden size zero": ("--hidden-size 0", "power of four"),
    "layers": ("--num-layers 0", "layers"),
    "layers without end": ("--num-layers 1e9", "--num-layers"),
    "keep none": ("--keep 0", "--keep"),
    "keep some": ("--keep some", "or all"),
    "streams zero": ("--streams 0", "--streams"),
    "streams negative": ("--streams -16", "--streams"),
    "too large a step": ("--streams 8K --seq-len 17", "at most 131,072"),
    "branches": ("--branches 32", "a power of two from 16 to the hidden size, 16"),
    "branches in words": ("--branches some", "or all"),
    "credit": ("--credit rail", '"wire", "stations"'),
    "stations of the wire": ("--credit wire --stations past", "credit wire has none"),
    "stations in words": ("--credit stations --stations gates,pst", "unknown 'pst', perhaps 'past'"),
    "population": ("--population-size 64", "recipe egg has none"),
    "population zero": ("--recipe paper --population-size 0", "--population-size 0"),
    "population negative": ("--recipe paper --population-size -16", "--population-size"),
    "streams of the paper": ("--recipe paper --streams 8", "recipe paper has none"),
    "odd pairs": ("--recipe paper --population-size 17", "even"),
    "group": ("--group-size 16", "recipe egg has none"),
    "schedule": ("--schedule-tokens never", "or time"),
    "schedule by no clock": ("--schedule-tokens time", "--minutes"),
    "chunk": ("--seq-len 0", "--seq-len"),
    "steps": ("--steps 0", "--steps"),
    "steps negative": ("--steps=-3", "--steps"),
    "minutes": ("--minutes 0", "--minutes"),
    "tokens": ("--tokens 0", "--tokens"),
    "member-tokens": ("--member-tokens 0", "--tokens"),
    "threads": ("--threads 0", "threads"),
    "threads negative": ("--threads -1", "threads"),
    "sigma": ("--recipe paper --sigma-shift 9", "0 to 8"),
    "sigma negative": ("--recipe paper --sigma-shift -1", "0 to 8"),
    "seed": ("--seed 1.5", "--seed"),
    "seed word": ("--seed x", "--seed"),
    "seed huge": ("--seed 1e999999999", "--seed"),
    "seed range": ("--seed 18446744073709551616", "--seed"),
    "recipe": ("--recipe cake", '"egg", "paper"'),
    "sigma of branches": ("--sigma-shift 3", "recipe egg has none"),
    "perturbation": ("--perturbation input", "Unknown option: --perturbation"),
    "step size": ("--step-size big", "--step-size"),
    "backend": ("--backend tpu", "tpu"),
    "absent backend": ("--backend cupy", "cupy"),
    "no data": ("--data no/such/text", "no/such/text"),
    "no data at all": ("--data=", "--data"),
    "nobody's data": ("--data ~nobody-of-this-name/text", "~nobody-of-this-name/text"),
    "out is a file": ("--out {file}", "file"),
    "out below a file": ("--out {file}/run", "cannot be written"),
    "out empty": ("--out=", "--out"),
    "resume nothing": ("--resume {tmp}/nothing", "no such folder"),
    "resume a file": ("--resume {file}", "is a file"),
    "resume empty": ("--resume=", "--resume"),
    "resume else": ("--resume {tmp}", "neither a run nor a checkpoint"),
    "resume without value": ("--resume", "--resume"),
}


def one_line(err: str) -> str:
    assert err.count("\n") == 1 and err.startswith("egg: "), err
    return err


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_line_and_writes_nothing(egg, tables, tmp_path, monkeypatch, name):
    arguments, says = BAD[name]
    file = tmp_path / "file"
    file.touch()
    monkeypatch.chdir(tmp_path)
    status, _, err = egg(
        "train",
        "--hidden-size",
        16,
        "--steps",
        1,
        "--backend",
        "numpy",
        "--data",
        tables,
        *arguments.format(file=file, tmp=tmp_path).split(),
    )
    assert status == 2
    assert says in one_line(err)
    assert os.listdir(tmp_path) == ["file"]


def _parquet(path: Path, **columns: list) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path)


BAD_DATA = {
    "empty.txt": (lambda path: path.touch(), "has no text"),
    "nuls.txt": (lambda path: path.write_bytes(bytes(9)), "looks like binary data"),
    "folder": (lambda path: path.mkdir(), "no files"),
    "torn.gz": (lambda path: path.write_bytes(b"\x1f\x8b\x08"), "cannot read"),
    "torn.jsonl": (lambda path: path.write_text('{"text": '), "line 1 is not JSON"),
    "other.jsonl": (lambda path: path.write_text('{"a": "b"}'), "has no key 'text'"),
    "torn.parquet": (lambda path: path.write_bytes(b"PAR1"), "as Parquet"),
    "other.parquet": (lambda path: _parquet(path, a=["b"]), "has no column 'text'"),
    "numbers.parquet": (lambda path: _parquet(path, text=[1]), "not text"),
    "none.*": (lambda path: None, "no file matches"),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data_gets_one_line_and_writes_nothing(egg, tmp_path, monkeypatch, name):
    make, says = BAD_DATA[name]
    make(tmp_path / name)
    before = os.listdir(tmp_path)
    monkeypatch.chdir(tmp_path)
    status, out, err = egg("train", "--backend", "numpy", "--data", tmp_path / name)
    assert (status, out) == (2, "")
    assert says in one_line(err) and str(tmp_path / name) in err
    assert os.listdir(tmp_path) == before
    status, out, err = egg("data", "prepare", tmp_path / name)
    assert (status, out) == (2, "") and says in one_line(err)


def test_eval_on_bad_data_gets_one_line(train, egg, tables, tmp_path):
    train("--steps", 1, "--out", tmp_path / "run")
    (tmp_path / "empty.txt").touch()
    for arguments, says in (
        (("--data", tmp_path / "nothing.txt"), "no such file"),
        (("--data", tmp_path / "empty.txt"), "has no text"),
        (("--data", tables, "--split", "all"), "--split all"),
    ):
        status, out, err = egg("eval", tmp_path / "run", "--backend", "numpy", *arguments)
        assert (status, out) == (2, "") and says in one_line(err)


@pytest.mark.parametrize("spec", ["book.txt", "boo*.txt", "book.txt:2,sub/[x].md", "./book.txt"])
def test_a_run_is_understood_from_every_folder(egg, tmp_path, monkeypatch, spec):
    home, other = tmp_path / "a [folder]", tmp_path / "other"
    (home / "sub").mkdir(parents=True)
    other.mkdir()
    (home / "book.txt").write_text("some words of a book. " * 40)
    (home / "sub/x.md").write_text("other words. " * 40)
    monkeypatch.chdir(home)
    assert egg("train", *SMALL, "--data", spec, "--steps", 2, "--out", "run")[0] == 0
    monkeypatch.chdir(other)
    status, _, err = egg("eval", home / "run", "--backend", "numpy")
    assert status == 0, err
    status, _, err = egg("train", "--resume", home / "run", "--steps", 3, "--backend", "numpy")
    assert status == 0, err
    # as older versions kept it, it is still understood where the run began
    monkeypatch.chdir(home)
    for path in (home / "run").rglob("config.json"):
        there = json.loads(path.read_text())
        there["run"]["data"] = spec
        path.write_text(json.dumps(there))
        if path.parent != home / "run":
            forge(path.parent)
    status, _, err = egg("train", "--resume", "run", "--steps", 4, "--backend", "numpy")
    assert status == 0, err


def test_without_network_one_line_names_what_needs_none(egg, tmp_path, monkeypatch):
    import datasets
    import huggingface_hub

    for place in (datasets.config, huggingface_hub.constants):
        monkeypatch.setattr(place, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("EGG_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    status, _, err = egg("train", "--backend", "numpy")
    assert status == 2 and "--data stdlib" in one_line(err)
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_cannot_be_made_is_told_in_one_line(egg, tables, tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("egg.files.write_synced", refused)
    status, _, err = egg("train", "--data", tables, "--backend", "numpy", "--out", tmp_path / "run")
    assert status == 2 and "Read-only file system" in one_line(err) and "--out" in err


@pytest.mark.parametrize("command", ["eval", "sample"])
@pytest.mark.parametrize(
    ("name", "damage", "says"),
    [
        ("model.safetensors", lambda p: os.truncate(p, 500), "damaged"),
        ("model.safetensors", lambda p: p.write_bytes(b"GGUF" * 99), "damaged"),
        ("config.json", lambda p: p.write_text('{"model_type": "llama"}'), "not a model's"),
        ("config.json", lambda p: p.write_text("{"), "cannot be read"),
        ("config.json", lambda p: p.unlink(), "has no config.json"),
    ],
)
def test_damaged_and_foreign_models_are_told_in_one_line(train, egg, tmp_path, command, name, damage, says):
    train("--steps", 1, "--out", tmp_path / "run")
    folder = tmp_path / "run/checkpoints/step-00000001"
    damage(folder / name)
    status, out, err = egg(command, tmp_path / "run", "--backend", "numpy")
    assert (status, out) == (2, "") and name in one_line(err)
    forge(folder)
    status, out, err = egg(command, tmp_path / "run", "--backend", "numpy")
    assert (status, out) == (2, "") and says in one_line(err) and name in err


def test_a_model_that_may_not_be_read_is_told_as_such(train, egg, tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError(13, "Permission denied")

    train("--steps", 1, "--out", tmp_path / "run")
    monkeypatch.setattr(Path, "open", refused)  # the tests may be run by root, who reads all
    status, _, err = egg("eval", tmp_path / "run", "--backend", "numpy")
    assert status == 2 and "model.safetensors cannot be read: Permission denied" in one_line(err)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("frobnicate", "train, eval"),
        ("eval", "PATH"),
        ("trian", "unknown command 'trian', perhaps 'train': choose"),
        ("eval {tmp}/nothing", "no such folder"),
        ("sample pretained", "pretained: no such folder, perhaps 'pretrained'; give"),
        ("sample {tmp}/a-rum", "no such folder, perhaps 'a-run'; give"),
        ("sample pretrained --max-tokens 5", "unknown option --max-tokens: here it is --length"),
        ("sample pretrained -n 5", "unknown option -n: here it is --length"),
        ("eval {tmp}", "neither a run nor a checkpoint"),
        ("eval {tmp} --split some", 'Invalid value "some" for --split'),
        ("eval --jsno {tmp}", "Unknown option: --jsno. Did you mean --json?"),
        ("sample --seed -5 --lenght=4 {tmp}", "Did you mean --length?"),
    ],
)
def test_bad_calls_of_other_commands(egg, tmp_path, arguments, says):
    (tmp_path / "a-run").mkdir()
    status, out, err = egg(*arguments.format(tmp=tmp_path).split())
    assert (status, out) == (2, "")
    assert says in one_line(err)


def test_closed_outputs_lose_nothing_but_what_is_printed(tables, tmp_path, monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)  # as Python has them after >&- 2>&-
    run = tmp_path / "run"
    assert main(["train", *SMALL, "--data", str(tables), "--steps", "1", "--out", str(run)]) == 0
    assert (run / "checkpoints/step-00000001").is_dir()


def test_a_folder_with_a_run_is_refused(train, egg, tables, tmp_path):
    run = tmp_path / "run"
    train("--steps", 1, "--out", run)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    status, _, err = egg("train", "--data", tables, "--backend", "numpy", "--out", run)
    assert status == 2 and "--resume" in one_line(err)
    assert before == {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    (tmp_path / "empty").mkdir()
    train("--steps", 1, "--out", tmp_path / "empty")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_refused(egg, tables, tmp_path):
    tmp_path.chmod(0o500)
    status, _, err = egg("train", "--data", tables, "--backend", "numpy", "--out", tmp_path / "run")
    tmp_path.chmod(0o700)
    assert status == 2 and "cannot be written" in one_line(err)


# Numbers and flags


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4096", 4096),
        ("-3", -3),
        ("10_000_000", 10**7),
        ("10,000", 10**4),
        ("10M", 10**7),
        ("1e9", 10**9),
        ("0.5G", 5 * 10**8),
        ("2k", 2000),
        ("1B", 10**9),
        ("1.5e3", 1500),
        ("18446744073709551615", 2**64 - 1),
    ],
)
def test_whole_numbers(text, value):
    assert whole_number(text) == value


@pytest.mark.parametrize("text", ["", "x", "1.5", "M", "1e-3", "nan", "inf", "1e400", "0x10", "1 2"])
def test_what_is_no_whole_number(text):
    with pytest.raises(ValueError, match="no integer"):
        whole_number(text)


# Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


STATUS = Status(12_345, 101_000_000, 3.456, 3.512, 3.49, 812_345.0, 0.45, 73.0, 0.0231, 0.0004, 0.3725, "def\n" * 9)
LARGE = Status(1_234_567_890, 10_100_000_000, 13.4, 13.5, 13.49, 99_812_345.0, 0.999, 9e8, 1.0, 1.0, 126.3725)


@pytest.mark.parametrize("columns", [40, 50, 65, 66, 80, 98, 99, 120, 200])
def test_the_live_view_fits_the_terminal(monkeypatch, columns):
    size = os.terminal_size((columns, 24))
    monkeypatch.setattr(shutil, "get_terminal_size", lambda *_: size)
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    shown = Progress(stream)
    shown.show(STATUS)
    shown.note("its own line")
    shown.show(replace(STATUS, step=12_346, train=3.4))
    shown.close()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    for line in re.split(r"[\r\n]", text):
        assert len(line) < columns
    assert "its own line" in text and "1:13 left" in text
    assert "45 %" in text and "█▁" in text  # the bar's share, and the curve that fell
    for figure in ("12,346", "101M", "812k", "3.456", "3.512", "3.490", "2.31 %", "0.04 %", "0.3725"):
        assert figure in text
    assert r'"def\ndef' in text
    stream.truncate(0)
    shown = Progress(stream)
    shown.show(LARGE)
    shown.close()
    figures = "1,234,567,890", "10.1G", "99.8M", "13.400", "13.500", "13.490", "100.00 %", "126.3725", "10416d 16h left"
    large = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert [figure for figure in figures if figure not in large] == []
    rows = [line for line in text.splitlines() if "3.400" in line]
    assert all(("3.512" in row) == (columns >= 65) and ("3.490" in row) == (columns >= 98) for row in rows)


def test_a_line_of_work_is_replaced_and_fits(monkeypatch):
    monkeypatch.setattr(shutil, "get_terminal_size", lambda *_: os.terminal_size((20, 24)))
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    shown = Progress(stream)
    shown.working("compiling 1 of 54 kernels")
    shown.working("compiling 2 of 54 kernels")
    shown.note("compiled")
    clear = "\x1b[K"
    assert stream.getvalue() == f"\rcompiling 1 of 54 k{clear}\rcompiling 2 of 54 k{clear}\r{clear}compiled\n"
    shown = Progress(plain := io.StringIO())
    shown.working("compiling 1 of 54 kernels")
    shown.working("compiling 2 of 54 kernels")  # lines come seldom
    shown.note("compiled")
    assert plain.getvalue() == "compiling 1 of 54 kernels\ncompiled\n" and shown.due()


def test_a_quiet_run_prints_one_line(egg, train, tables, tmp_path):
    run = tmp_path / "run"
    out = train("--steps", 5, "--out", run, "--quiet")
    bits = metrics(run)[-1]["validation_bits_per_byte"]
    assert out == f"{run / 'checkpoints/step-00000005'}: 640 tokens, {bits:.4f} bits per byte\n"
    for flags, status, says in (([], 0, "nothing to do"), (["--seed", 1], 2, "--seed: the run")):
        ended = egg("train", "--resume", run, "--quiet", *flags)
        assert ended[0] == status and says in ended[1 + (status > 0)]
        assert "".join(ended[1:]).count("\n") == 1


def test_a_terminal_that_cannot_move_gets_plain_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    shown = Progress(stream)
    shown.show(STATUS)
    shown.close()
    assert "\x1b" not in stream.getvalue() and "step 12,345 | 101M tokens" in stream.getvalue()


def test_the_first_step_tells_no_speed(train, tmp_path):
    steps = [s for s in train("--steps", 1, "--out", tmp_path / "run").splitlines() if " | " in s]
    assert len(steps) == 1 and "/s" not in steps[0] and "left" not in steps[0]
    out = train("--steps", 3, "--out", tmp_path / "longer")
    assert "/s | 0:00 left" in [s for s in out.splitlines() if " | " in s][-1]


def test_plain_lines_come_seldom(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    shown = Progress(stream)
    lines = 0
    for _ in range(100):
        now[0] += 0.1
        if shown.due():
            shown.show(STATUS)
            lines += 1
    shown = stream.getvalue().splitlines()
    assert 2 <= lines <= 3 and sum(line.startswith("step 12,345 | ") for line in shown) == lines
    assert [line for line in shown if "step" not in line] == [r'sample: "' + r"def\n" * 9 + '"']  # once


def test_figures_are_short():
    assert [count(n) for n in (0, 999, 1000, 9994, 9996, 45_310_000, 999_600, 1e9)] == [
        "0",
        "999",
        "1.00k",
        "9.99k",
        "10.0k",
        "45.3M",
        "1.00M",
        "1.00G",
    ]
    assert [duration(s) for s in (0, 67, 3599.6, 7384, 300_000, float("inf"))] == [
        "0:00",
        "1:07",
        "1:00:00",
        "2:03:04",
        "3d 11h",
        "?",
    ]


def test_measured_bits_are_those_of_the_weights(train, tmp_path, tables):
    from egg import data
    from egg.model.evaluate import evaluate
    from egg.model.network import load

    train("--steps", 4, "--out", tmp_path / "run")
    model = load(tmp_path / "run", backend="numpy")
    text = data.open_corpus(str(tables)).split("validation")
    result = evaluate(model, np.asarray(text))
    assert result.bits_per_byte == metrics(tmp_path / "run")[-1]["validation_bits_per_byte"]
