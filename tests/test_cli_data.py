"""``egg data``: what a text is like, before training and beside it."""

import json
import shutil

import pytest
from conftest import SMALL, TEXTS
from test_inspect import self_contained

from egg import data, train
from egg.report.curves import read_curves
from egg.view.figures import count


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
    _, out, _ = egg("data", "prepare", tmp_path / "nuls.bin", "--force-text", "--validation-share", 0)
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


@pytest.fixture
def own(tmp_path):
    """A text of the user's own, without splits."""
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps({"text": f"note {n} of {n * n} " * 3}) + "\n" for n in range(200)))
    return path


def bits(egg, *arguments) -> tuple[float, int]:
    """What egg eval measures: bits per byte, and of how many documents."""
    status, out, err = egg("eval", *arguments, "--json", "--backend", "numpy")
    assert status == 0, err
    return json.loads(out)["bits_per_byte"], json.loads(out)["documents"]


def last(run) -> dict:
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])


def test_own_text_is_measured_on_what_was_held_out_of_it(egg, own, tables, tmp_path):
    run, other = tmp_path / "run", tmp_path / "other"
    status, out, err = egg("train", *SMALL, "--data", own, "--out", run, "--steps", 5, "--validation-share", "4%")
    assert status == 0, err
    corpus = data.open_corpus(str(own), validation_share=0.04)
    assert f"own.jsonl, {count(corpus.bytes('train'))} bytes, {corpus.bytes('validation')} for validation" in out
    assert f"bits per byte of own.jsonl validation, {corpus.bytes('validation')} bytes in 8 documents" in out
    config = json.loads((run / "config.json").read_text())
    assert config["run"]["validation_share"] == 0.04
    assert config["corpus"]["documents"] == {"train": 192, "validation": 8}
    measured = last(run)["validation_bits_per_byte"], 8
    assert bits(egg, run) == bits(egg, run, "--data", own) == bits(egg, run, "--split", "validation") == measured
    shutil.copy(own, tmp_path / "copy.jsonl")  # the same text in another place
    assert bits(egg, run, "--data", tmp_path / "copy.jsonl") == measured
    assert bits(egg, run, "--split", "all")[1] == bits(egg, run, "--validation-share", 0)[1] == 200
    assert bits(egg, run, "--split", "train")[1] == 192
    assert bits(egg, run, "--data", own, "--validation-share", 0.5)[1] == 100
    foreign = tmp_path / "foreign.jsonl"
    foreign.write_text(own.read_text().replace("note", "poem"))
    assert bits(egg, run, "--data", foreign)[1] == 200  # no word of it was learned
    assert bits(egg, run, "--data", foreign, "--split", "validation")[1] == 10
    assert egg("train", *SMALL, "--data", f"{own},{tables}", "--out", other, "--steps", 1)[0] == 0
    assert bits(egg, other, "--data", own)[1] == 10  # a part of a mixture
    flags = "--rank 1 --tokens 512 --validation-share 0.1 --backend numpy".split()
    assert egg("adapt", run, "--data", foreign, "--out", tmp_path / "adapted", *flags)[0] == 0
    assert bits(egg, run, "--data", foreign, "--adapter", tmp_path / "adapted")[1] == 20


def test_a_resumed_run_has_the_same_text_and_an_older_one_all_of_it(egg, own, tmp_path):
    run, straight, old = tmp_path / "run", tmp_path / "straight", tmp_path / "old"
    assert egg("train", *SMALL, "--data", own, "--out", straight, "--steps", 6)[0] == 0
    assert egg("train", *SMALL, "--data", own, "--out", run, "--steps", 3)[0] == 0
    data.clear()
    status, out, err = egg("train", "--resume", run, "--steps", 6, "--backend", "numpy")
    assert status == 0, err
    assert last(run)["validation_bits_per_byte"] == last(straight)["validation_bits_per_byte"]
    status, _, err = egg("train", "--resume", run, "--steps", 7, "--validation-share", 0.1, "--backend", "numpy")
    assert status == 2 and "--validation-share: the run in" in err and "was started with 0.05" in err
    assert egg("train", *SMALL, "--data", own, "--out", old, "--steps", 3, "--validation-share", 0)[0] == 0
    for path in old.rglob("config.json"):
        content = json.loads(path.read_text())
        assert content["run"].pop("validation_share") == 0
        path.write_text(json.dumps(content))
    for path in old.rglob("manifest.json"):
        path.unlink()
    status, out, err = egg("train", "--resume", old, "--steps", 4, "--backend", "numpy")
    assert status == 0 and "own.jsonl, 10.0k bytes, from step 3" in out, out + err


def test_prepare_and_info_tell_what_is_held_out(egg, own):
    status, out, notices = egg("data", "prepare", own)
    assert status == 0 and notices.splitlines()[1].startswith("holding out 5 % of")
    assert cells(out)["train"][0] == "190" and cells(out)["validation"][0] == "10"
    assert egg("data", "prepare", own, "--validation-share", "0")[1].count("200") == 1
    assert f"bytes, {cells(out)['validation'][1]} for validation, in 200 documents" in egg("data", "info")[1]
    assert set(cells(egg("data", "info", own)[1])) == {"all", "train", "validation"}
    assert egg("data", "clear", own)[1].count("removed own.jsonl-") == 2


@pytest.mark.parametrize("share", ["0.6", "-1%", "nan"])
@pytest.mark.parametrize("command", ["train --data", "data prepare", "eval pretrained --data"])
def test_shares_that_are_refused(egg, own, command, share):
    status, out, err = egg(*command.split(), own, f"--validation-share={share}")
    assert status == 2 and "must be 0 to 0.5, such as 0.05 or 5%" in err and err.count("\n") == 1


def test_another_text_may_be_the_validation_text(egg, own, book, tmp_path, monkeypatch):
    run, book = tmp_path / "run", shutil.copy(book, tmp_path / "book.txt")
    monkeypatch.chdir(tmp_path)
    status, out, err = egg("train", *SMALL, "--data", own, "--validation-data", book.name, "--out", run, "--steps", 5)
    assert status == 0, err
    size = len(book.read_bytes())
    assert f"own.jsonl, 10.0k bytes, {size} for validation" in out  # all of it is learned
    assert f"bits per byte of book.txt all, {size} bytes in 1 document" in out
    config = json.loads((run / "config.json").read_text())
    assert config["run"]["validation_data"] == str(book)
    assert config["corpus"]["bytes"] == {"validation": size, "all": 10_032}
    assert config["corpus"]["validation_text"] == "book.txt all"
    monkeypatch.chdir(tmp_path.parent)
    measured = last(run)["validation_bits_per_byte"], 1
    assert bits(egg, run) == bits(egg, run, "--data", book) == measured
    assert bits(egg, run, "--data", own)[1] == bits(egg, run, "--split", "all")[1] == 200
    assert egg("plot", run)[2] == ""  # both texts are found
    assert egg("train", "--resume", run, "--steps", 6, "--backend", "numpy")[0] == 0
    book.write_text(book.read_text() + "more")
    status, _, err = egg("train", "--resume", run, "--steps", 7, "--backend", "numpy")
    assert status == 2 and "is not the text that the run was started with" in err
    public = tmp_path / "public"
    assert egg("export", run, "--to", "huggingface", "-o", public, "--backend", "numpy")[0] == 0
    assert str(tmp_path) not in (public / "config.json").read_text()


def test_of_the_validation_text_its_own_split_is_measured(own, tables):
    corpus = data.open_corpus(str(own), validation_data=str(tables), validation_share=0.1)
    other = data.open_corpus(str(tables))
    assert corpus.split("validation").tobytes() == other.split("validation").tobytes()
    assert (corpus.splits, corpus.title("validation")) == (("validation", "all"), f"{other.name} validation")
    assert corpus.fingerprint not in corpus.fingerprints


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--data {own} --validation-data {own}", "it is the text to learn from"),
        ("--data {own} --validation-data {own},stdlib", "is a mixture"),
        ("--data {own} --validation-data no/such.txt", "no such file or folder: no/such.txt"),
        ("--data {own} --validation-data=", "--validation-data is empty"),
    ],
)
def test_validation_texts_that_are_refused(egg, own, tmp_path, flags, says):
    status, out, err = egg("train", *SMALL, "--out", tmp_path / "run", *flags.format(own=own).split())
    assert status == 2 and says in err and err.count("\n") == 1 and not (tmp_path / "run").exists()


@pytest.mark.parametrize("limit", [0, 1000])
def test_a_mixture_is_measured_on_each_part_and_on_the_whole(egg, own, tables, tmp_path, limit):
    run, twin, tiny = tmp_path / "run", tmp_path / "more" / "own.jsonl", tmp_path / "tiny.txt"
    twin.parent.mkdir()
    twin.write_text(own.read_text().replace("note", "letter"))
    tiny.write_text("too short to be divided")
    spec = f"{own}:2,{tables},{twin},{tiny}"
    flags = ["--data", spec, "--out", run, "--steps", 5, "--eval-bytes", limit]
    status, out, err = egg("train", *SMALL, *flags)
    assert status == 0, err
    assert "tiny.txt: no validation text, learned and not measured" in out
    names = ["own.jsonl", tables.name, "own.jsonl-2"]
    found = {name: last(run)[f"validation_bits_per_byte/{name}"] for name in names}
    assert [key for key in last(run) if key.startswith("validation")] == [
        "validation_bits_per_byte",
        *(f"validation_bits_per_byte/{name}" for name in names),
    ]
    page = self_contained((run / "report.html").read_text()).data
    for curves in (dict(page["runs"][0]["parts"]), read_curves(run).parts):
        assert list(curves) == names
        assert [curves[name][-1][2] for name in names] == pytest.approx(list(found.values()), rel=1e-4)
    shown = ", ".join(f"{name} {bits:.3f}" for name, bits in found.items())
    assert f"validation {last(run)['validation_bits_per_byte']:.3f} (best " in out and f", {shown})" in out
    status, measured, err = egg("eval", run, "--json", "--backend", "numpy")
    measured = json.loads(measured)
    for name, text in zip(names, (own, tables, twin), strict=True):
        exact = bits(egg, run, "--data", text)[0]
        assert measured["parts"][name] == exact and f"{exact:.4f}  of {name}\n" in out  # the closing table is of all
    table = egg("eval", run, "--backend", "numpy")[1]
    assert f"{measured['parts']['own.jsonl-2']:.4f}  of own.jsonl-2" in table
    if limit:
        assert egg("train", "--resume", run, "--steps", 6, "--backend", "numpy")[0] == 0
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        measured = [any(key.startswith("validation") for key in line) for line in lines]
        assert measured == [False, False, False, True, False, True]  # a longer run does not measure at step 5
    else:
        assert found == measured["parts"] and last(run)["validation_bits_per_byte"] == measured["bits_per_byte"]


def test_a_mixture_of_which_one_part_is_measured_has_no_parts(own, tmp_path):
    (tmp_path / "tiny.txt").write_text("too short to be divided")
    corpus = data.open_corpus(f"{own},{tmp_path / 'tiny.txt'}", validation_share=0.05)
    assert corpus.parts == (("own.jsonl", corpus.split("validation").size), ("tiny.txt", 0))
    assert corpus.validation_parts == {}


def test_where_training_text_is_measured_everything_says_so(egg, own, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    from egg.report.curves import read_curves
    from egg.report.plots import plot_runs

    run, other = tmp_path / "run", tmp_path / "other"
    for folder, share in ((run, 0), (other, 0.05)):
        flags = ["--data", own, "--out", folder, "--steps", 5, "--validation-share", share]
        status, out, err = egg("train", *SMALL, *flags)
        assert status == 0, err
        honest = "has no validation text: the model is measured on its training text" in out
        assert honest == (" | training text " in out) == ("own.jsonl all, which is its training text, 10,032" in out)
        assert honest == (" | validation " not in out) == (share == 0)
    assert (
        "validation" not in (run / "metrics.jsonl").read_text() and "validation" not in (run / "best.json").read_text()
    )
    bits = last(run)["training_text_bits_per_byte"]
    assert json.loads((run / "best.json").read_text())["training_text_bits_per_byte"] <= bits
    page = (run / "report.html").read_text()
    assert '"measured_on":"training text"' in page and "of training text are exact" in page
    assert '"measured_on":"validation"' in (other / "report.html").read_text()
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, file, format: drawn.append(self))
    for folders in ([run], [run, other]):
        plot_runs([read_curves(folder) for folder in folders], {}, tmp_path / "loss.png")
    legends = [[text.get_text() for text in figure.axes[0].get_legend().get_texts()] for figure in drawn]
    assert legends[0][-1].startswith("training text, exact: ")
    assert [line.split(":")[0] for line in legends[1]] == ["run, training text", "other"]
    assert "all, text that the model was trained on" in egg("eval", run, "--backend", "numpy")[2]
    status, _, err = egg("train", "--resume", run, "--steps", 6, "--backend", "numpy")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    measured = ["training_text_bits_per_byte" in line for line in lines]
    assert status == 0 and measured == [False, False, False, True, False, True]
    (report,) = train(resume=run, steps=7, backend="numpy")
    assert report.validation_bits_per_byte is None
    assert report.training_text_bits_per_byte == last(run)["training_text_bits_per_byte"]


def test_a_comparison_says_what_was_measured(egg, own, tmp_path):
    common = "hidden_size = 16\nnum_layers = 1\nstreams = 4\nseq_len = 8\nsteps = 2\nseeds = [1]\nbackend = 'numpy'\n"
    tables = "[held]\n[learned]\nvalidation_share = 0\n"
    (tmp_path / "c.toml").write_text(f"data = '{own}'\n{common}{tables}")
    status, out, err = egg("compare", tmp_path / "c.toml", "--out", tmp_path / "out")
    assert status == 0, err
    assert "| held | 1 |" in out and "| learned, training text | 1 |" in out
