"""``egg export``: a model as C, or as a folder for the Hugging Face Hub."""

import sys
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from egg import data
from egg.cli.bar import bar
from egg.cli.corpus import BASELINES, simple_models, text_of
from egg.cli.options import ColumnFlag, ComputeFlags, one_of, parse, say
from egg.compute import Compute
from egg.errors import EggError, telling
from egg.export.c import c_source
from egg.export.huggingface import ModelQuality, hub_files
from egg.files import replace_file
from egg.model import checkpoint, hub
from egg.model.evaluate import count_words, evaluate
from egg.model.network import Network, read_model

SOURCE = "model.c"


@dataclass(frozen=True)
class ExportArguments:
    """Take a model elsewhere.

    c: model.c, one C99 file with the weights in it: integers alone, no heap, no library.
    huggingface: config.json, model.safetensors and README.md, a card filled from the run; egg reads such a folder.

    For example:
      egg export runs/quickstart-20261121-101500 --to c -o quickstart
    """

    path: Annotated[str, Parameter(name="ckpt")]
    """A run (its newest checkpoint), RUN/best, a checkpoint, a folder with a model, or OWNER/NAME on the Hub."""
    _: KW_ONLY
    to: Annotated[str, one_of("c", "huggingface")]
    """What it becomes."""
    out: Annotated[str, Parameter(alias="-o", metavar="DIR")]
    """Folder to write; files of these names in it are replaced."""
    data: str | None = None
    """huggingface: text to measure for the card; none: what the run was trained with."""
    data_column: ColumnFlag = None
    compute: ComputeFlags = Compute()


def main(argv: list[str], prog: str) -> int:
    """Export as the arguments say; returns the exit status."""
    arguments = parse(ExportArguments, argv, prog=prog)
    target = _target(arguments.out)
    path = hub.fetch(arguments.path)
    folder = checkpoint.find(path)
    shape, weights, config = read_model(folder)
    name = _name(arguments.path, path, folder)
    if arguments.to == "c":
        files = {SOURCE: c_source(shape, weights, name).encode()}
    else:
        measured = _measure(arguments, shape, weights, config)
        files = hub_files(folder, name, config, shape, weights, measured)
    with telling(f"cannot write {target}"):
        target.mkdir(parents=True, exist_ok=True)
        for file, content in files.items():
            replace_file(target / file, content)
    for file, content in files.items():
        print(f"{target / file}: {len(content):,} bytes")
    return 0


def _target(path: str) -> Path:
    """Where to write; refused before the work, and where something else is."""
    target = Path(path)
    if target.exists() and not target.is_dir():
        raise EggError(f"--out {path} is a file: give a folder")
    for theirs in (checkpoint.STATE, checkpoint.CHECKPOINTS):
        if (target / theirs).exists():
            raise EggError(f"--out {path} is a run's, it holds {theirs}: give another folder")
    return target


def _name(asked: str, path: str | Path, folder: Path) -> str:
    """What a model is called: its name on the Hub, or its run's and its step, or its folder's."""
    if path != asked:
        return asked
    folder = folder.resolve()
    if folder.parent.name == checkpoint.CHECKPOINTS:
        return f"{folder.parent.parent.name}-{folder.name}"
    return folder.name


def _measure(arguments: ExportArguments, shape, weights, config) -> ModelQuality | None:
    """How good the model is on its validation text; None, with a notice, where there is none to be had."""
    spec, column = text_of(config, arguments.data, arguments.data_column)
    if not spec:
        say(f"{arguments.path} does not say what it was trained on: not measured, give --data")
        return None
    try:
        corpus = data.open_corpus(spec, column=column, progress=sys.stderr.isatty(), notify=say)
    except data.DataError as error:
        if arguments.data is not None:
            raise
        say(f"not measured, the text is not to be had: {error}")
        return None
    split = corpus.validation_split or corpus.splits[0]
    if not corpus.bytes(split):
        say(f"not measured: {corpus.name} has no byte in its split {split}")
        return None
    network = Network(arguments.compute.make(say), shape, weights)
    text = corpus.split(split)
    with bar(text.size, "measuring") as read:
        evaluation = evaluate(network, text, read=read)
    simple = {name: (bits, BASELINES[name]) for name, bits in simple_models(corpus, split, text).items()}
    return ModelQuality(f"{corpus.name} {split}", evaluation, sum(count_words(text)), simple)
