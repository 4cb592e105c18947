"""``egg data``: prepare text ahead of training, describe it, empty the cache."""

import shlex
import sys
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

from egg import data
from egg.cli.options import ForceFlag, ShareFlag, parse, say
from egg.config import RunConfig
from egg.errors import EggError
from egg.view.figures import count

COLUMNS = ("", "documents", "bytes", "NULs removed", "unigram", "gzip -9")


@dataclass(frozen=True)
class DataArguments:
    """Prepare text for training, describe it, or remove it from the cache.

    prepare NAME|PATH: fetch and convert a text now, so that training begins at once. Started again after an
    interruption, it continues.

    info: list the texts in the cache; with NAME|PATH show a text's documents, bytes, NULs removed, entropy of single
    bytes, and gzip -9 of a sample.

    clear: remove all texts from the cache, or one; downloads of the library datasets stay in its own cache.

    The cache is the folder EGG_CACHE, or the platform's cache folder.

    For example:
      egg data prepare minipile
      egg data prepare "notes/**/*.md"
      egg data info stdlib
      egg data clear minipile
    """

    action: Literal["prepare", "info", "clear"]
    """What to do."""
    what: Annotated[str | None, Parameter(name="name")] = None
    """Text, as for --data of egg train: stdlib, minipile, a path, a pattern, owner/name or owner/name:config on the
    Hugging Face Hub, or a mixture such as stdlib:2,notes.txt:1; for info and clear also the name of a folder in the
    cache."""
    _: KW_ONLY
    data_column: str = "text"
    """Column of tables, or key of JSONL, that holds the text; with prepare."""
    validation_share: ShareFlag = RunConfig.validation_share
    force_text: ForceFlag = False
    max_text: int = data.MAX_TEXT
    """Largest text to prepare, in bytes after decompression; with prepare."""


def main(argv: list[str], prog: str) -> int:
    """Do what the arguments say; returns the exit status."""
    arguments = parse(DataArguments, argv, prog=prog)
    if arguments.what == "":
        raise EggError(f"{arguments.action}: the name is empty, give stdlib, minipile or a path")
    act = {"prepare": _prepare, "info": _info, "clear": _clear}[arguments.action]
    act(arguments, prog)
    return 0


def _prepare(arguments: DataArguments, prog: str) -> None:
    what, column = arguments.what, arguments.data_column
    if what is None:
        raise EggError(f"prepare needs a text: give stdlib, minipile or a path ({prog} --help)")
    if arguments.max_text < 1:
        raise EggError(f"--max-text {arguments.max_text}: must be 1 or more")
    corpus = data.open_corpus(
        what,
        column=column,
        validation_share=arguments.validation_share,
        force_text=arguments.force_text,
        progress=sys.stderr.isatty(),
        notify=say,
        max_text=arguments.max_text,
    )
    _print(corpus)


def _info(arguments: DataArguments, prog: str) -> None:
    what = arguments.what
    if what is None:
        _list(prog)
        return
    try:
        corpora = data.list_corpora(name=what)
    except data.DataError as error:
        raise EggError(f"{error}; {prog} prepare {shlex.quote(what)} adds it") from None
    if not corpora:
        raise EggError(f"{what} is not complete: {prog} prepare {shlex.quote(what)} continues it")
    for corpus in corpora:
        _print(corpus)


def _list(prog: str) -> None:
    """Print a line for each text in the cache."""
    corpora = data.list_corpora()
    if not corpora:
        print(f"the cache is empty; {prog} prepare NAME|PATH adds a text")
    for corpus in corpora:
        documents = sum(map(corpus.documents, corpus.splits))
        size = sum(map(corpus.bytes, corpus.splits))
        validation = corpus.validation_split
        held_out = f", {count(corpus.bytes(validation))} for validation" if validation else ""
        held = f"{documents:,} document{'s' * (documents != 1)}"
        print(f"{corpus.folder.name}: {count(size)} bytes{held_out}, in {held}, {corpus.spec}")
    if corpora:
        print(f"in {corpora[0].folder.parent}; {prog} info NAME describes one")


def _print(corpus: data.Corpus) -> None:
    """Print a corpus's figures, a line for each split."""
    description = data.describe(corpus)
    rows = [COLUMNS]
    for split in description.splits:
        rows.append(
            (
                split.name,
                f"{split.documents:,}",
                f"{split.bytes:,}",
                f"{split.nuls_removed:,}",
                f"{split.unigram_bits:.4f}",
                f"{split.gzip_bits:.4f}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print(f"{description.spec}: {description.folder}")
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *cells[1:]]))
    sample = max(split.sample_bytes for split in description.splits)
    print(f"in bits per byte: entropy of single bytes, and gzip -9 of up to {count(sample)} bytes")


def _clear(arguments: DataArguments, prog: str) -> None:
    cleared = data.clear(name=arguments.what)
    for corpus in cleared:
        print(f"removed {corpus.name}, {count(corpus.size)} bytes")
    if len(cleared) != 1:
        freed = sum(corpus.size for corpus in cleared)
        print(f"{count(freed)} bytes freed" if cleared else "the cache is empty, nothing to remove")
