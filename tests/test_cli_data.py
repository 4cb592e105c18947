"""``egg data``: what a text is like, before training and beside it."""

import pytest
from conftest import TEXTS

from egg import data


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EGG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def cells(out: str) -> dict[str, list[str]]:
    """The table's rows by their split."""
    rows = [line.split() for line in out.splitlines()]
    return {row[0]: row[1:] for row in rows if row and row[0] in (*data.SPLITS, "all")}


def test_prepare_tells_the_figures_that_info_repeats(egg, tables):
    status, out, notices = egg("data", "prepare", tables)
    assert status == 0 and "preparing" in notices
    rows = cells(out)
    written = [t.encode() for t in TEXTS if t]
    documents, size, nuls, unigram, gzip = rows["validation"]
    assert (documents, size, nuls) == (str(len(written)), str(sum(map(len, written))), "0")
    figures = data.describe(data.open_corpus(str(tables))).splits[1]
    assert unigram == f"{figures.unigram_bits:.4f}" and gzip == f"{figures.gzip_bits:.4f}"
    assert egg("data", "info", tables) == (0, out, "")
    assert egg("data", "prepare", tables) == (0, out, "")  # it is there already
    assert all(len(line) <= 80 for line in out.splitlines()[1:])


def test_removed_nuls_are_told(egg, tmp_path):
    (tmp_path / "nuls.bin").write_bytes(b"a\0b\0\0c" * 9)
    _, out, _ = egg("data", "prepare", tmp_path / "nuls.bin")
    assert cells(out)["all"][:3] == ["1", "27", "27"]


def test_tables_with_another_column(egg, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"words": "some words"}\n' * 3)
    status, out, _ = egg("data", "prepare", tmp_path / "rows.jsonl", "--data-column", "words")
    assert status == 0 and cells(out)["all"][0] == "3"
    status, _, err = egg("data", "prepare", tmp_path / "rows.jsonl")
    assert status == 2 and "text" in err.splitlines()[-1]


def test_info_lists_and_clear_empties(egg, tables, book, cache):
    assert "the cache is empty" in egg("data", "info")[1]
    assert "nothing to remove" in egg("data", "clear")[1]
    egg("data", "prepare", tables)
    egg("data", "prepare", book)
    _, out, _ = egg("data", "info")
    lines = out.splitlines()
    assert len(lines) == 3 and lines[0].startswith("book.txt-") and str(cache) in lines[-1]
    _, out, _ = egg("data", "clear", book)
    assert out.startswith("removed book.txt-") and len(out.splitlines()) == 1
    egg("data", "prepare", book)
    _, out, _ = egg("data", "clear")
    assert len(out.splitlines()) == 3 and out.endswith("freed\n")
    assert not data.list_corpora()


def test_help_teaches(egg):
    status, out, _ = egg("data", "--help")
    assert status == 0
    for word in ("prepare", "info", "clear", "EGG_CACHE", "For example", "--data-column"):
        assert word in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("data", "choose prepare, info, clear"),
        ("data fetch", 'Choose from: "prepare", "info", "clear"'),
        ("data prepare", "prepare needs a text"),
        ("data prepare=", "Choose from"),
        ("data prepare no/such/text", "no/such/text"),
        ("data prepare {tmp}/empty", "empty"),
        ("data prepare {tmp}/folder", "no files"),
        ("data info nothing", "egg data prepare nothing"),
        ("data clear nothing", "no corpus 'nothing'"),
        ("data info one two", "two"),
    ],
)
def test_bad_calls(egg, tmp_path, arguments, says):
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    status, out, err = egg(*arguments.format(tmp=tmp_path).split())
    assert (status, out) == (2, "")
    last = err.splitlines()[-1]
    assert last.startswith("egg: ") and says in last
