"""``egg export``: a model as C, or as a folder for the Hugging Face Hub."""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from egg import data
from egg.cli.bar import bar
from egg.cli.corpus import BASELINES, measure_baselines, open_measured
from egg.cli.options import ColumnFlag, ComputeFlags, ForceFlag, ModelPath, one_of, parse, say
from egg.compute import Compute
from egg.errors import EggError, telling
from egg.export.c import c_source
from egg.export.huggingface import CARD, About, ModelQuality, hub_files
from egg.files import read_file, replace_file
from egg.model import checkpoint, hub
from egg.model.evaluate import count_words, evaluate
from egg.model.network import Network, read_model
from egg.report.plots import LOSS

SOURCE = "model.c"


@dataclass(frozen=True)
class ExportArguments:
    """Export a model to C or to the Hugging Face Hub.

    c: model.c, one C99 file with the weights in it: only integers, no heap, no library.
    huggingface: config.json, model.safetensors and README.md, a card filled from the run; egg reads such a folder. A
    folder that has a card already, such as pretrained, keeps it unless --data, --name, --license or --notes is given.

    For example:
      egg export pretrained --to c -o pretrained
      egg export runs/quickstart-20261121-101500 --to huggingface --license apache-2.0 -o quickstart
    """

    path: Annotated[ModelPath, Parameter(name="ckpt")]
    _: KW_ONLY
    to: Annotated[str, one_of("c", "huggingface")]
    """The format."""
    out: Annotated[str, Parameter(alias="-o", metavar="DIR")]
    """Folder to write; existing files of these names are replaced."""
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
    target = _target(arguments.out)
    path = hub.fetch(arguments.path)
    folder = checkpoint.find(path)
    shape, weights, config = read_model(folder)
    name = arguments.name or _name(arguments.path, path, folder)
    if arguments.to == "c":
        files = {SOURCE: c_source(shape, weights, name).encode()}
    elif (folder / CARD).is_file() and arguments.data is arguments.name is arguments.license is arguments.notes is None:
        names = (checkpoint.CONFIG, checkpoint.MODEL, LOSS, CARD)
        files = {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}
    else:
        about = About(arguments.license, _notes(arguments.notes))
        measured = _measure(arguments, shape, weights, config)
        files = hub_files(folder, name, config, shape, weights, measured, about)
    with telling(f"cannot write {target}"):
        target.mkdir(parents=True, exist_ok=True)
        for file, content in files.items():
            replace_file(target / file, content)
    for file, content in files.items():
        print(f"{target / file}: {len(content):,} bytes")
    return 0


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


def _measure(arguments: ExportArguments, shape, weights, config) -> ModelQuality | None:
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
    network = Network(arguments.compute.make(say), shape, weights)
    text = corpus.split(split)
    with bar(text.size, "measuring") as read:
        evaluation = evaluate(network, text, read=read)
    simple = {name: (bits, BASELINES[name]) for name, bits in measure_baselines(corpus, split, text).items()}
    return ModelQuality(corpus.title(split), evaluation, sum(count_words(text)), simple)
