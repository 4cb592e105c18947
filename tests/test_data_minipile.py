"""MiniPile through `datasets`, from small local Parquet of its shape; and without a network."""

import os
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import refusal

from egg.data import SPLITS, absolute, minipile, open_corpus
from egg.data import pieces as pieces_module
from egg.data.cache import corpora_folder

ROOT = Path(__file__).parent.parent


pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(autouse=True)
def hub_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "hf"))


@pytest.fixture
def texts():
    made = {"train": [f"document {i} ü " * (i % 40) for i in range(2500)]}
    made["train"][7] = "a\0b"
    return made | {"validation": ["held out"] * 5, "test": ["last"] * 100}


@pytest.fixture
def shape(tmp_path, monkeypatch, texts):
    """A folder of MiniPile's shape, in MiniPile's place."""
    folder = tmp_path / "MiniPile"
    (folder / "data").mkdir(parents=True)
    shards = {
        "train-00000-of-00002-6fbcb5211563e278": texts["train"][:1400],
        "train-00001-of-00002-2bb9d088068a84c9": texts["train"][1400:],
        "validation-00000-of-00001-a2192e61a091cecb": texts["validation"],
        "test-00000-of-00001-010a6231c4b54d31": texts["test"],
    }
    for name, part in shards.items():
        table = pa.table({"text": part, "id": range(len(part))})
        pq.write_table(table, folder / "data" / f"{name}.parquet", row_group_size=500)
    monkeypatch.setattr(minipile, "MINIPILE", str(folder))
    return folder


def expected(texts) -> bytes:
    return "".join("\0" + text.replace("\0", "") for text in texts if text).encode()


def test_minipile_has_its_three_splits_document_by_document(shape, texts):
    notices = []
    corpus = open_corpus("minipile", notify=notices.append)
    assert (corpus.name, corpus.spec, corpus.splits) == ("minipile", "minipile", SPLITS)
    for name in SPLITS:
        assert corpus.split(name).tobytes() == expected(texts[name])
    assert corpus.documents("train") == sum(map(bool, texts["train"]))
    assert corpus.nuls_removed("train") == 1
    assert any("disk" in notice for notice in notices)
    # As Parquet files they are the same corpus.
    assert open_corpus(str(shape)).fingerprint == corpus.fingerprint


def test_prepared_minipile_needs_datasets_no_more(shape, monkeypatch):
    first = open_corpus("minipile")
    monkeypatch.setattr("datasets.load_dataset_builder", None)
    assert open_corpus("minipile").fingerprint == first.fingerprint


def test_interrupted_minipile_goes_on(shape, texts, monkeypatch):
    monkeypatch.setattr(pieces_module, "PIECE", 100_000)
    monkeypatch.setattr(pieces_module, "BLOCK", 1000)
    add = pieces_module.SplitWriter.add
    budget = 0

    class Crash(Exception):
        pass

    def add_until_crash(self, document):
        nonlocal budget
        if not budget:
            raise Crash
        budget -= 1
        add(self, document)

    notices = []
    with monkeypatch.context() as patch:
        patch.setattr(pieces_module.SplitWriter, "add", add_until_crash)
        for _ in range(2):
            budget = 900
            with pytest.raises(Crash):
                open_corpus("minipile", notify=notices.append)
    corpus = open_corpus("minipile", notify=notices.append)
    assert sum("continuing" in notice for notice in notices) == 2
    for name in SPLITS:
        assert corpus.split(name).tobytes() == expected(texts[name])


def test_column_of_a_data_set(shape):
    assert "no column 'body': choose one of text, id" in refusal("minipile", column="body")
    assert "of type int64" in refusal("minipile", column="id")


def test_broken_data_set_is_one_line(shape):
    next((shape / "data").glob("validation*")).write_bytes(b"PAR1 no such thing PAR1")
    message = refusal("minipile")
    assert "cannot load" in message
    assert "--data stdlib" in message


def test_disk_is_stated_and_checked_first(shape, cache, monkeypatch):
    info = datasets.DatasetInfo(download_size=30, dataset_size=6_000_000_000)
    builder = namedtuple("Builder", "info cache_dir")(info, str(cache / "absent"))
    monkeypatch.setattr("datasets.load_dataset_builder", lambda dataset, name: builder)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(0, 0, 11_900_000_000))
    notices = []
    message = refusal("minipile", notify=notices.append)
    assert "12.00 GB needed, 11.90 GB free" in message
    assert "6.00 GB prepared" in notices[-1]
    assert "6.00 GB unpacked" in notices[-1]


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train", "dev"], ("train", "validation")),
        (["unsupervised"], ("all",)),
        (["train", "unsupervised"], ("train",)),
    ],
)
def test_splits_of_other_data_sets(tmp_path, monkeypatch, names, splits):
    parts = {name: datasets.Dataset.from_dict({"text": [name, "x"]}) for name in names}
    folder = tmp_path / "other"
    for name, part in parts.items():
        part.to_parquet(folder / f"{name}.parquet")
    monkeypatch.setattr(minipile, "MINIPILE", str(folder))
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        + "".join(f"  - split: {name}\n    path: {name}.parquet\n" for name in names)
        + "---\n"
    )
    corpus = open_corpus("minipile")
    assert corpus.splits == splits
    assert corpus.split(splits[0]).tobytes() == f"\0{names[0]}\0x".encode()


@pytest.fixture
def translations(tmp_path, monkeypatch):
    """A data set with two configurations, in the place of some/thing."""
    folder = tmp_path / "thing"
    lines = []
    for name in ("de", "20240101.fr"):
        part = datasets.Dataset.from_dict({"text": [f"{name} {i}" for i in range(60)]})
        part.to_parquet(folder / name / "train.parquet")
        lines += [f"- config_name: {name}", "  data_files:", "  - split: train", f"    path: {name}/train.parquet"]
    (folder / "README.md").write_text("\n".join(["---", "configs:", *lines, "---", ""]))
    builder = datasets.load_dataset_builder
    monkeypatch.setattr("datasets.load_dataset_builder", lambda dataset, name: builder(str(folder), name))
    monkeypatch.setattr(minipile, "_ask_hub", lambda dataset: None)
    return folder


def test_a_configuration_of_a_data_set(translations, tmp_path):
    corpora = [open_corpus(f"some/thing:{name}") for name in ("de", "20240101.fr")]
    assert [corpus.name for corpus in corpora] == ["thing:de", "thing:20240101.fr"]
    assert corpora[0].split("train").tobytes().startswith(b"\0de 0\0de 1")
    assert corpora[1].split("train").tobytes().startswith(b"\x0020240101.fr 0")
    divided = open_corpus("some/thing:de", validation_share=0.05)  # a data set without validation split
    assert (divided.documents("train"), divided.documents("validation")) == (57, 3)
    mixed = open_corpus("some/thing:de:2,some/thing:20240101.fr", validation_share=0.05)
    assert list(mixed.validation_parts) == ["thing:de", "thing:20240101.fr"]
    assert absolute("some/thing:de:2,some/thing:de") == "some/thing:de:2,some/thing:de:1"


def test_a_configuration_that_is_missing_or_unknown_is_refused(translations):
    assert "some/thing has several configurations: choose one, as in some/thing:de, of de, 20240101.fr" in refusal(
        "some/thing"
    )
    assert "some/thing has no configuration 'en': choose one, as in some/thing:de, of" in refusal("some/thing:en")


def test_what_counts_as_a_data_set_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    for spec in ("JeanKaddour/minipile", "wikimedia/wikipedia:20231101.en", "a/b:c_d-e"):
        assert minipile.is_hub_id(spec)
    for spec in (
        "a/b:",
        "a/b:c/d",
        "a/b.txt:c",
        "here/absent:c",
        "stdlib",
        "here/absent",
        "a/b/c",
        "../a",
        "/a/b",
        "~/a",
        "a/b.txt",
        "a/b.jsonl",
    ):
        assert not minipile.is_hub_id(spec)


def test_without_network_one_line_names_the_ways_out(tmp_path):
    # A port where nobody listens, for real: not one retry of datasets may come into it.
    code = (
        "import sys\n"
        "from egg.data import DataError, open_corpus\n"
        "try:\n    open_corpus(sys.argv[1])\n"
        "except DataError as error:\n    print(error)\n"
    )
    environment = os.environ | {
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HOME": str(tmp_path / "hf"),
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    for spec in ("minipile", "some/thing"):
        begun = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", code, spec], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        assert time.monotonic() - begun < 30
        assert done.stdout.count("\n") == 1
        assert "cannot reach the Hugging Face hub" in done.stdout
        assert "--data stdlib" in done.stdout
        assert "local file" in done.stdout


def test_hub_that_does_not_answer_is_given_up(monkeypatch):
    monkeypatch.setattr(minipile, "LOOKUP_SECONDS", 0.1)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *args, **options: time.sleep(5))
    begun = time.monotonic()
    assert "no answer in" in refusal("minipile")
    assert time.monotonic() - begun < 4
    # Put back for whatever else this process does.
    assert not datasets.config.HF_HUB_OFFLINE
    assert not huggingface_hub.constants.HF_HUB_OFFLINE


def test_unknown_data_set_is_refused(monkeypatch):
    from huggingface_hub.utils import RepositoryNotFoundError

    def refuse(*args, **options):
        # Not constructed by a call: its parameters change from version to version.
        raise RepositoryNotFoundError.__new__(RepositoryNotFoundError)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refuse)
    message = refusal("some/thing")
    assert "neither a local file or folder nor a data set" in message
    assert not [path for path in corpora_folder().iterdir() if path.is_dir()]
