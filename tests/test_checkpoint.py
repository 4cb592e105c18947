"""Checkpoints and loading: whole or refused, in one line."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import forge
from safetensors.numpy import load_file, save_file

import egg as library
from egg.config import Config, ModelConfig, to_json
from egg.errors import EggError
from egg.files import replace_file
from egg.kernels import Shape
from egg.model import checkpoint
from egg.model.state import STEP, Form

SHAPE = Shape(16, 1)
LAYOUT = {"step": STEP, "states": Form((4, 1, 16), np.int8, -127, 127)}
CONTENT = to_json(Config(model=ModelConfig(16, 1)))


def weights(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-127, 128, SHAPE.parameters).astype(np.int8)


def save(run, step: int = 3):
    run.mkdir(exist_ok=True)
    state = {"step": np.array([step], np.int64), "states": np.zeros((4, 1, 16), np.int8)}
    return checkpoint.save_checkpoint(run, step, CONTENT, SHAPE, weights(step), state)


def refusal(call, *arguments) -> str:
    with pytest.raises(EggError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_saved_is_read_back(tmp_path):
    folder = save(tmp_path)
    assert folder == tmp_path / "checkpoints" / "step-00000003"
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.json",
        "manifest.json",
        "model.safetensors",
        "state.safetensors",
    ]
    np.testing.assert_array_equal(checkpoint.read_weights(folder, SHAPE), weights(3))
    state = checkpoint.read_state(folder, LAYOUT)
    assert state["step"].tolist() == [3] and state["states"].shape == (4, 1, 16)
    assert checkpoint.read_config(folder) == CONTENT
    named = load_file(folder / "model.safetensors")
    assert list(SHAPE.tensors) == sorted(named, key=list(SHAPE.tensors).index)
    assert {array.dtype for array in named.values()} == {np.dtype(np.int8)}


def test_equal_checkpoints_have_equal_bytes(tmp_path):
    a, b = save(tmp_path / "a"), save(tmp_path / "b")
    for path in a.iterdir():
        assert path.read_bytes() == (b / path.name).read_bytes(), path.name


def test_the_newest_is_found_by_number(tmp_path):
    for step in (9, 100_000_000, 20):
        save(tmp_path, step)
    (tmp_path / "checkpoints" / "writing-step-900000000").mkdir()  # a killed run's
    (tmp_path / "checkpoints" / "step-1").mkdir()  # somebody's own
    (tmp_path / "checkpoints" / "step-999999999").touch()
    assert checkpoint.find(tmp_path).name == "step-100000000"
    assert [p.name for p in checkpoint.checkpoints(tmp_path)][:2] == ["step-00000009", "step-00000020"]
    one = tmp_path / "checkpoints" / "step-00000009"
    assert checkpoint.find(one) == one


def test_a_write_that_fails_leaves_no_checkpoint(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", full)
    assert "No space left" in refusal(save, tmp_path)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_checkpoint_appears_whole_and_at_once(tmp_path, monkeypatch):
    seen = []
    write, rename = checkpoint.write_synced, Path.rename

    def spy_write(path, content):
        seen.append([p.name for p in (tmp_path / "checkpoints").iterdir()])
        write(path, content)

    def spy_rename(path, target):
        assert {p.name for p in path.iterdir()} == {
            "config.json",
            "manifest.json",
            "model.safetensors",
            "state.safetensors",
        }
        seen.append(target.name)
        return rename(path, target)

    monkeypatch.setattr(checkpoint, "write_synced", spy_write)
    monkeypatch.setattr(Path, "rename", spy_rename)
    save(tmp_path)
    assert seen == [["writing-step-00000003"]] * 4 + ["step-00000003"]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "state.safetensors"])
def test_files_missing_cut_or_foreign_are_refused(tmp_path, name):
    folder = save(tmp_path)
    read = {
        "config.json": lambda: checkpoint.read_config(folder),
        "model.safetensors": lambda: checkpoint.read_weights(folder, SHAPE),
        "state.safetensors": lambda: checkpoint.read_state(folder, LAYOUT),
    }[name]
    read()
    whole = (folder / name).read_bytes()
    for damaged in (b"", b"\0", whole[: len(whole) // 2], whole[:-2], b"PK\x03\x04" + whole):
        (folder / name).write_bytes(damaged)
        assert name in refusal(read)
        forge(folder)
        assert name in refusal(read)
    (folder / name).unlink()
    assert name in refusal(read)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "state.safetensors"])
def test_a_flipped_bit_is_found(tmp_path, name):
    folder = save(tmp_path)
    content = bytearray((folder / name).read_bytes())
    content[-3] ^= 0x10
    (folder / name).write_bytes(content)
    assert checkpoint.damage_of(folder) == (
        f"{folder / name} is damaged: its bytes do not have the checksum in manifest.json"
    )
    (folder / "manifest.json").unlink()  # as older versions wrote it: nothing to hold it to
    if name != "config.json":
        assert checkpoint.damage_of(folder) is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": 3}', '{"files": {}}', "[" * 9**5])
def test_a_manifest_that_is_none_is_named(tmp_path, content):
    folder = save(tmp_path)
    (folder / "manifest.json").write_text(content)
    assert "manifest.json cannot be read" in refusal(library.load, folder)


def test_the_newest_complete_one_is_told_from_damaged_ones(tmp_path):
    for step in (3, 4, 5, 6):
        save(tmp_path, step)
    fourth, fifth, sixth = checkpoint.checkpoints(tmp_path)[1:]
    (sixth / "state.safetensors").unlink()
    (fifth / "model.safetensors").write_bytes(b"")
    found, damaged = checkpoint.newest_complete(tmp_path)
    assert found == fourth and len(damaged) == 2
    assert "state.safetensors" in damaged[0] and "model.safetensors" in damaged[1]
    checkpoint.set_aside_after(found)
    assert [p.name for p in checkpoint.checkpoints(tmp_path)] == ["step-00000003", "step-00000004"]
    assert (fifth.parent / "damaged-step-00000005").is_dir()
    shutil.rmtree(fourth)
    (tmp_path / "checkpoints/step-00000003/config.json").unlink()
    assert "has no complete checkpoint" in refusal(checkpoint.newest_complete, tmp_path)


def test_a_damaged_checkpoint_is_written_again(tmp_path):
    folder = save(tmp_path)
    (folder / "model.safetensors").write_bytes(b"")
    assert checkpoint.damage_of(save(tmp_path)) is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop("head.weight"), "no tensor 'head.weight'"),
        (lambda t: t.update({"head.weight": t["head.weight"].astype(np.int16)}), "int16"),
        (lambda t: t.update({"head.weight": t["head.weight"].astype(np.float32)}), "float32"),
        (lambda t: t.update({"head.weight": t["head.weight"][:255].copy()}), "255, 16"),
        (lambda t: t["ln_out.weight"].__setitem__(2, -128), "ln_out.weight holds -128"),
    ],
)
def test_weights_of_another_kind_are_refused(tmp_path, change, says):
    folder = save(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    forge(folder)
    assert says in refusal(checkpoint.read_weights, folder, SHAPE)
    assert says in refusal(library.load, folder)


def test_state_of_another_format_is_refused(tmp_path):
    folder = save(tmp_path)
    path = folder / "state.safetensors"
    save_file(load_file(path), path, {checkpoint.FORMAT_KEY: "99"})
    forge(folder)
    assert "format 99" in refusal(checkpoint.read_state, folder, LAYOUT)
    save_file(load_file(path), path)
    forge(folder)
    assert "format None" in refusal(checkpoint.read_state, folder, LAYOUT)


def test_find_refuses_what_is_neither_run_nor_checkpoint(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    assert "no such folder" in refusal(checkpoint.find, tmp_path / "nothing")
    assert "is a file" in refusal(checkpoint.find, tmp_path / "file")
    assert "neither" in refusal(checkpoint.find, tmp_path / "empty")
    assert "has no checkpoint" in refusal(checkpoint.find, tmp_path / "run")


def test_load_needs_weights_and_a_shape_alone(tmp_path):
    save(tmp_path / "run")
    folder = tmp_path / "other"
    folder.mkdir()
    shutil.copy(tmp_path / "run/checkpoints/step-00000003/model.safetensors", folder)
    content = {"model": {"hidden_size": 16, "num_layers": 1, "vocab_size": 256}, "else": [1]}
    (folder / "config.json").write_text(json.dumps(content))
    tokens = np.frombuffer(b"\0some bytes\0and more", np.uint8)
    model = library.load(folder, backend="numpy")
    assert model.shape == SHAPE
    logits, scores = model.logits(tokens), model.scores(tokens)
    assert logits.dtype == np.int8 and logits.shape == (len(tokens), 256)
    assert scores.dtype == np.int32 and scores.shape == (len(tokens) - 1,)
    of_run = library.load(str(tmp_path / "run"), backend="numpy")
    np.testing.assert_array_equal(of_run.logits(tokens), logits)
    # A NUL resets the state: what follows it is read as if it were alone.
    np.testing.assert_array_equal(model.logits(tokens[11:]), logits[11:])
    np.testing.assert_array_equal(model.scores(tokens[11:]), scores[11:])


def test_tokens_of_another_kind_are_refused(tmp_path):
    save(tmp_path)
    model = library.load(tmp_path, backend="numpy")
    for tokens in ([1, 2], np.zeros((2, 2), np.uint8), np.zeros(3, np.int64), 7, None):
        assert "uint8" in refusal(model.logits, tokens)
        assert "uint8" in refusal(model.scores, tokens)
    nothing = np.zeros(0, np.uint8)
    assert model.logits(nothing).shape == (0, 256)
    assert model.scores(np.zeros(1, np.uint8)).shape == (0,)
    assert "no tokens" in refusal(model.scores, nothing)


@pytest.mark.skipif(os.name != "posix", reason="pipes with a name are POSIX's")
def test_what_is_no_file_is_not_replaced_by_one(tmp_path):
    """As root, a file in /dev/null's place would be everybody's."""
    pipe, file, link = tmp_path / "pipe", tmp_path / "file", tmp_path / "link"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    try:
        replace_file(pipe, b"through", follow=True)
        assert pipe.is_fifo() and os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
    file.write_bytes(b"before")
    link.symlink_to(file)
    replace_file(link, b"after", follow=True)
    assert link.is_symlink() and file.read_bytes() == b"after"
    replace_file(link, b"own")  # in a run's folder a link may be anybody's
    assert not link.is_symlink() and link.read_bytes() == b"own" and file.read_bytes() == b"after"
    assert {path.name for path in tmp_path.iterdir()} == {"pipe", "file", "link"}
