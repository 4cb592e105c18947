"""The default corpus, offline: the library sources of the running interpreter."""

from __future__ import annotations

import platform
import sysconfig
from pathlib import Path

from egg.data.corpus import SPLITS
from egg.data.errors import DataError
from egg.data.local import file_stamps, files_source, walk
from egg.data.source import Source

# Left out: tests, and packages installed beside the library.
SKIPPED = frozenset(["__pycache__", "dist-packages", "idle_test", "site-packages", "test", "tests"])
# Generated when the interpreter was built, different on every machine.
BUILT = ("_sysconfigdata", "config-")

# Of the sorted files every twentieth is held out for validation and every twentieth for test; the offsets are
# chosen so that both resemble the whole (on CPython 3.11 unigram 4.76 and bigram 3.54 bits a byte for validation).
PARTS = 20
HELD_OUT = {17: "validation", 7: "test"}


def stdlib_source() -> Source:
    """Return the running interpreter's library sources, one document a file.

    About 12 MB, of which on CPython 3.11 0.51 MB are for validation and 0.65 MB for test.
    Raises DataError where the interpreter has no library sources on disk.
    """
    root = _root()
    splits: dict[str, list[str]] = {name: [] for name in SPLITS}
    try:
        for number, path in enumerate(stdlib_files()):
            splits[stdlib_split(number)].append(path)
        identity = {"kind": "stdlib", "python": platform.python_version(), **file_stamps(root, splits)}
    except OSError as error:
        raise DataError(
            f"cannot read the library sources below {root} ({error.strerror}): name a file or folder of your own"
        ) from error
    if not all(splits.values()):
        raise DataError(f"no library sources below {root}: name a file or folder of your own")
    return files_source("stdlib", "stdlib", identity, root, splits, column="")


def stdlib_files() -> list[str]:
    """Return the library's source files, sorted, as POSIX paths relative to its root."""
    return sorted(path for path in walk(_root(), _skips) if path.endswith(".py"))


def stdlib_split(number: int) -> str:
    """Return the split of the library file with that number in sorted order."""
    return HELD_OUT.get(number % PARTS, "train")


def _root() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def _skips(name: str) -> bool:
    return name in SKIPPED or name.startswith(BUILT)
