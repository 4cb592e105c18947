"""A prepared corpus on disk: one file of bytes per split and a manifest."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from egg.data.errors import DataError

FORMAT = 1
"""Version of the prepared layout; it is part of the key, so that every version has its own folders."""

SPLITS = ("train", "validation", "test")
"""The names a divided corpus may use; an undivided one has the single split `all`."""

ALL = "all"

MANIFEST = "manifest.json"

SOURCE = "source.json"
"""The source of a corpus that is not whole yet; a whole one has the manifest instead."""

VERIFIED = "verified.json"
"""Size, times and inode of the files when their bytes last matched the manifest; it may be absent."""

MAX_JSON = 1 << 24
"""Largest manifest or journal line, in bytes; a longer one is not read."""


class DamagedCorpus(Exception):
    """A folder that should hold a prepared corpus does not hold the whole of it."""


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus; every document on disk is preceded by one NUL byte.

    A corpus with the single split `all` (one file, a plain folder) has no held-out part: `open_corpus`
    divides it if a share is to be held out.
    """

    name: str
    """Short name, such as `stdlib`, `minipile` or the name of a file."""
    spec: str
    """The specification it was prepared from."""
    splits: tuple[str, ...]
    """Names of its splits, in the order train, validation, test; or `all`."""
    fingerprint: str
    """SHA-256 in hexadecimal of the splits' names, sizes and bytes: equal only for equal data."""
    folder: Path
    """The folder in the cache."""
    manifest: dict[str, Any] = field(repr=False, compare=False)
    """The manifest as read from the folder."""
    other: tuple[Corpus, str] | None = field(default=None, repr=False)
    """Another corpus, and the split of it that is this one's validation split."""

    parts: tuple[tuple[str, int], ...] = field(default=(), repr=False)
    """Of a mixture: its parts' names, each different, and their bytes in the validation split, separators included."""

    @property
    def validation_parts(self) -> dict[str, np.ndarray]:
        """Of a mixture the validation text of each part that has some, (n,) uint8, if two or more have; else empty."""
        sizes = dict(self.parts) if not self.other else {}
        if sum(size > 0 for size in sizes.values()) < 2:
            return {}
        ends = accumulate(sizes.values())
        text = self.split(SPLITS[1])
        pairs = zip(sizes.items(), ends, strict=True)
        return {name: text[end - size : end] for (name, size), end in pairs if size}

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """The fingerprints of the prepared corpora that it consists of, one or two."""
        return (self.manifest["fingerprint"], *([self.other[0].fingerprint] if self.other else []))

    @property
    def training_split(self) -> str:
        """The split to train on, `train` or `all`; raises DataError if there is neither."""
        for name in (SPLITS[0], ALL):
            if name in self.splits:
                return name
        raise DataError(
            f"{self.spec} has no split to train on (it has {', '.join(self.splits)}): name a corpus with a train split"
        )

    @property
    def validation_split(self) -> str | None:
        """`validation` if there is such a split, else None."""
        return "validation" if "validation" in self.splits else None

    def split(self, name: str) -> np.ndarray:
        """Return a split's bytes, (n,) uint8, read-only and mapped from disk.

        Raises DataError for an absent split or a file that cannot be mapped.
        """
        if self.other and name == SPLITS[1]:
            return self.other[0].split(self.other[1])
        size = self._figures(name)["size"]
        path = split_path(self.folder, name)
        try:
            mapped = np.memmap(path, dtype=np.uint8, mode="r", shape=(size,))
        except (OSError, ValueError) as error:
            raise DataError(f"cannot map {path} ({error}): prepare {self.spec} again") from error
        # As a plain array: slices of the memmap class are slower, without an advantage.
        return mapped.view(np.ndarray)

    def title(self, name: str) -> str:
        """Return what a split is called where it is measured: the text and the split."""
        corpus, split = self.other if self.other and name == SPLITS[1] else (self, name)
        return f"{corpus.name} {split}"

    def documents(self, name: str) -> int:
        """Return the number of documents in a split; raises DataError for an absent split."""
        return self._figures(name)["documents"]

    def bytes(self, name: str) -> int:
        """Return a split's document bytes, separators not counted; raises DataError if absent."""
        return self._figures(name)["bytes"]

    def nuls_removed(self, name: str) -> int:
        """Return how many NULs inside documents were dropped; raises DataError if absent."""
        return self._figures(name)["nuls_removed"]

    def _figures(self, name: str) -> dict[str, Any]:
        if name not in self.splits:
            raise DataError(f"{self.spec} has no split {name!r}: choose from {', '.join(self.splits)}")
        if self.other and name == SPLITS[1]:
            return self.other[0]._figures(self.other[1])
        return self.manifest["splits"][name]


def with_validation(corpus: Corpus, other: Corpus) -> Corpus:
    """Return a corpus with another's text as its validation split: its validation or test split, or else all of it.

    Its fingerprint is of both texts. Raises DataError if they are the same.
    """
    split = next(name for name in (*SPLITS[1:], SPLITS[0], ALL) if name in other.splits)
    if other.fingerprint == corpus.fingerprint and split == corpus.training_split:
        raise DataError(
            f"--validation-data {other.spec}: it is the text to learn from: leave it out to hold out a part"
        )
    content = json.dumps([corpus.fingerprint, other.fingerprint, split])
    splits = {corpus.training_split, *corpus.splits} - {SPLITS[1]} | {SPLITS[1]}
    return replace(
        corpus,
        splits=tuple(name for name in (*SPLITS, ALL) if name in splits),
        fingerprint=hashlib.sha256(content.encode()).hexdigest(),
        other=(other, split),
    )


def split_path(folder: Path, name: str) -> Path:
    """Return the path of a split's bytes in a corpus folder."""
    return folder / f"{name}.bin"


def journal_path(folder: Path, split: str) -> Path:
    """Return the path of a split's journal, which a folder has until it is whole."""
    return folder / f"{split}.journal"


def fingerprint_of(splits: dict[str, dict[str, Any]]) -> str:
    """Return the SHA-256, in hexadecimal, of every split's name, size and own SHA-256."""
    contents = [[name, splits[name]["size"], splits[name]["sha256"]] for name in sorted(splits)]
    return hashlib.sha256(json.dumps(contents).encode()).hexdigest()


def load_corpus(folder: Path, *, verify: bool = True) -> Corpus | None:
    """Read a corpus folder's manifest and check the files against it; None if there is no folder.

    verify : whether to check bytes: a file is hashed unless its size, times and inode are those of the last
        verification. Sizes are always checked
    Raises DamagedCorpus, saying what is wrong, if the folder does not hold a whole corpus.
    """
    if not folder.is_dir():
        return None
    try:
        manifest = read_json(folder / MANIFEST)
        if manifest["format"] != FORMAT:
            raise DamagedCorpus(f"{folder / MANIFEST} has format {manifest['format']!r:.40}")
        splits = manifest["splits"]
        if not splits or not set(splits) <= {*SPLITS, ALL} or manifest["fingerprint"] != fingerprint_of(splits):
            raise DamagedCorpus(f"{folder / MANIFEST} does not agree with itself")
        for name in splits:
            path = split_path(folder, name)
            figures = [
                splits[name][figure] for figure in ("size", "bytes", "documents", "nuls_removed", "empty_documents")
            ]
            if not all(type(figure) is int and figure >= 0 for figure in figures) or max(figures[:3]) > figures[0]:
                raise DamagedCorpus(f"{folder / MANIFEST} does not agree with itself")
            size = path.stat().st_size
            if size != splits[name]["size"]:
                raise DamagedCorpus(f"{path} has {size} bytes, not {splits[name]['size']}")
        if verify:
            _verify(folder, splits)
        return Corpus(
            name=str(manifest["name"]),
            spec=str(manifest["spec"]),
            splits=tuple(name for name in (*SPLITS, ALL) if name in splits),
            fingerprint=manifest["fingerprint"],
            folder=folder,
            manifest=manifest,
        )
    except OSError as error:
        raise DamagedCorpus(f"{error.filename} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedCorpus(f"{folder / MANIFEST} is not a manifest ({error!r:.200})") from error


def open_file(path: Path, mode: str = "rb") -> Any:
    """Open a file of a corpus; raises OSError, also for a pipe or a device, and for a link that is to be written."""
    more = getattr(os, "O_NONBLOCK", 0) | (0 if mode == "rb" else getattr(os, "O_NOFOLLOW", 0))
    file = open(path, mode, opener=lambda name, flags: os.open(name, flags | more, 0o666))
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return file


def read_json(path: Path) -> Any:
    """Return what a small JSON file holds; raises OSError or ValueError."""
    with open_file(path) as file:
        content = file.read(MAX_JSON + 1)
    if len(content) > MAX_JSON:
        raise ValueError(f"{path} is too long")
    return json.loads(content)


def record_verified(folder: Path, splits: Iterable[str]) -> None:
    """Record the files' size, times and inode once their bytes are known to match the manifest.

    If the folder cannot be written, they are hashed again the next time.
    """
    temporary = folder / f"{VERIFIED}.{os.getpid()}"
    with suppress(OSError):
        temporary.write_text(json.dumps({name: _identity(split_path(folder, name)) for name in splits}))
        os.replace(temporary, folder / VERIFIED)


def _identity(path: Path) -> list[int]:
    """Values that change whenever a file does: every write sets st_ctime, which no program can set back."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _verify(folder: Path, splits: dict[str, dict[str, Any]]) -> None:
    try:
        known = read_json(folder / VERIFIED)
    except (OSError, ValueError, RecursionError):
        known = {}
    known = known if isinstance(known, dict) else {}
    new = [name for name in splits if known.get(name) != _identity(split_path(folder, name))]
    for name in new:
        with open_file(split_path(folder, name)) as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != splits[name]["sha256"]:
                raise DamagedCorpus(f"{split_path(folder, name)} has other bytes than were prepared")
    if new:
        record_verified(folder, splits)
