"""metrics.jsonl: the measurements of a run, a line of JSON every few steps."""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egg.errors import EggError, telling
from egg.files import open_file

METRICS = "metrics.jsonl"
DENSE = 10_000  # lines of a log between two doublings of the steps
MAX_LINE = 1 << 16  # bytes: a run writes no longer line, so none is read
VALIDATION = "validation_bits_per_byte"
OLD_NAMES = {"member_tokens": "tokens", "member_tokens_per_second": "tokens_per_second"}


@dataclass(frozen=True)
class Best:
    """The lowest measurement of a run on the validation text, the first of equals."""

    step: int
    bits_per_byte: float


@dataclass(frozen=True)
class History:
    """The log of a run up to a step."""

    best: Best | None = None
    """The best measurement so far."""
    seconds: float = 0.0
    """Time the run had taken at that step."""
    end: int = 0
    """Bytes of the file up to the end of that step's line, or up to its beginning if ``last`` replaces it."""
    last: dict[str, Any] | None = None
    """The line that replaces that step's, if it has to change."""


def read_history(run: Path, step: int, eval_every: int) -> History:
    """What a run's log holds up to a step; killed runs may have written more.

    Raises EggError if the file cannot be read, or is a link, through which a run does not write.
    """
    path = run / METRICS
    if path.is_symlink():
        raise EggError(f"{path} is a link: a run writes into its own folder alone, put the file in its place")
    best, before, seconds, end, last = None, None, 0.0, 0, None
    with telling(f"cannot read {path}"):
        for begin, line, record in read_lines(path) if path.exists() else ():
            if record["step"] > step:
                break
            seconds, end, last = record["seconds"], begin + len(line), (begin, record)
            before, best = best, _better(best, record)
    # What a run measures at its end is not measured in the middle of a longer one.
    if last and VALIDATION in last[1] and not (eval_every and last[1]["step"] % eval_every == 0):
        begin, record = last
        return History(before, seconds, begin, {k: v for k, v in record.items() if k != VALIDATION})
    return History(best, seconds, end)


def best_of(run: Path, step: int) -> Best | None:
    """The best measurement in a run's log up to a step, including one made only because the run ended there."""
    best = None
    for _, _, record in read_lines(run / METRICS) if (run / METRICS).exists() else ():
        if record["step"] > step:
            break
        best = _better(best, record)
    return best


class RunLog:
    """Appends lines to a run's log, after cutting it to its history."""

    def __init__(self, run: Path, history: History):
        """Open the log; raises EggError if it cannot be written."""
        self.best = history.best
        """The best measurement so far."""
        path = run / METRICS
        with telling(f"cannot write {path}"):
            self.path = path
            self._file = open(path, "a", encoding="utf-8")
            self._file.truncate(history.end)
        if history.last:
            self.write(history.last)

    def write(self, record: dict[str, Any]) -> None:
        """Append a line; it is on disk after ``flush``. Raises EggError if it cannot be written."""
        with self._telling():
            self._file.write(json.dumps(record) + "\n")
        self.best = _better(self.best, record)

    def flush(self) -> None:
        """Write everything through to the disk; raises EggError if it cannot be written."""
        with self._telling():
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Write everything, and close the file; raises EggError if it cannot be written."""
        with self._telling():
            self._file.close()

    def drop(self) -> None:
        """Close the file after an error, without hiding that error."""
        with suppress(OSError):
            self._file.close()

    def _telling(self):
        return telling(f"cannot write {self.path}", "; the last checkpoint stands")


def _better(best: Best | None, record: dict[str, Any]) -> Best | None:
    bits = record.get(VALIDATION)
    if bits is None or (best is not None and best.bits_per_byte <= bits):
        return best
    return Best(record["step"], bits)


def log_spacing(step: int, every: int) -> int:
    """Steps between lines at a step: ``every`` for 2 DENSE lines, then doubled with every doubling of the steps."""
    return every << max(0, (step // (every * DENSE)).bit_length() - 1)


def read_lines(path: Path) -> Iterator[tuple[int, bytes, dict[str, Any]]]:
    """Each whole line of a log: its offset, its bytes, its object; ends at the first incomplete line."""
    begin = 0
    with open_file(path) as file:
        while line := file.readline(MAX_LINE):
            try:
                record = json.loads(line)
                for old, name in OLD_NAMES.items():  # in logs of older versions
                    if old in record:
                        record[name] = record.pop(old)
                complete = line.endswith(b"\n") and _is_ours(record)
            except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
                complete = False
            if not complete:
                return
            yield begin, line, record
            begin += len(line)


def _is_ours(record: dict[str, Any]) -> bool:
    """Whether a line has the fields that readers of the log need, as numbers."""
    step, numbers = record["step"], (record["seconds"], record.get(VALIDATION, 0))
    return type(step) is int and 0 < step < 2**63 and all(is_number(number) and number >= 0 for number in numbers)


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a number that a float can hold."""
    return type(value) in (int, float) and abs(value) < 1e300
