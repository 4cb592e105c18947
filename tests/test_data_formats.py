"""JSONL, compressed files, patterns and mixtures."""

import gzip
import json
from fractions import Fraction

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from conftest import refusal

from egg.data import DataError, open_corpus
from egg.data import pieces as pieces_module
from egg.data.cache import corpus_folder, partial_folder
from egg.data.division import division_source
from egg.data.mixture import mixture_source, parse_mixture, rewritten
from egg.data.readers import blocks_of
from egg.data.tokens import prepare

pytestmark = pytest.mark.usefixtures("cache")


def bytes_of(spec, split="all", **options) -> bytes:
    return open_corpus(str(spec), **options).split(split).tobytes()


def zstd(raw: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(raw)


def lines_of(texts, key="text") -> bytes:
    return b"".join(json.dumps({"id": 1, key: text}).encode() + b"\n" for text in texts)


COMPRESSORS = {"": bytes, ".gz": gzip.compress, ".zst": zstd}


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_jsonl_has_one_document_per_line(tmp_path, suffix):
    raw = lines_of(["one", "", None, "zwei ü\nlines", "a\0b"]) + b" \n\n" + b'{"text": "last"}'
    (tmp_path / f"x.jsonl{suffix}").write_bytes(COMPRESSORS[suffix](raw))
    expected = "\0one\0zwei ü\nlines\0ab\0last".encode()
    corpus = open_corpus(str(tmp_path / f"x.jsonl{suffix}"))
    assert corpus.split("all").tobytes() == expected
    assert corpus.documents("all") == 4
    assert corpus.nuls_removed("all") == 1
    assert corpus.manifest["splits"]["all"]["empty_documents"] == 2


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_text_may_be_compressed(tmp_path, suffix):
    raw = b"a line\n" * 500_000  # more than one block
    (tmp_path / f"x.txt{suffix}").write_bytes(COMPRESSORS[suffix](raw))
    assert bytes_of(tmp_path / f"x.txt{suffix}") == b"\0" + raw


def test_compressed_file_of_several_parts_is_read_to_its_end(tmp_path):
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"one ") + gzip.compress(b"two"))
    (tmp_path / "x.zst").write_bytes(zstd(b"one ") + zstd(b"two"))
    assert bytes_of(tmp_path / "x.gz") == bytes_of(tmp_path / "x.zst") == b"\0one two"


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_broken_compressed_file_is_refused(tmp_path, suffix):
    raw = COMPRESSORS[suffix](bytes(range(256)) * 400)
    (tmp_path / f"cut{suffix}").write_bytes(raw[: len(raw) // 2])
    assert f"cut{suffix}" in refusal(tmp_path / f"cut{suffix}")
    (tmp_path / f"bad{suffix}").write_bytes(b"no such thing")
    assert f"bad{suffix}" in refusal(tmp_path / f"bad{suffix}")


def test_little_on_disk_takes_little_memory(tmp_path, monkeypatch):
    """What decompression and decoding hand on at a time is bounded, whatever a file makes of its bytes."""
    (tmp_path / "x.zst").write_bytes(zstd(bytes(100_000_000)))
    assert (tmp_path / "x.zst").stat().st_size < 5000
    assert max(map(len, blocks_of(tmp_path / "x.zst"))) <= 1 << 25
    far = zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters(window_log=28))
    with open(tmp_path / "far.zst", "wb") as file, far.stream_writer(file) as out:
        out.write(b"text")
    assert "far.zst" in refusal(tmp_path / "far.zst")
    monkeypatch.setattr("egg.data.readers.LINE", 1 << 20)
    (tmp_path / "x.jsonl").write_bytes(lines_of(["short"]) + b'{"text": "' + b"x" * (3 << 20))
    assert "line 2 is longer than 1 MiB" in refusal(tmp_path / "x.jsonl")
    pq.write_table(pa.table({"text": ["x" * 300_000_000]}), tmp_path / "x.parquet", compression="zstd")
    assert "claims 300,000," in refusal(tmp_path / "x.parquet")


def test_jsonl_refusals_name_the_line(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(lines_of(["one"]) + b"\n" + lines_of(["two"], key="body"))
    assert "line 3" in refusal(path)
    assert "no key 'text': choose one of id, body" in refusal(path)
    assert "'id' in line 1" in refusal(path, column="id")
    for bad in (b'{"text": "one"', b'["one"]', b"\xff\xfe"):
        path.write_bytes(lines_of(["one"]) + bad)
        assert "line 2" in refusal(path)


def test_jsonl_key_and_half_a_surrogate_pair(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b'{"body": "a\\ud800b"}\n')
    assert bytes_of(tmp_path / "x.jsonl", column="body") == b"\0a?b"


def test_jsonl_folder_is_split_by_names(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train-0.jsonl").write_bytes(lines_of(["one"]))
    (folder / "train-1.jsonl.gz").write_bytes(gzip.compress(lines_of(["two"])))
    (folder / "validation.jsonl.zst").write_bytes(zstd(lines_of(["three"])))
    (folder / "LICENSE").write_text("not a document")
    corpus = open_corpus(str(folder))
    assert corpus.splits == ("train", "validation")
    assert corpus.split("train").tobytes() == b"\0one\0two"


def test_pattern_reads_matching_files_in_order(tmp_path):
    for name in ("b.md", "a/c.md", "a/x.txt", "c.md"):
        (tmp_path / "t" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "t" / name).write_text(name)
    assert bytes_of(tmp_path / "t" / "*.md") == b"\0b.md\0c.md"
    assert bytes_of(tmp_path / "t" / "**" / "*.md") == b"\0a/c.md\0b.md\0c.md"
    assert "no file matches" in refusal(tmp_path / "t" / "*.rst")


def test_pattern_of_tables_is_split_by_names(tmp_path):
    (tmp_path / "train.jsonl").write_bytes(lines_of(["one"]))
    (tmp_path / "test.jsonl").write_bytes(lines_of(["two"]))
    assert open_corpus(str(tmp_path / "*.jsonl")).splits == ("train", "test")


def test_existing_path_wins_over_pattern_and_mixture(tmp_path):
    for name in ("[1].txt", "a,b.txt"):
        (tmp_path / name).write_text(name)
        assert bytes_of(tmp_path / name) == b"\0" + name.encode()


def test_same_files_under_other_splits_are_another_corpus(tmp_path):
    for name in ("train", "validation"):
        (tmp_path / "t" / name).mkdir(parents=True)
        (tmp_path / "t" / name / "1.txt").write_text(name)
    assert open_corpus(str(tmp_path / "t")).splits == ("train", "validation")
    assert open_corpus(str(tmp_path / "t" / "**" / "*.txt")).splits == ("all",)


def test_a_mixture_rewritten_keeps_its_weights_or_stays_as_it_is():
    assert rewritten("book.txt", str.upper) is None
    assert rewritten("a:2, b*,c:0.50", str.upper) == "A:2,B*:1,C:0.50"
    assert rewritten("a:2,b", lambda part: f"/x,y/{part}") == "a:2,b"


def test_mixture_syntax():
    assert parse_mixture("stdlib") is None
    assert parse_mixture("stdlib:2, a/b.txt:0.5,c") == [
        ("stdlib", Fraction(2)),
        ("a/b.txt", Fraction(1, 2)),
        ("c", Fraction(1)),
    ]
    for bad in ("stdlib,", ",stdlib", "stdlib:0,a"):
        with pytest.raises(DataError, match="not a part of a mixture"):
            parse_mixture(bad)


@pytest.fixture
def parts(tmp_path):
    """Three corpora of very different sizes, the last one undivided."""
    for name, count, size in (("a", 400, 30), ("b", 50, 45)):
        (tmp_path / name).mkdir()
        for split, documents in (("train", count), ("validation", 2)):
            texts = [f"{name}{split[0]}{i:04d}".ljust(size + i % 7, name) for i in range(documents)]
            (tmp_path / name / f"{split}.jsonl").write_bytes(lines_of(texts))
    (tmp_path / "c.txt").write_text("c" * 200)
    return tmp_path


def test_mixture_keeps_the_shares_of_bytes_all_along(parts):
    mixed = open_corpus(f"{parts / 'a'}:3,{parts / 'b'}")
    whole = open_corpus(str(parts / "a")).split("train").size
    documents = mixed.split("train").tobytes().split(b"\0")[1:]
    sizes = {b"a": 0, b"b": 0}
    for document in documents:
        sizes[document[:1]] += 1 + len(document)
        assert abs(sizes[b"a"] - 3 * sizes[b"b"]) <= 3 * 60
    assert sizes[b"a"] == whole  # once, in order, nothing left out
    ours = [document for document in documents if document.startswith(b"a")]
    assert ours == sorted(ours)
    again = [document for document in documents if document.startswith(b"bt0000")]
    assert len(again) == 2  # the smaller corpus began anew


def test_mixture_holds_out_what_its_parts_hold_out(parts):
    mixed = open_corpus(f"{parts / 'a'},{parts / 'c.txt'},{parts / 'b'}:2")
    assert mixed.splits == ("train", "validation")
    assert b"c" * 200 in mixed.split("train").tobytes()
    held_out = mixed.split("validation").tobytes().split(b"\0")[1:]
    assert [document[:6] for document in held_out] == [b"av0000", b"av0001", b"bv0000", b"bv0001"]


def test_mixture_of_undivided_parts_is_undivided(parts):
    (parts / "d.txt").write_text("d" * 90)
    mixed = open_corpus(f"{parts / 'c.txt'},{parts / 'd.txt'}")
    assert mixed.splits == ("all",)
    assert mixed.split("all").tobytes() == b"\0" + b"\0".join([b"c" * 200, b"d" * 90, b"d" * 90, b"d" * 90])


def test_mixture_depends_on_weights_and_parts(parts):
    a, b = parts / "a", parts / "b"
    prints = [open_corpus(spec).fingerprint for spec in (f"{a},{b}", f"{a}:2,{b}", f"{a}:4,{b}:2")]
    assert prints[0] != prints[1] == prints[2]


def test_mixture_needs_something_to_train_on(parts):
    (parts / "test.jsonl").write_bytes(lines_of(["one"]))
    assert "no split to train on" in refusal(f"{parts / 'a'},{parts / 'test.jsonl'}")


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "mixture", "division", "folder"])
def test_every_reader_goes_on_where_it_was_interrupted(parts, monkeypatch, kind):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from egg.data.local import path_source

    monkeypatch.setattr(pieces_module, "PIECE", 500)
    if kind == "mixture":
        corpora = [(open_corpus(str(parts / name)), Fraction(1)) for name in ("a", "b", "c.txt")]
        source = mixture_source("mixture", corpora)
    elif kind == "division":
        (parts / "set.jsonl").write_bytes(lines_of([f"{i} " * (i % 9) for i in range(900)] + ["long " * 3000]))
        source = division_source(open_corpus(str(parts / "set.jsonl")), 0.1)
    else:
        folder = parts / "set"
        folder.mkdir()
        for shard in range(4):
            texts = [f"{shard} {i}" * (i % 9) for i in range(90)]
            if kind == "jsonl":
                (folder / f"{shard}.jsonl").write_bytes(lines_of(texts))
            elif kind == "parquet":
                table = pa.table({"text": texts})
                pq.write_table(table, folder / f"{shard}.parquet", row_group_size=40)
            else:
                for i, text in enumerate(texts):
                    (folder / f"{shard}-{i:03d}.txt").write_text(text)
        source = path_source(str(folder), "text")
    folder = corpus_folder(source)
    straight = folder.with_name("straight")
    prepare(source, straight, progress=False, notify=print)

    class Crash(Exception):
        pass

    add = pieces_module.SplitWriter.add
    budget = 0

    def add_until_crash(self, document):
        nonlocal budget
        if not budget:
            raise Crash
        budget -= 1
        add(self, document)

    attempts = 0
    with monkeypatch.context() as patch:
        patch.setattr(pieces_module.SplitWriter, "add", add_until_crash)
        while not folder.exists():
            budget = 110
            attempts += 1
            assert attempts < 20
            try:
                prepare(source, folder, progress=False, notify=print)
            except Crash:
                assert partial_folder(folder).exists()
    assert attempts > 3
    for file in set(straight.iterdir()) - {straight / "verified.json"}:  # that one has times and inodes
        assert file.read_bytes() == (folder / file.name).read_bytes()
