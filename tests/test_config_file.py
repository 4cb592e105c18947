"""Settings in a TOML file: read under the flags, and written back by every run."""

import json
import os
import tomllib
from dataclasses import replace

import pytest
from test_resume import files

from egg.config import PRESETS, RunConfig
from egg.run.config_file import read_settings, to_toml
from egg.training.settings import NAMES


def settings(run) -> dict:
    """The fields of a run's configuration, by their names."""
    config = json.loads((run / "config.json").read_text())
    parts = [config[name] for name in ("model", "evolution", "run")]
    return {"preset": config["preset"]} | {k: v for part in parts for k, v in part.items()}


def test_a_runs_file_begins_the_same_run(train, egg, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    train("--steps", 7, "--seed", 5, "--keep", 1, "--preset", "base", "--out", first)
    status, _, err = egg("train", "--config", first / "run.toml", "--backend", "numpy", "--out", second)
    assert status == 0, err
    assert files(first) == files(second)


def test_flags_override_the_file_and_the_file_the_preset(egg, tables, tmp_path):
    path, run = tmp_path / "mine.toml", tmp_path / "run"
    path.write_text(
        'preset = "paper"\nrecipe = "egg"\nhidden-size = 16\nnum_layers = 1\nsteps = 1\n'
        'streams = 3.2e1\nseed = "1_000"\nbackend = "numpy"\n'
        f"data = {json.dumps(str(tables))}\nminutes = 'none'\nout = {json.dumps(str(run))}\n"
    )
    status, _, err = egg("train", "--seed", 3, "--config", path)
    assert status == 0, err
    there = settings(run)
    assert there["preset"] == "paper" and there["seq_len"] == 100  # of the preset
    assert "population_size" not in there  # of the other recipe
    assert (there["hidden_size"], there["streams"], there["steps"]) == (16, 32, 1)
    assert there["seed"] == 3 and there["tokens"] is None
    status, _, err = egg("train", "--config", path, "--tokens", 300, "--out", tmp_path / "b")
    assert status == 0, err
    assert settings(tmp_path / "b")["steps"] is None  # a stop replaces all of the file's


@pytest.mark.parametrize(
    "text", ["stdlib", 'a "b"\\c', "tab\tline\n\r\f\b", "\x01\x1f\x7f", "¡é 漢 \U0001f95a", "no'ne", "-x"]
)
def test_texts_come_back(tmp_path, text):
    config = replace(PRESETS["nano"], run=RunConfig(data=text, keep="all", minutes=0.1))
    (tmp_path / "run.toml").write_bytes(to_toml(config))
    content = tomllib.loads((tmp_path / "run.toml").read_text())
    assert content["data"] == text and content["keep"] == "all" and content["minutes"] == 0.1
    assert content["step_size"] == content["schedule_tokens"] == "none"  # as it was not resolved
    assert read_settings(tmp_path / "run.toml", NAMES, "run.toml") == content


def test_a_path_that_is_not_utf8_does_not_stop_a_run():
    config = replace(PRESETS["nano"], run=RunConfig(data=os.fsdecode(b"caf\xe9")))
    assert rb'data = "caf\udce9"' in to_toml(config)


BAD = {
    "steps = ": "is not TOML",
    "steps = 1\nsteps = 2": "is not TOML",
    "steps = 0x" + "f" * 5000: "is not TOML",
    "\udcff": "is not TOML",
    "speed = 3\nseed = 1\ncolour = 2": "unknown 'speed', 'colour'",
    "[model]\nhidden_size = 16": "unknown 'model'",
    "resume = 'x'": "unknown 'resume'",
    "config = 'x'": "unknown 'config'",
    "steps = true": "steps must be a number or a text, not True",
    "steps = [1]": "steps must be",
    "seed = 2026-11-21": "seed must be",
    "hidden_size = 'wide'": "mine.toml: Invalid value for --hidden-size: 'wide' is no integer",
    "steps = 1.5": "mine.toml: Invalid value for --steps: '1.5' is no integer",
    "minutes = nan": "mine.toml: --minutes nan",
    "hidden_size = 100": "mine.toml: hidden size 100",
    "population_size = 40": "mine.toml: --population-size: recipe egg has none",
    "streams = 0": "mine.toml: --streams 0",
    "preset = 'huge'": "mine.toml: unknown preset 'huge'",
    "recipe = 'cake'": 'mine.toml: Invalid value "cake" for --recipe',
}


@pytest.mark.parametrize("content", BAD)
def test_a_bad_file_is_named(egg, tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_bytes(content.encode("utf-8", "surrogateescape"))
    status, out, err = egg("train", "--config", "mine.toml", "--backend", "numpy")
    assert (status, out) == (2, "") and err.count("\n") == 1
    assert err.startswith("egg: --config mine.toml") and BAD[content] in err
    assert os.listdir(tmp_path) == ["mine.toml"]


@pytest.mark.parametrize("flags", ["--hidden-size 100", "--speed 3", "--preset huge"])
def test_a_bad_flag_beside_a_good_file_is_the_flags_fault(egg, tmp_path, flags):
    (tmp_path / "mine.toml").write_text("seed = 1\n")
    status, _, err = egg("train", "--config", tmp_path / "mine.toml", *flags.split())
    assert status == 2 and "mine.toml" not in err and err.count("\n") == 1


@pytest.mark.parametrize(("name", "says"), [("nothing", "No such file"), ("", "directory")])
def test_a_file_that_cannot_be_read(egg, tmp_path, name, says):
    status, out, err = egg("train", "--config", tmp_path / name)
    assert (status, out) == (2, "") and says in err and err.count("\n") == 1
    status, out, err = egg("train", "--config=")
    assert (status, out) == (2, "") and "--config is empty" in err and err.count("\n") == 1


def test_a_resumed_run_has_its_settings(train, egg, tmp_path):
    run = tmp_path / "run"
    train("--steps", 1, "--out", run)
    status, _, err = egg("train", "--resume", run, "--config", run / "run.toml")
    assert status == 2 and "omit --config" in err
    assert egg("train", "--resume", run, "--steps", 2, "--backend", "numpy")[0] == 0
    assert tomllib.loads((run / "run.toml").read_text())["steps"] == 2


def test_a_file_in_the_way_is_not_overwritten(egg, tables, tmp_path):
    (tmp_path / "run.toml").write_text("# mine\nsteps = 1\n")
    status, _, err = egg("train", "--config", tmp_path / "run.toml", "--data", tables, "--out", tmp_path)
    assert status == 2 and "give another folder" in err
    assert os.listdir(tmp_path) == ["run.toml"]
