"""Sources on this machine: the standard library's own code, and the user's files."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from data.corpus import ALL, SPLITS
from data.errors import DataError
from data.readers import documents_of, is_table, size_hint
from data.source import Contents, Document, Reader, Source

# Left out of the standard library's sources: tests, what was installed beside it, and the tables
# of character sets in `encodings`, which hold hardly any text and repeat one another, so that
# held-out ones would not be unseen.
STDLIB_SKIPPED = frozenset(
    ["__pycache__", "dist-packages", "encodings", "idle_test", "site-packages", "test", "tests"]
)
# Written when the interpreter was built: facts about one machine.
STDLIB_BUILT = ("_sysconfigdata", "config-")

STDLIB_PARTS = 25
"""One part in 25 of the standard library's files is held out for each of test and validation."""


def stdlib_source() -> Source:
    """Return the running interpreter's library sources, one document a file.

    Splits by name alone: a file is held out for test or validation by the SHA-256 of its
    relative path, modulo 25. About 10 MB; on CPython 3.11 0.48 MB of it are for validation.
    Raises DataError where the interpreter has no library sources on disk.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [path for path in _walk(root, _stdlib_skips) if path.endswith(".py")]
    if not files:
        raise DataError(f"no library sources below {root}: name a file or folder of your own")
    splits: dict[str, list[str]] = {name: [] for name in SPLITS}
    for path in files:
        splits[stdlib_split(path)].append(path)
    identity = {"kind": "stdlib", "python": platform.python_version(), **_facts(root, files)}
    return _files_source("stdlib", "stdlib", identity, root, splits, column="")


def stdlib_split(relative: str) -> str:
    """Return the split of a library file, from its path relative to the library's root."""
    digest = hashlib.sha256(relative.encode()).digest()
    part = int.from_bytes(digest[:8], "big") % STDLIB_PARTS
    return {0: "test", 1: "validation"}.get(part, "train")


def _stdlib_skips(name: str) -> bool:
    return name in STDLIB_SKIPPED or name.startswith(STDLIB_BUILT)


def path_source(spec: str, column: str) -> Source:
    """Return the source for a file or a folder.

    A file of text is one document in the split `all`. A table (Parquet) has one document per
    row, taken from `column`; its split is in its name, else it is `all`. A folder is read
    recursively, hidden files left out, in the order of the names: subfolders called train,
    validation or test are its splits; else its tables, if it has any; else all its files.
    Raises DataError if there is nothing there, or nothing to read.
    """
    path = Path(spec).expanduser()
    try:
        path = path.resolve(strict=True)
        if path.is_dir():
            root, splits = path, _folder_splits(path)
        elif path.is_file():
            root, splits = path.parent, _file_split(path.name)
        else:  # a pipe or a device: its end may never come
            raise DataError(f"{spec} is neither a file nor a folder: copy it to a file first")
        files = [file for part in splits.values() for file in part]
        if not files:
            raise DataError(f"the folder {spec} has no files to read: name one with text in it")
        identity = {"kind": "files", "column": column, **_facts(root, files)}
    except FileNotFoundError as error:
        raise DataError(
            f"no such file or folder: {spec}; name one that exists, or stdlib or minipile"
        ) from error
    except OSError as error:
        raise DataError(
            f"cannot read {error.filename or spec} ({error.strerror}): "
            "change its permissions or name another"
        ) from error
    return _files_source(path.name, spec, identity, root, splits, column)


def _files_source(
    name: str,
    spec: str,
    identity: dict[str, Any],
    root: Path,
    splits: dict[str, list[str]],
    column: str,
) -> Source:
    def load() -> Contents:
        paths = {split: [root / file for file in files] for split, files in splits.items()}
        readers = {split: _reader(files, column) for split, files in paths.items()}
        return Contents(readers, size_hint([p for part in paths.values() for p in part], column))

    return Source(name, spec, identity, load)


def _reader(files: list[Path], column: str) -> Reader:
    def read(skip: int) -> Iterator[Document]:
        for file in files:
            skip, documents = documents_of(file, column, skip)
            yield from documents

    return read


def _facts(root: Path, files: Iterable[str]) -> dict[str, Any]:
    """Return what changes whenever one of the files does, as JSON values."""
    rows = []
    for file in files:
        status = os.stat(os.path.join(root, file))
        rows.append([file, status.st_size, status.st_mtime_ns])
    return {"root": str(root), "files": rows}


def _walk(root: Path, skips: Callable[[str], bool] = lambda name: False) -> list[str]:
    """Return the files below a folder as sorted relative POSIX paths, hidden ones left out.

    skips : tells of a file's or folder's name whether to leave it out too
    """

    def refuse(error: OSError) -> None:
        raise error

    found = []
    for folder, folders, names in os.walk(root, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".") and not skips(name)]
        for name in names:
            path = os.path.join(folder, name)
            # Not a broken link, and no sockets or pipes: reading those would wait for ever.
            if not name.startswith(".") and not skips(name) and os.path.isfile(path):
                found.append(os.path.relpath(path, root).replace(os.sep, "/"))
    return sorted(found)


def _folder_splits(folder: Path) -> dict[str, list[str]]:
    named = [name for name in SPLITS if (folder / name).is_dir()]
    if named:
        return {
            name: [f"{name}/{file}" for file in _tables_first(_walk(folder / name))]
            for name in named
        }
    files = _tables_first(_walk(folder))
    return _splits_by_name(files) if files and is_table(files[0]) else {ALL: files}


def _file_split(name: str) -> dict[str, list[str]]:
    return _splits_by_name([name]) if is_table(name) else {ALL: [name]}


def _tables_first(files: list[str]) -> list[str]:
    """Return the tables alone if there are any: what lies beside them describes them."""
    return [file for file in files if is_table(file)] or files


_SPLIT_WORDS = re.compile(
    r"(?<![a-z])(?:(train)(?:ing|set)?|(valid)(?:ation)?|(test)(?:ing|set)?)(?![a-z])"
)


def _splits_by_name(files: list[str]) -> dict[str, list[str]]:
    """Sort tables by the split in their names, as in `train-00000-of-00012.parquet`."""
    splits: dict[str, list[str]] = {name: [] for name in (*SPLITS, ALL)}
    for file in files:
        found = _SPLIT_WORDS.search(os.path.basename(file).lower())
        name = SPLITS[found.lastindex - 1] if found and found.lastindex else ALL
        splits[name].append(file)
    splits = {name: part for name, part in splits.items() if part}
    if ALL in splits and len(splits) > 1:
        raise DataError(
            f"cannot tell the split of {splits[ALL][0]}: put train, validation or test into its "
            "name like its neighbours'"
        )
    return splits
