"""What the cache holds, and emptying it."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egg.data.cache import PARTIAL, corpora_folder, locked, partial_folder, remove_lock, writing
from egg.data.corpus import MANIFEST, Corpus, DamagedCorpus, load_corpus
from egg.data.errors import DataError
from egg.data.tokens import SOURCE


@dataclass(frozen=True)
class Cleared:
    """A corpus, whole or begun, that was removed from the cache."""

    name: str
    """Name of its folder."""
    size: int
    """Bytes of its files."""


def list_corpora(cache: Path | None = None, name: str | None = None) -> tuple[Corpus, ...]:
    """Return the whole corpora in the cache, in the order of their folders' names.

    cache : the cache folder; default `EGG_CACHE`, else the platform's own
    name : a corpus's name, its folder's name, its specification or its path; None for all
    Raises DataError if there is nothing of that name, or the cache cannot be read.
    """
    corpora = []
    for folder in _chosen(cache, name):
        try:
            corpus = load_corpus(folder)
        except DamagedCorpus:
            continue
        if corpus is not None:
            corpora.append(corpus)
    return tuple(corpora)


def clear(cache: Path | None = None, name: str | None = None) -> tuple[Cleared, ...]:
    """Remove corpora from the cache, whole, damaged or only begun, and say which.

    cache : the cache folder; default `EGG_CACHE`, else the platform's own
    name : a corpus's name, its folder's name, its specification or its path; None for all
    Raises DataError if there is none of that name, one is being prepared by another process,
    or the cache cannot be written.
    """
    return tuple(_remove(folder) for folder in _chosen(cache, name))


def _chosen(cache: Path | None, name: str | None) -> list[Path]:
    """Return the folders that a name means, whole or not; raises DataError if there is none."""
    root = corpora_folder(cache)
    folders = _folders(root)
    if name is None:
        return folders
    for meant in (name, os.path.abspath(os.path.expanduser(name))):
        if chosen := [folder for folder in folders if meant in _names(folder)]:
            return chosen
    held = ", ".join(folder.name for folder in folders) or "nothing"
    raise DataError(f"the cache {root} has no corpus {name!r}: it holds {held}")


def _folders(root: Path) -> list[Path]:
    """Return the corpora's folders by their final names, whole or not."""
    try:
        found = [path for path in root.iterdir() if path.is_dir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"cannot read {root} ({error.strerror}): set EGG_CACHE") from error
    return sorted({path.with_name(path.name.removesuffix(PARTIAL)) for path in found})


def _names(folder: Path) -> set[str]:
    """Return every name that a corpus's folder can be given by."""
    names = {folder.name}
    for path in (folder / MANIFEST, partial_folder(folder) / SOURCE):
        try:
            head: dict[str, Any] = json.loads(path.read_bytes())
            names |= {head["name"], head["spec"], head["source"].get("path", folder.name)}
        except (OSError, ValueError, KeyError):
            continue
    return names


def _remove(folder: Path) -> Cleared:
    size = 0
    with locked(folder, lambda line: None, wait=False), writing(folder):
        for path in (folder, partial_folder(folder)):
            if path.is_dir():
                size += sum(file.stat().st_size for file in path.iterdir())
                shutil.rmtree(path)
        remove_lock(folder)
    return Cleared(folder.name, size)
