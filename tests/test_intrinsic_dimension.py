"""d90: its subspaces, how it is estimated from their gains, and a sweep that is killed and resumed."""

import json
import math

import numpy as np
import pytest
from conftest import SMALL

from egg.cli import intrinsic_dimension as cli_intrinsic_dimension
from egg.errors import EggError
from egg.kernels import Shape, get_backend
from egg.model.adapter import ALL, tensors_of, voted_parameters
from egg.model.network import Network
from egg.model.parameters import initial_weights
from egg.run.adaptation import ALL_WEIGHTS, FineTuning, Subspace, adapt
from egg.study.classification import Classification
from egg.study.intrinsic_dimension import (
    Candidate,
    Records,
    Scores,
    Setting,
    Trial,
    TrialResult,
    alike,
    count_trials,
    estimate_dimensions,
    plan_subspaces,
    smallest,
    sweep,
)
from egg.study.intrinsic_dimension_view import dimension_text

SHAPE = Shape(16, 1)
MOVING = voted_parameters(SHAPE)
PER_STEP = int(SMALL[SMALL.index("--streams") + 1]) * int(SMALL[SMALL.index("--seq-len") + 1])
PNG = b"\x89PNG"
SETTINGS = {"tokens": 320, "streams": 4, "seed": 1}


class Text:
    """Bytes that repeat."""

    tokens = np.frombuffer(b"\0to be or not to be, that is the question" * 12, np.uint8)
    size = tokens.size

    def read(self, starts, length):
        return self.tokens[(starts[:, None] + np.arange(length)) % self.size]


@pytest.fixture(scope="module")
def weights():
    return initial_weights(SHAPE, 3, "paper")  # whose head is not zero, so that all tensors have votes


# Subspaces


def test_tensors_by_kind_and_name():
    assert tensors_of(SHAPE, ALL) == tuple(SHAPE.tensors)
    assert tensors_of(SHAPE, "head, embedding") == ("embedding.weight", "head.weight")
    assert tensors_of(SHAPE, "b_f,layers.0.gru.w_h") == ("layers.0.gru.b_f", "layers.0.gru.w_h")
    vectors = tensors_of(SHAPE, "vectors")
    assert set(vectors) == {n for n, t in SHAPE.tensors.items() if len(t.shape) == 1} and vectors
    assert Subspace(None, "head").parameters(SHAPE) == 256 * 16
    assert Subspace(2, "head").parameters(SHAPE) == 2 * 256  # of B: A stands still
    assert ALL_WEIGHTS.parameters(SHAPE) == MOVING == SHAPE.parameters - 2 * 16 - 64 * 16
    for still in (Subspace(None, "ln1,w_up"), Subspace(2, "w_up")):
        with pytest.raises(EggError, match="w_up.*no votes on any of these"):
            still.parameters(SHAPE)
    for wrong in ("", "w_sideways", "head,"):
        with pytest.raises(EggError, match="no tensor"):
            tensors_of(SHAPE, wrong)


def test_subspaces_in_order_and_once():
    head, low = Subspace(None, "head"), Subspace(1, "head")
    assert plan_subspaces([head, low, head, ALL_WEIGHTS], SHAPE) == [low, head, ALL_WEIGHTS]
    with pytest.raises(EggError, match="rank 99"):
        plan_subspaces([Subspace(99, "head")], SHAPE)
    # Random ones that the model is too small for are left out.
    some, many = Subspace(None, ALL, 64), Subspace(None, ALL, 16384)
    assert plan_subspaces([many, head, some], SHAPE) == [some, head, ALL_WEIGHTS]
    assert (some.name, some.family, head.family) == ("random 64", "random", "chosen")


def evolved(weights, tensors, steps=3):
    from egg.config import Config, EvolutionConfig, ModelConfig

    config = Config("a", ModelConfig(16, 1), EvolutionConfig(streams=4, step_size=2.0))
    evolution = FineTuning(config, Network(get_backend("numpy"), SHAPE, weights), Text(), tensors)
    for _ in range(steps):
        evolution.step()
    return SHAPE.views(evolution.weights)


def test_only_the_chosen_tensors_move(weights):
    before, moving = SHAPE.views(weights), tensors_of(SHAPE, "gru,ln_out")
    for name, view in evolved(weights, moving).items():
        assert (name in moving) == bool((view != before[name]).any()), name


@pytest.mark.parametrize(("subspace", "rank"), [(ALL_WEIGHTS, None), (Subspace(2, "gru,mlp"), 2)])
def test_tuning_is_adapting(weights, subspace, rank):
    """All weights and adapters evolve as egg adapt lets them, to the last bit of the result."""
    text, network = Text(), Network(get_backend("numpy"), SHAPE, weights)

    def after(**settings):
        within = {"rank": subspace.rank, "tensors": subspace.tensors} | settings
        return adapt(network, text, text.tokens, **within, **SETTINGS).after

    found = after(measurements=1)
    assert found == after(tensors=None if rank is None else subspace.tensors)
    assert found != after(step_factor=0.5)


# d90


def test_the_smallest_subspace_by_interpolation():
    assert smallest([10, 1000, 5000], np.array([0.8, 1.0, 1.0])) == pytest.approx(100)
    assert smallest([10, 1000, 5000], np.array([1.6, 2.0, 2.0])) == pytest.approx(100)
    # A larger subspace that gains less does not hide what a smaller one gained.
    assert smallest([10, 100, 1000, 9000], np.array([0.8, 0.1, 1.0, 1.0])) == pytest.approx(100 * 10**0.5)
    assert smallest([10, 1000, 5000], np.array([0.95, 0.1, 1.0])) == 10
    assert smallest([10, 1000, 5000], np.array([0.1, 0.9, 1.0])) == 1000
    assert smallest([10, 10, 5000], np.array([0.1, 0.95, 1.0])) == 10


def test_what_does_not_reach_the_share_is_not_told():
    assert smallest([10, 1000, 5000], np.array([0.1, 0.89, 1.0])) == math.inf
    assert smallest([5000], np.array([1.0])) == math.inf
    assert smallest([10, 5000], np.array([0.1, 0.0])) == math.inf
    assert smallest([10, 5000], np.array([-0.2, -0.1])) == math.inf


def candidate(base, tokens=1000):
    network = Network(get_backend("numpy"), SHAPE, np.zeros(0, np.int8))
    return Candidate(base, network, base, tokens, Scores(5.0, 6.0, 0.25))


def swept(table, factors=(1.0,), models=1):
    """The dimensions and trials of a sweep with gains by subspace, then seed; a step factor of a half is the best.

    Half of a gain in bits per byte is gained in accuracy, and twice as much on the text that is adapted to.
    """
    subspaces = plan_subspaces([Subspace(1, "head"), Subspace(None, "head")], SHAPE)
    gains = dict(zip(subspaces, table, strict=True))
    asked = []

    def run(candidate, subspace, trial):
        asked.append(trial)
        gain = gains[subspace][trial.seed + int(candidate.base)] - 0.01 * abs(math.log2(2 * trial.step_factor))
        return TrialResult(trial, 1, Scores(5.0 - gain, 6.0 - 2 * gain, 0.25 + gain / 2), 0.0)

    draws = len(table[0])
    group = [candidate(str(base)) for base in range(models)]
    found = list(
        sweep(group, subspaces, Setting("text", 1, 1, 1, True), list(factors), list(range(draws // models)), run)
    )
    measured = estimate_dimensions(group, found)
    bits, accuracy = measured.estimates
    assert (bits.measure, accuracy.measure) == ("bits_per_byte", "accuracy")
    assert accuracy.d90.value == pytest.approx(bits.d90.value)
    return measured, bits, asked


def test_step_factors_are_chosen_with_the_first_seed():
    table = [[0.1, 0.2, 0.3], [0.6, 0.7, 0.8], [1.0, 1.0, 1.0]]
    measured, bits, asked = swept(table, factors=(0.25, 0.5, 1.0))
    assert len(asked) == count_trials(3, 3, 3) == 15
    assert len(set(asked)) == len(asked)
    assert [gain.step_factor for gain in measured.gains] == [0.5] * 3
    assert [t.seed for t in asked[:5]] == [0, 0, 0, 1, 2]
    assert measured.gains[1].of("bits_per_byte") == pytest.approx([0.6, 0.7, 0.8])
    assert measured.gains[1].of("accuracy") == pytest.approx([0.3, 0.35, 0.4])
    assert measured.gains[1].gap == pytest.approx(0.7)
    assert bits.d90.value == math.inf and dimension_text(bits, bits.d90.value) == "> 4.10k"


def test_the_best_step_factor_is_not_the_last_that_was_tried():
    for factors, asked in (((1.0, 2.0, 4.0), [1, 2, 4, 0.5, 0.25]), ((0.125, 0.0625), [0.125, 0.0625, 0.25, 0.5, 1])):
        measured, _, trials = swept([[0.1], [0.6], [1.0]], factors)
        assert [t.step_factor for t in trials[: len(asked)]] == asked
        assert [gain.step_factor for gain in measured.gains] == [0.5] * 3
    *_, trials = swept([[0.1], [0.6], [1.0]], (4.0,))
    assert {t.step_factor for t in trials} == {4.0}


def test_the_interval_is_that_of_seeds():
    _, certain, _ = swept([[0.5] * 3, [0.95] * 3, [1.0] * 3])
    d90 = certain.d90
    assert d90.low == d90.value == d90.high == pytest.approx(certain.by_seed[0])
    assert 256 < d90.value < 4096
    _, spread, _ = swept([[0.5] * 3, [0.85, 0.95, 1.05], [1.0] * 3])
    assert spread.d90.low < spread.d90.value < spread.d90.high == math.inf
    assert math.isinf(spread.by_seed[0]) and math.isfinite(spread.by_seed[2])
    _, small, _ = swept([[0.99] * 3, [0.5] * 3, [1.0] * 3])
    assert dimension_text(small, small.d90.value) == "<= 256"


def test_checkpoints_that_differ_in_their_seed_are_one_model():
    measured, _, asked = swept([[0.5, 0.5], [0.85, 1.05], [1.0, 1.0]], factors=(0.5, 1.0, 0.25), models=2)
    assert [(t.base, t.step_factor) for t in asked[:4]] == [("0", 0.5), ("0", 1.0), ("0", 0.25), ("1", 0.5)]
    assert len(asked) == count_trials(3, 3, 2)
    assert measured.gains[1].of("bits_per_byte") == pytest.approx([0.85, 1.05])
    assert measured.share(measured.gains[1]) == pytest.approx(0.95)
    a, b, later, unknown, other = (candidate(*c) for c in (("a",), ("b",), ("c", 2000), ("d", None), ("e", None)))
    assert alike([later, a, unknown, b, other]) == [[unknown], [other], [a, b], [later]]


# Records


def trial(seed=0):
    return Trial("hash", None, "head", None, 1.0, seed, "text", 640, 64, 32, False)


def result(seed, bits=4.0):
    return TrialResult(trial(seed), 10, Scores(bits, 3.0, None), 0.1)


def test_records_outlive_a_kill_while_one_is_written(tmp_path):
    for seed in range(3):
        Records(tmp_path).add(result(seed, 4.0 + seed))
    path = tmp_path / "results.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    assert list(Records(tmp_path).known) == [trial(0), trial(1)]
    again = Records(tmp_path)
    again.add(result(2, 6.0))
    assert path.read_bytes() == whole


@pytest.mark.parametrize("line", ["{}", "[]", "nonsense", '{"trial": 3}', '{"trial": {"base": "x"}}', "\xff"])
def test_a_line_that_is_no_result(tmp_path, line):
    Records(tmp_path).add(result(0))
    path = tmp_path / "results.jsonl"
    path.write_bytes(path.read_bytes() + line.encode("latin-1") + b"\n")
    with pytest.raises(EggError, match=r"results\.jsonl, line 2 is no result"):
        Records(tmp_path)


# The command


@pytest.fixture
def call(egg, train, tmp_path, tables):
    """Runs the command on two small checkpoints, with more arguments; returns status, output and errors."""
    train("--steps", 6, "--keep", "all", "--out", tmp_path / "run")
    saved = [tmp_path / f"run/checkpoints/step-0000000{step}" for step in (3, 6)]
    small = (
        "--dimensions 4 --ranks 1 --tensors head --whole head --tokens 128 --streams 4 --seeds 2 "
        "--step-factors 1 --eval-bytes 200 --backend numpy"
    ).split()

    def run(*arguments, out="out"):
        return egg("intrinsic-dimension", *saved, "--data", tables, *small, "--out", tmp_path / out, *arguments)

    return run


def test_a_sweep_that_is_interrupted_goes_on(call, tmp_path, monkeypatch):
    status, shown, err = call("--json", out="whole")
    assert status == 0, err
    whole = json.loads(shown)
    lines = (tmp_path / "whole/results.jsonl").read_text().splitlines()
    assert len(lines) == 2 * 4 * 2
    told = [line for line in err.splitlines() if " left: " in line]
    assert [line.partition(", about 0:")[0] for line in told] == [f"{n} of 16" for n in range(1, 17)]
    assert "about 0:00 left" in told[-1]
    status, again, err = call("--json", "--quiet", out="whole")
    assert (status, err, json.loads(again)) == (0, "", whole)

    made = []

    def interrupted(*arguments, **settings):
        if len(made) == 5:
            raise KeyboardInterrupt
        made.append(arguments)
        return adapt(*arguments, **settings)

    monkeypatch.setattr(cli_intrinsic_dimension, "adapt", interrupted)
    assert call()[0] == 130
    assert len((tmp_path / "out/results.jsonl").read_text().splitlines()) == 5
    monkeypatch.setattr(cli_intrinsic_dimension, "adapt", lambda *a, **s: made.append(a) or adapt(*a, **s))
    status, shown, err = call("--json")
    assert status == 0, err
    assert len(made) == 2 * 4 * 2  # nothing was measured twice
    again = json.loads(shown)
    assert again["checkpoints"] == whole["checkpoints"]
    made.clear()
    status, shown, _ = call()
    assert status == 0 and not made and "random 4" in shown
    for name in ("d90.png", "gains.png", "gaps.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(PNG)


def test_what_a_sweep_says(call, monkeypatch):
    found = json.loads(call("--json")[1])
    assert (found["tokens"], found["seeds"]) == (128, 2)
    first, second = found["checkpoints"]
    assert first["pretraining_tokens"] == 3 * PER_STEP and len(first["checkpoints"]) == 1
    assert [s["parameters"] for s in second["subspaces"]] == [4, 256, 4096, MOVING]
    assert [s["name"] for s in second["subspaces"]] == ["random 4", "rank 1 head", "whole head", "whole all"]
    for checkpoint in found["checkpoints"]:
        gains = [s["gain"] for s in checkpoint["subspaces"]]
        assert checkpoint["full_gain"] == gains[-1]
        assert all(len(s["gains"]) == 2 for s in checkpoint["subspaces"])
        assert [e["family"] for e in checkpoint["estimates"]] == ["random", "chosen"]
        assert all(e["reached"] == (e["d90"] is not None) for e in checkpoint["estimates"])
        assert all(after["accuracy"] is None for s in checkpoint["subspaces"] for after in s["after"])
    for columns in (80, 120):
        monkeypatch.setenv("COLUMNS", str(columns))
        shown = call()[1]
        assert "d90" in shown and max(map(len, shown.splitlines())) <= columns


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--ranks x", "'x' is no integer"),
        ("--dimensions 4,y", "'y' is no integer"),
        ("--dimensions 12", "12 dimensions"),
        ("--dimensions 16384 --ranks none --whole none", "no subspace but all weights"),
        ("--classify", "classes"),
        ("--ranks 17", "--rank 17"),
        ("--tensors embedding", "embedding"),
        ("--whole sideways", "sideways"),
        ("--seeds 0", "--seeds 0"),
        ("--step-factors 0", "--step-factors 0"),
        ("--step-factors fast", "--step-factors fast"),
        ("--member-tokens 50", "--tokens 50"),
        ("--streams 0", "--streams 0"),
        ("--eval-bytes=-1", "--eval-bytes -1"),
        ("--data no/such", "no/such"),
    ],
)
def test_what_cannot_be_swept(call, arguments, says):
    status, out, err = call(*arguments.split())
    assert (status, out) == (2, "") and says in err.splitlines()[-1]
    assert "Traceback" not in err


def test_classes_by_likelihood(call, tmp_path):
    """A text whose first lines are classes; and what a model that knows all of one class says."""
    lines = [b"%s\n%s" % ((b"ab"[i % 2 : i % 2 + 1], b"to be %d" % i)) for i in range(40)]
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps({"text": line.decode()}) + "\n" for line in lines))
    status, shown, err = call("--classify", "--json", "--validation-share", "0.5", "--data", tmp_path / "lines.jsonl")
    assert status == 0, err
    found = json.loads(shown)["checkpoints"][0]
    assert [(e["family"], e["measure"]) for e in found["estimates"]] == [
        (family, measure) for measure in ("bits_per_byte", "accuracy") for family in ("random", "chosen")
    ]
    assert all(0 <= after["accuracy"] <= 1 for s in found["subspaces"] for after in s["after"])
    network = Network(get_backend("numpy"), SHAPE, initial_weights(SHAPE, 3, "egg"))  # all bytes are equally likely
    some = Classification(np.frombuffer(b"\0a\nx\0a\ny\0b\nx\0c", np.uint8))
    assert some.classes == [b"a", b"b"] and some.accuracy(network) == pytest.approx(2 / 3)


def test_a_sweep_of_nothing(egg, tables):
    status, _, err = egg("intrinsic-dimension", "--data", tables)
    assert status == 2 and "CKPT is missing" in err and err.count("\n") == 1
    assert egg("intrinsic-dimension", "no/such", "--data", tables)[0] == 2
