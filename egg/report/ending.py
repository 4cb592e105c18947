"""The closing summary of a run: the model beside the baselines, and a sample of its text."""

import shlex
from pathlib import Path

import numpy as np

from egg.evolution.base import Evolution
from egg.model.baselines import baselines, trigram_bits
from egg.model.evaluate import Evaluation, evaluate_parts
from egg.model.sample import Sampling, generate
from egg.run.progress import Progress
from egg.run.trainer import Outcome
from egg.view.figures import count, duration
from egg.view.screen import CONTROLS

FINAL_EVALUATION_SECONDS = 60  # a whole validation split that takes longer is left to `egg eval`
SAMPLING = Sampling(length=200, temperature=0.8)


def report(
    run: Path,
    evolution: Evolution,
    outcome: Outcome,
    drawn: list[Path],
    corpus,
    split: str,
    measured: np.ndarray,
    progress: Progress,
) -> None:
    """Print the summary of a run that has ended.

    drawn : paths of the loss curve and of the report
    corpus : the data.Corpus it was trained on
    split : the validation split, or the training split if there is none
    measured : (n,) uint8, the part of the split that was measured during training
    """
    progress.note(
        f"step {evolution.step_number:,}: {count(evolution.tokens)} tokens in "
        f"{duration(outcome.seconds)}\ncheckpoint: {outcome.checkpoint}"
    )
    if outcome.best and outcome.best.step != evolution.step_number:
        best = outcome.best
        progress.note(f"best: {run / 'best'}, {best.bits_per_byte:.4f} at step {best.step:,}")
    if drawn:
        loss, page = drawn
        progress.note(f"loss curve: {loss}\nreport: {page}\n")
    evaluation, of_parts, text = outcome.evaluation, outcome.parts, measured
    if evaluation:
        whole = corpus.split(split)
        if text.size < whole.size:
            if evaluation.seconds * whole.size / evaluation.bytes < FINAL_EVALUATION_SECONDS:
                text = whole
                parts = corpus.validation_parts if of_parts else {}
                evaluation, of_parts = evaluate_parts(evolution.network, text, parts)
            else:
                progress.note(f"measured on a sample of {split}; on all of it: egg eval {_quoted(run)}")
        training = corpus.split(corpus.training_split)
        progress.note(f"{_table(evaluation, of_parts, text, training, corpus, split)}\n")
    progress.note(_sample(run, evolution, progress))


def _table(evaluation: Evaluation, of_parts: dict[str, float], text, training, corpus, split: str) -> str:
    """Bits per byte of the model and of the baselines on the same bytes."""
    simple, trigram = baselines(training, text), trigram_bits(training, text)
    fitted = f"split {corpus.training_split}"
    if simple.fit_bytes < training.size:
        fitted = f"{count(simple.fit_bytes)} bytes spread over {fitted}"
    own = ", which is its training text" if split == corpus.training_split else ""
    return "\n".join(
        [
            f"bits per byte of {corpus.title(split)}{own}, {evaluation.bytes:,} bytes in "
            f"{evaluation.documents:,} document{'s' * (evaluation.documents != 1)}:",
            f"  this model  {evaluation.bits_per_byte:7.4f}  perplexity "
            f"{evaluation.byte_perplexity:.3f}; integer score {evaluation.integer_bits_per_byte:.4f}",
            *(f"    {bits:18.4f}  of {name}" for name, bits in of_parts.items()),
            f"  trigram     {trigram:7.4f}  frequencies of three bytes in {fitted}",
            f"  bigram      {simple.bigram:7.4f}  frequencies of pairs of bytes in {fitted}",
            f"  unigram     {simple.unigram:7.4f}  frequencies of bytes in {fitted}",
            f"  gzip -9     {simple.gzip:7.4f}  of the measured bytes by themselves",
        ]
    )


def _sample(run: Path, evolution: Evolution, progress: Progress) -> str:
    """A document that the model writes, below the command that prints it."""
    (text,) = generate(evolution.network, b"", SAMPLING)
    encoding = getattr(progress.stream, "encoding", None) or "utf-8"
    shown = text.decode(errors="replace").translate(CONTROLS)
    shown = shown.encode(encoding, "replace").decode(encoding)
    lines = [f"  {line}" for line in shown.splitlines()] or ["  (the model ends it at once)"]
    command = f"egg sample {_quoted(run)} --length {SAMPLING.length} --temperature {SAMPLING.temperature}"
    return "\n".join([f"$ {command}", *lines])


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
