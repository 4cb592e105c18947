"""Which checkpoints of a run stay, and the name of the best."""

import json
from pathlib import Path

import pytest
from test_resume import files

from egg.model import checkpoint
from egg.model.evaluate import Evaluation
from egg.run import trainer
from egg.run.retention import kept_steps


def steps(run: Path) -> list[int]:
    return [checkpoint.step_of(path) for path in checkpoint.checkpoints(run)]


def best(run: Path) -> dict:
    return json.loads((run / "best.json").read_text())


@pytest.fixture
def measured(monkeypatch):
    """Makes the measurements on the validation text what a test wants them to be, step by step."""

    def measurements(at: dict[int, float]) -> None:
        monkeypatch.setattr(
            trainer.Trainer, "_evaluate", lambda self: Evaluation(at[self.evolution.step_number], 8.0, 1, 1, 0.0)
        )

    return measurements


@pytest.mark.parametrize(
    ("arguments", "stay"),
    [
        (([3, 6, 9, 12], 3, 3, None), {6, 9, 12}),
        (([3, 6, 9, 12], 3, 1, 6), {6, 12}),
        (([3, 6, 9, 12], 3, "all", 6), {3, 6, 9, 12}),
        (([3, 4, 5, 6], 3, 3, 4), {3, 4, 6}),  # interrupted at 5
        (([3, 5], 3, 3, None), {3, 5}),
        (([2, 4, 7], 0, 2, 4), {4, 7}),
        (([5], 0, 1, None), {5}),
        (([5], 0, 1, 5), {5}),
    ],
)
def test_what_stays(arguments, stay):
    assert kept_steps(*arguments) - {None} == stay


def test_the_best_and_the_last_few_stay(train, measured, egg, tmp_path):
    measured({4: 5.0, 8: 4.5, 12: 4.7, 16: 4.5, 20: 4.9})
    run = tmp_path / "run"
    out = train("--steps", 20, "--keep", 2, "--out", run)
    assert steps(run) == [8, 18, 20]  # of equals the first
    assert best(run) == {"step": 8, "validation_bits_per_byte": 4.5, "checkpoint": "checkpoints/step-00000008"}
    assert checkpoint.find(run / "best") == run / best(run)["checkpoint"]
    assert checkpoint.find(run).name == "step-00000020"
    assert egg("eval", run / "best", "--backend", "numpy")[0] == 0
    assert "4.5" in out


def test_a_longer_run_forgets_what_was_measured_at_the_shorter_ones_end(train, measured, egg, tmp_path):
    measured({4: 5.0, 8: 4.5, 10: 4.4, 12: 4.9, 16: 4.8})
    run, whole = tmp_path / "run", tmp_path / "whole"
    train("--steps", 10, "--keep", 1, "--out", run)
    assert steps(run) == [8, 10] and best(run)["step"] == 10
    status, _, err = egg("train", "--resume", run, "--steps", 16, "--backend", "numpy")
    assert status == 0, err
    train("--steps", 16, "--keep", 1, "--out", whole)
    assert steps(run) == steps(whole) == [8, 16]
    assert best(run) == best(whole) and best(run)["step"] == 8
    ours, theirs = files(run), files(whole)
    for name in ours:
        # config.json holds the stop of its time, and the manifest its checksum
        if not name.startswith(("checkpoints/step-00000008/config", "checkpoints/step-00000008/man")):
            assert ours[name] == theirs[name], name


def test_all_stay_if_asked(train, egg, tmp_path):
    run = tmp_path / "run"
    train("--steps", 15, "--keep", "all", "--eval-every", 0, "--out", run)
    assert steps(run) == [3, 6, 9, 12, 15]
    assert egg("train", "--resume", run, "--steps", 18, "--keep", 1, "--backend", "numpy")[0] == 0
    assert steps(run) == [18]


def test_without_measurements_there_is_no_best(train, tmp_path, egg):
    run = tmp_path / "run"
    train("--steps", 2, "--out", run)  # measured at its end alone
    assert best(run)["step"] == 2
    (run / "best.json").unlink()
    status, _, err = egg("eval", run / "best")
    assert status == 2 and "best.json" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "says"), [("{", "cannot be read"), ("[]", "cannot be read"), ('{"step": 77}', "which does not exist")]
)
def test_a_best_that_cannot_be(train, egg, tmp_path, content, says):
    run = tmp_path / "run"
    train("--steps", 1, "--out", run)
    (run / "best.json").write_text(content)
    status, _, err = egg("eval", run / "best")
    assert status == 2 and says in err and err.count("\n") == 1


def test_nothing_is_removed_before_the_next_is_complete(train, egg, tmp_path, monkeypatch):
    run = tmp_path / "run"
    flags = ["--keep", 1, "--eval-every", 0]
    train(*flags, "--steps", 3, "--out", run)
    seen, rename = [], Path.rename

    def spy(path, target):
        seen.append((path.name, sorted(p.name for p in (run / "checkpoints").glob("step-*"))))
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", spy)
        assert egg("train", "--resume", run, "--steps", 6, "--backend", "numpy")[0] == 0
    assert seen == [("writing-step-00000006", ["step-00000003"]), ("step-00000003", ["step-00000003", "step-00000006"])]
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["step-00000006"]


def test_what_a_killed_run_left_half_done_is_cleared(train, egg, tmp_path):
    run = tmp_path / "run"
    train("--steps", 3, "--out", run)
    for name in ("removing-step-00000001", "writing-step-00000005"):
        (run / "checkpoints" / name).mkdir()
    assert egg("train", "--resume", run, "--steps", 4, "--backend", "numpy")[0] == 0
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["step-00000003", "step-00000004"]
