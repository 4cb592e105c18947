"""Files of anyone's making: a run goes on, or is refused in one line; never a traceback, never a loss.

A few hundred mutated files in the ordinary tests, 10,000 in the slow ones:

    pytest -m slow tests/test_fuzz.py -s
"""

import contextlib
import json
import random
import shutil
import struct
from pathlib import Path

import pytest
from conftest import forge

from egg.run.trainer import Trainer

VALUES = (
    0,
    -1,
    1,
    3,
    2**31,
    2**63,
    2**64,
    -(2**63),
    10**30,
    0.5,
    1e308,
    -0.0,
    float("nan"),
    float("inf"),
    None,
    True,
    "",
    "x",
    "\0",
    "all",
    "egg",
    "paper",
    "é" * 300,
    [],
    [[]],
    {},
    {"": {}},
    [0] * 1000,
)


def flip(content: bytes, chance: random.Random) -> bytes:
    """Bytes with something done to them: bits, cuts, holes, doubles, other numbers."""
    content = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 8))):
        at, size = chance.randrange(len(content) + 1), chance.choice((1, 2, 8, 100, 5000))
        kind = chance.randrange(7)
        if kind == 0 and at < len(content):
            content[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del content[at:]
        elif kind == 2:
            del content[at : at + size]
        elif kind == 3:
            content[at:at] = content[at : at + size]
        elif kind == 4:
            content[at : at + size] = bytes(len(content[at : at + size]))
        elif kind == 5:
            content[at:at] = chance.randbytes(size)
        else:
            # Numbers are what is believed: the length of a header, a digit.
            digits = [i for i, byte in enumerate(content[:4000]) if 48 <= byte < 58]
            if digits and chance.random() < 0.7:
                content[chance.choice(digits)] = chance.choice(b"0123456789")
            else:
                content[:8] = struct.pack("<Q", chance.choice((0, 1, 2**20, 2**40, 2**64 - 1)))
    return bytes(content)


def change_value(there, chance: random.Random) -> None:
    """Put a value of another kind or size somewhere into an object of JSON."""
    while True:
        keys = list(there) if isinstance(there, dict) else list(range(len(there)))
        if not keys:
            return
        key = chance.choice(keys)
        if isinstance(there[key], dict | list) and there[key] and chance.random() < 0.8:
            there = there[key]
        elif chance.random() < 0.2 and isinstance(there, dict):
            del there[key]
            return
        else:
            there[key] = chance.choice(VALUES)
            return


def change_header(content: bytes, chance: random.Random) -> bytes:
    """Another shape, dtype or place of a tensor in a safetensors file."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    kind = chance.randrange(4)
    tensor = header[chance.choice([name for name in header if name != "__metadata__"])]
    if kind == 0:
        tensor["dtype"] = chance.choice(["I64", "F32", "BF16", "F8_E4M3", "BOOL", "U64", "", "F4"])
    elif kind == 1:
        tensor["shape"] = chance.choice([[], [0], [2**40], [2**62, 4], [1, 1], tensor["shape"] * 2])
    elif kind == 2:
        tensor["data_offsets"] = chance.choice([[0, 0], [0, 2**60], [9, 1], [2**63, 2**63 + 1]])
    else:
        change_value(header, chance)
    there = json.dumps(header).encode()
    return struct.pack("<Q", len(there)) + there + content[8 + size :]


def mutate(path: Path, chance: random.Random) -> None:
    content = path.read_bytes()
    kind = chance.random()
    if path.suffix == ".json" and kind < 0.5:
        there = json.loads(content)
        change_value(there, chance)
        content = json.dumps(there).encode()
    elif path.suffix == ".safetensors" and kind < 0.4:
        content = change_header(content, chance)
    elif kind < 0.97:
        content = flip(content, chance)
    else:
        content = chance.choice((b"", b"[" * 200_000, b"{}", b"null", bytes(2_000_000)))
    path.write_bytes(content)


def tree(folder: Path) -> dict[str, bytes]:
    """All files but best.json, which follows from others, and is mended."""
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "best.json"
    }


@pytest.fixture
def idle(monkeypatch):
    """From its call on, what is read is judged, and not trained on: a forged configuration may be a large one."""

    @contextlib.contextmanager
    def call():
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "finished", property(lambda self: True))
            patch.setenv("HF_HUB_OFFLINE", "1")
            yield

    return call


@contextlib.contextmanager
def limited_memory(gib: int):
    """What takes more than that is told so."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (gib << 30, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def fuzz_checkpoints(egg, train, idle, folder: Path, count: int, seed: int) -> dict[str, int]:
    whole, run = folder / "whole", folder / "run"
    train("--steps", 3, "--out", whole)
    original = tree(whole)
    done = {"accepted": 0, "refused": 0}
    chance = random.Random(seed)
    for _ in range(count):
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(whole, run)
        (saved,) = (run / "checkpoints").iterdir()
        names = ["config.json", "manifest.json", "model.safetensors", "state.safetensors"]
        names += ["../../metrics.jsonl", "../../best.json"]
        path = saved / chance.choice(names)
        mutate(path, chance)
        manifest = chance.choice(("kept", "kept", "forged", "none"))
        if manifest == "forged":
            forge(saved)
        elif manifest == "none":
            (saved / "manifest.json").unlink()
        before = tree(run)
        command = chance.choice((["train", "--resume"], ["train", "--resume"], ["eval"]))
        target = run / "best" if command == ["eval"] and path.name == "best.json" else run
        with idle():
            status, out, err = egg(*command, target, "--backend", "numpy")
        says = f"{path.name}, manifest {manifest}, {command}: {status}\n{out}\n{err}"
        assert status in (0, 2), says
        ours = [line for line in err.splitlines() if line.startswith("egg: ")]
        assert len(ours) == (status == 2) and len(err) < 4000, says
        assert "Traceback" not in err, says
        assert tree(run) == before, says
        ours = path.parent == saved and path.name != "manifest.json" and manifest == "kept"
        if ours and (command != ["eval"] or path.name != "state.safetensors"):
            name = str(path.relative_to(run))
            assert (status == 2) == (before[name] != original[name]), says
        done["refused" if status else "accepted"] += 1
    return done


def fuzz_settings(egg, train, idle, folder: Path, count: int, seed: int) -> dict[str, int]:
    train("--steps", 1, "--out", folder / "made")
    whole = (folder / "made/run.toml").read_bytes()
    path, out_folder = folder / "mine.toml", folder / "out"
    done = {"accepted": 0, "refused": 0}
    chance = random.Random(seed)
    for _ in range(count):
        if chance.random() < 0.5:
            content = flip(whole, chance)
        else:
            lines = whole.decode().splitlines()
            at = chance.choice([i for i, line in enumerate(lines) if " = " in line])
            key = lines[at].partition(" = ")[0]
            value = chance.choice([v for v in VALUES if not isinstance(v, dict)])
            if key == "data":  # no walk through a whole disk
                value = chance.choice(("nothing", "stdlib:", ":", "a:1,b:x", 3, "\0"))
            shown = repr(value) if isinstance(value, float) else json.dumps(value)
            lines[at] = f"{key} = {shown}"
            content = "\n".join(lines).encode()
        path.write_bytes(content)
        with idle():
            status, out, err = egg("train", "--config", path, "--backend", "numpy", "--out", out_folder)
        says = f"{content!r}: {status}\n{out}\n{err}"
        assert status in (0, 2), says
        ours = [line for line in err.splitlines() if line.startswith("egg: ")]
        assert len(ours) == (status == 2) and len(err) < 8000, says
        assert "Traceback" not in err and not out_folder.exists(), says
        done["refused" if status else "accepted"] += 1
    return done


@pytest.mark.parametrize("seed", [1, 2])
def test_mutated_checkpoints(egg, train, idle, tmp_path, seed):
    with limited_memory(12):
        done = fuzz_checkpoints(egg, train, idle, tmp_path, 40, seed)
    assert done["refused"] > 10


def test_mutated_settings(egg, train, idle, tmp_path):
    with limited_memory(12):
        done = fuzz_settings(egg, train, idle, tmp_path, 80, 1)
    assert done["refused"] > 20


@pytest.mark.slow
def test_ten_thousand_mutated_files(egg, train, idle, tmp_path):
    with limited_memory(12):
        checkpoints = fuzz_checkpoints(egg, train, idle, tmp_path, 7000, 10)
        settings = fuzz_settings(egg, train, idle, tmp_path, 3000, 11)
    print(f"\n7,000 checkpoints: {checkpoints}; 3,000 run.toml: {settings}")
