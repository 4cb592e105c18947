"""Files that are no text: what they look like, and what to do."""

import gzip
import json
import zlib

import pytest
from conftest import SMALL, refusal

from egg.data import open_corpus
from egg.data.looks import HEAD

pytestmark = pytest.mark.usefixtures("cache")

PROSE = "Once upon a time, there was a byte; it was alone.\nThe end.\n"
ROWS = [{"text": f"row {n}", "id": n} for n in range(30)]
CSV = "id,text,more\n" + "".join(f'{n},"a row, {n}",x\n' for n in range(30))

OTHERS = {
    "photo.txt": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9, "a PNG image"),
    "paper": (b"%PDF-1.7\n" + b"text " * 99, "a PDF document"),
    "program": (b"\x7fELF" + bytes(range(256)) * 9, "a program"),
    "noise": (zlib.compress(PROSE.encode() * 99 + bytes(range(256)))[2:] * 9, "binary data"),
    "nuls.txt": (PROSE.encode() + b"\0\0\0", "binary data"),
    "table": (b"PAR1" + bytes(99), "Parquet, not text: let its name end in .parquet"),
    "packed": (gzip.compress(PROSE.encode()), "gzip, not text: let its name end in .gz"),
    "mark.txt": (PROSE.encode("utf-16"), "UTF-16, not text: convert it, for example with iconv -f UTF-16 -t UTF-8"),
    "little.txt": (PROSE.encode("utf-16-le"), "UTF-16LE"),
    "big.txt": (PROSE.encode("utf-16-be"), "UTF-16BE"),
    "wide.txt": (PROSE.encode("utf-32"), "UTF-32"),
    "packed.csv.gz": (gzip.compress(b"just,one"), "CSV"),
    "rows.txt": (CSV.encode(), "CSV, not text: convert it to JSONL or Parquet, of which --data-column names a column"),
    "tabs.txt": (CSV.replace('"', "").replace(", ", " ").replace(",", "\t").encode(), "CSV"),
    "two.txt": ("".join(f"word{n};wort{n}\n" for n in range(12)).encode(), "CSV"),
    "array.txt": (json.dumps(ROWS, indent=1).encode(), "a JSON array, not text: write one object a line as JSONL"),
    "array.json.gz": (gzip.compress(b"\xef\xbb\xbf" + json.dumps(["a", "b"]).encode()), "a JSON array"),
    "long.json": (json.dumps([{"text": "x" * HEAD}]).encode(), "a JSON array"),
    "lines.json": ("\n".join(map(json.dumps, ROWS)).encode(), "JSONL, not text: let its name end in .jsonl"),
}

TEXTS = {
    "prose.txt": PROSE.encode(),
    "latin.txt": "Öl für Ägypten\n".encode("latin-1") * 9,
    "japanese.txt": "春はあけぼの。やうやう白くなりゆく山ぎは\n".encode() * 9,
    "code.c": b"int main(void) {\n\treturn 0;\n}\n\f\n" * 9,
    "terminal.log": b"\x1b[1mbold\x1b[0m\r\n" * 9,
    "markdown.md": b"[a link](x), [another](y)\n[third]: z\n",
    "wiki.txt": b"[[Category:Words]]\n",
    "haiku.txt": b"An old, silent pond\nA frog jumps, into the pond\nSplash, silence again\n",
    "verse.txt": b"".join(b"Roses are red, violets are %d.\n" % n for n in range(30)),
    "settings.json": json.dumps({"a": [1, 2]}, indent=1).encode(),
    "numbers.txt": b"[1, 2, 3]\n",
    "rare nul.txt": PROSE.encode() * 20 + b"\0",
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_text_is_refused_unless_forced(tmp_path, name):
    content, says = OTHERS[name]
    (tmp_path / name).write_bytes(content)
    for _ in range(2):
        message = refusal(tmp_path / name)
        assert message.startswith(f"{tmp_path / name} looks like {says}")
        assert message.endswith("or give --force-text to read its bytes as they are")
        raw = gzip.decompress(content) if name.endswith(".gz") else content  # then forced, and still refused
        corpus = open_corpus(str(tmp_path / name), force_text=True)
        assert corpus.split("all").tobytes() == b"\0" + raw.replace(b"\0", b"")


@pytest.mark.parametrize("name", TEXTS)
def test_what_is_text_is_read(tmp_path, name):
    (tmp_path / name).write_bytes(TEXTS[name])
    assert open_corpus(str(tmp_path / name)).split("all").tobytes() == b"\0" + TEXTS[name].replace(b"\0", b"")


def test_a_folder_is_looked_at_before_it_is_read(tmp_path, cache):
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.txt").write_text(PROSE)
    (folder / "b.png").write_bytes(OTHERS["photo.txt"][0])
    assert "b.png looks like a PNG image, not text: leave it out, for example with a pattern" in refusal(folder)
    assert not list((cache / "corpora").glob("[!.]*"))
    assert open_corpus(str(folder / "*.txt")).documents("all") == 1


def test_jsonl_that_is_none_says_what_it_looks_like(tmp_path):
    path = tmp_path / "x.jsonl"
    for indent in (None, 1):
        path.write_text(json.dumps(ROWS, indent=indent))
        assert "looks like a JSON array, not JSONL: write one object a line" in refusal(path)
    path.write_bytes("\n".join(map(json.dumps, ROWS)).encode("utf-16"))
    assert "looks like UTF-16, not JSONL: convert it" in refusal(path)
    assert "--force-text" not in refusal(path)
    path.write_text(CSV)
    assert "line 1 is not JSON" in refusal(path)


def test_a_run_keeps_that_it_was_forced(egg, tmp_path):
    path, run, again = tmp_path / "rows.csv", tmp_path / "run", tmp_path / "again"
    path.write_text(CSV * 3)
    flags = [*SMALL, "--data", path, "--steps", 2]
    status, out, err = egg("train", *flags, "--out", run)
    assert (status, err.count("\n")) == (2, 1) and "rows.csv looks like CSV" in err and not run.exists()
    assert egg("train", *flags, "--out", run, "--force-text")[0] == 0
    assert "force_text = true" in (run / "run.toml").read_text()
    assert egg("train", "--resume", run, "--steps", 3, "--backend", "numpy")[0] == 0
    assert egg("train", "--config", run / "run.toml", "--out", again, "--backend", "numpy")[0] == 0
    assert egg("eval", run, "--backend", "numpy")[0] == 0
    assert egg("eval", "pretrained", "--data", path, "--backend", "numpy")[0] == 2
    assert egg("eval", "pretrained", "--data", path, "--backend", "numpy", "--force-text")[0] == 0
    for command in ("data prepare", "bench compress --data"):
        assert egg(*command.split(), path)[0] == 2
        assert egg(*command.split(), path, "--force-text")[0] == 0
    settings = tmp_path / "settings.toml"
    for bad in ("force_text = 1", "seed = true"):
        settings.write_text(bad)
        status, _, err = egg("train", "--config", settings)
        assert status == 2 and "must be" in err and err.count("\n") == 1
