"""egg adapt: what it leaves behind, what it learns, what it refuses, and its merge."""

import json
import signal

import numpy as np
import pytest
from synthetic import documents

from egg import data
from egg.errors import EggError
from egg.kernels import Adapter, Shape, get_backend
from egg.model.adapter import adapter_shape, initial_factors, matrices_of, merge, read_adapter, voted_parameters
from egg.model.network import Network, read_model
from egg.run.adaptation import AdapterEvolution, adapt
from egg.training.corpus import CorpusText

FLAGS = "--streams 8 --seq-len 8 --backend numpy --eval-bytes 2000".split()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a model of random weights."""
    from egg.model import checkpoint
    from egg.model.parameters import initial_weights

    folder = tmp_path_factory.mktemp("model")
    shape = Shape(16, 1)
    config = {"model": {"hidden_size": 16, "num_layers": 1, "vocab_size": 256}}
    checkpoint.write_model(folder, config, shape, initial_weights(shape, 3, "paper"))
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A folder of documents."""
    folder = tmp_path_factory.mktemp("text")
    for number, document in enumerate(documents(60)):
        (folder / f"{number:02}.txt").write_bytes(document)
    return folder


@pytest.fixture
def adapted(egg, model, text, tmp_path):
    """An adapter of a few steps."""
    out = tmp_path / "adapted"
    status, _, err = egg("adapt", model, "--data", text, "--rank", 2, "--tokens", 20 * 64, "--out", out, *FLAGS)
    assert status == 0, err
    return out


def test_a_folder_of_an_adapter(adapted, model, egg, text):
    assert {p.name for p in adapted.iterdir()} == {"adapter.safetensors", "config.json", "metrics.jsonl", "loss.png"}
    lines = [json.loads(line) for line in (adapted / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 21))
    about = json.loads((adapted / "config.json").read_text())["adapter"]
    assert about["rank"] == 2 and len(about["matrices"]) == 6
    assert lines[-1]["validation_bits_per_byte"] < about["base_bits_per_byte"] - 0.3
    shape, weights, _ = read_model(model)
    adapter = read_adapter(adapted, shape, weights)
    assert adapter.shape.matrices == matrices_of(shape, "gru,w_down,head")
    status, out, _ = egg(
        "eval",
        model,
        "--adapter",
        adapted / "adapter.safetensors",
        "--data",
        text,
        "--backend",
        "numpy",
        "--json",
        "--split",
        "all",
    )
    plain = egg("eval", model, "--data", text, "--backend", "numpy", "--json", "--split", "all")
    assert status == 0
    assert json.loads(out)["bits_per_byte"] < json.loads(plain[1])["bits_per_byte"] - 0.3


def test_equal_seeds_give_equal_adapters_on_every_backend(adapted, model, text, egg, tmp_path):
    pytest.importorskip("numba")
    flags = [*FLAGS, "--backend", "numba", "--threads", 3]
    for seed, same in ((0, True), (1, False)):
        out = tmp_path / f"again-{seed}"
        status, _, err = egg(
            "adapt", model, "--data", text, "--rank", 2, "--tokens", 20 * 64, "--out", out, *flags, "--seed", seed
        )
        assert status == 0, err
        files = [(folder / "adapter.safetensors").read_bytes() for folder in (adapted, out)]
        assert (files[0] == files[1]) == same


def test_samples_with_an_adapter(adapted, model, egg):
    drawn = [
        egg("sample", model, "--length", 60, "--backend", "numpy", *more)[1] for more in ([], ["--adapter", adapted])
    ]
    assert drawn[0] != drawn[1]


def test_an_adapter_of_another_base_is_refused_in_one_line(adapted, model, egg, tmp_path):
    from egg.model import checkpoint

    shape, weights, config = read_model(model)
    other = weights.copy()
    other[5] += 1
    checkpoint.write_model(tmp_path / "other", config, shape, other)
    for command in ("eval", "sample"):
        status, out, err = egg(command, tmp_path / "other", "--adapter", adapted)
        assert status == 2 and not out
        assert "another base" in err and err.count("\n") == 1


def test_files_that_are_no_adapters(adapted, model, egg, tmp_path):
    whole = (adapted / "adapter.safetensors").read_bytes()
    for name, content in (("cut", whole[:-9]), ("foreign", b"no tensors here"), ("missing", None)):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        status, _, err = egg("sample", model, "--adapter", tmp_path / name)
        assert status == 2 and str(tmp_path / name) in err and err.count("\n") == 1
    status, _, err = egg("sample", model, "--adapter", model / "model.safetensors")
    assert status == 2 and "is not an adapter" in err


def test_all_weights(model, text, egg, tmp_path):
    out = tmp_path / "full"
    status, printed, err = egg(
        "adapt", model, "--data", text, "--rank", "full", "--tokens", 20 * 64, "--out", out, *FLAGS
    )
    assert status == 0, err
    shape, weights, _ = read_model(out)
    assert (weights != read_model(model)[1]).any()
    about = json.loads((out / "config.json").read_text())
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["validation_bits_per_byte"] < about["adapter"]["base_bits_per_byte"] - 0.3


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_merge(adapted, model, text, egg, tmp_path, more):
    out = tmp_path / "merged"
    status, printed, err = egg(
        "adapt", "merge", model, "--adapter", adapted, "--out", out, "--data", text, "--backend", "numpy", *more
    )
    assert status == 0, err
    shape, weights, _ = read_model(out)
    base = read_model(model)[1]
    np.testing.assert_array_equal(weights, merge(base, read_adapter(adapted, shape, base)))
    if more:
        figures = json.loads(printed)
        assert figures["merged_bits_per_byte"] < figures["base_bits_per_byte"] - 0.2
        cost = figures["merged_bits_per_byte"] - figures["adapter_bits_per_byte"]
        assert figures["cost_bits_per_byte"] == cost
    again = egg("adapt", "merge", model, "--adapter", adapted, "--out", out, "--data", text)
    assert again[0] == 2 and "already" in again[2]


def test_what_cannot_be_merged(adapted, model, text, egg, tmp_path):
    (tmp_path / "file").write_text("")
    for flags, says in (
        (["--out", tmp_path / "no", "--eval-bytes", -3], "--eval-bytes -3"),
        (["--out", tmp_path / "file"], "--out"),
    ):
        status, out, err = egg("adapt", "merge", model, "--adapter", adapted, "--data", text, *flags)
        assert status == 2 and says in err and err.count("\n") == 1
    assert not (tmp_path / "no").exists()


def test_a_merge_by_hand():
    shape = Shape(16, 1)
    layout = adapter_shape(shape, 1, "w_up")
    factors = {"A": np.full((1, 16), 32), "B": np.arange(64)[:, None]}
    adapter = Adapter(layout, layout.flatten({f"layers.0.mlp.w_up.{k}": v for k, v in factors.items()}))
    weights = np.full(shape.parameters, 100, np.int8)
    merged = shape.views(merge(weights, adapter))
    # 32 n / 64, rounded half up, added to 100 and limited
    expected = [min(127, 100 + (n + 1) // 2) for n in range(64)]
    np.testing.assert_array_equal(merged["layers.0.mlp.w_up"][:, 3], expected)
    assert (merged["head.weight"] == 100).all()


def test_initial_factors():
    layout = adapter_shape(Shape(16, 1), 3, "gru,head")
    factors = layout.views(initial_factors(layout, 5))
    for name, factor in factors.items():
        assert (factor == 0).all() if name.endswith(".B") else factor.std() > 8
    assert (initial_factors(layout, 5) != initial_factors(layout, 6)).any()


def test_matrices():
    shape = Shape(16, 2)
    assert matrices_of(shape, "gru,mlp,head") == shape.matrices
    assert matrices_of(shape, "head, w_up") == ("layers.0.mlp.w_up", "layers.1.mlp.w_up", "head.weight")
    assert matrices_of(shape, "layers.1.gru.u_h") == ("layers.1.gru.u_h",)
    for wrong in ("", "gru,", "embedding", "ln1"):
        with pytest.raises(EggError, match="no matrix"):
            matrices_of(shape, wrong)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--rank", "0"], "--rank 0"),
        (["--rank", "17"], "1 to 16"),
        (["--rank", "two"], "--rank two"),
        (["--tensors", "norms"], "norms"),
        (["--tensors", "w_up"], "no votes"),
        (["--member-tokens", "0"], "--tokens 0: must be 1 or more"),
        (["--branches", "12"], "--branches 12"),
    ],
)
def test_what_cannot_be_asked(model, text, egg, tmp_path, flags, says):
    status, out, err = egg("adapt", model, "--data", text, "--out", tmp_path / "no", *flags)
    assert status == 2 and says in err and err.count("\n") == 1
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("flags", [("--data",), ("--reward", "egg.rewards:target_length", "--prompts")])
@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints", "adapter.safetensors"])
def test_a_link_that_leads_nowhere_is_not_followed(model, book, egg, tmp_path, name, flags):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(tmp_path / "mine")
    status, _, err = egg("adapt", model, *flags, book, "--out", tmp_path / "out")
    assert (status, err.count("\n")) == (2, 1) and f"holds {name}" in err
    assert not (tmp_path / "mine").exists()


def test_a_folder_with_an_adapter_is_not_written_over(adapted, model, text, egg):
    before = (adapted / "adapter.safetensors").read_bytes()
    for rank in ("2", "full"):
        flags = ["--rank", rank, *FLAGS]
        status, _, err = egg("adapt", model, "--data", text, "--out", adapted, *flags)
        assert status == 2 and err.count("\n") == 1
        assert f"--out {adapted} holds" in err and "--resume" not in err
    assert (adapted / "adapter.safetensors").read_bytes() == before


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_the_step_and_saves(model, text, egg, tmp_path, monkeypatch, number, status):
    step = AdapterEvolution.step

    def interrupted(self):
        if self.step_number == 2:
            signal.raise_signal(number)
        return step(self)

    monkeypatch.setattr(AdapterEvolution, "step", interrupted)
    out = tmp_path / "out"
    got, printed, _ = egg("adapt", model, "--data", text, "--tokens", 20 * 64, "--out", out, *FLAGS)
    assert got == status and "stopped at step 3, saved" in printed
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 3
    assert (out / "loss.png").stat().st_size > 1000
    read_adapter(out, *read_model(model)[:2])


@pytest.mark.parametrize("rank", [2, None])
def test_adapting_from_python_is_what_the_command_does(model, text, egg, tmp_path, rank):
    out = tmp_path / "command"
    spec = sorted(text.iterdir())[0]
    status, _, err = egg(
        "adapt", model, "--data", spec, "--rank", rank or "full", "--member-tokens", 4 * 64, "--out", out, *FLAGS
    )
    assert status == 0, err
    shape, weights, _ = read_model(model)
    corpus = data.open_corpus(str(spec))
    validation = corpus.split(corpus.validation_split or corpus.splits[0])
    network = Network(get_backend("numpy"), shape, weights)
    found = adapt(
        network,
        CorpusText(corpus.split(corpus.training_split)),
        validation,
        rank=rank,
        tokens=4 * 64,
        measurements=2,
        streams=8,
        seq_len=8,
    )
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [tokens for tokens, _ in found.curve] == [0, 128, 256]
    assert found.after == lines[-1]["training_text_bits_per_byte"]
    about = json.loads((out / "config.json").read_text())["adapter"]
    assert found.before == about["base_bits_per_byte"]
    if rank:
        there = read_adapter(out, shape, weights)
        np.testing.assert_array_equal(found.network.adapter.factors, there.factors)
        assert found.evolved == voted_parameters(there.shape) and found.network.weights is weights
    else:
        np.testing.assert_array_equal(found.network.weights, read_model(out)[1])
        assert found.evolved == voted_parameters(shape) and found.network.adapter is None


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"tokens": 8}, "a step takes 512"), ({"tokens": 512, "credit": "stations"}, "learn with credit wire")],
)
def test_adapting_that_cannot_be_is_refused(model, settings, reason):
    shape, weights, _ = read_model(model)
    text = np.zeros(100, np.uint8)
    with pytest.raises(EggError, match=reason):
        adapt(Network(get_backend("numpy"), shape, weights), CorpusText(text), text, rank=1, **settings)
