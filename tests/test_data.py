"""Corpora from specifications: what is read, what is refused, and what one line says of it."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import refusal

from egg.data import SPLITS, Corpus, DataError, open_corpus
from egg.data.stdlib import stdlib_files, stdlib_split

ROOT = Path(__file__).parent.parent


pytestmark = pytest.mark.usefixtures("cache")


def write_parquet(path: Path, texts, column: str = "text", **options) -> Path:
    pq.write_table(pa.table({"id": list(range(len(texts))), column: texts}), path, **options)
    return path


def split_bytes(corpus: Corpus, name: str) -> bytes:
    return corpus.split(name).tobytes()


def test_stdlib_is_the_interpreters_own_library_divided_in_three():
    corpus = open_corpus("stdlib")
    assert corpus.splits == SPLITS
    assert (corpus.training_split, corpus.validation_split) == ("train", "validation")
    sizes = {name: corpus.bytes(name) for name in SPLITS}
    assert 5e6 < sum(sizes.values()) < 30e6
    for name in ("validation", "test"):
        assert 0.02 < sizes[name] / sum(sizes.values()) < 0.08
    whole = b"".join(split_bytes(corpus, name) for name in SPLITS)
    assert b"class OrderedDict(dict):" in whole
    assert b"class TestCase(" in whole  # unittest is no test itself
    assert b"class Test_TestCase(" not in whole


def test_stdlib_holds_out_every_twentieth_file():
    splits = {}
    for number, path in enumerate(stdlib_files()):
        splits.setdefault(stdlib_split(number), []).append(path)
    assert splits["validation"][0] == stdlib_files()[17]
    assert splits["test"][0] == stdlib_files()[7]
    assert abs(len(splits["validation"]) - len(stdlib_files()) / 20) <= 1
    assert {path for paths in splits.values() for path in paths} == set(stdlib_files())


def test_text_file_is_one_document_in_the_split_all(tmp_path):
    raw = b"caf\xc3\xa9 \xff\xfe not UTF-8\r\nend"
    (tmp_path / "book.txt").write_bytes(raw[:9] + b"\0" + raw[9:] + b"\0\0")
    corpus = open_corpus(str(tmp_path / "book.txt"), force_text=True)
    assert corpus.splits == ("all",)
    assert split_bytes(corpus, "all") == b"\0" + raw
    assert corpus.documents("all") == 1
    assert corpus.bytes("all") == len(raw)
    assert corpus.nuls_removed("all") == 3
    assert (corpus.training_split, corpus.validation_split) == ("all", None)


def test_split_is_a_read_only_array_of_bytes(tmp_path):
    (tmp_path / "book.txt").write_text("text")
    tokens = open_corpus(str(tmp_path / "book.txt")).split("all")
    assert (tokens.dtype, tokens.shape, type(tokens)) == (np.uint8, (5,), np.ndarray)
    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 1


def test_absent_split_names_those_there(tmp_path):
    (tmp_path / "book.txt").write_text("text")
    corpus = open_corpus(str(tmp_path / "book.txt"))
    for ask in (corpus.split, corpus.documents, corpus.bytes, corpus.nuls_removed):
        with pytest.raises(DataError, match="no split 'train': choose from all"):
            ask("train")


def test_folder_is_read_in_the_order_of_its_paths_without_hidden_files(tmp_path):
    texts = tmp_path / "texts"
    for name, text in {
        "b.txt": "second",
        "a/z.md": "first",
        "c.txt": "",
        "d.txt": "third",
        ".hidden": "no",
        ".git/config": "no",
    }.items():
        (texts / name).parent.mkdir(parents=True, exist_ok=True)
        (texts / name).write_text(text)
    (texts / "broken").symlink_to("nowhere")
    corpus = open_corpus(str(texts))
    assert corpus.splits == ("all",)
    assert split_bytes(corpus, "all") == b"\0first\0second\0third"
    assert corpus.documents("all") == 3
    assert corpus.manifest["splits"]["all"]["empty_documents"] == 1


def test_subfolders_named_like_splits_are_the_splits(tmp_path):
    for name, text in {"train/1.txt": "x", "test/1.txt": "y", "notes.txt": "n"}.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_text(text)
    corpus = open_corpus(str(tmp_path / "set"))
    assert corpus.splits == ("train", "test")
    assert split_bytes(corpus, "train") == b"\0x"
    assert split_bytes(corpus, "test") == b"\0y"
    assert corpus.validation_split is None


def test_parquet_folder_of_minipiles_shape(tmp_path):
    folder = tmp_path / "minipile"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("not a document")
    texts = [f"document {number} é" for number in range(700)]
    texts[3], texts[4], texts[5] = "", None, "a\0b"
    shards = {
        "train-00000-of-00002-6fbcb5acda05b3c0.parquet": texts[:600],
        "train-00001-of-00002-2bb9d088068a84c9.parquet": texts[600:],
        "validation-00000-of-00001-a2192e61a091cecb.parquet": ["held out"],
        "test-00000-of-00001-010a6231c4b54d31.parquet": ["last"],
    }
    for name, part in shards.items():
        write_parquet(folder / "data" / name, part, row_group_size=100)
    corpus = open_corpus(str(folder))
    kept = [text.replace("\0", "") for text in texts if text]
    assert corpus.splits == SPLITS
    assert split_bytes(corpus, "train") == "".join("\0" + text for text in kept).encode()
    assert corpus.documents("train") == 698
    assert corpus.nuls_removed("train") == 1
    assert split_bytes(corpus, "validation") == b"\0held out"
    assert split_bytes(corpus, "test") == b"\0last"


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("texts.parquet", "all"),
        ("latest.parquet", "all"),
        ("my_validation.parquet", "validation"),
        ("valid.parquet", "validation"),
        ("train.parquet", "train"),
        ("c4-train.00001.parquet", "train"),
        ("TEST-0.parquet", "test"),
    ],
)
def test_single_parquet_file_has_the_split_in_its_name(tmp_path, name, split):
    corpus = open_corpus(str(write_parquet(tmp_path / name, ["one", "two"])))
    assert corpus.splits == (split,)
    assert split_bytes(corpus, split) == b"\0one\0two"


@pytest.mark.parametrize("type_", [pa.string(), pa.large_string(), pa.binary(), pa.large_binary()])
def test_parquet_column_of_any_type_of_text(tmp_path, type_):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"body": pa.array(["x", None, "y"], pa.string()).cast(type_)}), path)
    assert split_bytes(open_corpus(str(path), column="body"), "all") == b"\0x\0y"


def test_training_needs_a_split_for_it(tmp_path):
    corpus = open_corpus(str(write_parquet(tmp_path / "test.parquet", ["one"])))
    with pytest.raises(DataError, match="no split to train on"):
        _ = corpus.training_split


def test_refusals_of_the_source(tmp_path):
    assert "no such file or folder" in refusal(tmp_path / "absent")
    (tmp_path / "empty.txt").touch()
    assert "no text" in refusal(tmp_path / "empty.txt")
    (tmp_path / "nuls.txt").write_bytes(b"\0\0")
    assert "no text" in refusal(tmp_path / "nuls.txt", force_text=True)
    (tmp_path / "folder" / ".git").mkdir(parents=True)
    assert "no files" in refusal(tmp_path / "folder")
    (tmp_path / "folder" / "train").mkdir()
    assert "no files" in refusal(tmp_path / "folder")
    (tmp_path / "folder" / "test").mkdir()
    (tmp_path / "folder" / "test" / "1.txt").write_text("x")
    assert "in its split train" in refusal(tmp_path / "folder")
    os.mkfifo(tmp_path / "pipe")
    assert "neither a file nor a folder" in refusal(tmp_path / "pipe")


def test_refusals_of_parquet(tmp_path):
    path = write_parquet(tmp_path / "t.parquet", ["one"], column="content")
    assert "no column 'text': choose one of id, content" in refusal(path)
    assert "of type int64, not text" in refusal(path, column="id")
    whole = write_parquet(tmp_path / "whole.parquet", ["some text " * 500], compression=None)
    raw = whole.read_bytes()
    (tmp_path / "cut.parquet").write_bytes(raw[: len(raw) // 2])
    assert "as Parquet" in refusal(tmp_path / "cut.parquet")
    (tmp_path / "bad.parquet").write_bytes(raw[:4] + b"\xff" * 200 + raw[204:])
    assert "as Parquet" in refusal(tmp_path / "bad.parquet")
    both = tmp_path / "both"
    both.mkdir()
    write_parquet(both / "train.parquet", ["one"])
    write_parquet(both / "more.parquet", ["two"])
    assert "cannot tell the split of more.parquet" in refusal(both)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file_is_refused(tmp_path):
    (tmp_path / "secret.txt").write_text("text")
    (tmp_path / "secret.txt").chmod(0)
    assert "cannot read" in refusal(tmp_path / "secret.txt")


def test_cache_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "book.txt").write_text("text")
    (tmp_path / "file").touch()
    message = refusal(tmp_path / "book.txt", cache=tmp_path / "file")
    assert "cannot write" in message
    assert "EGG_CACHE" in message


def test_fingerprint_is_of_the_bytes_and_their_splits(tmp_path):
    def fingerprint(name, text):
        path = write_parquet(tmp_path / name, [text])
        return open_corpus(str(path)).fingerprint

    same = fingerprint("a.parquet", "text")
    assert fingerprint("b.parquet", "text") == same
    assert fingerprint("c.parquet", "texts") != same
    assert fingerprint("train.parquet", "text") != same
    assert len(bytes.fromhex(same)) == 32


def test_manifest_has_the_sha256_of_each_file(tmp_path):
    (tmp_path / "book.txt").write_text("text")
    corpus = open_corpus(str(tmp_path / "book.txt"))
    figures = corpus.manifest["splits"]["all"]
    raw = (corpus.folder / "all.bin").read_bytes()
    assert figures["sha256"] == hashlib.sha256(raw).hexdigest()
    assert figures["size"] == len(raw) == figures["bytes"] + figures["documents"]


def test_import_reads_nothing_and_loads_no_heavy_library():
    code = (
        "import sys, egg.data\n"
        "print([m for m in ('pyarrow', 'datasets', 'tqdm', 'egg.kernels', 'egg.model') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
