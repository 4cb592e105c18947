"""``egg eval``: exact bits per byte of a model on a text."""

import json
import math
from dataclasses import KW_ONLY, dataclass
from typing import Annotated

from cyclopts import Parameter

from egg.cli.bar import bar
from egg.cli.corpus import BASELINES, config_beside, learned_from, measure_baselines, open_measured
from egg.cli.options import (
    NONE,
    ColumnFlag,
    ComputeFlags,
    ForceFlag,
    JsonFlag,
    ModelPath,
    one_of,
    parse,
    say,
    target_file,
)
from egg.compute import Compute
from egg.data import SPLITS
from egg.errors import EggError, telling
from egg.files import replace_file
from egg.model.adapter import read_adapter
from egg.model.evaluate import DocumentScore, Evaluation, count_words, evaluate_parts
from egg.model.network import Network, read_model


@dataclass(frozen=True)
class EvalArguments:
    """Measure a model: exact bits per byte, each document read by itself.

    Perplexities are defined as in lm-evaluation-harness.

    For example:
      egg eval runs/quickstart-20261121-101500 --split test --json
      egg eval pretrained --data notes.txt
    """

    path: ModelPath
    _: KW_ONLY
    adapter: Annotated[str | None, Parameter(metavar="FILE")] = None
    """Adapter to use with the model: adapter.safetensors of egg adapt, or its folder."""
    data: str | None = None
    """Text to measure on, as for training; none: the text that the run was trained on."""
    data_column: ColumnFlag = None
    force_text: ForceFlag = False
    split: Annotated[str | None, one_of(*SPLITS, "all", NONE)] = None
    """Split of the text; none: validation, or all of an undivided text; all: all of a text without splits, even if the
    model was trained on it."""
    validation_share: float | None = None
    """Share of a text without validation split that is held out, and measured by default; none: as in training if it is
    the model's own text; any other is measured whole."""
    baselines: bool = False
    """Measure baselines too: simpler models fitted on the text's training split, and gzip, xz and zstd."""
    per_document: Annotated[str | None, Parameter(metavar="FILE.jsonl")] = None
    """File to write, with one line of JSON for each document."""
    json: JsonFlag = False
    compute: ComputeFlags = Compute()


def main(argv: list[str], prog: str) -> int:
    """Measure as the arguments say; returns the exit status."""
    arguments = parse(EvalArguments, argv, prog=prog)
    shape, weights, config = read_model(arguments.path)
    adapter = read_adapter(arguments.adapter, shape, weights) if arguments.adapter else None
    if arguments.adapter and arguments.data is not None:
        beside = config_beside(arguments.adapter)
        config = beside if learned_from(beside, arguments.data) else config
    what = arguments.data, arguments.data_column, arguments.split
    if (
        opened := open_measured(config, *what, share=arguments.validation_share, force_text=arguments.force_text)
    ) is None:
        raise EggError(f"{arguments.path} names no text to measure on: give --data, such as --data stdlib")
    corpus, split = opened
    text = corpus.split(split)
    network = Network(arguments.compute.make(say, work=text.size * shape.parameters), shape, weights, adapter)
    words = list(count_words(text))
    documents: list[DocumentScore] = []
    file = arguments.per_document
    target = None if file is None else target_file(file, "--per-document")
    with bar(text.size, "reading") as read:
        scored = documents.append if target else None
        parts = corpus.validation_parts if split == corpus.validation_split else {}
        result, of_parts = evaluate_parts(network, text, parts, read=read, scored=scored)
    if target:
        lines = [_line(d, w) for d, w in zip(documents, words, strict=True)]
        with telling(f"cannot write {target}"):
            replace_file(target, "".join(f"{json.dumps(line)}\n" for line in lines).encode(), follow=True)
        say(f"{target}: {len(lines):,} line{'s' * (len(lines) != 1)}, one per document")
    baselines = measure_baselines(corpus, split, text) if arguments.baselines else {}
    print(
        _json(result, sum(words), network.backend.name, of_parts, baselines)
        if arguments.json
        else _table(corpus.title(split), result, sum(words), of_parts, baselines)
    )
    return 0


def _json(result: Evaluation, words: int, backend: str, parts: dict[str, float], baselines: dict[str, float]) -> str:
    figures = {
        "bits_per_byte": result.bits_per_byte,
        "byte_perplexity": result.byte_perplexity,
        "word_perplexity": _finite(result.word_perplexity(words)),
        "integer_bits_per_byte": result.integer_bits_per_byte,
        "documents": result.documents,
        "bytes": result.bytes,
        "words": words,
        "seconds": round(result.seconds, 4),
        "backend": backend,
    }
    more = {"parts": parts, "baselines": baselines}
    return json.dumps(figures | {name: value for name, value in more.items() if value})


def _table(name: str, result: Evaluation, words: int, parts: dict[str, float], baselines: dict[str, float]) -> str:
    documents = f"{result.documents:,} document{'s' * (result.documents != 1)}"
    lines = [
        f"{name}: {result.bytes:,} bytes in {documents}, {result.seconds:.1f} s",
        f"  bits per byte    {result.bits_per_byte:.4f}",
        *(f"  {bits:21.4f}  of {part}" for part, bits in parts.items()),
        f"  byte perplexity  {result.byte_perplexity:.4f}",
        f"  word perplexity  {result.word_perplexity(words):.4g}, {words:,} words",
        f"  integer score    {result.integer_bits_per_byte:.4f} bits per byte",
    ]
    if baselines:
        rows = [(result.bits_per_byte, "this model", "")]
        rows += [(bits, name, BASELINES[name]) for name, bits in baselines.items()]
        lines += ["", "Bits per byte, the best first:"]
        lines += [f"  {name:10}  {bits:7.4f}  {what}".rstrip() for bits, name, what in sorted(rows)]
    return "\n".join(lines)


def _line(document: DocumentScore, words: int) -> dict[str, int | float | None]:
    """A document's line in the file of ``--per-document``; figures per byte of an empty document are null."""
    bits, bits_per_word = document.bits_per_byte, document.bits / words
    return {
        "index": document.index,
        "bytes": document.bytes,
        "words": words,
        "bits": document.bits,
        "bits_per_byte": bits,
        "byte_perplexity": None if bits is None else 2.0**bits,
        "word_perplexity": 2.0**bits_per_word if bits_per_word < 1024 else None,
        "integer_bits_per_byte": document.integer_bits_per_byte,
    }


def _finite(number: float) -> float | None:
    """The number; None for infinity, which JSON does not have."""
    return number if math.isfinite(number) else None
