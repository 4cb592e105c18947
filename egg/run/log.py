"""metrics.jsonl: the measurements of a run, a line of JSON every few steps."""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from egg.errors import EggError, telling
from egg.files import open_file, open_to_append

METRICS = "metrics.jsonl"
DENSE = 10_000  # lines of a log between two doublings of the steps
MAX_LINE = 1 << 16  # bytes: a run writes no longer line, so none is read
VALIDATION = "validation_bits_per_byte"
MEASURED = {VALIDATION: "validation", "training_text_bits_per_byte": "training text"}
"""Key of a measurement -> what was measured, as it is shown: a text that holds nothing out is measured itself."""
SAMPLE = "sample"
OLD_NAMES = {"member_tokens": "tokens", "member_tokens_per_second": "tokens_per_second"}


@dataclass(frozen=True)
class Best:
    """The lowest measurement of a run, the first of equals."""

    step: int
    bits_per_byte: float
    key: str = VALIDATION
    """Of MEASURED: what was measured."""


@dataclass(frozen=True)
class History:
    """The log of a run up to a step."""

    best: Best | None = None
    """The best measurement so far."""
    stale: int = 0
    """Measurements since the best."""
    seconds: float = 0.0
    """Time the run had taken at that step."""
    end: int = 0
    """Bytes of the file that stay: up to the first line of a later step, or up to the line that ``last`` replaces."""
    last: dict[str, Any] | None = None
    """The line that replaces that step's, if it has to change."""
    damaged: tuple[int, ...] = ()
    """Numbers, from 1, of those lines that are damaged."""


def read_history(run: Path, step: int, eval_every: int, sample_every: int = 1) -> History:
    """What a run's log holds up to a step; killed runs may have written more.

    eval_every, sample_every : as in ``RunConfig``; what was measured or sampled besides, at an end, is left out
    Raises EggError if the file cannot be read, or is a link, through which a run does not write.
    """
    path = run / METRICS
    if path.is_symlink():
        raise EggError(f"{path} is a link: a run writes into its own folder alone, put the file in its place")
    best, seconds, end, last, damaged = None, 0.0, 0, None, []
    stale, before = 0, (None, 0)
    with telling(f"cannot read {path}"):
        for number, line in enumerate(read_lines(path) if path.exists() else (), 1):
            if line.record is None:
                damaged.append(number)
            elif line.record["step"] > step:
                break
            else:
                seconds, last = line.record["seconds"], line
                before = best, stale
                best = _better(best, line.record)
                if measurement(line.record):
                    stale = 0 if best is not before[0] else stale + 1
            end = line.end
    # What a run measures and samples at its end, a longer one does not in its middle.
    if last:
        apart = dict.fromkeys(MEASURED, eval_every) | {SAMPLE: eval_every * sample_every}
        absent = {key for key, every in apart.items() if key in last.record and not due(last.record["step"], every)}
        best, stale = before if absent & MEASURED.keys() else (best, stale)
        if absent and last.end == end:  # what cannot be read is not cut off with it
            changed = {k: v for k, v in last.record.items() if not k.startswith(tuple(absent))}  # of parts as well
            return History(best, stale, seconds, last.begin, changed, tuple(damaged))
    return History(best, stale, seconds, end, None, tuple(damaged))


def best_of(run: Path, step: int) -> Best | None:
    """The best measurement in a run's log up to a step, including one made only because the run ended there."""
    best = None
    for record in read_records(run / METRICS) if (run / METRICS).exists() else ():
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
            self._file = open_to_append(path)
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
    measured = measurement(record)
    if measured is None or (best is not None and best.bits_per_byte <= measured[1]):
        return best
    return Best(record["step"], measured[1], measured[0])


def measurement(record: dict[str, Any]) -> tuple[str, float] | None:
    """A line's measurement, and its key of MEASURED; None if it has none."""
    return next(((key, record[key]) for key in MEASURED if record.get(key) is not None), None)


def due(step: int, every: int) -> bool:
    """Whether a step has what comes every so many steps; 0 is never."""
    return bool(every) and step % every == 0


def log_spacing(step: int, every: int) -> int:
    """Steps between lines at a step: ``every`` for 2 DENSE lines, then doubled with every doubling of the steps."""
    return every << max(0, (step // (every * DENSE)).bit_length() - 1)


class Line(NamedTuple):
    """A whole line of a log."""

    begin: int
    """Bytes of the file before it."""
    end: int
    """And those up to the next."""
    record: dict[str, Any] | None
    """Its object; None if it is damaged."""


def read_lines(path: Path) -> Iterator[Line]:
    """Each line of a log except an incomplete last one, which a killed or a running run leaves."""
    with open_file(path) as file:
        begin = 0
        while line := file.readline(MAX_LINE):
            record = _record(line)
            while not line.endswith(b"\n"):
                if not (line := file.readline(MAX_LINE)):
                    return
            end = file.tell()
            yield Line(begin, end, record)
            begin = end


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a log's lines that can be read."""
    return (line.record for line in read_lines(path) if line.record is not None)


def _record(line: bytes) -> dict[str, Any] | None:
    """The object in a line; None if the line is incomplete or a field that is read is missing or no number."""
    try:
        record = json.loads(line)
        for old, name in OLD_NAMES.items():  # in logs of older versions
            if old in record:
                record[name] = record.pop(old)
        step, numbers = record["step"], (record["seconds"], *(record.get(key, 0) for key in MEASURED))
        ours = type(step) is int and 0 < step < 2**63 and all(is_number(number) and number >= 0 for number in numbers)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return None
    return record if ours and line.endswith(b"\n") else None


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a number that a float can hold."""
    return type(value) in (int, float) and abs(value) < 1e300


@dataclass
class Pace:
    """The seconds that a run's steps took, by the speeds in its log: without measurements, checkpoints and compilation.

    The first line, whose steps may have waited for the compiler, counts with the others' speed.
    """

    tokens: int = 0
    """At the last line."""
    _first: tuple[int, float] = (0, 0.0)  # tokens and seconds of the first line
    _seconds: float = 0.0  # of the others

    def add(self, tokens: int, speed: float) -> None:
        """Add a line: tokens since the run's beginning, and tokens a second since the line before."""
        seconds = (tokens - self.tokens) / speed
        if self.tokens:
            self._seconds += seconds
        else:
            self._first = tokens, seconds
        self.tokens = tokens

    @property
    def seconds(self) -> float:
        """Of all lines."""
        tokens, seconds = self._first
        others = self.tokens - tokens
        return self.tokens * self._seconds / others if others else seconds
