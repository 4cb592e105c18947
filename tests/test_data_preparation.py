"""Preparation: whole or not there, gone on with after a crash, and one process at a time."""

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest

from egg.data import DataError, list_corpora, open_corpus
from egg.data import pieces as pieces_module
from egg.data.cache import corpus_folder, partial_folder
from egg.data.local import path_source
from egg.data.source import Contents, Source
from egg.data.tokens import BAR, prepare

ROOT = Path(__file__).parent.parent


pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("first edition")
    return path


def folders(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "corpora").iterdir() if path.is_dir())


def open_with_notices(path: Path) -> tuple[bytes, str]:
    notices = []
    corpus = open_corpus(str(path), notify=notices.append)
    return corpus.split(corpus.splits[0]).tobytes(), " / ".join(notices)


def test_second_opening_reads_the_cache(book, cache):
    assert "preparing" in open_with_notices(book)[1]
    (folder,) = folders(cache)
    before = (cache / "corpora" / folder / "all.bin").stat()
    assert open_with_notices(book) == (b"\0first edition", "")
    assert (cache / "corpora" / folder / "all.bin").stat() == before
    assert sorted(path.name for path in (cache / "corpora" / folder).iterdir()) == [
        "all.bin",
        "manifest.json",
        "verified.json",
    ]


def test_changed_source_is_prepared_anew(book):
    open_with_notices(book)
    status = book.stat()
    book.write_text("other edition")  # of the same size
    os.utime(book, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert open_with_notices(book)[0] == b"\0other edition"


@pytest.mark.parametrize("name", ["all.bin", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncate", "remove"])
def test_damaged_corpus_is_prepared_again_with_a_notice(book, cache, name, damage):
    open_with_notices(book)
    path = cache / "corpora" / folders(cache)[0] / name
    if damage == "truncate":
        os.truncate(path, 5)
    else:
        path.unlink()
    text, notices = open_with_notices(book)
    assert text == b"\0first edition"
    assert name in notices
    assert "again" in notices
    assert open_with_notices(book)[1] == ""


@pytest.mark.parametrize(("name", "text"), [("empty.txt", ""), ("rows.jsonl", "nope"), ("gone.jsonl", '{"a": "b"}')])
def test_failed_preparation_leaves_nothing_and_tells_nothing(tmp_path, cache, name, text):
    (tmp_path / name).write_text(text)
    notices = []
    with pytest.raises(DataError):
        open_corpus(str(tmp_path / name), notify=notices.append)
    assert list((cache / "corpora").iterdir()) == [] and notices == []


def test_changed_bytes_are_found_and_prepared_again(book, cache, monkeypatch):
    """Bytes count, not sizes and times; and unchanged files are hashed once."""
    open_with_notices(book)
    path = cache / "corpora" / folders(cache)[0] / "all.bin"
    before = path.stat()
    path.write_bytes(path.read_bytes().replace(b"first", b"worst"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    text, notices = open_with_notices(book)
    assert text == b"\0first edition" and "other bytes" in notices and "again" in notices
    os.utime(path)  # a new time: hashed again, and found the same
    monkeypatch.setattr("egg.data.corpus.hashlib.file_digest", spy := Spy(hashlib.file_digest))
    assert [open_with_notices(book)[1] for _ in range(3)] == [""] * 3 and spy.calls == 1


class Spy:
    """Counts the calls of a function."""

    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *arguments):
        self.calls += 1
        return self.function(*arguments)


FORGED = [
    b"",
    b"[]",
    b"7",
    b"\0",
    b"[" * 100_000,
    b'{"format": 1}',
    b'{"format": {"a": []}}',
    b'{"a": ' + b"9" * 5000 + b"}",
    b'{"format": 1, "splits": []}',
    b'{"format": 1, "splits": {"../../x": {}}}',
    b'{"format": 1, "splits": {"all": 3}}',
]


@pytest.mark.parametrize("forged", FORGED)
def test_forged_manifest_is_a_damaged_corpus(book, cache, forged):
    open_with_notices(book)
    folder = cache / "corpora" / folders(cache)[0]
    (folder / "manifest.json").write_bytes(forged)
    (folder / "verified.json").write_bytes(forged)
    assert list_corpora() == ()
    text, notices = open_with_notices(book)
    assert text == b"\0first edition" and "manifest" in notices and len(notices) < 1000


@pytest.mark.parametrize("figure", ["size", "bytes", "documents"])
@pytest.mark.parametrize("value", [-1, 10**30, 1.5, "7", None, []])
def test_forged_figures_are_a_damaged_corpus(book, cache, figure, value):
    open_with_notices(book)
    path = cache / "corpora" / folders(cache)[0] / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest["splits"]["all"][figure] = value
    path.write_text(json.dumps(manifest))
    text, notices = open_with_notices(book)
    assert text == b"\0first edition" and "again" in notices


def test_forged_journal_is_begun_anew(tmp_path):
    journal = tmp_path / "all.journal"
    counts = {"read": 1, "documents": 1, "empty_documents": 0, "nuls_removed": 0, "size": 5}
    good = {"counts": counts, "sha256": "0" * 64, "complete": False}
    forged = [
        {},
        {"counts": counts | {"size": -1}},
        {"sha256": 3},
        {"complete": "no"},
        {"counts": counts | {"size": 4}},
    ]
    for change in (*forged, {"counts": {}}, {"counts": counts | {"more": 1}}):
        bad = change and good | change
        journal.write_text(f"{json.dumps(good)}\n{json.dumps(bad)}\n{json.dumps(good)}\n")
        assert pieces_module.read_journal(journal) == [good]


def test_text_beyond_its_bound_or_the_disk_ends_the_preparation(tmp_path, cache, monkeypatch):
    """A bomb: little on disk, much after decompression. What is whole stays, for an attempt that goes on."""
    path = tmp_path / "bomb.txt.gz"
    path.write_bytes(gzip.compress(bytes(range(33, 84)) * 1_000_000))
    with pytest.raises(DataError, match=r"more than 3,000,000 bytes.*--max-text"):
        open_corpus(str(path), max_text=3_000_000)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(100, 90, 10))
    with pytest.raises(DataError, match=r"the disk at .* is full after .*EGG_CACHE"):
        open_corpus(str(path))
    monkeypatch.undo()
    monkeypatch.setenv("EGG_CACHE", str(cache))
    assert open_corpus(str(path)).bytes("all") == 51_000_000


def test_disk_is_checked_before_anything_is_written(book, cache, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(100, 90, 10))
    with pytest.raises(DataError, match=r"not enough disk at .*EGG_CACHE"):
        open_corpus(str(book))
    assert folders(cache) == []


class Crash(Exception):
    """Stands for whatever ends a process."""


def test_interrupted_preparation_goes_on_after_its_last_piece(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(pieces_module, "PIECE", 1000)
    monkeypatch.setattr(pieces_module, "BLOCK", 64)
    documents = {
        split: [bytes([65 + i % 26]) * (i % 50) + b"\0" * (i % 3) for i in range(count)]
        for split, count in (("train", 300), ("validation", 120))
    }
    taken = []
    crash_after = None

    def reader(split):
        def read(skip):
            for number in range(skip, len(documents[split])):
                if len(taken) == crash_after:
                    raise Crash
                taken.append((split, number))
                yield documents[split][number]

        return read

    source = Source("made", "made", {"kind": "test"}, lambda: Contents({split: reader(split) for split in documents}))
    folder = corpus_folder(source)
    notices = []

    def attempt(target, limit):
        nonlocal crash_after
        taken.clear()
        crash_after = limit
        prepare(source, target, progress=False, notify=notices.append)

    straight = folder.with_name("straight")
    attempt(straight, None)
    total = len(taken)
    assert total == 420

    for limit in (170, 100, 110):
        with pytest.raises(Crash):
            attempt(folder, limit)
        assert not folder.exists()
    # What a crash leaves after the last whole piece counts for nothing.
    partial = partial_folder(folder)
    with open(partial / "train.bin", "ab") as file:
        file.write(b"half a block")
    with open(partial / "train.journal", "ab") as file:
        file.write(b'{"counts": {"rea')
    attempt(folder, None)
    begun, gone_on = notices[:2], notices[2:]
    assert all("preparing made" in notice for notice in begun)
    assert len(gone_on) == 3 and all("continuing made" in notice for notice in gone_on)
    assert len(taken) < total - 250
    for name in ("train.bin", "validation.bin"):
        assert (folder / name).read_bytes() == (straight / name).read_bytes()
    assert (folder / "manifest.json").read_bytes() == (straight / "manifest.json").read_bytes()


def test_piece_that_changed_on_disk_is_written_again(cache, monkeypatch):
    monkeypatch.setattr(pieces_module, "PIECE", 10)
    texts = [b"document %d" % number for number in range(20)]
    fail = True

    def read(skip):
        for number in range(skip, 20):
            if number == 15 and fail:
                raise Crash
            yield texts[number]

    source = Source("made", "made", {"kind": "test"}, lambda: Contents({"all": read}))
    folder = corpus_folder(source)
    with pytest.raises(Crash):
        prepare(source, folder, progress=False, notify=print)
    path = partial_folder(folder) / "all.bin"
    raw = bytearray(path.read_bytes())
    raw[60] ^= 1
    path.write_bytes(raw)
    fail = False
    prepare(source, folder, progress=False, notify=print)
    assert (folder / "all.bin").read_bytes() == b"".join(b"\0" + text for text in texts)


def test_partial_preparation_of_another_version_is_begun_anew(cache, monkeypatch):
    monkeypatch.setattr(pieces_module, "PIECE", 10)

    def source(stamp, text, fail):
        def read(skip):
            yield from [text] * (4 - skip)
            if fail:
                raise Crash

        return Source("m", "m", {"kind": "test"}, lambda: Contents({"all": read}, stamp=stamp))

    folder = corpus_folder(source("1", b"", False))
    with pytest.raises(Crash):
        prepare(source("1", b"first edition", True), folder, progress=False, notify=print)
    notices = []
    prepare(source("2", b"other edition", False), folder, progress=False, notify=notices.append)
    assert (folder / "all.bin").read_bytes() == b"\0other edition" * 4
    assert "starting again" in notices[0]


HOLD = """
import sys, time
from pathlib import Path
from egg.data.cache import locked
with locked(Path(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(60)
"""

OPEN = """
import sys
from egg.data import open_corpus
corpus = open_corpus(sys.argv[1], notify=lambda line: print(line, flush=True))
print(corpus.fingerprint)
"""


def test_processes_that_prepare_the_same_corpus_at_once_all_succeed(tmp_path, cache):
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(40):
        (texts / f"{number}.txt").write_bytes(os.urandom(25_000).hex().encode())
    command = [sys.executable, "-c", OPEN, str(texts)]
    running = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    results = {process.communicate()[0].splitlines()[-1] for process in running}
    assert [process.returncode for process in running] == [0] * 4
    assert results == {open_corpus(str(texts)).fingerprint}
    assert len(folders(cache)) == 1


def test_lock_goes_with_a_killed_process(book, cache):
    folder = corpus_folder(path_source(str(book), "text"))
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    waiting = subprocess.Popen([sys.executable, "-c", OPEN, str(book)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert "waiting for another process" in waiting.stdout.readline()
    time.sleep(0.1)
    assert waiting.poll() is None
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert waiting.communicate(timeout=30)[0].splitlines()[-1] == open_corpus(str(book)).fingerprint


@pytest.mark.parametrize("change", ["grows", "goes"])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, cache, monkeypatch, change):
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("a.txt", "b.txt"):
        (folder / name).write_text(f"this is {name}")
    add = pieces_module.SplitWriter.add

    def change_then_add(self, document):
        if change == "grows":
            (folder / "a.txt").write_text("this is another, and a longer one")
        else:
            (folder / "a.txt").unlink(missing_ok=True)
        add(self, document)

    with monkeypatch.context() as patch:
        patch.setattr(pieces_module.SplitWriter, "add", change_then_add)
        with pytest.raises(DataError, match="changed while it was read|cannot read"):
            open_corpus(str(folder))
    assert folders(cache) == []
    assert open_corpus(str(folder)).documents("all") == (2 if change == "grows" else 1)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "gib"), [("line.txt", 1), ("line.jsonl", 6)])
def test_a_line_of_a_gigabyte(tmp_path, name, gib):
    path = tmp_path / name
    with open(path, "wb") as file:
        file.write(b'{"text": "')
        for _ in range(1024):
            file.write(b"a" * (1 << 20))
        file.write(b'"}\n')
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_AS, ({gib} << 30, {gib} << 30))
from egg.data import open_corpus
print(open_corpus({str(path)!r}).bytes("all"))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    size = path.stat().st_size if name.endswith(".txt") else 1 << 30
    assert done.stdout == f"{size}\n", done.stderr


def test_the_bar_fits_into_80_columns():
    from tqdm import tqdm

    figures = {"n": 1.2e9, "total": 1.2e9, "elapsed": 3700, "ncols": 79, "unit_scale": True}
    shown = tqdm.format_meter(prefix="a-long-name…", postfix="validation, 412,345 documents", bar_format=BAR, **figures)
    assert shown.endswith("412,345 documents]") and "1.20GB [1:01:40<" in shown and len(shown) <= 79
