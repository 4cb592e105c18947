"""``egg.train``: the run that the command leaves, a report a step."""

import doctest
import json
import os
import sys
from pathlib import Path

import pytest
from conftest import PAPER, SMALL, TEXTS
from test_resume import TIMES, files

import egg
from egg.config import preset, with_settings
from egg.kernels import get_backend
from egg.run.lock import LOCK
from egg.training import train as module

ROOT = Path(__file__).parent.parent
DRAWN = {"loss.png", "report.html"}


def settings_of(flags) -> dict:
    """Flags by their names, with their values as texts."""
    return {str(flag)[2:].replace("-", "_"): str(value) for flag, value in zip(flags[::2], flags[1::2], strict=True)}


SETTINGS = settings_of(SMALL)


@pytest.fixture
def command(request):
    """Runs ``egg ARGUMENTS``; here the name egg is the library's."""
    return request.getfixturevalue("egg")


@pytest.fixture
def small(tables):
    """Begins a small run as a library call does."""

    def call(base="nano", **settings):
        return egg.train(base, **{"data": tables, **SETTINGS, **settings})

    return call


def everything(run) -> dict:
    """All files of a run, but for times and pictures, whose names are there."""
    return files(run) | {name: (run / name).exists() for name in DRAWN}


RUNS = {
    "egg": [*SMALL, "--steps", 9, "--keep", 2, "--eval-every", 3],
    "clock": [*SMALL, "--steps", 5, "--minutes", 5, "--schedule", "cosine", "--eval-every", 0],
    "paper": [*PAPER, "--tokens", 5 * 32 * 4],
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_what_the_command_leaves(command, tables, tmp_path, capsys, name):
    flags = [*RUNS[name], "--data", tables, "--seed", 7]
    status, _, err = command("train", *flags, "--out", tmp_path / "command")
    assert status == 0, err
    reports = list(egg.train("nano", out=tmp_path / "library", **settings_of(flags)))
    assert capsys.readouterr() == ("", "")
    assert everything(tmp_path / "library") == everything(tmp_path / "command")
    lines = [json.loads(line) for line in (tmp_path / "library" / "metrics.jsonl").read_text().splitlines()]
    names = set().union(*lines) - TIMES
    assert [{key: line.get(key) for key in names} for line in lines] == [
        {key: getattr(report, key) for key in names} for report in reports
    ]


def tables_of(run) -> str:
    return json.loads((run / "config.json").read_text())["run"]["data"]


def test_whoever_leaves_goes_on_with_the_command_or_the_library(small, train, command, tmp_path):
    train("--steps", 12, "--out", tmp_path / "whole")
    run = tmp_path / "run"
    for report in small(out=run, steps=12):
        assert (run / LOCK).read_text().startswith(f"{os.getpid()} ")
        if report.step == 5:
            break
    assert not (run / LOCK).exists() and (run / "checkpoints/step-00000005").is_dir()

    with pytest.raises(ZeroDivisionError):
        for report in egg.train(resume=run, backend="numpy"):
            report.step // (report.step - 7)
    assert not (run / LOCK).exists() and (run / "checkpoints/step-00000007").is_dir()

    with egg.train(resume=run, backend="numpy") as training:
        assert [next(training).step, next(training).step] == [8, 9]
        with pytest.raises(egg.EggError, match=f"in use by process {os.getpid()}"):
            next(egg.train(resume=run, backend="numpy"))
    training.close()  # again
    assert list(training) == []
    assert not (run / LOCK).exists() and not DRAWN & {path.name for path in run.iterdir()}

    status, out, err = command("train", "--resume", run, "--backend", "numpy")
    assert status == 0 and "from step 9" in out, err
    assert everything(run) == everything(tmp_path / "whole")
    assert list(egg.train(resume=run, backend="numpy")) == []  # nothing is left to do
    assert [report.step for report in egg.train(resume=run, steps=13, backend="numpy")] == [13]


def test_a_call_alone_writes_nothing_and_an_error_within_a_step_lets_the_folder_go(small, tmp_path, monkeypatch):
    training = small(out=tmp_path / "run", steps=9)
    assert training.folder == tmp_path / "run" and not training.folder.exists()
    next(training)

    def interrupt(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("egg.evolution.branches.BranchEvolution._step", interrupt)
        next(training)
    assert not (training.folder / LOCK).exists()


def test_a_base_is_a_preset_a_configuration_a_dict_or_a_file(small, tmp_path):
    first = tmp_path / "first"
    for _ in small("base", out=first, steps=3, seed=5):
        pass
    given = {"data": tables_of(first), "steps": 3, "seed": 5, **SETTINGS}
    where = {"backend": "numpy"}
    fields = {key: value for key, value in given.items() if key != "backend"}
    (tmp_path / "mine.toml").write_text(
        "".join(f"{key.replace('_', '-')} = {json.dumps(value)}\n" for key, value in given.items())
        + f'preset = "base"\nout = {json.dumps(str(tmp_path / "2"))}\n'
    )
    for number, (base, settings) in enumerate(
        [
            (first / "run.toml", where),
            (with_settings(preset("base"), fields), where),
            (str(tmp_path / "mine.toml"), {}),
            ({"preset": "base", "seed": 1, **given}, {"seed": "5"}),
            ({"preset": "base", "member-tokens": 8, **given}, {"steps": 3.0}),  # a stop replaces all of the base's
        ]
    ):
        run = tmp_path / str(number)
        out = {} if number == 2 else {"out": run}
        for _ in egg.train(base, **settings, **out):
            pass
        assert files(run) == files(first), number


def test_progress_shows_what_the_command_shows(small, tmp_path, capsys):
    name = os.fsdecode(b"r\xffn") if sys.platform == "linux" else "run"  # which strict streams refuse
    for _ in small(out=tmp_path / name, steps=2, progress=True):
        pass
    shown = capsys.readouterr().out
    assert "parameters" in shown and "step 2" in shown and "unigram" in shown


@pytest.mark.parametrize(
    ("base", "settings", "says"),
    [
        (None, {"hiden_size": 16}, "unknown setting 'hiden_size', perhaps 'hidden_size'"),
        (None, {"zzz": 1}, "unknown setting 'zzz':"),
        (None, {"lr": 1}, "unknown setting 'lr', perhaps 'step_size'"),
        ({"step": 4}, {}, "unknown setting 'step', perhaps 'steps'"),
        ("quikstart", {}, "unknown preset 'quikstart', perhaps 'quickstart'"),
        (None, {"backend": "nunpy"}, "unknown backend 'nunpy', perhaps 'numpy'"),
        (None, {"recipe": "papre"}, "--recipe 'papre': choose egg, paper"),
        (None, {"hidden_size": 17}, "hidden size"),
        (None, {"tokens": 0.5}, "--tokens: '0.5' is no integer"),
        (None, {"keep": "some"}, "--keep: 'some' is no integer: .*, or all"),
        (None, {"seed": True}, "--seed True"),
        (None, {"data": 3}, "--data 3"),
        ("none.toml", {}, "none.toml: No such file"),
        ("nano", {"preset": "base"}, "preset: the first argument is a preset or a configuration already"),
        (None, {"threads": "two"}, "--threads: 'two' is no integer"),
        (7, {}, "7 is no configuration"),
        (None, {"out": ""}, "--out is empty"),
        (None, {"resume": "nowhere"}, "--resume nowhere: no such folder"),
        ("nano", {"resume": "nowhere"}, "remove the first argument"),
        (None, {"data": "no/such/text"}, "no/such/text"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(tmp_path, monkeypatch, base, settings, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(egg.EggError, match=says) as error:
        next(egg.train(base, **settings))
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_a_resumed_run_keeps_its_settings(small, tmp_path):
    for _ in small(out=tmp_path / "run", steps=2):
        pass
    with pytest.raises(egg.EggError, match="--hidden-size: the run in .* was started with 16"):
        next(egg.train(resume=tmp_path / "run", hidden_size=64))
    with pytest.raises(egg.EggError, match="a resumed run stays in"):
        egg.train(resume=tmp_path / "run", out=tmp_path / "other")
    with pytest.raises(egg.EggError, match="holds a run already"):
        small(out=tmp_path / "run", steps=2)


def test_one_process_trains(monkeypatch):
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "2")
    with pytest.raises(egg.EggError, match="2 processes were started"):
        egg.train("quickstart")


def test_the_examples_are_true(tmp_path, monkeypatch, capsys):
    for name in ("book.txt", "notes.txt"):
        (tmp_path / name).write_text("".join(TEXTS) * 3)  # long enough to hold out a part
    monkeypatch.chdir(tmp_path)
    # The fastest here would be compiled first.
    monkeypatch.setattr("egg.compute.get_backend", lambda *arguments, **settings: get_backend("numpy"))
    cases = doctest.DocTestFinder().find(module.train, "egg.train", globs={"egg": egg})
    page = ROOT / "docs/runs.md"
    cases.append(doctest.DocTestParser().get_doctest(page.read_text(encoding="utf-8"), {}, page.name, str(page), 0))
    runner = doctest.DocTestRunner(verbose=False)
    for case in cases:
        assert case.examples
        assert not runner.run(case).failed, capsys.readouterr().out
