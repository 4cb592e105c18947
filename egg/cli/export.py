"""``egg export``: a model as C, as a folder for the Hugging Face Hub, or as ONNX."""

import re
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from egg import data
from egg.cli.bar import bar
from egg.cli.corpus import BASELINES, measure_baselines, open_measured
from egg.cli.options import ColumnFlag, ComputeFlags, ForceFlag, ModelPath, one_of, parse, say
from egg.compute import Compute
from egg.data.minipile import MINIPILE, is_hub_id
from egg.data.mixture import parse_mixture
from egg.errors import EggError, telling
from egg.export.c import c_source
from egg.export.huggingface import CARD, About, ModelQuality, copied_files, hub_files
from egg.export.onnx import onnx_bytes
from egg.files import read_file, replace_file
from egg.model import checkpoint, hub
from egg.model.adapter import read_adapter
from egg.model.evaluate import count_words, evaluate
from egg.model.network import Network, read_model

SOURCE, GRAPH = "model.c", "model.onnx"


@dataclass(frozen=True)
class ExportArguments:
    """Export a model to C, to the Hugging Face Hub, or to ONNX.

    c: model.c, one C99 file with the weights in it: only integers, no heap, no library.
    huggingface: config.json, model.safetensors and README.md, a card filled from the run, and a module with which
    AutoModelForCausalLM loads the folder (trust_remote_code=True); egg reads such a folder. A folder that has a card
    already, such as pretrained, keeps it unless --data, --name, --license, --notes or --adapter is given.
    onnx: model.onnx, of integer operators alone; needs the package onnx.

    For example:
      egg export pretrained --to c -o pretrained
      egg export runs/quickstart-20261121-101500 --to huggingface --license apache-2.0 -o quickstart
    """

    path: Annotated[ModelPath, Parameter(name="ckpt")]
    _: KW_ONLY
    to: Annotated[str, one_of("c", "huggingface", "onnx")]
    """The format."""
    out: Annotated[str, Parameter(alias="-o", metavar="DIR")]
    """Folder to write; existing files of these names are replaced."""
    adapter: Annotated[str | None, Parameter(metavar="FILE")] = None
    """Adapter to export with the model: adapter.safetensors of egg adapt, or its folder."""
    data: str | None = None
    """huggingface: text to measure on, for the card; none: the text that the run was trained on."""
    data_column: ColumnFlag = None
    force_text: ForceFlag = False
    name: str | None = None
    """The model's name in what is written; none: the run's with the step, or the folder's."""
    license: str | None = None
    """huggingface: licence of the weights, for the card, such as apache-2.0."""
    notes: Annotated[str | None, Parameter(metavar="FILE.md")] = None
    """huggingface: Markdown to put into the card, such as where the text comes from; its headings become smaller."""
    compute: ComputeFlags = Compute()


def main(argv: list[str], prog: str) -> int:
    """Export as the arguments say; returns the exit status."""
    arguments = parse(ExportArguments, argv, prog=prog)
    if arguments.license is not None and not re.fullmatch(r"[a-z0-9]+([.+-]+[a-z0-9]+|[+]+)*", arguments.license):
        raise EggError(
            f"--license {arguments.license}: give the Hub's identifier, in small letters, such as apache-2.0, mit, "
            "cc-by-4.0 or other"
        )
    target = _target(arguments.out)
    path = hub.fetch(arguments.path)
    folder = checkpoint.find(path)
    shape, weights, config = read_model(folder)
    adapter = read_adapter(arguments.adapter, shape, weights) if arguments.adapter else None
    name = arguments.name or _name(arguments.path, path, folder)
    given = (arguments.data, arguments.name, arguments.license, arguments.notes, adapter)
    if arguments.to == "c":
        files = {SOURCE: c_source(shape, weights, name, adapter).encode()}
    elif arguments.to == "onnx":
        files = {GRAPH: onnx_bytes(shape, weights, name, adapter)}
    elif (folder / CARD).is_file() and all(value is None for value in given):
        files = copied_files(folder, config)
    else:
        if not arguments.license:
            say("the card names no licence: give --license, such as apache-2.0")
        about = About(arguments.license, _datasets(config), _notes(arguments.notes))
        measured = _measure(arguments, shape, weights, config, adapter)
        files = hub_files(folder, name, config, shape, weights, measured, about, adapter)
    with telling(f"cannot write {target}"):
        target.mkdir(parents=True, exist_ok=True)
        for file, content in files.items():
            replace_file(target / file, content)
    for file, content in files.items():
        print(f"{target / file}: {len(content):,} bytes")
    return 0


def _datasets(config: dict) -> tuple[str, ...]:
    """The names on the Hub of the texts that a model was trained on."""
    run = config.get("run")
    spec = run.get("data") if isinstance(run, dict) else None
    if not isinstance(spec, str):
        return ()
    try:
        parts = [part for part, _ in parse_mixture(spec) or [(spec, 1)]]
    except data.DataError:
        return ()
    return tuple(MINIPILE if part == "minipile" else part for part in parts if part == "minipile" or is_hub_id(part))


def _notes(path: str | None) -> str | None:
    if path is None:
        return None
    with telling(f"--notes {path}", "; give a file of Markdown"):
        return read_file(path).decode("utf-8", "replace")


def _target(path: str) -> Path:
    """The folder to write, checked before the work: it may hold no run."""
    target = Path(path)
    if target.exists() and not target.is_dir():
        raise EggError(f"--out {path} is a file: give a folder")
    for name in (checkpoint.STATE, checkpoint.CHECKPOINTS):
        if (target / name).exists():
            raise EggError(f"--out {path} belongs to a run, it holds {name}: give another folder")
    return target


def _name(given: str, path: str | Path, folder: Path) -> str:
    """A model's name: on the Hub, or that of its run with the step, or that of its folder."""
    if path != given:
        return given
    folder = folder.resolve()
    if folder.parent.name == checkpoint.CHECKPOINTS:
        return f"{folder.parent.parent.name}-{folder.name}"
    return folder.name


def _measure(arguments: ExportArguments, shape, weights, config, adapter) -> ModelQuality | None:
    """The model's quality on its validation text; None, with a notice, if that is not available."""
    try:
        opened = open_measured(config, arguments.data, arguments.data_column, force_text=arguments.force_text)
    except data.DataError as error:
        if arguments.data is not None:
            raise
        say(f"not measured, the text is not available: {error}")
        return None
    if opened is None:
        say(f"{arguments.path} names no text to measure on, and is not measured: give --data")
        return None
    corpus, split = opened
    network = Network(arguments.compute.make(say), shape, weights, adapter)
    text = corpus.split(split)
    with bar(text.size, "measuring") as read:
        evaluation = evaluate(network, text, read=read)
    simple = {name: (bits, BASELINES[name]) for name, bits in measure_baselines(corpus, split, text).items()}
    return ModelQuality(corpus.title(split), evaluation, sum(count_words(text)), simple)
