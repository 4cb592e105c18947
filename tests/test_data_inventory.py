"""Figures of a corpus, and what the cache holds."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from egg.data import DataError, clear, describe, list_corpora, open_corpus
from egg.data.cache import locked, partial_folder

ROOT = Path(__file__).parent.parent


pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def books(tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").write_text(f"book {name}")
    return tmp_path


def names() -> list[str]:
    return [corpus.name for corpus in list_corpora()]


def test_description_of_bytes_whose_figures_are_known(tmp_path):
    raw = bytes(range(1, 256)) * 40
    (tmp_path / "even.bin").write_bytes(raw + b"\0")
    description = describe(open_corpus(str(tmp_path / "even.bin"), force_text=True))
    assert (description.name, description.spec) == ("even.bin", str(tmp_path / "even.bin"))
    (split,) = description.splits
    assert (split.name, split.documents, split.bytes) == ("all", 1, len(raw))
    assert (split.nuls_removed, split.empty_documents) == (1, 0)
    assert split.unigram_bits == pytest.approx(np.log2(255), abs=2e-3)
    assert split.gzip_bits < 0.5
    assert split.sample_bytes == len(raw) + 1


def test_gzip_sample_of_a_large_split_spans_all_of_it(tmp_path):
    # Random at the front, constant behind: a sample of the front alone would not shrink.
    front = np.random.default_rng(1).integers(1, 256, 4 << 20, dtype=np.uint8).tobytes()
    (tmp_path / "large.bin").write_bytes(front + b"a" * (28 << 20))
    (split,) = describe(open_corpus(str(tmp_path / "large.bin"), force_text=True)).splits
    assert split.sample_bytes == 16 << 20
    assert 0.8 < split.gzip_bits < 1.3
    assert 1.3 < split.unigram_bits < 1.7


def test_list_is_empty_without_a_cache():
    assert list_corpora() == ()
    assert clear() == ()


def test_clear_all(books, cache):
    for name in ("one", "two"):
        open_corpus(str(books / f"{name}.txt"))
    assert names() == ["one.txt", "two.txt"]
    removed = clear()
    assert [item.name[:8] for item in removed] == ["one.txt-", "two.txt-"]
    assert all(item.size > 10 for item in removed)
    assert list((cache / "corpora").iterdir()) == []


@pytest.mark.parametrize("by", ["name", "folder", "spec", "relative path"])
def test_clear_one(books, monkeypatch, by):
    monkeypatch.chdir(books)
    corpora = [open_corpus(str(books / f"{name}.txt")) for name in ("one", "two")]
    clear(
        name={
            "name": "one.txt",
            "folder": corpora[0].folder.name,
            "spec": str(books / "one.txt"),
            "relative path": "./one.txt",
        }[by]
    )
    assert names() == ["two.txt"]


def test_clear_of_what_is_not_there_names_what_is(books):
    open_corpus(str(books / "one.txt"))
    with pytest.raises(DataError, match=r"no corpus 'three': it holds one.txt-[0-9a-f]{16}$"):
        clear(name="three")


def test_clear_takes_damaged_and_begun_corpora_too(books):
    damaged = open_corpus(str(books / "one.txt")).folder
    (damaged / "manifest.json").unlink()
    begun = partial_folder(open_corpus(str(books / "two.txt")).folder)
    begun.mkdir()
    (begun / "all.bin").write_bytes(b"x" * 1000)
    assert names() == ["two.txt"]
    assert [item.size > 1000 for item in clear()] == [False, True]
    assert not damaged.exists()
    assert not begun.exists()


def test_clear_leaves_what_another_process_prepares(books):
    folder = open_corpus(str(books / "one.txt")).folder
    with locked(folder, print):
        code = "from egg.data import clear, DataError\ntry: clear()\nexcept DataError as e: print(e)"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "being prepared by another process" in done.stdout
    assert names() == ["one.txt"]


def test_removed_corpus_is_prepared_again(books):
    first = open_corpus(str(books / "one.txt"))
    clear(name="one.txt")
    assert open_corpus(str(books / "one.txt")).fingerprint == first.fingerprint


def test_clear_leaves_what_is_not_a_corpus(books, cache):
    """Folders of other programs, links, and a file that somebody laid into a corpus."""
    kept = {}
    for name, file in (("mine", "train.bin"), ("app", "manifest.json"), ("notes.partial", "a.txt"), ("x", "all.bin")):
        kept[name] = cache / "corpora" / name / file
        kept[name].parent.mkdir(parents=True)
        kept[name].write_text('{"name": "app", "version": 1}')
    (cache / "corpora" / f"link-{'0' * 16}").symlink_to(kept["mine"].parent)
    folder = open_corpus(str(books / "one.txt")).folder
    assert [corpus.name for corpus in clear()] == [folder.name]
    for name in (*kept, f"link-{'0' * 16}"):
        with pytest.raises(DataError, match="has no corpus"):
            clear(name=name.removesuffix(".partial"))
    assert all(path.exists() for path in kept.values()) and not folder.exists()

    folder = open_corpus(str(books / "one.txt")).folder
    (folder / "diary.txt").write_text("dear diary")
    with pytest.raises(DataError, match="diary.txt"):
        clear()
    assert (folder / "diary.txt").exists() and (folder / "all.bin").exists()
