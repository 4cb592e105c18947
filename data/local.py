"""The user's own files as sources: one file, a folder, or a pattern."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from egg.data.corpus import ALL, SPLITS
from egg.data.errors import DataError
from egg.data.readers import check_text, documents_of, is_table, size_hint
from egg.data.source import Contents, Document, Reader, Source


def path_source(spec: str, column: str, force_text: bool = False) -> Source:
    """Return the source for a file or a folder.

    A file of text is one document in the split `all`. A table (Parquet, JSONL) has one document
    per row, taken from `column`; its split is in its name, else it is `all`. A folder is read
    recursively, hidden files left out, in the order of the names: subfolders called train,
    validation or test are its splits; else its tables, if it has any; else all its files.
    Files may be compressed by gzip (.gz) or Zstandard (.zst). `force_text` reads files as text whatever they look like.
    Raises DataError if no such file or folder exists, or it holds nothing to read; loading raises it for a file
    that looks like something else than text.
    """
    # Links are not resolved: a link's own name says what kind of file it leads to.
    path = Path(os.path.abspath(os.path.expanduser(spec)))
    with _lookup(spec):
        path.stat()
        if path.is_dir():
            root, splits = path, _folder_splits(path)
        elif path.is_file():
            root, splits = path.parent, _file_split(path.name)
        else:  # a pipe or a device, which may never end
            raise DataError(f"{spec} is neither a file nor a folder: copy it to a file first")
        if not any(splits.values()):
            raise DataError(f"the folder {spec} has no files to read: name one with text in it")
        identity = {"kind": "files", "path": str(path), "column": column, **file_stamps(root, splits)}
    return files_source(path.name, spec, _forced(identity, force_text), root, splits, column)


def glob_source(spec: str, column: str, force_text: bool = False) -> Source:
    """Return the source for the files that match a pattern; `**` stands for any folders.

    Files are read in the order of their paths. If all are tables, their names say their splits;
    otherwise all files together are the split `all`. `force_text` as for `path_source`.
    Raises DataError if no file matches or one cannot be read.
    """
    with _lookup(spec):
        matches = glob.glob(os.path.expanduser(spec), recursive=True)
        paths = sorted(os.path.abspath(path) for path in matches if os.path.isfile(path))
        if not paths:
            raise DataError(f"no file matches {spec}: name files that exist, or stdlib or minipile")
        root = Path(os.path.commonpath([os.path.dirname(path) for path in paths]))
        files = [os.path.relpath(path, root).replace(os.sep, "/") for path in paths]
        splits = splits_by_name(files) if all(map(is_table, files)) else {ALL: files}
        identity = {"kind": "files", "column": column, **file_stamps(root, splits)}
    return files_source(os.path.basename(spec), spec, _forced(identity, force_text), root, splits, column)


def _forced(identity: dict[str, Any], force_text: bool) -> dict[str, Any]:
    """The identity of files that are read whatever they look like, so that those that are not stay refused."""
    return identity | {"forced": True} if force_text else identity


@contextmanager
def _lookup(spec: str) -> Iterator[None]:
    """Turn an OSError of the body, which looks up `spec`, into a DataError."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"no such file or folder: {spec}; name one that exists, or stdlib or minipile") from error
    except OSError as error:
        raise DataError(
            f"cannot read {error.filename or spec} ({error.strerror}): change its permissions or name another"
        ) from error


def files_source(
    name: str, spec: str, identity: dict[str, Any], root: Path, splits: dict[str, list[str]], column: str
) -> Source:
    """Return the source that reads each split's files, given as paths relative to `root`.

    Loading raises DataError for a file that is not text, unless the identity says `forced`.
    """

    def load() -> Contents:
        paths = {split: [root / file for file in files] for split, files in splits.items()}
        if identity["kind"] == "files" and not identity.get("forced"):  # not the library of Python
            for path in (path for part in paths.values() for path in part):
                check_text(path)
        readers = {split: _reader(files, column) for split, files in paths.items()}
        hint = size_hint([p for part in paths.values() for p in part], column)
        return Contents(readers, hint, unchanged=unchanged)

    def unchanged() -> bool:
        try:
            now = file_stamps(root, splits)
        except OSError:
            return False
        return all(identity[key] == now[key] for key in now)

    return Source(name, spec, identity, load)


def _reader(files: list[Path], column: str) -> Reader:
    def read(skip: int) -> Iterator[Document]:
        for file in files:
            skip, documents = documents_of(file, column, skip)
            yield from documents

    return read


def file_stamps(root: Path, splits: dict[str, list[str]]) -> dict[str, Any]:
    """Return JSON values that change whenever a file or its split does.

    Raises OSError for a missing file.
    """

    def rows(files: list[str]) -> Iterator[list[Any]]:
        for file in files:
            status = os.stat(os.path.join(root, file))
            yield [file, status.st_size, status.st_mtime_ns]

    return {"root": str(root), "files": {split: list(rows(files)) for split, files in splits.items()}}


def walk(root: Path, skips: Callable[[str], bool] = lambda name: False) -> list[str]:
    """Return the files below a folder as sorted relative POSIX paths, hidden ones left out.

    skips : whether to leave out a file or folder of this name too
    """

    def refuse(error: OSError) -> None:
        raise error

    found = []
    for folder, folders, names in os.walk(root, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".") and not skips(name)]
        for name in names:
            path = os.path.join(folder, name)
            # No broken links, and no sockets or pipes, whose reading would block for ever.
            if not name.startswith(".") and not skips(name) and os.path.isfile(path):
                found.append(os.path.relpath(path, root).replace(os.sep, "/"))
    return sorted(found)


def _folder_splits(folder: Path) -> dict[str, list[str]]:
    named = [name for name in SPLITS if (folder / name).is_dir()]
    if named:
        return {name: [f"{name}/{file}" for file in _tables_or_all(walk(folder / name))] for name in named}
    files = _tables_or_all(walk(folder))
    return splits_by_name(files) if files and is_table(files[0]) else {ALL: files}


def _file_split(name: str) -> dict[str, list[str]]:
    return splits_by_name([name]) if is_table(name) else {ALL: [name]}


def _tables_or_all(files: list[str]) -> list[str]:
    """Return only the tables if there are any: other files describe them."""
    return [file for file in files if is_table(file)] or files


_SPLIT_WORDS = re.compile(r"(?<![a-z])(?:(train)(?:ing|set)?|(valid)(?:ation)?|(test)(?:ing|set)?)(?![a-z])")


def splits_by_name(files: list[str]) -> dict[str, list[str]]:
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
