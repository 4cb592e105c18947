"""The learning bench: every configuration and seed once, resumed, recorded, drawn."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import SMALL

from egg.config import preset, with_settings
from egg.errors import EggError
from egg.study import compare
from egg.study.compare import Configuration, Cost, RunResult, best_table, read_comparison, results_table
from egg.training.settings import configuration, known
from egg.view.figures import whole_number


@pytest.fixture
def comparison(tmp_path, tables):
    flags = dict(zip(SMALL[::2], SMALL[1::2], strict=True))
    lines = [f'{flag[2:].replace("-", "_")} = "{value}"' for flag, value in flags.items()]
    path = tmp_path / "small.toml"
    path.write_text(
        "\n".join([f"data = '{tables}'", "steps = 8", "seeds = [3, 5]", *lines] + ["[all]", "[short]", "seq_len = 2"])
    )
    return path


def test_top_level_settings_are_common_and_tables_override(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text('seeds = [7]\nsteps = 9\nrecipe = "egg"\n[a]\n[b]\nsteps = 4\n')
    configurations, seeds = read_comparison(path)
    assert seeds == [7]
    common = {"preset": "quickstart", "steps": "9", "recipe": "egg"}
    assert configurations == [Configuration("a", common), Configuration("b", common | {"steps": "4"})]


ROOT = Path(__file__).parent.parent
EXPERIMENTS = sorted((ROOT / "docs/experiments").glob("*.toml"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiments_run_on_what_everyone_has(path):
    configurations, _ = read_comparison(path)
    for each in configurations:
        config, _ = configuration(None, known(each.settings))
        assert config.run.data == "stdlib" and config.end, each.name
        if config.run.tokens:
            assert config.run.tokens == whole_number(each.settings["tokens"]) and each.settings["tokens"][-1] in "kM"


@pytest.mark.slow
@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiments_take_their_first_steps(egg, tmp_path, path):
    text = re.sub(r"(?m)^(tokens|steps) = .*", "steps = 2", path.read_text())
    text = re.sub(r"(?m)^hidden_size = (256|1024)", "hidden_size = 64", text)  # a minute each in NumPy
    text = re.sub(r"(?m)^(population_size|group_size|num_perturbations) = .*", r"\1 = 16", text)
    text = re.sub(r"(?m)^(eval_every|eval_bytes|seeds) = .*\n?", "", text)
    (tmp_path / path.name).write_text(f'eval_bytes = 4096\nseeds = [1]\nbackend = "numpy"\ntokens = "none"\n{text}')
    status, out, err = egg("compare", tmp_path / path.name, "--out", tmp_path / "out")
    assert status == 0, err
    assert len(compare.read_results(tmp_path / "out")) == len(re.findall(r"(?m)^\[", text))


@pytest.mark.parametrize("script", ["backprop", "straight_through", "peer"])
def test_a_script_without_pytorch_says_so_in_one_line(tmp_path, script):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\")")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    command = [sys.executable, ROOT / "docs/experiments" / f"{script}.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
    assert (done.returncode, done.stdout) == (1, "")
    told = "No module named 'torch': this script needs PyTorch, which egg does not: pip install torch\n"
    assert done.stderr == told


def test_a_list_of_stops_is_a_configuration_for_each(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text('tokens = ["1M", 2000]\n[a]\n[b]\nminutes = 1.5\ntokens = "none"\n[c]\nsteps = [7]\ntokens = "9"\n')
    common = {"preset": "quickstart"}
    assert read_comparison(path)[0] == [
        Configuration("a-1M", common | {"tokens": "1M"}),
        Configuration("a-2000", common | {"tokens": "2000"}),
        Configuration("b", common | {"minutes": "1.5", "tokens": "none"}),
        Configuration("c-7", common | {"steps": "7", "tokens": "9"}),
    ]


def test_a_tables_size_replaces_the_common_shape(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text(
        'hidden-size = 16\nstreams = 4\nlog_every = 1\n[a]\nsize = "XS"\nstreams = 8\n[b]\nnum_layers = 3\n'
    )
    common = {"preset": "quickstart", "log_every": "1"}
    assert read_comparison(path)[0] == [
        Configuration("a", common | {"size": "XS", "streams": "8"}),
        Configuration("b", common | {"hidden-size": "16", "streams": "4", "num_layers": "3"}),
    ]


def test_one_file_gives_the_loss_over_each_cost(egg, comparison, tmp_path):
    text = comparison.read_text().replace("steps = 8", "steps = [2, 40]").replace("[3, 5]", "[3]")
    comparison.write_text(text.replace('eval_every = "4"', "eval_every = 0"))
    out = tmp_path / "out"
    status, shown, err = egg("compare", comparison, "--out", out)
    assert status == 0, err
    assert (out / "scaling.png").stat().st_size > 10_000 and "scaling.png" in shown
    assert "| seconds | best |" in shown and "| multiply-accumulates | best |" in shown
    found = compare.costs(compare.read_results(out), out)
    assert [(c.name, c.family) for c in found] == [
        ("all-2", "all"),
        ("all-40", "all"),
        ("short-2", "short"),
        ("short-40", "short"),
    ]
    assert [c.tokens for c in found] == [2 * 128, 40 * 128, 2 * 32, 40 * 32]
    assert all(c.multiply_accumulates == c.tokens * (24 * 16**2 + 768 * 16) for c in found)
    assert all(0 < c.seconds < 60 and len(c.bits_per_byte) == 1 for c in found)


def test_seconds_of_training_are_without_compilation_and_measurements(tmp_path):
    lines = [(100, 1.0), (300, 50.0), (400, 100.0)]  # the first step has compiled
    text = "".join(
        json.dumps({"step": n, "tokens": tokens, "tokens_per_second": speed, "seconds": 999.0}) + "\n"
        for n, (tokens, speed) in enumerate(lines, 1)
    )
    (tmp_path / "metrics.jsonl").write_text(text)
    assert compare._training_seconds(tmp_path) == pytest.approx(400 * (4 + 1) / 300)
    (tmp_path / "metrics.jsonl").write_text(text.splitlines(keepends=True)[0])
    assert compare._training_seconds(tmp_path) == 100
    (tmp_path / "metrics.jsonl").write_text(text.replace("50.0", "0"))
    with pytest.raises(EggError, match="step 2 has no numbers"):
        compare._training_seconds(tmp_path)


def test_the_time_left_is_that_of_other_seeds_or_of_as_many_multiply_accumulates(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("hidden_size = 16\nnum_layers = 1\n[a]\ntokens = 1000\n[b]\ntokens = 4000\n")
    configurations, seeds = read_comparison(path)
    assert compare.seconds_left(configurations, seeds, []) is None
    done = RunResult("a", 1, {}, None, 1000, 3.0, 10.0)
    # a again, and b twice; a run that is refused takes no time
    left = compare.seconds_left(configurations, seeds, [done])
    assert left == pytest.approx(10 + 2 * 40, rel=0.2)
    wrong = Configuration("c", {"hidden_size": "17"})
    assert compare.seconds_left([configurations[0], wrong], seeds, [done]) == pytest.approx(10)


def test_the_best_for_a_budget_is_the_lowest_mean_within_it():
    costs = [
        Cost("small", "small", 10**6, 3 * 10**9, 0.3, [3.0, 3.2]),
        Cost("middle", "middle", 10**6, 9 * 10**9, 4.0, [2.0, 2.1]),
        Cost("wide", "wide", 10**5, 2 * 10**10, 20.0, [2.5]),
    ]
    assert best_table(costs, "seconds").splitlines()[2:] == [
        "| 0.5 | small | 3.1000 | 1.00M | 1 |",
        "| 1 | small | 3.1000 | 1.00M | 1 |",
        "| 2 | small | 3.1000 | 1.00M | 1 |",
        "| 5 | middle | 2.0500 | 1.00M | 2 |",
        "| 10 | middle | 2.0500 | 1.00M | 2 |",
        "| 20 | middle | 2.0500 | 1.00M | 3 |",
    ]
    assert [line.split(" | ")[0] for line in best_table(costs, "multiply_accumulates").splitlines()[2:]] == [
        "| 5e9",
        "| 1e10",
        "| 2e10",
    ]
    assert best_table(costs[:1], "seconds").count("\n") == 2


def test_a_comparison_runs_once_resumes_and_draws(egg, comparison, tmp_path, monkeypatch):
    out = tmp_path / "out"
    status, shown, err = egg("compare", comparison, "--out", out)
    assert status == 0, err
    results = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [(r["name"], r["seed"]) for r in results] == [("all", 3), ("short", 3), ("all", 5), ("short", 5)]
    streams, length = (int(SMALL[SMALL.index(flag) + 1]) for flag in ("--streams", "--seq-len"))
    tokens = {"all": 8 * streams * length, "short": 8 * streams * 2}
    assert all(r["tokens"] == tokens[r["name"]] for r in results)
    assert all(0 < r["bits_per_byte"] < 9 for r in results)
    assert len({r["bits_per_byte"] for r in results}) == 4
    assert (out / "curves.png").stat().st_size > 10_000
    assert "| all | 2 |" in shown
    lines = err.splitlines()
    assert lines[0] == "run 1 of 4: all, seed 3"
    assert [line.partition(", about 0:")[0] for line in lines[1:]] == [
        "run 2 of 4: short, seed 3",
        "run 3 of 4: all, seed 5",
        "run 4 of 4: short, seed 5",
    ]
    assert all(line.endswith(" left in all") for line in lines[1:])

    # One result is lost: its run has ended already, so it is recorded again without a step.
    lines = (out / "results.jsonl").read_text().splitlines(keepends=True)
    (out / "results.jsonl").write_text("".join(lines[:3]))
    metrics = (out / "short" / "seed-5" / "metrics.jsonl").read_bytes()
    called, call = [], compare._call
    monkeypatch.setattr(compare, "_call", lambda arguments: called.append(arguments) or call(arguments))
    status, _, err = egg("compare", comparison, "--out", out, "--quiet")
    assert (status, err) == (0, "") and [arguments["progress"] for arguments in called] == [False]
    again = json.loads((out / "results.jsonl").read_text().splitlines()[3])
    assert again["bits_per_byte"] == results[3]["bits_per_byte"]
    assert (out / "short" / "seed-5" / "metrics.jsonl").read_bytes() == metrics

    # Nothing is left to do, and another setting under an old name is refused.
    monkeypatch.setattr(compare, "_run", None)
    assert egg("compare", comparison, "--out", out)[0] == 0
    comparison.write_text(comparison.read_text().replace("seq_len = 2", "seq_len = 1"))
    status, _, err = egg("compare", comparison, "--out", out)
    assert status == 2 and "other settings" in err and err.count("\n") <= 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_comparison_that_is_stopped_saves_and_goes_on(egg, comparison, tmp_path, number):
    """The signal reaches this process alone, as ``kill`` sends it; the run is a child's."""
    comparison.write_text(comparison.read_text().replace("steps = 8", "steps = 300"))
    out = tmp_path / "out"
    metrics = out / "all" / "seed-3" / "metrics.jsonl"

    def stop():
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (metrics.exists() and metrics.stat().st_size):
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=stop)
    thread.start()
    status, _, err = egg("compare", comparison, "--out", out)
    thread.join()
    assert status == 128 + number and "the same command resumes" in err
    saved = sorted((metrics.parent / "checkpoints").iterdir())
    done = len(metrics.read_text().splitlines())
    assert saved[-1].name == f"step-{done:08}" and done < 300
    assert not (out / "results.jsonl").exists()

    text = comparison.read_text()
    comparison.write_text(text.replace("[all]", "[all]\nstep_size = 1.0"))
    status, _, err = egg("compare", comparison, "--out", out)
    assert status == 2 and "other settings" in err
    few = text.replace("steps = 300", f"steps = {done + 1}").replace("[3, 5]", "[3]")
    (out / "all" / "seed-3.json").unlink()  # as older comparisons left it
    comparison.write_text(few[: few.index("[short]")])
    assert egg("compare", comparison, "--out", out)[0] == 0
    assert len(metrics.read_text().splitlines()) == done + 1


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(egg, comparison, tmp_path):
    assert egg("compare", comparison, "--out", tmp_path / "out")[0] == 0
    run, results = tmp_path / "out/all/seed-3", tmp_path / "out/results.jsonl"
    first, *others = results.read_text().splitlines()
    assert json.loads(first)["seed"] == 3 and json.loads(first)["name"] == "all"
    results.write_text("".join(f"{line}\n" for line in others))
    (run / "best.json").unlink(missing_ok=True)
    shutil.rmtree(run / "checkpoints")
    (run / "mine.txt").write_text("is nobody else's to remove")
    status, _, err = egg("compare", comparison, "--out", tmp_path / "out")
    assert status == 0, err
    again = json.loads(results.read_text().splitlines()[-1])
    assert again["bits_per_byte"] == json.loads(first)["bits_per_byte"] and again["name"] == "all"
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 8
    assert (run / "mine.txt").exists()


def test_an_out_that_is_a_file_is_named_in_one_line(egg, comparison):
    status, _, err = egg("compare", comparison, "--out", comparison)
    assert status == 2 and "--out" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("seeds = 3\n[a]\n", "seeds"),
        ("seeds = []\n[a]\n", "seeds"),
        ("steps = 4\n", "no configuration"),
        ("[a]\nseed = 4\n", "seed"),
        ("[a]\nseq_len = [4]\n", "seq_len"),
        ("[a]\ntokens = []\n", "tokens"),
        ("[a]\ntokens = [[4]]\n", "tokens"),
        ("[a]\ntokens = [4, true]\n", "tokens"),
        ("[a]\ntokens = [4, 5]\nminutes = [1]\n", "tokens|minutes"),
        ("[a]\ntokens = [4, '4']\n", "a-4 is there twice"),
        ("[a]\ntokens = [4]\n[a-4]\n", "a-4 is there twice"),
        ("[a]\ntokens = ['1/2']\n", "slashes"),
        ("steps = \n", "is not TOML"),
        ("[a]\nsteps = 0x" + "f" * 5000, "is not TOML"),
        ('["a/b"]\n', "slashes"),
        ('[".."]\n', "slashes"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, text, says):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(EggError, match=says) as error:
        read_comparison(path)
    assert "\n" not in str(error.value)


def test_the_table_gives_mean_and_range_over_seeds():
    costs = [Cost("a", "a", 10**7, 213 * 10**10, 9.96, [3.5, 3.0])]
    assert "| a | 2 | 10.0M | 2.13T | 3.2500 | 3.0000 to 3.5000 | 10.0 |" in results_table(costs)


def test_a_configuration_may_set_what_is_true_or_false(tmp_path):
    path = tmp_path / "votes.toml"
    path.write_text('recipe = "paper"\nnoise = "gaussian"\n[plain]\n[signs]\nuse_clt = false\n')
    plain, signs = read_comparison(path)[0]
    configs = [with_settings(preset("quickstart"), one.settings) for one in (plain, signs)]
    assert [config.evolution.use_clt for config in configs] == [True, False]
