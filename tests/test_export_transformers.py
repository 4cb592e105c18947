"""The PyTorch module of an exported folder: egg's integers, and what transformers expects of a model."""

import sys

import numpy as np
import pytest

import egg as package
from egg.kernels import Adapter, Shape, get_backend
from egg.model.adapter import adapter_shape
from egg.model.network import Network

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

NUMPY = get_backend("numpy")
TEXTS = ["def naïve(x):\n    return €\n", "x", "", "two\0documents", "".join(map(chr, range(1, 300)))]


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def random_model(size=16, layers=2, kind="normal", adapter=None) -> Network:
    shape, rng = Shape(size, layers), np.random.default_rng(size + layers)
    if kind == "extreme":
        weights = rng.choice([-127, 127], shape.parameters)
    else:
        weights = np.clip(rng.standard_normal(shape.parameters) * 24, -127, 127)
    network = Network(NUMPY, shape, weights.astype(np.int8))
    if adapter is None:
        return network
    layout = adapter_shape(shape, *adapter)
    return network.with_adapter(Adapter(layout, rng.integers(-127, 128, layout.parameters).astype(np.int8)))


@pytest.fixture
def exported(egg, tmp_path):
    """Exports a network, and loads the folder with transformers: returns the model and the tokenizer."""

    def export(network: Network):
        network.save(tmp_path / "model")
        more = ["--adapter", tmp_path / "model"] if network.adapter else []
        status, _, err = egg("export", tmp_path / "model", "--to", "huggingface", "-o", tmp_path / "exported", *more)
        assert status == 0, err
        options = {"trust_remote_code": True}
        return (
            transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "exported", **options),
            transformers.AutoTokenizer.from_pretrained(tmp_path / "exported", **options),
        )

    return export


@pytest.mark.parametrize(
    "network",
    [
        random_model(),
        random_model(16, 1, "extreme"),
        random_model(64, 1),
        random_model(64, 2, "extreme"),
        random_model(16, 2, "normal", (16, "gru,mlp,head")),
        random_model(64, 2, "extreme", (2, "w_down,u_h,head")),
    ],
)
def test_logits_are_those_of_egg(exported, network):
    model, tokenizer = exported(network)
    for text in TEXTS:
        found = model(**tokenizer(text, return_tensors="pt"))
        expected = network.logits(text)
        assert found.integer_logits.dtype == torch.int8
        np.testing.assert_array_equal(found.integer_logits[0].numpy(), expected)
        bits = found.logits[0].softmax(-1)[:-1].log2().numpy()
        tokens = np.frombuffer(text.encode(), np.uint8)
        # The float logits are the integers in nats.
        np.testing.assert_allclose(
            bits, expected[:-1] / 16 - np.log2(np.exp2(expected[:-1] / 16).sum(-1))[:, None], atol=1e-4
        )
        assert len(bits) == len(tokens)


def test_other_devices_multiply_in_exact_float64(exported):
    """As they have no product of integers: the same code, on the CPU."""
    model, _ = exported(random_model())
    multiply = sys.modules[type(model).__module__]._multiply

    class Elsewhere(torch.Tensor):
        device = torch.device("meta")

    x, matrix = (torch.full(size, 127, dtype=torch.int32) for size in ((3, 4096), (5, 4096)))
    x[1], matrix[2, ::2], x[2, 0] = -127, -126, 126
    found = multiply(x.as_subclass(Elsewhere), matrix.as_subclass(Elsewhere)).as_subclass(torch.Tensor)
    assert found.dtype == torch.int32 and torch.equal(found, multiply(x, matrix))


def test_texts_side_by_side_and_in_pieces(exported):
    network = random_model()
    model, tokenizer = exported(network)
    read = tokenizer(TEXTS, return_tensors="pt", padding=True)
    assert read.input_ids.shape[1] == 1 + max(len(text.encode()) for text in TEXTS)
    whole = model(**read)
    for text, found in zip(TEXTS, whole.integer_logits, strict=True):
        expected = network.logits(text)
        np.testing.assert_array_equal(found[-len(expected) :].numpy(), expected)
    first = model(read.input_ids[:, :5], read.attention_mask[:, :5])
    rest = model(read.input_ids[:, 5:], read.attention_mask, state=first.state)
    assert torch.equal(rest.integer_logits, whole.integer_logits[:, 5:]) and torch.equal(rest.state, whole.state)
    np.testing.assert_array_equal(whole.state[0].numpy(), network.hidden_states(TEXTS[0])[-1])
    masked = read.input_ids.masked_fill(read.attention_mask == 0, 7)  # another program's padding
    assert torch.equal(model(masked, read.attention_mask).state, whole.state)


def test_the_loss_is_the_mean_surprise(exported):
    network = random_model()
    model, tokenizer = exported(network)
    read = tokenizer("some text", return_tensors="pt")
    loss = model(**read, labels=read.input_ids).loss.item()
    assert loss / np.log(2) == pytest.approx(network.bits_per_byte("some text"), rel=1e-5)


def test_generate_writes_what_egg_writes(exported):
    network = random_model(16, 2)
    model, tokenizer = exported(network)
    prompts = ["def ", "a longer prompt", ""]
    read = tokenizer(prompts, return_tensors="pt", padding=True)
    written = model.generate(**read, max_new_tokens=20, do_sample=False)[:, read.input_ids.shape[1] :]
    for prompt, found in zip(prompts, written, strict=True):
        (expected,) = network.generate(prompt, 20, temperature=0)
        assert bytes(found.tolist()).partition(b"\0")[0] == expected
    drawn = model.generate(**read, max_new_tokens=5, do_sample=True, top_p=0.9, num_return_sequences=2)
    assert drawn.shape == (6, read.input_ids.shape[1] + 5)
    with pytest.raises(ValueError, match="no beam search"):
        model.generate(**read, num_beams=2)


def test_the_tokenizer_gives_texts_back_and_what_is_saved_is_the_same(exported, tmp_path):
    network = random_model(16, 2, "normal", (2, "gru,head"))
    model, tokenizer = exported(network)
    for text in TEXTS:
        ids = tokenizer(text).input_ids
        assert ids == [0, *text.encode()]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text.replace("\0", "")
    assert tokenizer.decode([0xC3, 0x28]) == "\ufffd("
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    options = {"trust_remote_code": True}
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved", **options)
    assert package.load(tmp_path / "saved", "numpy", adapter=tmp_path / "saved") == network
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved", **options)
    found = again(**tokenizer(TEXTS[0], return_tensors="pt")).integer_logits[0].numpy()
    np.testing.assert_array_equal(found, network.logits(TEXTS[0]))
