"""The cache folder of prepared corpora, and its locks."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from egg.data.corpus import ALL, FORMAT, MANIFEST, SOURCE, SPLITS, VERIFIED, journal_path, split_path
from egg.data.errors import DataError
from egg.data.source import Source

Notify = Callable[[str], None]

PARTIAL = ".partial"
"""Suffix of a folder whose corpus is not whole yet."""
WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
"""Error codes of file systems without locks."""


def cache_root(cache: Path | None = None) -> Path:
    """Return the cache folder: the argument, else `EGG_CACHE`, else the platform's own."""
    folder = cache or os.environ.get("EGG_CACHE")
    if not folder:
        import platformdirs

        folder = platformdirs.user_cache_dir("egg", appauthor=False)
    return Path(os.path.expanduser(folder)).absolute()


def corpora_folder(cache: Path | None = None) -> Path:
    """Return the folder that holds the folders of all prepared corpora."""
    return cache_root(cache) / "corpora"


def corpus_folder(source: Source, cache: Path | None = None) -> Path:
    """Return the folder of a source's prepared corpus, `<name>-<key>`."""
    identity = json.dumps([FORMAT, source.identity], sort_keys=True)
    key = hashlib.sha256(identity.encode()).hexdigest()[:16]
    name = re.sub(r"[^A-Za-z0-9._+-]+", "-", source.name).strip("-.")[:48] or "corpus"
    return corpora_folder(cache) / f"{name}-{key}"


def partial_folder(folder: Path) -> Path:
    """Return the folder in which a corpus is prepared before it is renamed."""
    return folder.with_name(folder.name + PARTIAL)


def file_names(folder: Path) -> set[str]:
    """Return the names of all files that a corpus's folder can hold."""
    splits = [path(folder, split).name for split in (*SPLITS, ALL) for path in (split_path, journal_path)]
    temporary = [path.name for path in folder.glob(f"{VERIFIED}.*")]
    return {MANIFEST, SOURCE, VERIFIED, *splits, *temporary}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of the body, which writes at `path`, into a DataError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(
            f"cannot write {path} ({reason}): free space on the disk, or set EGG_CACHE to another folder"
        ) from error


def remove_corpus(folder: Path) -> int:
    """Remove a corpus's folder with its files, and return their size.

    Raises DataError and removes nothing if the folder holds anything else; raises it also if it cannot be written.
    """
    if not folder.exists():
        return 0
    with writing(folder):
        files, known = list(folder.iterdir()), file_names(folder)
        if foreign := sorted(file.name for file in files if file.name not in known or file.is_dir()):
            raise DataError(f"{folder} holds {foreign[0]!r}, which is not part of a corpus: move it away first")
        size = sum(file.lstat().st_size for file in files)
        # Its marks as a corpus go last, so that an interrupted removal can be repeated.
        for file in sorted(files, key=lambda file: file.name in (MANIFEST, SOURCE)):
            file.unlink(missing_ok=True)
        folder.rmdir()
    return size


@contextmanager
def locked(folder: Path, notify: Notify, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock of one corpus folder: one process at a time prepares or removes it.

    The lock ends with its process, however that ends. On a file system without locks, one
    process at a time is up to the user. Raises DataError if the cache cannot be written, or if
    `wait` is false and another process holds the lock.
    """
    from filelock import FileLock, Timeout  # slow to import (30 ms): --help does not need it

    path = folder.with_name(f".{folder.name}.lock")
    lock = FileLock(path, mode=0o644, thread_local=False, fallback_to_soft=False)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            if not wait:
                raise DataError(f"{folder} is being prepared by another process: wait for it or stop it") from None
            notify(f"waiting for another process that prepares {folder.name}")
            lock.acquire()
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
    try:
        yield
    finally:
        lock.release()


def remove_lock(folder: Path) -> None:
    """Remove a corpus folder's lock file; only for the process that holds the lock."""
    folder.with_name(f".{folder.name}.lock").unlink(missing_ok=True)
