"""The default corpus, offline: the library sources of the running interpreter."""

from __future__ import annotations

import hashlib
import platform
import sysconfig
from pathlib import Path

from data.corpus import SPLITS
from data.errors import DataError
from data.local import facts, files_source, walk
from data.source import Source

# Left out: tests, what was installed beside the library, and the tables of character sets in
# `encodings`, which hold hardly any text and repeat one another, so that held-out ones would
# not be unseen.
SKIPPED = frozenset(
    ["__pycache__", "dist-packages", "encodings", "idle_test", "site-packages", "test", "tests"]
)
# Written when the interpreter was built: facts about one machine.
BUILT = ("_sysconfigdata", "config-")

PARTS = 25
"""One part in 25 of the files is held out for each of test and validation."""


def stdlib_source() -> Source:
    """Return the running interpreter's library sources, one document a file.

    Splits by name alone: a file is held out for test or validation by the SHA-256 of its
    relative path, modulo 25. About 10 MB; on CPython 3.11 0.48 MB of it are for validation.
    Raises DataError where the interpreter has no library sources on disk.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    splits: dict[str, list[str]] = {name: [] for name in SPLITS}
    try:
        for path in walk(root, _skips):
            if path.endswith(".py"):
                splits[stdlib_split(path)].append(path)
        identity = {"kind": "stdlib", "python": platform.python_version(), **facts(root, splits)}
    except OSError as error:
        raise DataError(
            f"cannot read the library sources below {root} ({error.strerror}): "
            "name a file or folder of your own"
        ) from error
    if not all(splits.values()):
        raise DataError(f"no library sources below {root}: name a file or folder of your own")
    return files_source("stdlib", "stdlib", identity, root, splits, column="")


def stdlib_split(relative: str) -> str:
    """Return the split of a library file, from its POSIX path relative to the library's root."""
    digest = hashlib.sha256(relative.encode()).digest()
    part = int.from_bytes(digest[:8], "big") % PARTS
    return {0: "test", 1: "validation"}.get(part, "train")


def _skips(name: str) -> bool:
    return name in SKIPPED or name.startswith(BUILT)
