"""egg bench compress: every program restores what it made, a row that does not counts nothing, and what is printed."""

import gzip
import json
import lzma
import random
import sys

import pytest
from conftest import TEXTS

from egg.bench import compression
from egg.bench.compression import Compression, Compressor, measure, other_programs, sum_of

PROGRAMS = ["gzip -9", "bzip2 -9", "xz -9", "xz -9e", "zstd -19", "zstd --ultra -22"]
PPMD = ["ppmd, order 6", "ppmd, order 32"]
SMALL = ["--seconds", "0", "--backend", "numpy"]


@pytest.fixture
def without_ppmd(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyppmd", None)  # its import fails


@pytest.fixture
def fewer(monkeypatch, without_ppmd):
    """Programs that take no time."""
    found, missing = other_programs()
    monkeypatch.setattr("egg.cli.bench.other_programs", lambda: (found[:1], missing))


@pytest.mark.parametrize(
    "text", [b"x", b"\0", b"ab" * 3000, bytes(5000), random.Random(1).randbytes(20_000), bytes(range(256)) * 99]
)
def test_every_program_restores_the_text(text):
    pytest.importorskip("pyppmd")
    found, missing = other_programs()
    assert [c.name for c in found] == [*PROGRAMS, *PPMD] and not missing
    for compressor in found:
        row = measure(compressor, text, 0)
        assert row.restored, compressor.name
        assert row.packed_bytes == len(compressor.compress(text)) > 0


def test_programs_have_the_levels_of_their_names():
    """As the program itself, or its library, writes the text."""
    text = "".join(TEXTS).encode() * 9
    packed = {compressor.name: compressor.compress(text) for compressor in other_programs()[0]}
    assert packed["xz -9"] == lzma.compress(text, preset=9)
    assert packed["xz -9e"] == lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)
    assert len(packed["gzip -9"]) == len(gzip.compress(text, 9))
    assert packed["bzip2 -9"].startswith(b"BZh9")
    assert packed["zstd -19"].startswith(b"\x28\xb5\x2f\xfd")
    assert packed["zstd -19"][4] & 4  # with a checksum


def test_figures_of_a_row(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(compression.time, "perf_counter", lambda: now[0])

    def takes(times, result):
        times = iter(times)

        def call(given):
            now[0] += next(times)
            return result

        return call

    text = b"a" * 2_000_000
    row = measure(Compressor("p", takes([1, 4, 2, 9], b"packed"), takes([0.5, 0.5, 0.25, 9], text)), text, 8)
    assert row == Compression("p", 2_000_000, 6, 2, 0.5, 3, True)
    assert row.bits_per_byte == 8 * 6 / 2_000_000
    assert row.rates == (1.0, 4.0)
    often = measure(Compressor("p", takes([0.125] * 99, b"packed"), takes([0.125] * 99, text)), text, 1000)
    assert often.repeats == compression.MAX_REPEATS
    once = measure(Compressor("p", takes([0.125], b"packed"), takes([0.125], text)), text, 0)
    assert once.repeats == 1
    both = sum_of([row, once])
    assert both == Compression("p", 4_000_000, 12, 2.125, 0.625, 1, True)


def test_what_does_not_come_back_counts_nothing(egg, book, monkeypatch):
    whole = Compressor("gzip -9", lambda t: gzip.compress(t, 9), gzip.decompress)
    lossy = Compressor("lossy", lambda t: b"", lambda p: b"x" * 500)
    monkeypatch.setattr("egg.cli.bench.other_programs", lambda: ([lossy, whole], {}))
    status, out, err = egg("bench", "compress", book, *SMALL)
    assert status == 2 and err.splitlines()[-1] == f"egg: not restored: lossy on {book}"
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith("| ")]
    assert [line[0] for line in cells] == ["", "-------", "gzip -9", "lossy"]
    assert cells[-1] == ["lossy", "not restored", "-", "-", "-"]
    status, out, err = egg("bench", "compress", book, *SMALL, "--json")
    lossy_row, _ = json.loads(out)["rows"]
    assert status == 2 and lossy_row["restored"] is False
    assert lossy_row["packed_bytes"] is None and lossy_row["bits_per_byte"] is None


def test_models_beside_programs(egg, train, book, tmp_path, fewer):
    runs = tmp_path / "one", tmp_path / "two"
    for run in runs:
        train("--steps", 1, "--out", run)
    packed = tmp_path / "packed.egg"
    assert egg("compress", book, "--model", runs[0], "-o", packed, "--backend", "numpy")[0] == 0
    arguments = ["bench", "compress", book, "--model", runs[0], "--model", runs[1], *SMALL]
    status, out, err = egg(*arguments, "--json")
    assert status == 0, err
    found = json.loads(out)
    size = book.stat().st_size
    assert [row["compressor"] for row in found["rows"]] == ["gzip -9", *(f"egg compress, {run}" for run in runs)]
    for row in found["rows"]:
        assert (row["text"], row["text_bytes"], row["restored"], row["repeats"]) == (str(book), size, True, 1)
        assert row["bits_per_byte"] == 8 * row["packed_bytes"] / size
        assert row["compress_megabytes_per_second"] > 0 < row["decompress_megabytes_per_second"]
    assert found["rows"][1]["packed_bytes"] == packed.stat().st_size
    assert found["not_installed"] == dict.fromkeys(PPMD, "pip install 'egg-lm[ppmd]'")
    assert found["backend"] == "numpy" and {"zlib", "zstd"} <= set(found["versions"])
    status, out, err = egg(*arguments)
    assert status == 0, err
    heading, _, title, _, header, rule, *rows = out.splitlines()
    assert f"--model {runs[0]}" in heading and title == f"{book}: {size:,} bytes"
    assert len({len(line) for line in (header, rule, *rows[:5])}) == 1
    assert [row.split("|")[1].strip() for row in rows[:5]] == [
        "gzip -9",
        *(f"egg compress, {run}" for run in runs),
        *PPMD,
    ]
    assert rows[3].split("|")[2].strip() == "not installed"
    assert rows[5:] == ["", "To measure what is not installed: pip install 'egg-lm[ppmd]'"]


def test_several_texts_are_added_up(egg, tmp_path, fewer):
    files = [tmp_path / "a", tmp_path / "b"]
    for path, text in zip(files, (b"a" * 100, b"b" * 1000), strict=True):
        path.write_bytes(text)
    status, out, err = egg("bench", "compress", *files, *SMALL)
    assert status == 0, err
    assert "all 2 texts, each by itself: 1,100 bytes" in out
    sizes = [int(line.split("|")[2]) for line in out.splitlines() if line.startswith("| gzip")]
    assert sizes == [len(gzip.compress(f.read_bytes(), 9)) for f in files] + [sum(sizes[:2])]


def test_a_split_end_to_end(egg, tables, cache, fewer):
    status, out, err = egg("bench", "compress", "--data", tables, *SMALL, "--json")
    assert status == 0, err
    (row,) = json.loads(out)["rows"]
    text = "".join(TEXTS).encode()
    assert row["text"].endswith(" validation") and row["text_bytes"] == len(text)
    assert row["packed_bytes"] == len(gzip.compress(text, 9))
    status, out, err = egg("bench", "compress", "--data", tables, "--split", "test", *SMALL, "--json")
    assert json.loads(out)["rows"][0]["text_bytes"] == len(TEXTS[0])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "give FILE or --data TEXT, one of them"),
        (["FILE", "--data", "stdlib"], "give FILE or --data TEXT, one of them"),
        (["nothing.txt"], "nothing.txt: No such file"),
        (["FILE", "nothing.txt"], "nothing.txt: No such file"),
        (["empty"], "empty is empty"),
        (["."], ".: Is a directory"),
        (["FILE", "--model", "no/such/model"], "no/such/model"),
        (["FILE", "--seconds", "-1"], "--seconds -1.0: must be 0 or more"),
        (["--data", "FILE", "--split", "test"], "--split test"),
    ],
)
def test_refusals_are_one_line_before_the_work(egg, book, cache, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").touch()
    monkeypatch.setattr("egg.cli.bench.measure", lambda *_: pytest.fail("work before the refusal"))
    status, out, err = egg("bench", "compress", *[str(book) if a == "FILE" else a for a in arguments])
    assert (status, out) == (2, "") and told in err.splitlines()[-1]
    assert sum(line.startswith("egg: ") for line in err.splitlines()) == 1
