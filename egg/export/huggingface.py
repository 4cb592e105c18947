"""A model as a folder for the Hugging Face Hub: configuration, weights, a card filled from its run, and what
transformers loads it with.
"""

import re
from dataclasses import dataclass
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from egg.kernels import Adapter, Shape
from egg.model import checkpoint
from egg.model.adapter import ADAPTER, base_hash, file_bytes
from egg.model.digest import digest
from egg.model.evaluate import Evaluation
from egg.report.plots import LOSS
from egg.run.log import MEASURED, METRICS, VALIDATION, is_number, measurement, read_records
from egg.view.figures import count, duration

CARD = "README.md"
MODULE = "modeling_egg.py"
ADAPTER_KEY = "adapter_file"
"""In config.json: the name of the adapter that ``MODULE`` puts beside the weights."""
CURVE_ROWS = 12  # measurements in the card's table at the most
EVERYWHERE = ("stdlib", "minipile")
"""Texts that are the same on every machine; the exported config.json omits other paths."""


@dataclass(frozen=True)
class ModelQuality:
    """The measurements that the card reports."""

    text: str
    """Name of the text that was read, as "stdlib validation"."""
    evaluation: Evaluation
    words: int
    """Words of the text, as ``count_words`` counts them."""
    baselines: dict[str, tuple[float, str]]
    """Name -> bits per byte on the same bytes, and a description."""


@dataclass(frozen=True)
class About:
    """What the card says of a model that no run can tell."""

    license: str | None = None
    """As the Hub writes it, "apache-2.0"."""
    datasets: tuple[str, ...] = ()
    """Names on the Hub, OWNER/NAME, of the texts that the model was trained on; others have none."""
    notes: str | None = None
    """Markdown, whose headings are moved down a level."""


def hub_files(
    folder: Path,
    name: str,
    config: dict[str, Any],
    shape: Shape,
    weights: np.ndarray,
    measured: ModelQuality | None,
    about: About = About(),
    adapter: Adapter | None = None,
) -> dict[str, bytes]:
    """The folder's files by name.

    folder : the checkpoint; if it is in a run, the run's log and picture are used
    name : the model's name
    config : the content of config.json
    weights : (parameters,) int8
    """
    run = folder.parent.parent if folder.parent.name == checkpoint.CHECKPOINTS else None
    history = _history(run, folder) if run else []
    files = loadable(config, adapter is not None)
    files[checkpoint.MODEL] = save(shape.views(np.ascontiguousarray(weights)))
    if adapter is not None:
        files[ADAPTER] = file_bytes(adapter, base_hash(shape, weights))
    if run and history and (run / LOSS).is_file():
        files[LOSS] = (run / LOSS).read_bytes()
    card = _card(name, config, shape, weights, measured, about, adapter, history, LOSS in files)
    return files | {CARD: card.encode("utf-8", "replace")}


def copied_files(folder: Path, config: dict[str, Any]) -> dict[str, bytes]:
    """The files of a folder that has a card, by name: its own, and what transformers loads it with.

    config : the content of its config.json
    """
    adapted = config.get(ADAPTER_KEY) == ADAPTER and (folder / ADAPTER).is_file()
    names = (checkpoint.MODEL, LOSS, CARD, *([ADAPTER] if adapted else []))
    return loadable(config, adapted) | {n: (folder / n).read_bytes() for n in names if (folder / n).is_file()}


def loadable(config: dict[str, Any], adapted: bool) -> dict[str, bytes]:
    """config.json, and the other files that ``AutoModelForCausalLM`` and ``AutoTokenizer`` need beside the weights.

    adapted : whether the folder has an adapter
    """
    module = MODULE.removesuffix(".py")
    automatic = {
        "model_type": "egg",
        "architectures": ["EggForCausalLM"],
        "auto_map": {"AutoConfig": f"{module}.EggConfig", "AutoModelForCausalLM": f"{module}.EggForCausalLM"},
        "dtype": "float32",  # of the logits: transformers takes no int8
    }
    config = automatic | {key: value for key, value in _public(config).items() if key != ADAPTER_KEY} | automatic
    if adapted:
        config[ADAPTER_KEY] = ADAPTER
    tokenizer = {"tokenizer_class": "EggTokenizer", "auto_map": {"AutoTokenizer": [f"{module}.EggTokenizer", None]}}
    return {
        checkpoint.CONFIG: checkpoint.json_bytes(config),
        MODULE: (resources("egg.export") / MODULE).read_bytes(),
        "tokenizer_config.json": checkpoint.json_bytes(tokenizer),
        "generation_config.json": checkpoint.json_bytes({"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}),
    }


def _public(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without this machine's paths."""
    if isinstance(run := config.get("run"), dict):
        texts = ("data", "validation_data")
        kept = {key: value for key, value in run.items() if key not in texts or value is None or value in EVERYWHERE}
        config = config | {"run": kept}
    return config


def _history(run: Path, folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log up to a checkpoint."""
    path = run / METRICS
    if not path.is_file():
        return []
    step = checkpoint.step_of(folder)
    return [r for r in read_records(path) if r["step"] <= step and is_number(r.get("tokens"))]


def _card(name, config, shape, weights, measured, about: About, adapter, history, picture: bool) -> str:
    parts = [
        f"---\n{_metadata(name, config, measured, about)}\n---",
        f"# {name}",
        "A byte-level language model that never touches a floating-point number: int8 weights, int32 sums, a "
        "gated recurrent network whose only nonlinearities are clipping, a norm and gates. It was trained by "
        "evolution alone, with egg, without gradients.",
        _use(adapter is not None),
        re.sub(r"(?m)^(?=#+ )", "#", about.notes.strip()) if about.notes else "",
        _quality(measured, history),
        _data(config),
        _recipe(config, shape, weights, adapter, history),
        _curve(history, picture),
        "## Limits\n\nIt continues a text in the manner of its training text and can do nothing else: it follows no "
        "instructions, and nothing makes its output true or safe. The output need not be valid UTF-8.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _metadata(name, config, measured: ModelQuality | None, about: About) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    results = None
    if measured:
        figures = {
            "bits_per_byte": measured.evaluation.bits_per_byte,
            "byte_perplexity": measured.evaluation.byte_perplexity,
        }
        results = [
            EvalResult(
                task_type="text-generation",
                dataset_type=re.sub(r"(?a)\W+", "-", measured.text.rpartition(" ")[0]).strip("-") or "text",
                dataset_name=measured.text,
                metric_type=metric,
                metric_value=round(value, 6),
            )
            for metric, value in figures.items()
        ]
    return ModelCardData(
        library_name="egg",
        license=about.license,
        pipeline_tag="text-generation",
        tags=["egg", "byte-level", "int8", "integer-only", "evolution-strategies"],
        datasets=list(about.datasets) or None,
        model_name=name,
        eval_results=results,
    ).to_yaml()


def _use(adapted: bool) -> str:
    argument, flag = (', adapter="PATH"', " --adapter PATH") if adapted else ("", "")
    return (
        "## How to use it\n\nWith this folder, or the model's name on the Hub, as PATH:\n\n"
        "```python\nimport egg\n\n"
        f'model = egg.load("PATH"{argument})\n'
        'print(model.generate("The ", 200, temperature=0.8)[0].decode(errors="replace"))\n```\n\n'
        f"```\negg sample PATH{flag} --prompt 'The ' --temperature 0.8\negg eval PATH{flag} --data TEXT\n"
        + ("" if adapted else "egg compress FILE --model PATH -o OUT\n")
        + "```\n\nThe same bytes come out on every machine. With PyTorch and transformers, without egg:\n\n"
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'model = AutoModelForCausalLM.from_pretrained("PATH", trust_remote_code=True)\n'
        'tokenizer = AutoTokenizer.from_pretrained("PATH", trust_remote_code=True)\n'
        'read = tokenizer("The ", return_tensors="pt")\n'
        "written = model.generate(**read, max_new_tokens=200, do_sample=True, temperature=0.8)\n"
        "print(tokenizer.decode(written[0], skip_special_tokens=True))\n```\n\n"
        "The integer logits are egg's, all of them; transformers draws in floating point."
    )


def _quality(measured: ModelQuality | None, history) -> str:
    if measured is None:
        last = ""
        if found := [measured for record in history if (measured := measurement(record))]:
            key, bits = found[-1]
            text = "" if key == VALIDATION else f", of its {MEASURED[key]}"
            last = f" The last measurement of its run{text}: {bits:.4f} bits per byte."
        return f"## How good it is\n\nNot measured when this card was written.{last}"
    evaluation = measured.evaluation
    documents = f"{evaluation.documents:,} document{'s' * (evaluation.documents != 1)}"
    rows = [(evaluation.bits_per_byte, "**this model**", "exact: the mean of -log2 p")]
    rows += [(bits, name, what) for name, (bits, what) in measured.baselines.items()]
    return (
        f"## How good it is\n\n{measured.text}, {evaluation.bytes:,} bytes in {documents}, each read by itself:\n\n"
        + _rows(("", "bits per byte", ""), [(name, f"{bits:.4f}", what) for bits, name, what in sorted(rows)])
        + f"\n\nByte perplexity {evaluation.byte_perplexity:.4f}, word perplexity "
        f"{evaluation.word_perplexity(measured.words):.4g} ({measured.words:,} words), as "
        "lm-evaluation-harness defines them."
    )


def _data(config) -> str:
    corpus = _section(config, "corpus")
    sizes, documents = _section(corpus, "bytes"), _section(corpus, "documents")
    if not sizes:
        return ""
    pairs = [(name, size, documents.get(name, 0)) for name, size in sizes.items()]
    rows = [(name, f"{size:,}", f"{number:,}") for name, size, number in pairs if type(size) is type(number) is int]
    return f"## Data\n\n{corpus.get('name')}, fingerprint `{corpus.get('fingerprint')}`.\n\n" + _rows(
        ("split", "bytes", "documents"), rows
    )


def _recipe(config, shape: Shape, weights, adapter, history) -> str:
    settings = _section(config, "evolution")
    rows = [
        ("hidden size, layers", f"{shape.hidden_size}, {shape.num_layers}"),
        ("parameters", f"{shape.parameters:,}"),
        ("sha256 of shape and weights", f"`{digest(shape, weights).hex()}`"),
    ]
    if adapter is not None:
        rows.append(("adapter", f"rank {adapter.shape.rank}, {len(adapter.shape.matrices)} matrices"))
    if config.get("preset"):
        rows.append(("preset", config["preset"]))
    rows += [(key.replace("_", " "), value) for key, value in settings.items() if value is not None]
    if history:
        last = history[-1]
        tokens = last["tokens"]
        rows += [
            ("steps", f"{last['step']:,}"),
            ("tokens", f"{tokens:,} ({count(tokens)})"),
            ("time", duration(last["seconds"])),
        ]
    return (
        "## Recipe\n\nA token is one byte of text that is read, counted once for each reader: the unit of cost.\n\n"
        + _rows(("", ""), rows)
    )


def _curve(history, picture: bool) -> str:
    points = [record for record in history if measurement(record)]
    if not points:
        return ""
    chosen = np.unique(np.linspace(0, len(points) - 1, min(CURVE_ROWS, len(points))).round())
    rows = [
        (f"{points[i]['step']:,}", count(points[i]["tokens"]), f"{measurement(points[i])[1]:.4f}")
        for i in chosen.astype(int)
    ]
    image = f"![Loss]({LOSS})\n\n" if picture else ""
    columns = ("step", "tokens", f"{MEASURED[measurement(points[-1])[0]]}, bits per byte")
    return f"## Curve\n\n{image}{_rows(columns, rows)}"


def _rows(head: tuple, rows: list[tuple]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _section(config: dict[str, Any], key: str) -> dict[str, Any]:
    """A part of a configuration, or {}: another program may have written it."""
    part = config.get(key)
    return part if isinstance(part, dict) else {}
