"""``egg plot``: curves of runs, as a picture and a page."""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from egg import data
from egg.cli.options import parse, say
from egg.model.evaluate import sample
from egg.report.curves import Curves, names, read_curves
from egg.report.draw import lines_of, write


@dataclass(frozen=True)
class PlotArguments:
    """Draw runs in one picture: bits per byte over tokens and wall time, beside simple models of the same text.

    Writes loss.png and report.html, a page that needs no network. A run may still be training.

    For example:
      egg plot runs/quickstart-20261121-101500
      egg plot runs/ladder/*/seed-1 --out curves
    """

    runs: Annotated[tuple[str, ...], Parameter(name="run")]
    """Folders of runs."""
    _: KW_ONLY
    out: str | None = None
    """Folder for loss.png and report.html; none: the run's, or with several runs the current one."""


def main(argv: list[str], prog: str) -> int:
    """Draw as the arguments say; returns the exit status."""
    arguments = parse(PlotArguments, argv, prog=prog)
    folders = [Path(run) for run in arguments.runs]
    runs = [read_curves(run, name) for run, name in zip(folders, names(folders), strict=True)]
    out = Path(arguments.out) if arguments.out else folders[0] if len(folders) == 1 else Path()
    for path in write(runs, _lines(runs), out):
        print(path)
    return 0


def _lines(runs: list[Curves]) -> dict[str, float]:
    """The baselines on the runs' text, if all have the same and the cache holds it: a picture fetches nothing."""
    texts = {_text(run) for run in runs}
    if len(texts) > 1:
        say("the runs read different texts: no lines for unigram, bigram, trigram and gzip")
        return {}
    fingerprints, limit = texts.pop()
    held = {corpus.fingerprint: corpus for corpus in data.list_corpora()}
    corpora = [held[fingerprint] for fingerprint in fingerprints if fingerprint in held]
    if not corpora or len(corpora) < len(fingerprints):
        say("the runs' text is not in the cache: no lines for unigram, bigram, trigram and gzip (egg data prepare)")
        return {}
    corpus = corpora[0] if len(corpora) == 1 else data.with_validation(*corpora[:2])
    validation = corpus.validation_split
    if validation is None or not corpus.bytes(validation):
        validation = corpus.training_split
    return lines_of(corpus.split(corpus.training_split), sample(corpus.split(validation), limit))


def _text(run: Curves) -> tuple[tuple[str, ...], int]:
    """The fingerprints of a run's text, and of its --validation-data, and how many bytes are measured."""
    corpus, settings = run.config.get("corpus"), run.config.get("run")
    corpus = corpus if isinstance(corpus, dict) else {}
    texts = corpus.get("texts", [corpus.get("fingerprint")])
    texts = tuple(text for text in texts if isinstance(text, str)) if isinstance(texts, list) else ()
    limit = settings.get("eval_bytes") if isinstance(settings, dict) else 0
    return texts, limit if type(limit) is int and limit >= 0 else 0
