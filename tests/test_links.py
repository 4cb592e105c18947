"""Links that somebody laid in a run's folder: what they lead to has the same bytes after the run has gone on."""

import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import SMALL, forge
from test_resume import files

from egg.cli.main import main
from egg.evolution.base import Evolution
from egg.model import checkpoint

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links that anybody may lay are POSIX's")

NAMES = ("run.toml", "config.json", "metrics.jsonl", "best.json", "loss.png", "report.html")
MADE = ("report", "checkpoints/step-00000007", "checkpoints/writing-step-00000007", "checkpoints/writing-step-00000008")
UNFINISHED = tuple(f".{name}.{'0' * 16}.writing" for name in NAMES)


def everything(folder: Path) -> dict[str, bytes | str | None]:
    """All that lies in a folder: bytes of files, targets of links, None of folders."""
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.is_file() and path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture(scope="module")
def begun(tmp_path_factory, tables):
    """A run of 6 steps, and the same of 8 as it is without links."""
    folder = tmp_path_factory.mktemp("begun")
    for name, steps in (("run", 6), ("whole", 8)):
        assert main([*map(str, ("train", *SMALL, "--data", tables, "--steps", steps, "--out", folder / name))]) == 0
    return folder


@pytest.fixture
def run(begun, tmp_path):
    """A copy of the run, to lay links in."""
    return shutil.copytree(begun / "run", tmp_path / "run")


@pytest.fixture
def goes_on(egg, begun, run):
    """Go on with the run: it ends as without links, or is refused in one line."""

    def call(target: Path) -> int:
        before = everything(target)
        status, _, err = egg("train", "--resume", run, "--steps", 8, "--backend", "numpy")
        assert everything(target) == before
        assert status == 0 or (status, err.count("\n")) == (2, 1), err
        if status == 0:
            name = "checkpoints/step-00000008/model.safetensors"
            assert files(run)[name] == files(begun / "whole")[name]
        return status

    return call


@pytest.mark.parametrize("kind", ["its own file", "a file of the user's", "nothing"])
@pytest.mark.parametrize("name", NAMES)
def test_a_link_in_the_place_of_a_file(run, goes_on, tmp_path, name, kind):
    target = tmp_path / "mine"
    target.mkdir()
    content = (run / name).read_bytes()
    (run / name).unlink()
    (run / name).symlink_to(target / "file")
    if kind != "nothing":
        (target / "file").write_bytes(content if kind == "its own file" else b"alias ll='ls -l'\n")
    goes_on(target)


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("name", [*MADE, *UNFINISHED])
def test_a_link_in_the_place_of_what_the_run_will_make(run, goes_on, tmp_path, name, folder):
    target = tmp_path / "mine"
    (target / "folder").mkdir(parents=True)
    for path in (target / "file", target / "folder" / "config.json"):
        path.write_bytes(b"alias ll='ls -l'\n")
    (run / name).symlink_to(target / ("folder" if folder else "file"))
    assert goes_on(target) == 0 or name.startswith("checkpoints/")
    if name in UNFINISHED:
        assert not (run / name).is_symlink()


@pytest.mark.parametrize("step", [3, 6])
def test_a_linked_checkpoint_goes_its_way_and_stops_nothing(run, goes_on, egg, tmp_path, step):
    """Retention removes the link, and what is older than it; what it leads to stays."""
    target, name = tmp_path / "mine", checkpoint.step_name(step)
    target.mkdir()
    (run / "checkpoints" / name).rename(target / name)
    (run / "checkpoints" / name).symlink_to(target / name)
    assert goes_on(target) == 0
    status, _, err = egg("train", "--resume", run, "--steps", 20, "--keep", 1, "--backend", "numpy")
    assert (status, err) == (0, "")
    best = json.loads((run / "best.json").read_text())["step"]
    assert {checkpoint.step_of(path) for path in checkpoint.checkpoints(run)} == {best, 20}
    assert everything(target)


@pytest.mark.parametrize("kind", ["its own", "a folder of the user's", "nothing"])
@pytest.mark.parametrize("when", ["resumed", "new", "meanwhile"])
def test_a_link_in_the_place_of_all_checkpoints(run, goes_on, egg, tables, tmp_path, monkeypatch, when, kind):
    target = tmp_path / "mine"
    target.mkdir()
    if kind == "its own":
        shutil.copytree(run / "checkpoints", target / "folder")
    elif kind != "nothing":
        (target / "folder").mkdir()
        (target / "folder" / "notes.txt").write_bytes(b"mine")

    def lay(folder: Path) -> None:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        folder.mkdir(exist_ok=True)
        (folder / "checkpoints").symlink_to(target / "folder")

    if when == "resumed":
        lay(run)
        assert goes_on(target) == 2
        return
    new, before, step = tmp_path / "new", everything(target), Evolution.step
    if when == "new":
        lay(new)
    else:
        monkeypatch.setattr(Evolution, "step", lambda self: lay(new) or step(self))
    status, _, err = egg("train", *SMALL, "--data", tables, "--steps", 3, "--out", new)
    assert (status, err.count("\n")) == (2, 1) and str(new) in err, err
    assert everything(target) == before


@pytest.mark.parametrize("linked", [False, True])
def test_a_forged_preset_reaches_no_file(run, egg, tmp_path, linked):
    """A config.json says what another's shell starts with; run.toml, which says it again, leads there."""
    shell = tmp_path / "shell"
    for path in (run, *checkpoint.checkpoints(run)):
        content = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(content | {"preset": "nano\nalias ls='rm -r ~'\n"}))
        if path != run:
            forge(path)
    if linked:
        shell.write_text("# mine\n")
        (run / "run.toml").unlink()
        (run / "run.toml").symlink_to(shell)
    status, _, err = egg("train", "--resume", run, "--steps", 8, "--backend", "numpy")
    assert (status, err.count("\n")) == (2, 1) and "preset" in err, err
    assert not linked or shell.read_text() == "# mine\n"
    assert "alias" not in (run / "run.toml").read_text()
