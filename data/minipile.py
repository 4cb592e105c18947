"""MiniPile, and any other data set of the Hugging Face hub, through `datasets`."""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from egg.data.cache import Notify, corpora_folder
from egg.data.corpus import ALL, SPLITS
from egg.data.errors import DataError
from egg.data.parquet import check_column, column_bytes
from egg.data.source import Contents, Reader, Source

MINIPILE = "JeanKaddour/minipile"
"""The hub's name of MiniPile: 1,000,000, 500 and 10,000 documents, about 6 GB of text."""

ANSWER_SECONDS = 10.0
"""Time limit of one request to the hub."""

LOOKUP_SECONDS = 20.0
"""Time limit of the query, the look-up of the hub's address included."""

NAMES = 20
"""Configurations that a message lists."""

ALTERNATIVES = "use --data stdlib, which needs no network, or the path of a local file or folder"

_SPLIT_NAMES = {"train": "train", "validation": "validation", "valid": "validation"}
_SPLIT_NAMES |= {"val": "validation", "dev": "validation", "test": "test"}


def is_hub_id(spec: str) -> bool:
    """Tell whether a specification can only mean the hub's `owner/name`, or `owner/name:config`.

    It cannot if the path or its parent folder exists, or if it has a text file's extension.
    """
    path, name = Path(spec), spec.partition(":")[0]
    files = (".csv", ".gz", ".json", ".jsonl", ".md", ".parquet", ".txt", ".zst")
    return (
        re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(:[\w.+-]+)?", spec) is not None
        and not path.exists()
        and not path.parent.is_dir()
        and not name.lower().endswith(files)
    )


def hub_source(spec: str, dataset: str, column: str, *, cache: Path | None, progress: bool, notify: Notify) -> Source:
    """Return the source for a data set of the hub, or for a local folder read the same way.

    dataset : its name, with `:config` after it if it has several configurations

    Its splits train, validation and test are used; a single split of another name becomes `all`.
    A prepared corpus does not follow changes on the hub until it is cleared from the cache.
    """
    name = "minipile" if dataset == MINIPILE else dataset.rstrip("/").rsplit("/", 1)[-1]
    path, _, config = dataset.partition(":")
    identity = {"kind": "hub", "dataset": dataset, "column": column}

    def load() -> Contents:
        with _progress_bars(progress):
            return _contents(dataset, _load_dataset(path, config, cache, notify), column)

    return Source(name, spec, identity, load)


def _load_dataset(dataset: str, name: str, cache: Path | None, notify: Notify) -> Any:
    """Return `datasets.load_dataset(dataset)`, of the configuration of a name if it has one, done in its three steps.

    Between the first two the free disk space is checked, and the memory for reading a shard is bounded.
    """
    import datasets
    from datasets import config

    outage = None if os.path.isdir(dataset) else _ask_hub(dataset)
    try:
        with ExitStack() as stack:
            # A data set may contain a loading script, which versions of datasets before 4 would offer to run.
            config.HF_DATASETS_TRUST_REMOTE_CODE = False  # pyright: ignore[reportAttributeAccessIssue]
            if outage:
                stack.enter_context(_offline())
            builder = datasets.load_dataset_builder(dataset, name or None)
            _check_disk(dataset, builder, cache, notify)
            _bound_memory(builder)
            builder.download_and_prepare()
            return builder.as_dataset()
    except DataError:
        raise
    except Exception as error:  # `datasets` raises what its many layers raise
        if choices := _configurations(error):
            what = f"has no configuration {name!r}" if name else "has several configurations"
            raise DataError(
                f"{dataset} {what}: choose one, as in {dataset}:{choices[0]}, of {_some(choices)}"
            ) from error
        if outage:
            raise DataError(
                f"cannot reach the Hugging Face hub for {dataset} ({outage}), and it is not in "
                f"the cache of datasets: {ALTERNATIVES}"
            ) from error
        raise DataError(
            f"cannot load {dataset} with datasets ({_reason(error.__cause__ or error)}): try again, or {ALTERNATIVES}"
        ) from error


def _configurations(error: BaseException) -> list[str]:
    """The names in the error of `datasets` for a configuration that is missing or does not exist; else none."""
    found = re.search(r"(?:Config name is missing|BuilderConfig .* not found).*?\[(.*?)\]", str(error), re.DOTALL)
    return re.findall(r"'([^']+)'", found[1]) if found and isinstance(error, ValueError) else []


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
    return ", ".join(names[:NAMES]) + more


def _ask_hub(dataset: str) -> str | None:
    """Return why the hub cannot be reached, or None; raises DataError if it has no such data set.

    It runs first because `datasets` itself retries for minutes.
    """
    import datasets.config
    from huggingface_hub import HfApi
    from huggingface_hub.utils import HFValidationError, RepositoryNotFoundError

    if datasets.config.HF_HUB_OFFLINE:
        return "offline mode is on"
    answers: queue.Queue[Exception | None] = queue.Queue()

    def query() -> None:
        try:
            HfApi().dataset_info(dataset, timeout=ANSWER_SECONDS)
            answers.put(None)
        except Exception as error:
            answers.put(error)

    # In a thread: the time limit of a request does not cover the look-up of the address.
    threading.Thread(target=query, daemon=True).start()
    try:
        answer = answers.get(timeout=LOOKUP_SECONDS)
    except queue.Empty:
        return f"no answer in {LOOKUP_SECONDS:.0f} s"
    if isinstance(answer, RepositoryNotFoundError | HFValidationError):
        raise DataError(
            f"{dataset} is neither a local file or folder nor a data set of the Hugging Face hub that "
            f"you may read: correct the name, log in with `hf auth login`, or {ALTERNATIVES}"
        ) from answer
    return None if answer is None else _reason(answer)


def _reason(error: BaseException) -> str:
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first[:200]}"


@contextmanager
def _offline() -> Iterator[None]:
    """Restrict `datasets` to its own cache; it would retry the network for a long time."""
    import datasets.config
    import huggingface_hub

    places: tuple[Any, ...] = (datasets.config, huggingface_hub.constants)
    before = [place.HF_HUB_OFFLINE for place in places]
    for place in places:
        place.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


@contextmanager
def _progress_bars(shown: bool) -> Iterator[None]:
    """Switch off the progress bars of `datasets` and of the hub unless `shown`."""
    from datasets import utils as datasets_utils
    from huggingface_hub import utils as hub_utils

    quiet = [module for module in (datasets_utils, hub_utils) if not shown and not module.are_progress_bars_disabled()]
    for module in quiet:
        module.disable_progress_bars()
    try:
        yield
    finally:
        for module in quiet:
            module.enable_progress_bars()


def _check_disk(dataset: str, builder: Any, cache: Path | None, notify: Notify) -> None:
    """Announce the disk space that is needed; raise DataError if less is free."""
    import datasets.config
    from huggingface_hub.constants import HF_HUB_CACHE

    text = builder.info.dataset_size
    if not text:
        notify(f"{dataset} does not say how large it is: its disk space is not checked")
        return
    ours, theirs = corpora_folder(cache), Path(builder.cache_dir)
    needs = [(text, "prepared", ours)]
    if not (theirs / "dataset_info.json").exists():
        download = 0 if os.path.isdir(dataset) else builder.info.download_size or 0
        needs += [
            (download, "downloaded", Path(HF_HUB_CACHE)),
            (text, "unpacked by datasets", Path(datasets.config.HF_DATASETS_CACHE)),
        ]
    listed = "; ".join(f"{size / 1e9:.2f} GB {what} in {where}" for size, what, where in needs)
    notify(f"disk that {dataset} needs: {listed}")
    disks: dict[int, list[tuple[int, Path]]] = {}
    for size, _, where in needs:
        folder = next(part for part in (where, *where.parents) if part.exists())
        disks.setdefault(folder.stat().st_dev, []).append((size, folder))
    for shares in disks.values():
        needed, folder = sum(size for size, _ in shares), shares[0][1]
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise DataError(
                f"not enough disk for {dataset} at {folder}: {needed / 1e9:.2f} GB needed, "
                f"{free / 1e9:.2f} GB free; free some space, or set EGG_CACHE or HF_HOME to other disks"
            )


def _bound_memory(builder: Any) -> None:
    """Make `datasets` read Parquet through a small buffer.

    By default all of a shard's compressed bytes stay in memory until its last row: at the peak
    550 MB with shards of MiniPile's size, instead of 280 MB.
    """
    config = builder.config
    if not hasattr(config, "fragment_scan_options") or config.fragment_scan_options is not None:
        return  # not Parquet, an older `datasets`, or options of the data set itself
    from pyarrow.dataset import ParquetFragmentScanOptions

    config.fragment_scan_options = ParquetFragmentScanOptions(
        use_buffered_stream=True, buffer_size=1 << 20, pre_buffer=False
    )


def _contents(dataset: str, splits: Any, column: str) -> Contents:
    """Return the documents of a loaded `DatasetDict`; raises DataError without usable splits."""
    chosen: dict[str, Any] = {}
    for name in SPLITS:
        for theirs in splits:
            if _SPLIT_NAMES.get(theirs) == name:
                chosen.setdefault(name, splits[theirs])
    if not chosen and len(splits) == 1:
        chosen[ALL] = next(iter(splits.values()))
    if not chosen:
        raise DataError(
            f"{dataset} has no split called train, validation or test, but {', '.join(splits)}: "
            "save one of them as Parquet and name that file"
        )
    for part in chosen.values():
        check_column(part.features.arrow_schema, column, dataset)
    readers = {name: _reader(part, column) for name, part in chosen.items()}
    # The last parts of the path identify the version of the data set: its commit, or hashes of its files.
    stamp = json.dumps(
        {
            name: [part.num_rows, *Path(part.cache_files[0]["filename"]).parts[-4:-1]]
            for name, part in chosen.items()
            if part.cache_files
        }
    )
    return Contents(readers, sum(_size(part) for part in chosen.values()), stamp)


def _size(part: Any) -> int:
    return part.info.splits[part.split].num_bytes


def _reader(part: Any, column: str) -> Reader:
    def read(skip: int) -> Iterator[bytes]:
        import pyarrow as pa

        for file in part.cache_files:
            # Read, not mapped as `datasets` does: mapped pages, gigabytes in all, stay resident
            # while memory is free.
            with pa.OSFile(file["filename"]) as raw, pa.ipc.open_stream(raw) as batches:
                for batch in batches:
                    if skip < batch.num_rows:
                        texts = batch.column(batch.schema.get_field_index(column))
                        yield from column_bytes(texts.slice(skip))
                    skip = max(0, skip - batch.num_rows)

    return read
