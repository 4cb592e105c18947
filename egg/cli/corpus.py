"""The text and the split that a command measures on, and the baselines on them."""

from dataclasses import asdict

import numpy as np

from egg import data
from egg.cli.options import say
from egg.errors import EggError
from egg.model.baselines import baselines, strong_baselines
from egg.view.figures import count


def split_of(corpus: data.Corpus, requested: str | None, notify) -> str:
    """The split of a text to measure on: the requested one, or validation, or all of an undivided text.

    Raises EggError for a split that the text does not have, or that is empty.
    """
    split = requested or corpus.validation_split
    if split is None:
        split = corpus.splits[0]
        notify(f"{corpus.name} has no validation split: measured on {split}")
    if split not in corpus.splits:
        raise EggError(f"--split {split}: {corpus.name} has {', '.join(corpus.splits)}")
    if not corpus.bytes(split):
        raise EggError(f"--split {split}: {corpus.name} has no byte in this split, choose another")
    return split


BASELINES = {
    "trigram": "frequencies of three bytes in the training split",
    "bigram": "frequencies of pairs of bytes in the training split",
    "unigram": "frequencies of bytes in the training split",
    "xz": "xz -9e of the same bytes by themselves",
    "zstd": "zstd -19",
    "gzip": "gzip -9",
}
"""Baseline -> its description in the table."""


def text_of(config: dict, spec: str | None, column: str | None) -> tuple[str | None, str]:
    """The text to measure on, and its column: as given, or as in training; None if neither says.

    A model that was exported does not say where its own text was; of a mixture a part that everyone has is taken.

    config : content of the model's config.json
    """
    trained, corpus = (config.get(key) if isinstance(config.get(key), dict) else {} for key in ("run", "corpus"))
    spec = spec if spec is not None else trained.get("data")
    if spec is None:
        parts = str(corpus.get("name")).split("+")
        spec = next((part for part in parts if part in data.NAMED), None)
        if spec:
            say(f"of the text that the model was trained on, {' + '.join(parts)}, {spec} is here: measured on that")
    column = column or trained.get("data_column") or "text"
    return (spec or None) if isinstance(spec, str) else None, str(column)


def measure_baselines(corpus: data.Corpus, split: str, text: np.ndarray) -> dict[str, float]:
    """Bits per byte of each baseline, in the order of BASELINES."""
    training = corpus.split(corpus.training_split)
    if split == corpus.training_split:
        say(f"{split} is the training split: unigram, bigram and trigram have seen its text")
    figures = asdict(baselines(training, text)) | asdict(strong_baselines(training, text))
    if figures["fit_bytes"] < training.size:
        say(f"frequencies are of {count(figures['fit_bytes'])} bytes spread over the training split")
    return {name: figures[name] for name in BASELINES}
