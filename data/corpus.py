"""A prepared corpus on disk: one file of bytes per split and a manifest."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from egg.data.errors import DataError

FORMAT = 1
"""Version of the prepared layout; another version is another key, so another folder."""

SPLITS = ("train", "validation", "test")
"""The names a divided corpus may use; an undivided one has the single split `all`."""

ALL = "all"

MANIFEST = "manifest.json"


class DamagedCorpus(Exception):
    """A folder that should hold a prepared corpus does not hold the whole of it."""


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus; every document on disk is preceded by one NUL byte.

    A corpus with the single split `all` (one file, a plain folder) has no held-out part:
    training and validation both read `all` unless the caller chooses otherwise.
    """

    name: str
    """Short name, such as `stdlib`, `minipile` or the name of a file."""
    spec: str
    """The specification it was prepared from."""
    splits: tuple[str, ...]
    """Names of the splits there, in the order train, validation, test; or `all`."""
    fingerprint: str
    """SHA-256 in hexadecimal of the splits' names, sizes and bytes: equal only for equal data."""
    folder: Path
    """The folder in the cache."""
    manifest: dict[str, Any] = field(repr=False, compare=False)
    """The manifest as read from the folder."""

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
        size = self._figures(name)["size"]
        path = split_path(self.folder, name)
        try:
            mapped = np.memmap(path, dtype=np.uint8, mode="r", shape=(size,))
        except (OSError, ValueError) as error:
            raise DataError(f"cannot map {path} ({error}): prepare {self.spec} again") from error
        # As a plain array: slices of the memmap class are slower and mean nothing more.
        return mapped.view(np.ndarray)

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
        return self.manifest["splits"][name]


def split_path(folder: Path, name: str) -> Path:
    """Return the path of a split's bytes in a corpus folder."""
    return folder / f"{name}.bin"


def fingerprint_of(splits: dict[str, dict[str, Any]]) -> str:
    """Return the SHA-256, in hexadecimal, of every split's name, size and own SHA-256."""
    contents = [[name, splits[name]["size"], splits[name]["sha256"]] for name in sorted(splits)]
    return hashlib.sha256(json.dumps(contents).encode()).hexdigest()


def load_corpus(folder: Path) -> Corpus | None:
    """Read a corpus folder's manifest and check the files' sizes; None if there is no folder.

    Raises DamagedCorpus, saying what is wrong, if the folder does not hold a whole corpus.
    """
    if not folder.is_dir():
        return None
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        if manifest["format"] != FORMAT:
            raise DamagedCorpus(f"{folder / MANIFEST} has format {manifest['format']}")
        splits = manifest["splits"]
        for name in splits:
            path = split_path(folder, name)
            size = path.stat().st_size
            if size != splits[name]["size"]:
                raise DamagedCorpus(f"{path} has {size} bytes, not {splits[name]['size']}")
        return Corpus(
            name=manifest["name"],
            spec=manifest["spec"],
            splits=tuple(name for name in (*SPLITS, ALL) if name in splits),
            fingerprint=manifest["fingerprint"],
            folder=folder,
            manifest=manifest,
        )
    except OSError as error:
        raise DamagedCorpus(f"{error.filename} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCorpus(f"{folder / MANIFEST} is not a manifest ({error!r})") from error
