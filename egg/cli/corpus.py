"""The text and the split that a command measures on, and the baselines on them."""

import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from egg import data
from egg.cli.options import say
from egg.config import RunConfig
from egg.errors import EggError
from egg.model import checkpoint
from egg.model.baselines import baselines, strong_baselines
from egg.view.figures import count


def open_measured(
    config: dict,
    spec: str | None,
    column: str | None,
    split: str | None = None,
    *,
    share: float | None = None,
    force_text: bool = False,
) -> tuple[data.Corpus, str] | None:
    """The text that a command measures on, and its split; None if neither the arguments nor the model name a text.

    The text that the model was trained on is divided as in training, so that what was held out is measured; any other
    text without validation split is measured whole.

    config : content of the model's config.json
    spec, column : the text and its column, as given; None: as in training
    split : the split, as given; None: validation, or all of an undivided text
    share : of a text without validation split that is held out; None: as above, and as in training by default if
        train or validation is asked for
    force_text : whether to read files that look like something else than text; those of its training are
    Raises EggError or DataError, one line, for a text that cannot be opened, or that has no such split.
    """
    trained, learned = (config.get(key) if isinstance(config.get(key), dict) else {} for key in ("run", "corpus"))
    unnamed = spec is None
    own = unnamed or learned_from(config, spec)
    spec, column = text_of(config, spec, column)
    if not spec:
        return None
    in_training, apart = trained.get("validation_share", 0.0), trained.get("validation_data")
    in_training = in_training if type(in_training) in (int, float) and not apart else 0.0
    apart = apart if isinstance(apart, str) and unnamed and share is None else None
    chosen = 0.0 if split == "all" else share
    if chosen is None:
        chosen = in_training if own else RunConfig.validation_share if split in ("train", "validation") else 0.0
    force_text = force_text or (own and trained.get("force_text", "data" in trained) is True)
    options = {"column": column, "force_text": force_text, "progress": sys.stderr.isatty(), "notify": say}
    corpus = data.open_corpus(spec, validation_share=chosen, validation_data=apart, **options)
    if split is share is None and not own and in_training and _bytes(corpus) == _total(learned.get("bytes")):
        divided = data.open_corpus(spec, validation_share=in_training, **options)
        if divided.fingerprint == learned.get("fingerprint"):  # the model's own text, in another place
            corpus = divided
    return corpus, _split_of(corpus, split, own)


def learned_from(config: dict, spec: str) -> bool:
    """Whether a text is one that a model was trained on, or a part of it, by its name.

    config : content of the model's config.json, or of an adapter's
    """
    trained = config["run"].get("data") if isinstance(config.get("run"), dict) else None
    return isinstance(trained, str) and data.absolute(spec) in (trained, *data.parts(trained))


def config_beside(adapter: str) -> dict:
    """Content of the config.json beside an adapter; empty if there is none.

    adapter : its file, or its folder
    """
    folder = Path(adapter)
    folder = folder if folder.is_dir() else folder.parent
    return checkpoint.read_config(folder) if (folder / checkpoint.CONFIG).exists() else {}


def _bytes(corpus: data.Corpus) -> int:
    return sum(map(corpus.bytes, corpus.splits))


def _total(sizes: object) -> int | None:
    """Bytes of all splits, as a model's configuration has them."""
    numbers = list(sizes.values()) if isinstance(sizes, dict) else []
    return sum(numbers) if all(type(number) is int for number in numbers) else None


def _split_of(corpus: data.Corpus, requested: str | None, own: bool) -> str:
    """The split of a text to measure on; raises EggError for one that it does not have, or that is empty.

    own : whether the model was trained on the text
    """
    split = requested or corpus.validation_split
    if split is None:
        split = corpus.splits[0]
        learned = ", text that the model was trained on" if own and split != "test" else ""
        say(f"{corpus.name} has no validation split: measured on {split}{learned}")
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
