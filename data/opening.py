"""From a specification, as given to `--data`, to a prepared corpus."""

from __future__ import annotations

import glob
import os
import sys
from dataclasses import replace
from pathlib import Path

from egg.data import minipile
from egg.data.cache import Notify, corpus_folder, locked, partial_folder, remove_corpus, remove_lock
from egg.data.corpus import ALL, SPLITS, Corpus, DamagedCorpus, load_corpus, with_validation
from egg.data.division import check_share, division_of, division_source
from egg.data.errors import DataError
from egg.data.local import glob_source, path_source
from egg.data.mixture import mixture_source, parse_mixture, parts_of, rewritten
from egg.data.source import Source
from egg.data.stdlib import stdlib_source
from egg.data.tokens import MAX_TEXT, prepare

NAMED = ("stdlib", "minipile")
"""Names that are never paths, even if such files exist; anything else is a path if it exists."""


def open_corpus(
    spec: str,
    *,
    cache: Path | None = None,
    column: str = "text",
    validation_share: float = 0.0,
    validation_data: str | None = None,
    force_text: bool = False,
    progress: bool = False,
    notify: Notify | None = None,
    max_text: int = MAX_TEXT,
) -> Corpus:
    """Return the corpus of a specification, prepared first if the cache does not have it yet.

    spec : `stdlib`, the sources of the running interpreter's library; or `minipile`; or the path
        of a file or folder, or a pattern such as `texts/**/*.md` (see `egg.data.local`); or a data
        set of the Hugging Face hub, `owner/name` or `owner/name:config` (see `egg.data.minipile`); or a
        mixture of such with weights, `stdlib:2,path/to/file.jsonl:1` (see `egg.data.mixture`); write `./stdlib` for
        a folder of that name
    cache : the cache folder; default `EGG_CACHE`, else the platform's own
    column : the column or key of tables that holds the text
    validation_share : share of a text without validation text that is held out for it, 0 to 0.5: the
        corpus then has the splits train and validation (see `egg.data.division`). Of a mixture each
        part holds out its own. A text that is too short stays as it is; so does one with validation text
    validation_data : the specification of the text that is the validation split instead: its validation
        or test split if it has one, or else all of it; nothing is held out then; it may not be a mixture
    force_text : read files that look like something else than text too, as they are (see `egg.data.looks`)
    progress : show a progress bar on stderr while preparing
    notify : called with a line of text for each notice, such as `preparing ...`
    max_text : largest corpus to prepare, in bytes on disk; a prepared one opens whatever its size

    Raises DataError if the corpus cannot be found, read or prepared.
    """
    notify = notify or (lambda line: None)
    try:
        os.fsencode(spec)
        named = "\0" not in spec
    except UnicodeEncodeError:  # half a surrogate pair, from a settings file
        named = False
    if not named:
        raise DataError(f"no file can be called {spec!r}: name one that exists, or stdlib")
    check_share(validation_share)
    if validation_data is not None:
        if parse_mixture(validation_data) is not None:
            raise DataError(f"--validation-data {validation_data}: is a mixture, give one text")
        options = {"cache": cache, "progress": progress, "notify": notify, "max_text": max_text}
        options |= {"column": column, "force_text": force_text}
        return with_validation(open_corpus(spec, **options), open_corpus(validation_data, **options))
    options = {"cache": cache, "progress": progress, "notify": notify, "max_text": max_text}
    mixture = parse_mixture(spec)
    if mixture is not None:
        of_part = {"column": column, "validation_share": validation_share, "force_text": force_text, **options}
        corpora = [(open_corpus(part, **of_part), weight) for part, weight in mixture]
        mixed = _prepared(mixture_source(spec, corpora), **options)
        return replace(mixed, parts=parts_of([corpus for corpus, _ in corpora]))
    corpus = _prepared(_source(spec, column, force_text, cache=cache, progress=progress, notify=notify), **options)
    if validation_share and corpus.validation_split is None and {SPLITS[0], ALL} & set(corpus.splits):
        return _divided(corpus, validation_share, cache, progress, notify)
    return corpus


def _divided(corpus: Corpus, share: float, cache: Path | None, progress: bool, notify: Notify) -> Corpus:
    """The corpus with a share held out; the corpus itself if it is too short to be divided."""
    source = division_source(corpus, share)
    if not corpus_folder(source, cache).exists() and division_of(corpus, share) is None:
        return corpus
    # Its text is prepared already, whatever its size.
    return _prepared(source, cache=cache, progress=progress, notify=notify, max_text=sys.maxsize)


def _prepared(source: Source, *, cache: Path | None, progress: bool, notify: Notify, max_text: int) -> Corpus:
    """The corpus of a source, prepared first if the cache does not have it yet."""
    folder = corpus_folder(source, cache)
    # Without a lock at first, so that a prepared corpus opens from a read-only cache.
    try:
        corpus = load_corpus(folder)
    except DamagedCorpus:
        corpus = None
    if corpus is not None:
        return corpus
    with locked(folder, notify):
        try:
            corpus = load_corpus(folder)
        except DamagedCorpus as damage:
            notify(f"{damage}: preparing {source.spec} again")
            remove_corpus(folder)
            corpus = None
        if corpus is None:
            try:
                prepare(source, folder, progress=progress, notify=notify, max_text=max_text)
            except Exception:
                if not partial_folder(folder).exists():  # nothing is left to lock
                    remove_lock(folder)
                raise
    try:
        corpus = load_corpus(folder)
    except DamagedCorpus as damage:
        raise DataError(f"{damage}: another process is changing the cache, try again") from damage
    if corpus is None:
        raise DataError(f"{folder} was removed by another process: try again")
    return corpus


def parts(spec: str) -> tuple[str, ...]:
    """Return the specifications of a mixture's parts; none if it is not a mixture."""
    try:
        return tuple(part for part, _ in parse_mixture(spec) or ())
    except DataError:
        return ()


def absolute(spec: str) -> str:
    """Return a specification that means the same from every folder, as configurations keep it.

    Paths and patterns become absolute, in a mixture too; a specification that names nothing
    here is unchanged, and so is a mixture whose new parts could not be separated again.
    """
    path = os.path.expanduser(spec)
    if spec in NAMED:
        return spec
    if os.path.exists(path):
        return str(Path(path).absolute())
    try:
        if mixture := rewritten(spec, absolute):
            return mixture
    except DataError:  # opening it will say what is wrong
        return spec
    if not glob.has_magic(path) or not glob.glob(path, recursive=True):
        return spec
    # The folder's own name may look like a pattern.
    return os.path.join(glob.escape(os.getcwd()), path)


def _source(spec: str, column: str, force_text: bool, *, cache: Path | None, progress: bool, notify: Notify) -> Source:
    if spec == "stdlib":
        return stdlib_source()
    if spec == "minipile" or minipile.is_hub_id(spec):
        dataset = minipile.MINIPILE if spec == "minipile" else spec
        return minipile.hub_source(spec, dataset, column, cache=cache, progress=progress, notify=notify)
    if glob.has_magic(spec) and not os.path.exists(os.path.expanduser(spec)):
        return glob_source(spec, column, force_text)
    return path_source(spec, column, force_text)
