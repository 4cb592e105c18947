"""An egg language model for transformers: integers alone, equal to egg's docs/arithmetic.md to the last bit.

`egg export --to huggingface` copies this file into the folder; it needs PyTorch and transformers, and not egg.
"""

import math
import os
from dataclasses import dataclass

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel, PreTrainedTokenizer
from transformers.utils import ModelOutput, cached_file

VOCABULARY = 256
NUL = 0  # begins a document: it resets the state
NATS = math.log(2) / 16  # in a sixteenth of a bit
MATRICES = {"gru": ("w_f", "u_f", "w_h", "u_h"), "mlp": ("w_up", "w_down")}


class EggConfig(PretrainedConfig):
    """The sizes of a model; ``model`` holds them as egg writes them."""

    model_type = "egg"

    def __init__(self, model=None, adapter_file=None, **kwargs):
        model = model or {"hidden_size": 16, "num_layers": 1}
        self.model, self.adapter_file = model, adapter_file
        sizes = {"hidden_size": model["hidden_size"], "num_hidden_layers": model["num_layers"]}
        super().__init__(**kwargs | sizes | {"vocab_size": VOCABULARY})


@dataclass
class EggOutput(ModelOutput):
    """What the model says of the byte after each that it reads."""

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    """(B, T, 256) float32: ``integer_logits`` in nats, whose softmax is the model's probability."""
    integer_logits: torch.Tensor | None = None
    """(B, T, 256) int8 in sixteenths of a bit: those of egg."""
    state: torch.Tensor | None = None
    """(B, L, D) int8 after the last byte; ``forward(..., state=state)`` continues from it."""


class EggForCausalLM(PreTrainedModel, GenerationMixin):
    """A byte-level recurrent model with int8 weights."""

    config_class = EggConfig
    main_input_name = "input_ids"
    _is_stateful = True  # the state cannot be taken back to an earlier byte

    def __init__(self, config):
        super().__init__(config)
        size, layers = config.hidden_size, config.num_hidden_layers
        self.embedding = _tensors(weight=(VOCABULARY, size))
        self.layers = nn.ModuleList(nn.Module() for _ in range(layers))
        for layer in self.layers:
            layer.ln1, layer.ln2 = _tensors(weight=(size,)), _tensors(weight=(size,))
            square, row = (size, size), (size,)
            layer.gru = _tensors(w_f=square, u_f=square, b_f=row, w_h=square, u_h=square, b_h=row)
            layer.mlp = _tensors(w_up=(4 * size, size), w_down=(size, 4 * size))
        self.ln_out = _tensors(weight=(size,))
        self.head = _tensors(weight=(VOCABULARY, size))
        self.factors, self.about_factors = {}, None  # of an adapter: NAME.A (R, K) and NAME.B (N, R), its metadata
        self.post_init()

    @property
    def dtype(self):
        """Of the logits; weights are int8."""
        return torch.float32

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """As in transformers; the folder's adapter is read too, if its configuration names one."""
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if name := model.config.adapter_file:
            keys = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")
            path = cached_file(pretrained_model_name_or_path, name, **{k: kwargs[k] for k in keys if k in kwargs})
            with safe_open(path, "pt") as file:
                model.factors = {name: file.get_tensor(name) for name in file.keys()}
                model.about_factors = file.metadata()
        return loaded

    def save_pretrained(self, save_directory, *args, **kwargs):
        """As in transformers, with the adapter."""
        super().save_pretrained(save_directory, *args, **kwargs)
        if self.factors:
            save_file(self.factors, os.path.join(save_directory, self.config.adapter_file), self.about_factors)

    def _init_weights(self, module):
        pass  # all weights come from a file

    def forward(self, input_ids, attention_mask=None, state=None, labels=None, **kwargs):
        """Read bytes.

        input_ids : (B, T), bytes; a NUL begins a document, and a text should begin with one
        attention_mask : (B, T or more); where it is 0, at the beginning, a NUL is read instead
        state : (B, L, D) int8, of an earlier output; None: zero
        labels : (B, T): ``loss`` is the mean surprise of each byte but the first, in nats; -100 is left out
        """
        if attention_mask is not None:
            input_ids = input_ids.masked_fill(attention_mask[:, -input_ids.shape[1] :] == 0, NUL)
        resets = (input_ids == NUL)[..., None]
        if state is None:
            state = torch.zeros(len(input_ids), len(self.layers), self.config.hidden_size, device=input_ids.device)
        x, states = self.embedding.weight[input_ids].int(), []
        for number, layer in enumerate(self.layers):
            x, after = self._read_layer(number, layer, x, state[:, number].int(), resets)
            states.append(after.to(torch.int8))
        integers = self._matrix("head.weight", self.head.weight)(_norm(x, self.ln_out.weight))
        logits, loss = integers * NATS, None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return EggOutput(loss, logits, integers.to(torch.int8), torch.stack(states, 1))

    def _read_layer(self, number, layer, x, h, resets):
        gru, mlp = (
            {n: self._matrix(f"layers.{number}.{part}.{n}", getattr(getattr(layer, part), n)) for n in names}
            for part, names in MATRICES.items()
        )
        u = _norm(x, layer.ln1.weight)
        renewals, candidates, states = gru["w_f"](u), gru["w_h"](u), []
        for t in range(x.shape[1]):
            h = h.masked_fill(resets[:, t], 0)
            f = _clip(renewals[:, t] + gru["u_f"](h) + layer.gru.b_f)
            past = ((f + 127) * h) >> 8
            c = _clip(candidates[:, t] + gru["u_h"](past) + layer.gru.b_h)
            h = h + (((f + 127) * (c - h)) >> 8)
            states.append(h)
        x = _clip(x + torch.stack(states, 1))
        x = _clip(x + mlp["w_down"](mlp["w_up"](_norm(x, layer.ln2.weight))))
        return x, h

    def _matrix(self, name, weight):
        """The product with a matrix (N, K), and its adapter's factors if there are some: (..., K) -> (..., N) int32."""
        half = (weight.shape[1].bit_length() - 1) // 2
        shift, lift = 4 + half, half - 2
        weight, a, b = (
            m if m is None else m.to(weight.device, torch.int32)
            for m in (weight, self.factors.get(name + ".A"), self.factors.get(name + ".B"))
        )

        def product(x):
            total = _multiply(x, weight)
            if a is not None:
                total = total + (_multiply(_clip(_multiply(x, a) >> shift), b) << lift)
            return _clip(total >> shift)

        return product

    def prepare_inputs_for_generation(self, input_ids, state=None, attention_mask=None, **kwargs):
        """The whole prompt, and then one byte after another."""
        if state is None:
            return {"input_ids": input_ids, "attention_mask": attention_mask}
        return {"input_ids": input_ids[:, -1:], "state": state}

    def _update_model_kwargs_for_generation(self, outputs, model_kwargs, *args, **kwargs):
        model_kwargs = super()._update_model_kwargs_for_generation(outputs, model_kwargs, *args, **kwargs)
        return model_kwargs | {"state": outputs.state}

    @classmethod
    def _supports_default_dynamic_cache(cls):
        return False

    def generate(self, *args, **kwargs):
        """As in transformers; it draws with floating point, so egg's own samples are other ones."""
        config = kwargs.get("generation_config") or self.generation_config
        if (kwargs.get("num_beams") or config.num_beams or 1) > 1:
            raise ValueError("an egg model has no beam search: leave out num_beams")
        return super().generate(*args, **kwargs)


class EggTokenizer(PreTrainedTokenizer):
    """A text's UTF-8, a token a byte, after the NUL that begins a document; padding is NULs on the left."""

    model_input_names = ["input_ids", "attention_mask"]
    padding_side = "left"

    def __init__(self, **kwargs):
        special = {"bos_token": "\0", "eos_token": "\0", "pad_token": "\0"}
        super().__init__(**kwargs | special)

    @property
    def vocab_size(self):
        """The number of bytes."""
        return VOCABULARY

    def get_vocab(self):
        """Each byte's character -> the byte."""
        return {chr(byte): byte for byte in range(VOCABULARY)}

    def build_inputs_with_special_tokens(self, token_ids_0, token_ids_1=None):
        """A NUL before each document."""
        return [NUL, *token_ids_0] + ([] if token_ids_1 is None else [NUL, *token_ids_1])

    def convert_tokens_to_string(self, tokens):
        """The text, with the replacement character for bytes that are no UTF-8."""
        return bytes(map(ord, tokens)).decode("utf-8", "replace")

    def save_vocabulary(self, save_directory, filename_prefix=None):
        """Nothing: there is no file."""
        return ()

    def _tokenize(self, text, **kwargs):
        return [chr(byte) for byte in text.encode("utf-8", "surrogatepass")]

    def _convert_token_to_id(self, token):
        return ord(token)

    def _convert_id_to_token(self, index):
        return chr(index)


def _tensors(**shapes):
    module = nn.Module()
    for name, shape in shapes.items():
        module.register_parameter(name, nn.Parameter(torch.zeros(shape, dtype=torch.int8), requires_grad=False))
    return module


def _clip(v):
    return v.clamp(-127, 127)


def _multiply(x, matrix):
    """x (..., K) int32 times a matrix (N, K) int32: (..., N) int32, below 2**26."""
    if x.device.type == "cpu":
        return x @ matrix.T
    return (x.double() @ matrix.double().T).int()  # exact below 2**53; other devices multiply no int32


def _norm(x, gain):
    mean = (x.abs().sum(-1, keepdim=True, dtype=torch.int32) // x.shape[-1]).clamp(min=1)
    return _clip(torch.div(x * gain.int(), mean, rounding_mode="floor"))
