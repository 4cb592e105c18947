"""egg export, and models read from exported folders and from the Hub."""

import json
import shutil
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import yaml
from conftest import forge

import egg as package
from egg.errors import EggError
from egg.model import hub

LOADERS = {"modeling_egg.py", "tokenizer_config.json", "generation_config.json"}
"""Files that transformers loads."""


@pytest.fixture
def run(train, tmp_path):
    train("--steps", 9, "--out", tmp_path / "some run", "--seed", 5)
    return tmp_path / "some run"


def test_a_folder_for_the_hub(run, egg, tmp_path, tables):
    out = tmp_path / "there" / "exported"
    status, text, err = egg("export", run, "--to", "huggingface", "-o", out, "--backend", "numpy")
    assert status == 0, err
    names = {"config.json", "model.safetensors", "README.md", "loss.png"} | LOADERS
    assert {path.name for path in out.iterdir()} == names
    assert all(str(out / name) in text for name in names)
    there, model = package.load(run, "numpy"), package.load(out, "numpy")
    np.testing.assert_array_equal(there.weights, model.weights)
    assert (out / "model.safetensors").read_bytes() == (
        run / "checkpoints/step-00000009/model.safetensors"
    ).read_bytes()
    # A path of this machine is nobody else's.
    assert str(tables) not in (out / "config.json").read_text() + (out / "README.md").read_text()
    config = json.loads((out / "config.json").read_text())
    assert config["model_type"] == "egg" and config["model"]["hidden_size"] == 16


def test_every_command_takes_such_a_folder(run, egg, tmp_path, book, tables):
    out, packed = tmp_path / "exported", tmp_path / "book.egg"
    assert egg("export", run, "--to", "huggingface", "-o", out, "--backend", "numpy")[0] == 0
    arguments = ["--data", tables, "--json", "--backend", "numpy"]
    bits = [json.loads(egg("eval", path, *arguments)[1])["bits_per_byte"] for path in (run, out)]
    assert bits[0] == bits[1]
    samples = [egg("sample", p, "--length", 9, "--backend", "numpy")[1] for p in (run, out)]
    assert samples[0] == samples[1]
    assert egg("compress", book, "--model", run, "-o", packed, "--backend", "numpy")[0] == 0
    back = ["decompress", packed, "--model", out, "-o", tmp_path / "back", "--backend", "numpy"]
    assert egg(*back)[0] == 0 and (tmp_path / "back").read_bytes() == book.read_bytes()
    again = tmp_path / "again"
    assert egg("export", out, "--to", "c", "-o", again)[0] == 0
    assert [path.name for path in again.iterdir()] == ["model.c"]


def test_the_card_says_what_the_run_was(run, egg, tmp_path):
    out = tmp_path / "exported"
    egg("export", run, "--to", "huggingface", "-o", out, "--backend", "numpy")
    card = (out / "README.md").read_text(encoding="utf-8")
    measured = json.loads(egg("eval", run, "--json", "--backend", "numpy", "--baselines")[1])
    for figure in (measured["bits_per_byte"], *measured["baselines"].values()):
        assert f"| {figure:.4f} |" in card
    assert f"{measured['bytes']:,} bytes in 4 documents" in card
    assert f"{measured['words']:,} words" in card
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    curve = [line for line in lines if "validation_bits_per_byte" in line]
    assert len(curve) == 3  # steps 4, 8 and 9
    for line in curve:
        assert f"| {line['step']} | " in card
        assert f"| {line['validation_bits_per_byte']:.4f} |" in card
    assert f"{lines[-1]['tokens']:,}" in card
    config = json.loads((run / "config.json").read_text())
    assert config["corpus"]["fingerprint"] in card
    assert "| seed | 5 |" in card and "| hidden size, layers | 16, 1 |" in card
    metadata = huggingface_hub.ModelCard(card).data.to_dict()
    assert metadata["library_name"] == "egg"
    metrics = metadata["model-index"][0]["results"][0]["metrics"]
    assert metrics[0]["value"] == round(measured["bits_per_byte"], 6)


def front_matter(card: str) -> dict:
    """A card's metadata, checked against what the Hub accepts."""
    begin, text, rest = card.split("---\n", 2)
    metadata = yaml.safe_load(text)
    assert begin == "" and rest.startswith("\n# ")
    allowed = {"library_name", "license", "pipeline_tag", "tags", "datasets", "model-index"}
    assert set(metadata) <= allowed and metadata["pipeline_tag"] == "text-generation"
    assert all(isinstance(tag, str) for tag in metadata["tags"])
    for dataset in metadata.get("datasets", []):
        huggingface_hub.utils.validate_repo_id(dataset)
        assert dataset.count("/") == 1
    for model in metadata.get("model-index", []):
        assert isinstance(model["name"], str)
        for result in model["results"]:
            assert result["task"]["type"] == "text-generation" and result["dataset"]["name"]
            huggingface_hub.utils.validate_repo_id(result["dataset"]["type"])
            assert all(isinstance(m["type"], str) and isinstance(m["value"], float) for m in result["metrics"])
    return metadata


@pytest.mark.parametrize(
    ("data", "datasets"),
    [
        (None, None),
        ("stdlib", None),
        ("/texts/notes", None),
        ("minipile", ["JeanKaddour/minipile"]),
        ("owner/name", ["owner/name"]),
        ("stdlib:2,minipile:1,owner/name,notes.txt:3", ["JeanKaddour/minipile", "owner/name"]),
        (",", None),
    ],
)
def test_the_card_names_licence_and_data_sets(run, egg, tmp_path, book, data, datasets):
    path = run / "checkpoints/step-00000009/config.json"
    config = json.loads(path.read_text())
    config["run"]["data"] = data
    path.write_text(json.dumps(config))
    forge(path.parent)
    flags = ["--data", book, "--backend", "numpy", "--to", "huggingface", "-o", tmp_path / "out"]
    status, _, err = egg("export", run, *flags, "--license", "cc-by-nc-sa-4.0")
    assert status == 0 and "licence" not in err
    metadata = front_matter((tmp_path / "out/README.md").read_text(encoding="utf-8"))
    assert metadata["license"] == "cc-by-nc-sa-4.0" and metadata.get("datasets") == datasets
    assert metadata["model-index"][0]["results"][0]["dataset"]["name"] == "book.txt all"
    status, _, err = egg("export", run, *flags)
    assert status == 0 and "give --license, such as apache-2.0" in err
    assert "license" not in front_matter((tmp_path / "out/README.md").read_text(encoding="utf-8"))


def test_a_model_without_a_run_has_a_card_too(run, egg, tmp_path, book):
    bare, out = tmp_path / "bare", tmp_path / "exported"
    bare.mkdir()
    shutil.copy(run / "checkpoints/step-00000009/model.safetensors", bare)
    (bare / "config.json").write_text('{"model": {"hidden_size": 16, "num_layers": 1}}')
    status, _, err = egg("export", bare, "--to", "huggingface", "-o", out)
    assert status == 0 and "not measured" in err
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "# bare" in card and "Not measured" in card and "Curve" not in card
    arguments = ["--data", book, "--backend", "numpy"]
    assert egg("export", bare, "--to", "huggingface", "-o", out, *arguments)[0] == 0
    assert "**this model**" in (out / "README.md").read_text(encoding="utf-8")


def test_a_text_that_is_gone_leaves_the_figures_of_the_log(run, egg, tmp_path, monkeypatch):
    path = run / "checkpoints/step-00000009/config.json"
    config = json.loads(path.read_text())
    config["run"]["data"] = str(tmp_path / "gone.txt")
    path.write_text(json.dumps(config))
    forge(path.parent)
    out = tmp_path / "exported"
    status, _, err = egg("export", run, "--to", "huggingface", "-o", out)
    assert status == 0 and "not measured" in err and "gone.txt" in err
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    card = (out / "README.md").read_text(encoding="utf-8")
    assert f"run: {last['validation_bits_per_byte']:.4f} bits per byte" in card


def test_the_card_says_what_the_user_adds(run, egg, tmp_path):
    notes, out = tmp_path / "notes.md", tmp_path / "exported"
    notes.write_text("# Its text\n\n## By whom\n\nby many\n# no heading is lost", encoding="utf-8")
    flags = ["--name", "small", "--license", "apache-2.0", "--notes", notes]
    assert egg("export", run, "--to", "huggingface", "-o", out, "--backend", "numpy", *flags)[0] == 0
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "\n# small\n" in card and "\n## Its text\n\n### By whom\n\nby many\n## no heading is lost\n" in card
    assert huggingface_hub.ModelCard(card).data.license == "apache-2.0"
    # A folder that has a card keeps it, until something is to be said anew.
    again = tmp_path / "again"
    assert egg("export", out, "--to", "huggingface", "-o", again)[0] == 0
    assert {p.name: p.read_bytes() for p in again.iterdir()} == {p.name: p.read_bytes() for p in out.iterdir()}
    assert egg("export", out, "--to", "huggingface", "-o", again, "--name", "other")[0] == 0
    assert "\n# other\n" in (again / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["RUN", "--to", "c"], "--out is missing"),
        (["RUN", "-o", "x"], "--to is missing"),
        (["RUN", "--to", "gguf", "-o", "x"], '"gguf" for --to. Choose from: "c", "huggingface", "onnx"'),
        (["none", "--to", "c", "-o", "x"], "none: no such folder"),
        (["RUN", "--to", "c", "-o", "RUN"], "belongs to a run"),
        (["RUN", "--to", "huggingface", "-o", "RUN/checkpoints/step-00000009"], "belongs to a run"),
        (["RUN", "--to", "c", "-o", "RUN/config.json"], "is a file"),
        (["RUN", "--to", "huggingface", "-o", "x", "--data", "no.txt"], "no.txt"),
        (["RUN", "--to", "huggingface", "-o", "x", "--notes", "no.md"], "--notes no.md"),
        (["RUN", "--to", "huggingface", "-o", "x", "--license", "Apache 2.0"], "--license Apache 2.0: give the Hub's"),
        (["RUN", "--to", "c", "-o", "x", "--adapter", "no"], "--adapter no"),
    ],
)
def test_bad_arguments(run, egg, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    status, out, err = egg("export", *[a.replace("RUN", str(run)) for a in arguments])
    assert (status, out) == (2, "") and told in err.splitlines()[-1]
    assert sorted(tmp_path.rglob("*")) == before


def test_an_adapter_goes_along(run, egg, tmp_path, book, monkeypatch):
    adapted, out = tmp_path / "adapted", tmp_path / "exported"
    flags = ["--data", book, "--tokens", "20k", "--step-size", 8, "--backend", "numpy", "--out", adapted]
    assert egg("adapt", run, *flags)[0] == 0
    export = ["export", run, "--adapter", adapted, "--backend", "numpy"]
    status, text, err = egg(*export, "--to", "huggingface", "-o", out)
    assert status == 0 and str(out / "adapter.safetensors") in text, err
    assert (out / "adapter.safetensors").read_bytes() == (adapted / "adapter.safetensors").read_bytes()
    model = package.load(out, "numpy", adapter=out)
    assert model == package.load(run, "numpy", adapter=adapted) != package.load(out, "numpy")
    card, base = (out / "README.md").read_text(encoding="utf-8"), tmp_path / "base"
    bits = json.loads(egg("eval", run, "--adapter", adapted, "--json", "--backend", "numpy")[1])["bits_per_byte"]
    assert f"| {bits:.4f} |" in card and "--adapter PATH" in card and "| adapter | rank 2, 6 matrices |" in card
    # Exported again, the folder is the same; and the adapter is left out of a card that is made anew without it.
    assert egg("export", out, "--to", "huggingface", "-o", tmp_path / "again")[0] == 0
    again = {p.name: p.read_bytes() for p in (tmp_path / "again").iterdir()}
    assert again == {p.name: p.read_bytes() for p in out.iterdir()}
    assert egg("export", out, "--to", "huggingface", "-o", base, "--name", "base")[0] == 0
    assert not (base / "adapter.safetensors").exists() and "adapter" not in (base / "config.json").read_text()
    assert egg(*export, "--to", "c", "-o", tmp_path / "c")[0] == 0
    assert "an adapter of rank 2" in (tmp_path / "c" / "model.c").read_text()[:500]
    # On the Hub the model and its adapter have one name.
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(out))
    monkeypatch.chdir(tmp_path)
    assert package.load("owner/name", "numpy", adapter="owner/name") == model


def test_a_model_on_the_hub(run, egg, tmp_path, tables, monkeypatch):
    out, asked = tmp_path / "exported", []
    egg("export", run, "--to", "huggingface", "-o", out, "--backend", "numpy")

    def download(name, *, revision, allow_patterns):
        asked.append((name, revision))
        assert set(allow_patterns) == {"config.json", "model.safetensors", "adapter.safetensors"}
        return str(out)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    model = package.load("owner/name-1.0", "numpy")
    np.testing.assert_array_equal(model.weights, package.load(run, "numpy").weights)
    arguments = ["--data", tables, "--json", "--backend", "numpy"]
    assert egg("eval", "owner/name-1.0@v2", *arguments)[0] == 0
    assert egg("export", "owner/name-1.0", "--to", "c", "-o", tmp_path / "c")[0] == 0
    assert "name-1.0" in (tmp_path / "c" / "model.c").read_text().splitlines()[2]
    assert asked == [("owner/name-1.0", None), ("owner/name-1.0", "v2"), ("owner/name-1.0", None)]


def test_what_is_no_name_on_the_hub_is_not_asked_for(tmp_path, monkeypatch):
    def download(*_, **__):
        raise AssertionError("asked for")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for path in ("name", "runs/typo", "./a/b", "a/b/c", "/a/b", Path("runs") / "best", "a/"):
        assert hub.fetch(path) == path
        with pytest.raises(EggError, match="no such folder|has no best"):
            package.load(path)


def test_onnx_without_its_package_is_one_line(run, egg, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    status, out, err = egg("export", run, "--to", "onnx", "-o", tmp_path / "out")
    assert (status, out) == (2, "") and err.count("\n") == 1 and "pip install 'egg-lm[onnx]'" in err
    assert not (tmp_path / "out").exists()


def test_a_hub_that_cannot_be_reached_is_one_line(egg, tmp_path, monkeypatch):
    def download(*_, **__):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no network\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    status, out, err = egg("sample", "owner/name")
    assert (status, out) == (2, "") and len(err.splitlines()) == 1
    assert "owner/name: no such folder" in err and "no network" in err and "more" not in err
