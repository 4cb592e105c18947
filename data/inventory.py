"""Listing and clearing the cache."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egg.data.cache import PARTIAL, corpora_folder, file_names, locked, partial_folder, remove_corpus, remove_lock
from egg.data.corpus import MANIFEST, SOURCE, Corpus, DamagedCorpus, load_corpus, read_json
from egg.data.errors import DataError


@dataclass(frozen=True)
class Cleared:
    """A corpus, whole or partial, that was removed from the cache."""

    name: str
    """Name of its folder."""
    size: int
    """Bytes of its files."""


def list_corpora(cache: Path | None = None, name: str | None = None) -> tuple[Corpus, ...]:
    """Return the whole corpora in the cache, in the order of their folders' names.

    cache : the cache folder; default `EGG_CACHE`, else the platform's own
    name : a corpus's name, its folder's name, its specification or its path; None for all
    Raises DataError if no corpus has that name, or the cache cannot be read.
    """
    corpora = []
    for folder in _chosen(cache, name):
        try:
            corpus = load_corpus(folder, verify=False)
        except DamagedCorpus:
            continue
        if corpus is not None:
            corpora.append(corpus)
    return tuple(corpora)


def clear(cache: Path | None = None, name: str | None = None) -> tuple[Cleared, ...]:
    """Remove corpora from the cache, whole, damaged or partial, and return their names and sizes.

    cache : the cache folder; default `EGG_CACHE`, else the platform's own
    name : a corpus's name, its folder's name, its specification or its path; None for all
    Raises DataError if no corpus has that name, if another process is preparing one of them,
    or if the cache cannot be written.
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
    """Return the corpora's folders by their final names, whole or not, leaving out other folders."""
    try:
        found = sorted({path.with_name(path.name.removesuffix(PARTIAL)) for path in root.iterdir()})
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"cannot read {root} ({error.strerror}): set EGG_CACHE") from error
    return [folder for folder in found if _is_corpus(folder) or _is_corpus(partial_folder(folder))]


def _is_corpus(folder: Path) -> bool:
    """Tell whether egg made a folder: it has a corpus's manifest, or the source file of a partial one.

    Without a readable one of these, it must have a corpus's name and hold nothing but a corpus's files.
    """
    if folder.is_symlink() or not folder.is_dir():
        return False
    for mark in (MANIFEST, SOURCE):
        try:
            if {"format", "name", "spec", "splits"} <= set(read_json(folder / mark)):
                return True
        except (OSError, ValueError, TypeError, RecursionError):
            continue
    named = re.fullmatch(r".+-[0-9a-f]{16}", folder.name.removesuffix(PARTIAL))
    return named is not None and {path.name for path in folder.iterdir()} <= file_names(folder)


def _names(folder: Path) -> set[str]:
    """Return every name that a user can give for a corpus's folder."""
    names = {folder.name}
    for path in (folder / MANIFEST, partial_folder(folder) / SOURCE):
        try:
            head: dict[str, Any] = read_json(path)
            names |= {str(name) for name in (head["name"], head["spec"], head["source"].get("path", folder.name))}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
    return names


def _remove(folder: Path) -> Cleared:
    with locked(folder, lambda line: None, wait=False):
        size = remove_corpus(folder) + remove_corpus(partial_folder(folder))
        remove_lock(folder)
    return Cleared(folder.name, size)
