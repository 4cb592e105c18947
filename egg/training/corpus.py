"""A text to train on: the only place besides the command line where ``data`` meets ``egg``."""

import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from egg import data
from egg.config import Config, RunConfig
from egg.errors import EggError
from egg.model.evaluate import sample
from egg.run.log import MEASURED


class CorpusText:
    """A split behind the interface that evolution reads."""

    def __init__(self, tokens: np.ndarray):
        self.tokens, self.size = tokens, tokens.size

    def read(self, starts: np.ndarray, length: int) -> np.ndarray:
        """(len(starts), length) uint8 from each start on, wrapping round at the end."""
        return data.read_chunks(self.tokens, starts, length)


def open_for_training(
    run: RunConfig, notify: Callable[[str], None], *, bar: bool = True
) -> tuple[data.Corpus, CorpusText, str]:
    """A corpus, the text to train on, and the name of the split to validate on.

    run : its text, and what is held out of it
    bar : show a progress bar of the preparation, where standard error is a terminal
    Raises EggError, one line.
    """
    spec = run.data
    try:
        corpus = data.open_corpus(
            spec,
            column=run.data_column,
            validation_share=run.validation_share,
            validation_data=run.validation_data,
            force_text=run.force_text,
            progress=bar and sys.stderr.isatty(),
            notify=notify,
        )
    except data.DataError as error:
        raise EggError(str(error)) from error
    training = corpus.training_split
    if not corpus.bytes(training):
        raise EggError(f"{spec}: its split {training} is empty: give a text to learn from")
    validation = corpus.validation_split
    if validation is None or not corpus.bytes(validation):
        validation = training
        notify(f"{corpus.name} has no validation text: the model is measured on its training text")
    elif silent := [name for name, size in corpus.parts if not size and not corpus.other]:
        notify(f"{', '.join(silent)}: no validation text, learned and not measured")
    return corpus, CorpusText(corpus.split(training)), validation


def measured_texts(corpus: data.Corpus, split: str, limit: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """What measurements read: documents of a split, and of a mixture's validation split those of each part.

    limit : about so many bytes of the split, and as many of all parts together; 0: all
    """
    text = corpus.split(split)
    measured = sample(text, limit)
    parts = corpus.validation_parts if split == corpus.validation_split else {}
    if measured is not text:
        parts = {name: sample(part, max(1, limit // len(parts))) for name, part in parts.items()}
    return measured, parts


def measured_key(corpus: data.Corpus, split: str) -> str:
    """The key of ``egg.run.log.MEASURED`` for a split: whether it is validation text, or the training text."""
    return next(key for key, what in MEASURED.items() if (what == "validation") == (split != corpus.training_split))


def corpus_summary(corpus: data.Corpus) -> dict:
    """The summary of a corpus that a run's config.json keeps."""
    summary = {
        "name": corpus.name,
        "fingerprint": corpus.fingerprint,
        "bytes": {name: corpus.bytes(name) for name in corpus.splits},
        "documents": {name: corpus.documents(name) for name in corpus.splits},
    }
    if corpus.other:
        summary["validation_text"] = corpus.title("validation")
        summary["texts"] = list(corpus.fingerprints)
    return summary


def located(config: Config) -> Config:
    """The configuration with specifications of its texts that are independent of the current folder."""
    run = config.run
    validation_data = None if run.validation_data is None else data.absolute(run.validation_data)
    return replace(config, run=replace(run, data=data.absolute(run.data), validation_data=validation_data))
