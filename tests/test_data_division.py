"""What is held out of a text that has no validation split of its own."""

import gzip
import json
import random

import pytest
from conftest import refusal

from egg.data import open_corpus

pytestmark = pytest.mark.usefixtures("cache")

SHARE = 0.05


def lines(texts) -> str:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts)


def prose(size: int, seed: int = 0) -> str:
    """Text in which no twenty characters occur twice."""
    draw = random.Random(seed)
    words = "".join(
        f"{draw.choice(['zwölf', 'cat', 'of'])}{draw.randrange(10**6)}{draw.choice('  ,' + chr(10))}"
        for _ in range(size // 8 + 1)
    )
    return words.encode()[:size].decode(errors="ignore")


def halves(spec, share=SHARE, **options) -> tuple[list[bytes], list[bytes]]:
    """The documents of train and of validation."""
    corpus = open_corpus(str(spec), validation_share=share, **options)
    assert corpus.splits[:2] == ("train", "validation")
    train, held = (corpus.split(name).tobytes().split(b"\0")[1:] for name in ("train", "validation"))
    return train, held


def size(documents) -> int:
    return sum(map(len, documents))


@pytest.fixture
def notes(tmp_path):
    """400 documents as JSONL."""
    texts = [f"note {number}, " + "x" * (number % 60) for number in range(400)]
    (tmp_path / "notes.jsonl").write_text(lines(texts))
    return tmp_path / "notes.jsonl"


def test_documents_are_held_out_by_their_hash(notes, tmp_path):
    train, held = halves(notes)
    whole = open_corpus(str(notes)).split("all").tobytes().split(b"\0")[1:]
    assert sorted(train + held) == sorted(whole)
    assert not set(train) & set(held)
    assert abs(size(held) / size(whole) - SHARE) < 0.002
    (tmp_path / "reversed.jsonl").write_text(lines(text.decode() for text in reversed(whole)))
    assert halves(tmp_path / "reversed.jsonl") == (train[::-1], held[::-1])
    (tmp_path / "more.jsonl").write_text(notes.read_text() + lines(f"one more {number}" for number in range(9)))
    assert len(set(held) - set(halves(tmp_path / "more.jsonl")[1])) <= 1


def test_documents_of_many_sizes_come_near_the_share(tmp_path):
    draw = random.Random(1)
    for number in range(9):
        (tmp_path / "sizes.jsonl").write_text(lines(prose(draw.randrange(20, 1500), n) for n in range(60 + number)))
        train, held = halves(tmp_path / "sizes.jsonl")
        assert abs(size(held) / size(train + held) - SHARE) < 0.015


def test_equal_documents_are_on_one_side(tmp_path):
    (tmp_path / "twice.jsonl").write_text(lines([f"note {number % 50}" for number in range(200)]))
    train, held = halves(tmp_path / "twice.jsonl")
    assert len(train) + len(held) == 200 and not set(train) & set(held)


@pytest.mark.parametrize("count", [2, 3, 9, 10, 30])
def test_of_a_few_short_documents_one_is_held_out(tmp_path, count):
    (tmp_path / "few.jsonl").write_text(lines([f"{number:03d}" for number in range(count)]))
    train, held = halves(tmp_path / "few.jsonl")
    assert len(held) == max(1, round(count * SHARE)) and len(train) + len(held) == count


@pytest.mark.parametrize(("length", "stretches"), [(640, 1), (2000, 1), (20_000, 4), (1_000_000, 16)])
@pytest.mark.parametrize("suffix", [".txt", ".gz"])
def test_of_one_long_document_stretches_are_held_out(tmp_path, monkeypatch, length, stretches, suffix):
    text, path = prose(length).encode(), tmp_path / f"book{suffix}"
    path.write_bytes(gzip.compress(text) if suffix == ".gz" else text)
    train, held = halves(path)
    assert len(held) == stretches and 0.8 * SHARE <= size(held) / len(text) <= 1.1 * SHARE
    pieces = sorted(train + held, key=text.index)
    assert b"".join(pieces) == text  # each byte once
    assert [piece in held for piece in pieces] == [number % 2 == 1 for number in range(len(pieces))]
    for piece in pieces:
        piece.decode()  # no character is cut
        assert piece[-1:] in (b"\n", b" ") or piece is pieces[-1]
    assert not any(stretch in document for stretch in held for document in train)
    monkeypatch.setattr("egg.data.mixture.BLOCK", 777)
    assert halves(path, cache=tmp_path / "small blocks") == (train, held)


def test_long_and_short_documents_are_held_out_each_in_their_way(tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "a.txt").write_text(prose(100_000))
    for number in range(40):
        (folder / f"b{number}.txt").write_text(f"short {number}" * 9)
    train, held = halves(folder)
    short = [document for document in held if document.startswith(b"short")]
    assert len(short) == 2 and abs(size(held) - size(short) - 5000) < 500
    assert len([document for document in train if document.startswith(b"short")]) == 38


def test_a_document_that_is_too_large_for_memory_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr("egg.data.division.WHOLE", 5000)
    texts = [prose(10_000, seed) for seed in range(40)]
    (tmp_path / "large.jsonl").write_text(lines(texts))
    train, held = halves(tmp_path / "large.jsonl")
    assert len(held) >= 16 and max(map(len, held)) < 5000
    assert size(train + held) == size(text.encode() for text in texts)


@pytest.mark.parametrize("texts", [["x" * 500], ["a"], ["same"] * 9])
def test_what_cannot_be_divided_stays_whole(tmp_path, texts):
    (tmp_path / "x.jsonl").write_text(lines(texts))
    assert open_corpus(str(tmp_path / "x.jsonl"), validation_share=SHARE).splits == ("all",)


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5])
def test_the_share_may_be_another(notes, share):
    train, held = halves(notes, share)
    assert abs(size(held) / size(train + held) - share) < 0.01
    assert train


def test_many_documents_are_held_out_by_the_hash_alone(notes, monkeypatch):
    monkeypatch.setattr("egg.data.division.MANY", 100)
    train, held = halves(notes, 0.2)
    assert 0.1 < size(held) / size(train + held) < 0.3 and not set(train) & set(held)


def test_every_share_is_a_corpus_of_its_own_and_found_again(notes):
    notices = []
    corpora = [
        open_corpus(str(notes), validation_share=share, notify=notices.append) for share in (0, 0.05, 0.1, 0.05, 0)
    ]
    assert len({corpus.fingerprint for corpus in corpora}) == 3
    assert corpora[1] == corpora[3] and corpora[0] == corpora[4]
    assert [notice.split(" of ")[0].split(" /")[0] for notice in notices] == [
        "preparing",
        "holding out 5 %",
        "holding out 10 %",
    ]


def test_named_splits_stay_and_train_alone_is_divided(tmp_path):
    for split, count in (("train", 100), ("validation", 3), ("test", 2)):
        (tmp_path / "set" / split).mkdir(parents=True)
        (tmp_path / "set" / split / "1.jsonl").write_text(lines(f"{split} {n}" for n in range(count)))
    named = open_corpus(str(tmp_path / "set"))
    assert open_corpus(str(tmp_path / "set"), validation_share=SHARE) == named
    (tmp_path / "set" / "validation").rename(tmp_path / "set" / ".hidden")
    corpus = open_corpus(str(tmp_path / "set"), validation_share=SHARE)
    assert [(name, corpus.documents(name)) for name in corpus.splits] == [("train", 95), ("validation", 5), ("test", 2)]
    assert corpus.split("test").tobytes() == named.split("test").tobytes()
    assert open_corpus("stdlib", validation_share=SHARE) == open_corpus("stdlib")


def test_of_a_mixture_each_part_holds_out_its_own(notes, tmp_path):
    (tmp_path / "book.txt").write_text(prose(4000))
    train, held = halves(f"{notes}:2,{tmp_path / 'book.txt'}")
    parts = [halves(notes), halves(tmp_path / "book.txt")]
    assert held == [*parts[0][1], *parts[1][1]]
    assert set(train) == {*parts[0][0], *parts[1][0]}


@pytest.mark.parametrize("share", [-0.1, 0.51, float("nan")])
def test_a_share_that_cannot_be_is_refused(notes, share):
    assert "must be 0 to 0.5, such as 0.05 or 5%" in refusal(notes, validation_share=share)
