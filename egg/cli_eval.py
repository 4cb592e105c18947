"""``egg eval``: exact bits per byte of a model on a text."""

import json
import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

import data
from data import SPLITS
from egg.cli_options import NONE, BackendName, one_of, parse, say
from egg.errors import EggError
from egg.evaluate import evaluate
from egg.model import read_model
from kernels import get_backend


@dataclass(frozen=True)
class EvalArguments:
    """Measure a model: exact bits per byte, each document read by itself.

    For example:
      egg eval runs/quickstart-20261121-101500 --split test --json
    """

    path: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PATH")]
    """A run (its newest checkpoint), RUN/best, a checkpoint, or a folder with a model in it."""
    data: str | None = None
    """Text to measure on, as for training; none: what the run was trained with."""
    data_column: str | None = None
    """Column of tables that holds the text; none: as in training, or text."""
    split: Annotated[str | None, one_of(*SPLITS, "all", NONE)] = None
    """Part of the text; none: validation, or all of a text that is not divided."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object on standard output, and nothing else there."""
    backend: BackendName = "auto"
    """What computes; changes the speed, not the result."""
    threads: int | None = None
    """Threads of a CPU backend; none: as many as the process may use."""


def main(argv: list[str], prog: str) -> int:
    """Measure as the arguments say; returns the exit status."""
    arguments = parse(EvalArguments, argv, prog=prog)
    shape, weights, config = read_model(arguments.path)
    trained = config.get("run") if isinstance(config.get("run"), dict) else {}
    spec = arguments.data if arguments.data is not None else trained.get("data")
    if not isinstance(spec, str) or not spec:
        raise EggError(f"{arguments.path} does not say what it was trained on: give --data")
    column = arguments.data_column or trained.get("data_column") or "text"
    backend = get_backend(arguments.backend, threads=arguments.threads, notify=say)
    corpus = data.open_corpus(spec, column=str(column), progress=sys.stderr.isatty(), notify=say)
    split = arguments.split or corpus.validation_split
    if split is None:
        split = corpus.splits[0]
        say(f"{corpus.name} has no validation split: measured on {split}")
    if split not in corpus.splits:
        raise EggError(f"--split {split}: {corpus.name} has {', '.join(corpus.splits)}")
    if not corpus.bytes(split):
        raise EggError(f"--split {split}: {corpus.name} has no byte in it, choose another")
    result = evaluate(backend, shape, weights, corpus.split(split))
    if arguments.json:
        print(
            json.dumps(
                {
                    "bits_per_byte": result.bits_per_byte,
                    "byte_perplexity": result.byte_perplexity,
                    "integer_bits_per_byte": result.integer_bits_per_byte,
                    "documents": result.documents,
                    "bytes": result.bytes,
                    "seconds": round(result.seconds, 4),
                    "backend": backend.name,
                }
            )
        )
        return 0
    print(
        f"{corpus.name} {split}: {result.bits_per_byte:.4f} bits per byte, "
        f"byte perplexity {result.byte_perplexity:.3f} (integer score "
        f"{result.integer_bits_per_byte:.4f}); {result.bytes:,} bytes in {result.documents:,} "
        f"documents, {result.seconds:.1f} s"
    )
    return 0
