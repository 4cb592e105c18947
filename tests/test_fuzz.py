"""Files of anyone's making: a command does its work, or refuses in one line; never a traceback, never a loss.

Each case copies what a command reads, changes one thing in it, runs the command in this process, and looks at what is
left. Formats are known: values within JSON, TOML and headers change, and checksums are made to fit what has changed.
A few hundred cases in the ordinary tests, 10,000 in the slow ones, whose counts it prints:

    pytest -m slow tests/test_fuzz.py -s
"""

import contextlib
import gzip
import hashlib
import json
import os
import random
import re
import shutil
import signal
import struct
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import SMALL, TEXTS, forge

from egg.data import pieces
from egg.data.corpus import fingerprint_of
from egg.model.compress import HEADER, HEADER_1, read_packed
from egg.model.digest import digest
from egg.model.network import read_model
from egg.run.trainer import Trainer
from egg.study import compare

SECONDS = 10  # of the processor's time for a case, or six times as many of any, after which it counts as endless
MOST = 4000  # characters of standard error after a refusal

RAW = {"@digits@": "9" * 5000, "@beyond@": "1e999", "@open@": "[" * 200_000}
RAW |= {f"@{deep}@": "[" * deep + "]" * deep for deep in (200, 700, 850, 900, 950, 5000)}
"""What json.dumps would not write: placeholder -> what stands in the file."""

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
    10**400,
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
    "\x1b[2J\r\n\u2028",
    "\ud800",
    "all",
    "egg",
    "paper",
    "../../x",
    "é" * 300,
    "long" * 5000,
    [],
    [[]],
    {},
    {"": {}},
    [0] * 1000,
    *RAW,
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


def written(value) -> bytes:
    """A value as JSON, with what is not quite JSON in it."""
    text = json.dumps(value)
    for mark, raw in RAW.items():
        text = text.replace(f'"{mark}"', raw)
    return text.encode()


def change_value(value, chance: random.Random) -> None:
    """Put a value of another kind or size somewhere into an object of JSON."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = chance.choice(keys)
        if isinstance(value[key], dict | list) and value[key] and chance.random() < 0.8:
            value = value[key]
        elif chance.random() < 0.2 and isinstance(value, dict):
            del value[key]
            return
        else:
            value[key] = chance.choice(VALUES)
            return


def change_json(content: bytes, chance: random.Random) -> bytes:
    value = json.loads(content)
    if not isinstance(value, dict | list) or chance.random() < 0.05:
        return written(chance.choice(VALUES))
    change_value(value, chance)
    return written(value)


def change_line(content: bytes, chance: random.Random) -> bytes:
    """Another value in a line of JSON."""
    lines = content.splitlines()
    at = chance.randrange(len(lines))
    lines[at] = change_json(lines[at], chance)
    if chance.random() < 0.1:
        lines.insert(at, chance.choice((b"", b"\xff", b"{", b"null", b"[]", lines[0])))
    return b"\n".join(lines) + b"\n" * chance.choice((1, 1, 1, 0))


def change_setting(content: bytes, chance: random.Random) -> bytes:
    """Another value in a line of TOML."""
    lines = content.decode().splitlines()
    at = chance.choice([i for i, line in enumerate(lines) if " = " in line])
    key = lines[at].partition(" = ")[0]
    value = chance.choice([v for v in VALUES if not isinstance(v, dict)])
    if key == "data":  # no walk through a whole disk
        value = chance.choice(("nothing", "stdlib:", ":", "a:1,b:x", 3, "\0"))
    lines[at] = f"{key} = {repr(value) if isinstance(value, float) else written(value).decode()}"
    if chance.random() < 0.1:
        lines.insert(at, chance.choice(lines))
    return "\n".join(lines).encode()


def change_header(content: bytes, chance: random.Random) -> bytes:
    """Another shape, dtype, place or description of a tensor in a safetensors file."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    kind = chance.randrange(5)
    tensor = header[chance.choice([name for name in header if name != "__metadata__"])]
    about = header.get("__metadata__")
    if about and kind in (0, 4):
        key = chance.choice(list(about))
        about[key] = change_json(about[key].encode(), chance).decode()
    elif kind == 0:
        tensor["dtype"] = chance.choice(["I64", "F32", "BF16", "F8_E4M3", "BOOL", "U64", "", "F4"])
    elif kind == 1:
        tensor["shape"] = chance.choice([[], [0], [2**40], [2**62, 4], [1, 1], tensor["shape"] * 2])
    elif kind == 2:
        tensor["data_offsets"] = chance.choice([[0, 0], [0, 2**60], [9, 1], [2**63, 2**63 + 1]])
    else:
        change_value(header, chance)
    changed = written(header)
    return struct.pack("<Q", len(changed)) + changed + content[8 + size :]


def change_packed(content: bytes, chance: random.Random) -> bytes:
    """Other fields, or other code, of a file of egg compress, of format 1 or another; its checksums fit again."""
    first = content[7] == 0
    layout = HEADER_1 if first else HEADER
    fields, code = list(layout.unpack(content[: layout.size])), content[layout.size + 4 :]
    if chance.random() < 0.3:
        code = flip(code, chance)
        if first:
            fields[4], fields[7] = len(code), zlib.crc32(code)
    else:
        at = chance.choice((1, 2, 2, 3, 3, *range(4, len(fields))))
        if isinstance(fields[at], bytes):
            fields[at] = chance.randbytes(len(fields[at]))
        else:
            most = (64 if at in (3, 4) else 32) if first else {1: 8, 2: 16, 3: 16}.get(at, 64)
            fields[at] = chance.choice((0, 1, 2, 255, 5000, 2**63, 2**64 - 1)) % 2**most
    return header_of(layout, fields, code) + code


def header_of(layout: struct.Struct, fields: list, code: bytes) -> bytes:
    """The header, and its checksum: from format 2 on also the code's."""
    header = layout.pack(*fields)
    return header + struct.pack("<I", zlib.crc32(code if layout is HEADER else b"", zlib.crc32(header)))


def change_gzip(content: bytes, chance: random.Random) -> bytes:
    """Other text within, or one that grows beyond what a text may be."""
    inside = gzip.decompress(content)
    kind = chance.randrange(4)
    if kind == 0:
        return gzip.compress(bytes([65]) * 30_000_000)
    if kind == 1:
        return content + flip(content, chance)
    return gzip.compress((change_line if inside.startswith(b"{") else flip)(inside, chance))


def change_zstandard(content: bytes, chance: random.Random) -> bytes:
    """The same for Zstandard, whose frames also claim a window."""
    import zstandard

    inside = zstandard.ZstdDecompressor().decompress(content)
    kind = chance.randrange(4)
    if kind == 0:
        return zstandard.ZstdCompressor().compress(bytes([65]) * 30_000_000)
    if kind == 1:
        return content[:4] + bytes([chance.randrange(256), chance.randrange(256)]) + content[6:]
    return zstandard.ZstdCompressor().compress(flip(inside, chance))


def change_table(content: bytes, chance: random.Random) -> bytes:
    """Columns of other kinds and names, or another footer."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    if chance.random() < 0.3:
        return content[:-8] + struct.pack("<I", chance.choice((0, 1, 2**20, 2**31, 2**32 - 1))) + content[-4:]
    columns = (
        {"text": [1, 2]},
        {"text": [None, None]},
        {"text": [["a"], ["b"]]},
        {"text": [{"text": "a"}]},
        {"": ["a"]},
        {"\x1b[31m\n": ["a"] * 3},
        {"text": []},
        {"text": [b"\0\xff", b""]},
        {"x" * 10_000: ["a"]},
        {"text": pa.array(["a", "b", "a"]).dictionary_encode()},
        {"text": ["\0" * 3_000_000]},
    )
    file = io.BytesIO()
    pq.write_table(pa.table(chance.choice(columns)), file)
    return file.getvalue()


CHANGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    ".json": change_json,
    ".jsonl": change_line,
    ".journal": change_line,
    ".toml": change_setting,
    ".safetensors": change_header,
    ".egg": change_packed,
    ".gz": change_gzip,
    ".zst": change_zstandard,
    ".parquet": change_table,
}


def mutate(path: Path, decoy: Path, chance: random.Random) -> str:
    """Change a file, or what has its name; returns how."""
    kind = chance.random()
    if kind < 0.12:
        path.unlink()
        other = chance.choice(("nothing", "link", "loop", "dangling", "folder", "pipe", "device", "link to a folder"))
        if other == "folder":
            path.mkdir()
        elif other == "pipe":
            os.mkfifo(path)
        elif other != "nothing":
            targets = {"link": decoy, "loop": path, "dangling": decoy.with_name("none"), "device": "/dev/zero"}
            path.symlink_to(targets.get(other, decoy.parent))
        return other
    if kind < 0.16:
        strange = chance.choice(
            ("step-99999999", "damaged-x", "\x1b[31m\n", os.fsdecode(b"\xff.txt"), "train.bin", ".x")
        )
        beside = path.with_name(strange)
        if not beside.exists():
            if chance.random() < 0.5:
                beside.mkdir()
            else:
                beside.write_bytes(b"x")
        return f"{strange!r} beside it"
    content = path.read_bytes()
    if kind < 0.2:
        content = chance.choice((b"", b"[" * 200_000, b"{}", b"null", b"9" * 5000, bytes(2_000_000)))
    elif kind < 0.65 and path.suffix in CHANGES and content:
        content = CHANGES[path.suffix](content, chance)
    else:
        content = flip(content, chance)
    path.write_bytes(content)
    return "bytes"


def tree(folder: Path) -> dict[str, object]:
    """All that lies in a folder: name -> its bytes, or what it is."""
    found: dict[str, object] = {}
    for path in folder.rglob("*"):
        if path.is_symlink():
            value = os.readlink(path)
        elif path.is_dir():
            value = "folder"
        else:
            value = hashlib.sha256(path.read_bytes()).digest() if path.is_file() else "no file"
        found[str(path.relative_to(folder))] = value
    return found


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


class TooLong(BaseException):
    """A case that does not end."""


@contextlib.contextmanager
def limited_time(seconds: int):
    def stop(*_):
        raise TooLong

    # Others may keep the machine busy; what waits for ever, as for a pipe, takes none of its time.
    limits = ((signal.ITIMER_PROF, signal.SIGPROF, seconds), (signal.ITIMER_REAL, signal.SIGALRM, 6 * seconds))
    before = {number: signal.signal(number, stop) for _, number, _ in limits}
    for timer, _, limit in limits:
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for timer, number, _ in limits:
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])


def reseal_checkpoint(changed: Path) -> None:
    """Make a checkpoint's manifest agree with its files."""
    with contextlib.suppress(OSError):  # the changed file is none of its own, or none to be read
        if changed.parent.parent.name == "checkpoints" and changed.is_file():
            forge(changed.parent)


def reseal_corpus(changed: Path) -> None:
    """Make a prepared corpus's manifest agree with its files, and with itself."""
    path = changed.with_name("manifest.json")
    with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError):
        manifest = json.loads(path.read_bytes())
        for name, figures in manifest["splits"].items():
            content = (path.parent / f"{name}.bin").read_bytes()
            if changed.suffix == ".bin":
                figures["size"], figures["sha256"] = len(content), hashlib.sha256(content).hexdigest()
        manifest["fingerprint"] = fingerprint_of(manifest["splits"])
        path.write_bytes(json.dumps(manifest).encode())


@dataclass(frozen=True)
class Target:
    """A command that reads files."""

    name: str
    folder: str
    """Of the originals, what is copied, and changed."""
    files: tuple[str, ...]
    """Patterns of the files to change."""
    command: str
    """@ is the copy, and ! the folder of originals, which nothing changes."""
    writes: str = "(?!)"
    """Pattern of the names in the copy that the command may write when it succeeds."""
    begins: str = "(?!)"
    """And when it refuses."""
    reseal: Callable[[Path], None] | None = None
    sealed: str = "(?!)"
    """Pattern of the files which must be refused when they change and their checksums do not."""
    idle: bool = False
    """Whether what is read is judged, and not trained on: a forged configuration may be a large one."""


SAVED = "checkpoints/*/"
CHECKPOINT = (*(SAVED + n for n in ("config.json", "manifest.json", "model.safetensors")), "best.json")
LOG = ("metrics.jsonl", "config.json")
SEAL = {"reseal": reseal_checkpoint, "sealed": r"checkpoints/.*/(config\.json|model\.safetensors)"}
NUMPY = "--backend numpy"
MODEL = f"--model !/run {NUMPY}"
RUN_FILES = r"best\.json|run\.lock"
TARGETS = (
    Target("plot", "run", (*LOG, *LOG, "run.toml", "loss.png", "report.html"), "plot @", r"loss\.png|report\.html"),
    Target("eval", "run", CHECKPOINT, f"eval @ {NUMPY} --baselines --json", **SEAL),
    Target("eval best", "run", ("best.json", SAVED + "config.json"), f"eval @/best {NUMPY}", **SEAL),
    Target("sample", "run", CHECKPOINT, f"sample @ {NUMPY} --length 9", **SEAL),
    Target("inspect model", "run", CHECKPOINT, "inspect model @", **SEAL),
    Target("export c", "run", CHECKPOINT, "export @ --to c -o @/../out", **SEAL),
    Target(
        "export huggingface",
        "run",
        (*CHECKPOINT, "metrics.jsonl", "metrics.jsonl", "loss.png"),
        f"export @ --to huggingface -o @/../out {NUMPY}",
        **SEAL,
    ),
    Target(
        "resume, nothing to do",
        "run",
        (*CHECKPOINT, SAVED + "state.safetensors", "metrics.jsonl"),
        f"train --resume @ --steps 3 {NUMPY}",
        RUN_FILES,
        "run.lock",
        reseal_checkpoint,
        r"checkpoints/.*/(config\.json|.*\.safetensors)",
    ),
    Target(
        "resume",
        "run",
        (*CHECKPOINT, SAVED + "state.safetensors", "metrics.jsonl", "run.toml", "config.json", "report.html"),
        f"train --resume @ --steps 4 {NUMPY}",
        ".*",
        "run.lock",
        reseal_checkpoint,
        r"checkpoints/.*/(config\.json|.*\.safetensors)",
    ),
    Target("settings", "settings", ("run.toml",), f"train --config @/run.toml {NUMPY} --out @/out", idle=True),
    Target("eval adapter", "adapted", ("adapter.safetensors",), f"eval !/run --adapter @ {NUMPY}"),
    Target(
        "merge",
        "adapted",
        ("adapter.safetensors", "config.json"),
        f"adapt merge !/run --adapter @ --out @/../out {NUMPY}",
    ),
    Target("plot adapter", "adapted", LOG, "plot @", r"loss\.png|report\.html"),
    *(
        Target(f"decompress {kind}", "packed", (f"{kind}.egg",), f"decompress @/{kind}.egg {given} -o @/text", "text")
        for kind, given in (("coded", MODEL), ("stored", ""), ("old", MODEL))
    ),
    Target("eval export", "hub", ("config.json", "model.safetensors"), f"eval @ --data !/texts/a.txt {NUMPY}"),
    Target(
        "export again", "hub", ("config.json", "model.safetensors"), f"export @ --to huggingface -o @/../out {NUMPY}"
    ),
    Target(
        "compare",
        "compared",
        ("small.toml", "out/results.jsonl", "out/wide/*.json", "out/wide/seed-1/*.json*"),
        "compare @/small.toml --out @/out",
        ".*",
        r"out/.*",
    ),
    Target(
        "intrinsic dimension",
        "trials",
        ("results.jsonl",),
        "intrinsic-dimension !/run --data !/texts/a.txt --ranks 1 --tensors head --whole head --seeds 1 "
        f"--step-factors 1 --tokens 512 --eval-bytes 500 --out @ {NUMPY}",
        ".*",
        r"run\.lock",
    ),
    Target(
        "cache, prepare",
        "cache",
        ("corpora/a.txt-*/*",),
        "data prepare !/texts/a.txt",
        r"corpora/[.a].*",
        r"corpora/[.a].*",
        reseal_corpus,
    ),
    Target(
        "cache, go on",
        "begun",
        ("corpora/*.partial/*",),
        "data prepare !/texts/a.txt",
        r"corpora/[.a].*",
        r"corpora/[.a].*",
    ),
    Target("cache, info", "cache", ("corpora/*/*",), "data info", r"corpora/\..*", reseal=reseal_corpus),
    Target("cache, info of one", "cache", ("corpora/a*/*",), "data info a.txt", r"corpora/\..*", reseal=reseal_corpus),
    Target("cache, clear", "cache", ("corpora/*/*",), "data clear", r"corpora/.*", r"corpora/.*", reseal_corpus),
    Target("clear begun", "begun", ("corpora/*/*",), "data clear a.txt", r"corpora/.*", r"corpora/.*"),
    Target("texts", "texts", ("*",), "data prepare @ --max-text 2000000", r"\.cache/.*", r"\.cache/.*"),
    *(
        Target(f"text {kind}", "texts", (f"*.{kind}",), f"data prepare @/{name}.{kind} --max-text 2000000")
        for kind, name in (("jsonl", "a"), ("parquet", "a"), ("gz", "a.txt"), ("zst", "a.txt"))
    ),
    Target("mixture", "texts", ("a.*",), "data prepare @/a.txt:2,@/a.jsonl:0.5 --max-text 2000000"),
)
"""Every file that a command of egg reads, and that somebody else may have written."""


@pytest.fixture
def originals(egg, train, tmp_path, monkeypatch):
    """What the targets copy."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import zstandard

    folder = tmp_path / "originals"
    texts = folder / "texts"
    texts.mkdir(parents=True)

    def run(*arguments):
        status, _, err = egg(*arguments)
        assert status == 0, err

    text = "\n".join(TEXTS)
    lines = "".join(json.dumps({"text": text, "id": 1}) + "\n" for text in TEXTS)
    (texts / "a.txt").write_text(text, encoding="utf-8")
    (texts / "a.jsonl").write_text(lines)
    (texts / "a.txt.gz").write_bytes(gzip.compress(text.encode()))
    (texts / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (texts / "a.txt.zst").write_bytes(zstandard.ZstdCompressor().compress(text.encode()))
    pq.write_table(pa.table({"text": TEXTS, "id": range(len(TEXTS))}), texts / "a.parquet")
    run_folder = folder / "run"
    train("--steps", 3, "--out", run_folder)
    (folder / "settings").mkdir()
    shutil.copy(run_folder / "run.toml", folder / "settings")
    numpy = NUMPY.split()
    adapt = "--rank 2 --tokens 512 --streams 8 --seq-len 8 --eval-bytes 500".split()
    run("adapt", run_folder, "--data", texts / "a.txt", "--out", folder / "adapted", *adapt, *numpy)
    packed = folder / "packed"
    packed.mkdir()
    (folder / "noise").write_bytes(random.Random(1).randbytes(300))
    for name, path in (("coded", texts / "a.txt"), ("stored", folder / "noise")):
        run("compress", path, "--model", run_folder, "-o", packed / f"{name}.egg", *numpy)
    coded, stored = (read_packed((packed / f"{name}.egg").read_bytes(), name) for name in ("coded", "stored"))
    assert coded.streams == 1 and stored.streams == 0
    shape, weights, _ = read_model(run_folder)
    digests = digest(shape, weights), hashlib.sha256((texts / "a.txt").read_bytes()).digest()
    fields = [b"EGGPACK\0", 1, 1, coded.size, len(coded.code), *digests, zlib.crc32(coded.code)]
    (packed / "old.egg").write_bytes(header_of(HEADER_1, fields, coded.code) + coded.code)
    run("export", run_folder, "--to", "huggingface", "-o", folder / "hub", *numpy)
    flags = dict(zip(SMALL[::2], SMALL[1::2], strict=True)) | {"--data": str(texts / "a.txt")}
    settings = [f'{flag[2:].replace("-", "_")} = "{value}"' for flag, value in flags.items()]
    compared = folder / "compared"
    compared.mkdir()
    text = "\n".join(["steps = 2", "seeds = [1]", *settings, "[all]", "[wide]", "seq_len = 2", ""])
    (compared / "small.toml").write_text(text)
    run("compare", compared / "small.toml", "--out", compared / "out")
    target = next(t for t in TARGETS if t.name == "intrinsic dimension")
    run(*arguments_of(target, folder / "trials", folder))
    with monkeypatch.context() as patch:
        patch.setenv("EGG_CACHE", str(folder / "cache"))
        for name in ("a.txt", "a.jsonl"):
            run("data", "prepare", texts / name)
        # What an interrupted preparation leaves: a journal of whole pieces, and bytes after them.
        patch.setenv("EGG_CACHE", str(folder / "begun"))
        patch.setattr(pieces, "PIECE", 100)
        patch.setattr(pieces, "BLOCK", 50)
        run("data", "prepare", texts / "a.txt")
        (whole,) = (p for p in (folder / "begun/corpora").iterdir() if p.is_dir())
        begin_again(whole)
    return folder


def begin_again(whole: Path) -> None:
    """A prepared corpus as it was before it was whole."""
    manifest = json.loads((whole / "manifest.json").read_bytes())
    content = (whole / "all.bin").read_bytes()
    counts = {"read": 0, "documents": 0, "empty_documents": 0, "nuls_removed": 0, "size": 0}
    (whole / "source.json").write_text(json.dumps({k: v for k, v in manifest.items() if k != "fingerprint"}))
    for name in ("manifest.json", "verified.json"):
        (whole / name).unlink(missing_ok=True)
    entry = {"counts": counts, "sha256": hashlib.sha256(b"").hexdigest(), "complete": False}
    (whole / "all.journal").write_text(json.dumps(entry) + "\n")
    (whole / "all.bin").write_bytes(content[: len(content) // 2])
    whole.rename(whole.with_name(whole.name + ".partial"))


def arguments_of(target: Target, work: Path, originals: Path) -> list[str]:
    return [word.replace("@", str(work)).replace("!", str(originals)) for word in target.command.split()]


def one_case(egg, patch, target: Target, number: int, originals: Path, place: Path) -> tuple[int | None, str]:
    """Run a target on a copy with something changed in it; returns the status, and what is wrong with that."""
    chance = random.Random(f"{target.name} {number}")
    shutil.rmtree(place, ignore_errors=True)
    work, decoy = place / "work", place / "decoy/file"
    decoy.parent.mkdir(parents=True)
    mine = chance.choice(("mine", ""))
    decoy.write_text(mine)
    shutil.copytree(originals / target.folder, work, symlinks=True)
    pattern = chance.choice(target.files)
    files = sorted(path for path in work.glob(pattern) if path.is_file())
    assert files, f"{target.name}: {pattern} is not there"
    path = chance.choice(files)
    name, original = str(path.relative_to(work)), path.read_bytes()
    how = mutate(path, decoy, chance)
    sealed = not (target.reseal and how == "bytes" and chance.random() < 0.5)
    if not sealed:
        target.reseal(path)
    patch.setenv("EGG_CACHE", str(work if target.folder in ("cache", "begun") else place / "cache"))
    before, arguments = tree(work), arguments_of(target, work, originals)
    status, out, err, failure = None, "", "", ""
    try:
        with limited_time(SECONDS), patch.context() as inner, warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("default")
            if target.idle:
                inner.setattr(Trainer, "finished", property(lambda self: True))
            status, out, err = egg(*arguments)
    except TooLong as error:
        failure = f"more than {SECONDS} s of work, or six times that: " + " < ".join(
            f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)[:-4:-1]
        )
    except BaseException as error:
        failure = "".join(traceback.format_exception(error)[-4:])
    after = tree(work)
    changed = {n for n in before.keys() | after.keys() if before.get(n) != after.get(n)}
    may = target.begins if status else f"{target.writes}|{target.begins}"
    lines = [line for line in err.splitlines() if line.startswith("egg: ")]
    if not failure:
        if status not in (0, 2):
            failure = f"status {status}"
        elif len(lines) != (status == 2) or (status and len(err) > MOST) or "Traceback" in err or "Warning" in err:
            failure = "not one clean line"
        elif status and not err.replace("\n", "").isprintable():
            failure = "what no terminal should show"
        elif unclean := [str(w.message) for w in warned if issubclass(w.category, UserWarning | RuntimeWarning)]:
            failure = f"warned: {unclean}"
        elif lost := [n for n in changed if not re.fullmatch(may, n)]:
            failure = f"changed: {lost}"
        elif not status and how == "bytes" and sealed and re.fullmatch(target.sealed, name):
            failure = "" if path.read_bytes() == original else "not noticed"
    if status and how != "nothing" and not failure and target.folder == "run" and (place / "out").exists():
        failure = "written after a refusal"
    if [*decoy.parent.iterdir()] != [decoy] or decoy.read_text() != mine:
        failure = "a link was followed"
    where = f"{target.name} {number}: {name}, {how}, {'' if sealed else 'resealed, '}status {status}"
    return status, f"{where}: {failure}\n{out[-300:]}{err[-2000:]}" if failure else ""


def fuzz(egg, monkeypatch, originals: Path, place: Path, cases: range, targets=TARGETS) -> dict[str, Counter]:
    """Cases of every target; returns how each ended: accepted, refused, wrong."""
    done: dict[str, Counter] = {}
    wrong: list[str] = []
    before = tree(originals)
    with monkeypatch.context() as patch, limited_memory(6):
        patch.setenv("HF_HUB_OFFLINE", "1")
        # Whose run has no result, is not trained in a process of its own, but read as if it had been.
        patch.setattr(compare, "_call", lambda arguments: 0)
        for target in targets:
            done[target.name] = ended = Counter()
            for number in cases:
                status, failure = one_case(egg, patch, target, number, originals, place)
                ended["wrong" if failure else "refused" if status else "accepted"] += 1
                if failure:
                    wrong.append(failure)
    assert tree(originals) == before
    assert not wrong, f"{len(wrong)} wrong:\n" + "\n\n".join(wrong)
    return done


def test_mutated_files(egg, monkeypatch, originals, tmp_path):
    done = fuzz(egg, monkeypatch, originals, tmp_path / "place", range(10))
    assert sum(sum(ended.values()) for ended in done.values()) >= 300
    assert all(sum(ended.values()) == 10 for ended in done.values())


@pytest.mark.slow
def test_ten_thousand_mutated_files(egg, monkeypatch, originals, tmp_path):
    each = -(-10_000 // len(TARGETS))
    done = fuzz(egg, monkeypatch, originals, tmp_path / "place", range(1000, 1000 + each))
    print()
    for name, ended in done.items():
        print(f"{name:24}" + ", ".join(f"{count:,} {how}" for how, count in sorted(ended.items())))
