"""From the documents of a source to a prepared corpus: all splits, a manifest, then its name.

A corpus is prepared in `<folder>.partial`, which a later attempt can continue, and renamed
when it is whole: a folder under its final name never holds half a corpus.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from egg.data.cache import Notify, partial_folder, remove_corpus, writing
from egg.data.corpus import (
    ALL,
    FORMAT,
    MANIFEST,
    SOURCE,
    fingerprint_of,
    journal_path,
    open_file,
    read_json,
    record_verified,
)
from egg.data.errors import DataError
from egg.data.pieces import Report, SplitWriter, read_journal
from egg.data.source import Contents, Source

MARGIN = 16 << 20
"""Bytes of free disk required beyond the expected size of a corpus."""


BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}B [{elapsed}<{remaining}{postfix}]"
"""Of tqdm: what fits into 80 columns."""


MAX_TEXT = 64 * 10**9
"""Default size limit of a corpus, in bytes on disk: a small compressed file can hold terabytes."""


def prepare(source: Source, folder: Path, *, progress: bool, notify: Notify, max_text: int = MAX_TEXT) -> None:
    """Write a source's documents to `folder`, continuing an interrupted attempt if there is one.

    The caller holds the folder's lock. `notify` is called at the start, or, without a
    progress bar, at the first bytes: if the source cannot be read, the error is enough. Raises
    DataError if the source cannot be read, has an empty split or more than `max_text` bytes, or the
    folder cannot be written; whole pieces are then kept for an attempt that continues.
    """
    announced = False

    def announce() -> None:
        nonlocal announced
        if not announced:
            announced = True
            notify(f"{source.task} {source.spec} in {folder}")

    if progress:
        announce()
    contents = source.load()
    partial = partial_folder(folder)
    with writing(partial):
        done = _begin(source, contents, partial, notify)
    announced = announced or done > 0
    try:
        _check_disk(contents, partial, done)
        splits: dict[str, dict[str, Any]] = {}
        with _progress_bar(source.name, contents.size_hint, progress, announce) as report:
            bounded = _bounded(source.spec, partial, max_text, report)
            for split, read in contents.readers.items():
                with SplitWriter(partial, split, bounded) as writer:
                    if not writer.complete:
                        for document in read(writer.counts.read):
                            writer.add(document)
                        writer.finish()
                    splits[split] = writer.figures()
        if not contents.unchanged():
            remove_corpus(partial)  # it may mix the old and the new documents
            raise DataError(f"{source.spec} changed while it was read: try again when it is complete")
        for split in splits:
            if not splits[split]["documents"]:
                where = "" if split == ALL else f" in its split {split}"
                raise DataError(
                    f"{source.spec} has no text{where}: name a source with at least one document that is not empty"
                )
    except Exception:
        if _bytes_done(contents, partial) == 0:  # nothing that a later attempt could use
            remove_corpus(partial)
        raise
    manifest = {
        "format": FORMAT,
        "name": source.name,
        "spec": source.spec,
        "fingerprint": fingerprint_of(splits),
        "splits": splits,
        "source": source.identity,
    }
    with writing(folder):
        for split in splits:
            journal_path(partial, split).unlink()
        (partial / SOURCE).unlink()
        _write_json(partial / MANIFEST, manifest)
        record_verified(partial, splits)
        os.rename(partial, folder)
        _sync_folder(folder.parent)


def _begin(source: Source, contents: Contents, partial: Path, notify: Notify) -> int:
    """Make the partial folder, or keep one that matches; return how many bytes it holds already."""
    head = {
        "format": FORMAT,
        "name": source.name,
        "spec": source.spec,
        "stamp": contents.stamp,
        "splits": list(contents.readers),
        "source": source.identity,
    }
    if partial.exists():
        done = _bytes_done(contents, partial)
        if done and _matches(partial, head):
            notify(f"continuing {source.name} after {done / 1e6:,.1f} MB")
            return done
        if done:
            notify(f"{source.name} has changed since its preparation began: starting again")
        remove_corpus(partial)
    partial.mkdir(parents=True)
    _write_json(partial / SOURCE, head)
    return 0


def _matches(partial: Path, head: dict[str, Any]) -> bool:
    try:
        found = read_json(partial / SOURCE)
        return all(found.get(key) == head[key] for key in ("format", "stamp", "splits"))
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def _bytes_done(contents: Contents, partial: Path) -> int:
    journals = [read_journal(journal_path(partial, split)) for split in contents.readers]
    return sum(journal[-1]["counts"]["size"] for journal in journals if journal)


def _check_disk(contents: Contents, partial: Path, done: int) -> None:
    if contents.size_hint is None:
        return
    needed = contents.size_hint - done + MARGIN
    free = shutil.disk_usage(partial).free
    if needed > free:
        raise DataError(
            f"not enough disk at {partial.parent}: {needed / 1e9:,.2f} GB needed, "
            f"{free / 1e9:,.2f} GB free; free some space, or set EGG_CACHE to a larger disk"
        )


def _bounded(spec: str, partial: Path, max_text: int, report: Report) -> Report:
    """A report that ends the preparation when the corpus exceeds `max_text` or the disk is nearly full."""
    size, checked = 0, 0

    def bounded(split: str, added: int, documents: int) -> None:
        nonlocal size, checked
        size += added
        if size > max_text:
            raise DataError(
                f"{spec} has more than {max_text:,} bytes of text: to prepare all of it, give egg data prepare a "
                "larger --max-text"
            )
        if size - checked >= MARGIN:
            checked = size
            free = shutil.disk_usage(partial).free
            if free < MARGIN:
                raise DataError(
                    f"the disk at {partial.parent} is full after {size / 1e9:,.2f} GB of {spec}: free space, or set "
                    "EGG_CACHE to a larger disk"
                )
        report(split, added, documents)

    return bounded


@contextmanager
def _progress_bar(name: str, size_hint: int | None, progress: bool, announce: Callable[[], None]) -> Iterator[Report]:
    """Show bytes, documents and time left; yields the function to report them to.

    announce : called at the first bytes if there is no bar
    """
    if not progress:
        yield lambda split, size, documents: announce() if size else None
        return
    from tqdm import tqdm

    # A line above says what is prepared, and where.
    short = name if len(name) <= 12 else f"{name[:11]}\u2026"
    with tqdm(desc=short, total=size_hint, unit_scale=True, mininterval=0.5, bar_format=BAR) as bar:

        def report(split: str, size: int, documents: int) -> None:
            bar.set_postfix_str(f"{split}, {documents:,} document{'s' * (documents != 1)}", refresh=False)
            bar.update(size)

        yield report
        bar.total = bar.n  # the expected total was an estimate
        bar.refresh()


def _write_json(path: Path, value: Any) -> None:
    with open_file(path, "wb") as file:
        file.write(f"{json.dumps(value, indent=1)}\n".encode())
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Make a rename last through a power cut, where the platform lets a folder be synced."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
