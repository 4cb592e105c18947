"""The learning bench: configurations side by side, at equal tokens, with several seeds each.

Every run is an ordinary run folder, DIR/NAME/seed-N, made by ``egg.train``; its result is a line of
DIR/results.jsonl.
"""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from egg.config import SIZE_FIELDS, STOPS, from_json
from egg.errors import EggError, telling
from egg.files import read_file, replace_file
from egg.model import checkpoint
from egg.optimizer import nominal_tokens
from egg.run.config_file import MAX_TOML, read_toml
from egg.run.lock import locked
from egg.run.log import MEASURED, METRICS, VALIDATION, Pace, is_number, measurement, read_records
from egg.run.origin import commit
from egg.run.signals import catch_signals
from egg.training.settings import NAMES
from egg.training.settings import configuration as from_settings
from egg.view.figures import count, duration

RESULTS = "results.jsonl"
SEEDS = "seeds"
RESERVED = ("seed", "out", "resume", "config", "progress")  # flags that a configuration cannot set
LOCK_SECONDS = 30  # time for a run whose comparison was killed to finish its step and save

RUN = "import sys; from egg.study.compare import run_alone; sys.exit(run_alone(sys.argv[1]))"


class Stopped(Exception):
    """A signal has ended a comparison; the current run is saved."""

    def __init__(self, number: int):
        super().__init__(f"signal {number}")
        self.number = number


@dataclass(frozen=True)
class Configuration:
    """One row of a comparison: a name, and settings of ``egg.train``, with their values as texts."""

    name: str
    settings: dict[str, str]


@dataclass(frozen=True)
class RunResult:
    """The result of one run."""

    name: str
    seed: int
    settings: dict[str, str]
    commit: str | None
    """Commit of the code that started or last resumed the run; ``+`` where files had changed since."""
    tokens: int
    bits_per_byte: float
    """Exact, at the run's end."""
    seconds: float
    measured_on: str = MEASURED[VALIDATION]
    """Of MEASURED: what was measured."""


@dataclass(frozen=True)
class Cost:
    """What one configuration's runs cost to their end, and how good they are there."""

    name: str
    family: str
    """The name without the budget: the configurations of a table whose stop is a list share it."""
    tokens: int
    """The mean over seeds, which differ by the clock alone."""
    multiply_accumulates: int
    seconds: float
    """Of training alone, the mean over seeds: without compilation and measurements."""
    bits_per_byte: list[float]
    """Of each seed."""
    measured_on: str = MEASURED[VALIDATION]
    """Of MEASURED: what was measured."""

    @property
    def mean(self) -> float:
        """Mean bits per byte over seeds."""
        return sum(self.bits_per_byte) / len(self.bits_per_byte)


def read_comparison(path: Path) -> tuple[list[Configuration], list[int]]:
    """The configurations and seeds of a comparison's TOML file.

    Settings at the top are common to all configurations; each table is one configuration, and overrides them. A stop
    that is a list is a configuration for each of its values, NAME-VALUE.
    Raises EggError, one line, for a file that cannot be read or holds anything else.
    """
    content = read_toml(path, str(path))
    seeds = content.pop(SEEDS, [1, 2])
    if not (isinstance(seeds, list) and seeds and all(type(seed) is int for seed in seeds)):
        raise EggError(f"{path}: {SEEDS} must be a list of whole numbers, as in seeds = [1, 2]")
    common = _renamed({key: value for key, value in content.items() if not isinstance(value, dict)})
    tables = {key: value for key, value in content.items() if isinstance(value, dict)}
    if not tables:
        raise EggError(f"{path} names no configuration: add a table such as [wide]")
    configurations: dict[str, Configuration] = {}
    for table, own in tables.items():
        # A table's size replaces what is common, as any setting of a table does.
        replaced = SIZE_FIELDS if "size" in own else ()
        kept = {key: value for key, value in common.items() if key.replace("-", "_") not in replaced}
        for name, settings in _budgets(table, {"preset": "quickstart"} | kept | _renamed(own)):
            if not name.strip(".") or Path(name).name != name:
                raise EggError(f"{path}: [{name!r}] names no folder: give it a name without slashes")
            for key, value in settings.items():
                if key in RESERVED or isinstance(value, dict | list) or (key in STOPS and isinstance(value, bool)):
                    raise EggError(f"{path}: {name} cannot set {key} = {value!r}: a comparison does that itself")
            if name in configurations:
                raise EggError(f"{path}: {name} is there twice: give a table another name")
            configurations[name] = Configuration(name, {k: str(v) for k, v in settings.items()})
    return list(configurations.values()), seeds


def _budgets(name: str, settings: dict) -> Iterator[tuple[str, dict]]:
    """A table's configurations: one, or one for each value of a stop that is a list."""
    lists = [stop for stop in STOPS if isinstance(settings.get(stop), list) and settings[stop]]
    if not lists:
        yield name, settings
        return
    for value in settings[lists[0]]:
        yield f"{name}-{value}", settings | {lists[0]: value}


def _renamed(settings: dict) -> dict:
    """Settings with the budget under its present name."""
    return {"tokens" if key == "member_tokens" else key: v for key, v in settings.items()}


def run_comparison(
    configurations: list[Configuration], seeds: list[int], out: Path, notify, *, quiet: bool = False
) -> list[RunResult]:
    """Run what has no result yet, seed by seed, resuming runs that were interrupted.

    notify : called with a line about each run
    quiet : without the output of the runs
    Raises EggError if a run fails or a kept result has other settings, Stopped after Ctrl-C or SIGTERM.
    """
    results = read_results(out)
    number, runs = 0, len(configurations) * len(seeds)
    # All configurations of a seed first: even an interrupted comparison compares them
    for seed in seeds:
        for configuration in configurations:
            number += 1
            done = next((r for r in results if (r.name, r.seed) == (configuration.name, seed)), None)
            if done is None:
                left = seconds_left(configurations, seeds, results)
                in_all = "" if left is None else f", about {duration(left)} left in all"
                notify(f"run {number} of {runs}: {configuration.name}, seed {seed}{in_all}")
                results.append(_run(configuration, seed, out, quiet))
                with (out / RESULTS).open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(results[-1])) + "\n")
            elif done.settings != configuration.settings:
                raise EggError(_other_settings(out / RESULTS, configuration))
    compared = {(c.name, seed) for c in configurations for seed in seeds}
    return [r for r in results if (r.name, r.seed) in compared]


def seconds_left(configurations: list[Configuration], seeds: list[int], results: list[RunResult]) -> float | None:
    """About how long the runs without a result take; None before the first result.

    As long as the same configuration with another seed, else as those that ran took for a multiply-accumulate.
    """
    by_name = {c.name: [r.seconds for r in results if r.name == c.name] for c in configurations}
    ran = [name for name, seconds in by_name.items() if seconds]
    if not ran:
        return None
    work = {c.name: _work(c) for c in configurations}
    spent = sum(work[name] * len(by_name[name]) for name in ran)
    each = sum(sum(by_name[name]) for name in ran) / spent if spent else 0.0
    left = 0.0
    for c in configurations:
        seconds = by_name[c.name]
        took = sum(seconds) / len(seconds) if seconds else work[c.name] * each
        left += took * (len(seeds) - sum(r.name == c.name and r.seed in seeds for r in results))
    return left


def _work(configuration: Configuration) -> float:
    """Multiply-accumulates of a run to its end; of one that the clock alone stops, those of a nominal machine."""
    named = {key: value for key, value in configuration.settings.items() if key.replace("-", "_") in NAMES}
    try:
        config = from_settings(named, {})[0].resolved()
    except EggError:  # the run says what is wrong
        return 0.0
    tokens = config.end
    if tokens is None and config.run.minutes is not None:
        tokens = nominal_tokens(config.run.minutes, config.multiply_accumulates)
    return float(config.multiply_accumulates) * (tokens or 0)


def read_results(out: Path) -> list[RunResult]:
    """The results kept in a comparison's folder.

    Raises EggError for a line that is not a result.
    """
    path = out / RESULTS
    if path.is_symlink():
        raise EggError(f"{path} is a link: a comparison writes into its own folder alone, put the file in its place")
    if not path.exists():
        return []
    results = []
    with telling(f"cannot read {path}"):
        lines = read_file(path).splitlines()
    for number, line in enumerate(lines, 1):
        try:
            result = RunResult(**json.loads(line))
            kinds = {"name": str, "seed": int, "settings": dict, "tokens": int, "measured_on": str}
            usable = all(type(getattr(result, field)) is kind for field, kind in kinds.items())
            usable &= all(map(is_number, (result.tokens, result.bits_per_byte, result.seconds)))
        except (ValueError, TypeError, RecursionError):
            usable = False
        if not usable:
            raise EggError(f"{path}, line {number} is no result: remove it to run that again")
        results.append(result)
    return results


def _run(configuration: Configuration, seed: int, out: Path, quiet: bool) -> RunResult:
    folder = out / configuration.name / f"seed-{seed}"
    settings_file = folder.with_name(f"{folder.name}.json")  # beside the run's folder, which must be new
    arguments = configuration.settings | {"seed": seed, "progress": not quiet}
    if _started(folder):
        if settings_file.exists() and _read_settings(settings_file) != configuration.settings:
            raise EggError(_other_settings(folder, configuration))
        arguments |= {"resume": str(folder)}
    else:
        settings_file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(settings_file, checkpoint.json_bytes(configuration.settings))
        arguments |= {"out": str(folder)}
    status = _call(arguments)
    if status:
        raise EggError(f"{configuration.name}, seed {seed} ended with status {status}: see above")
    last = {}
    with telling(f"cannot read {folder / METRICS}"):
        for record in read_records(folder / METRICS):
            last = record
    measured = measurement(last)
    if not (measured and type(last.get("tokens")) is int):
        raise EggError(
            f"{folder / METRICS} does not say how good the run is at its end: remove {folder} to run it again"
        )
    key, bits = measured
    what = configuration.name, seed, configuration.settings, commit()
    return RunResult(*what, last["tokens"], bits, last["seconds"], MEASURED[key])


def _read_settings(path: Path) -> object:
    """The settings that a run was started with."""
    try:
        with telling(f"cannot read {path}"):
            return json.loads(read_file(path, MAX_TOML))
    except (ValueError, RecursionError) as error:
        raise EggError(f"{path} holds no settings: remove {path.with_suffix('')} and it, to run that again") from error


def _started(folder: Path) -> bool:
    """Whether the folder holds a run; waits for one whose comparison was killed to finish its step and save."""
    if not (folder / checkpoint.CONFIG).exists():
        return False
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            with locked(folder):
                return True
        except EggError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def run_alone(arguments: str) -> int:
    """Train in this process, which a comparison has started; returns the exit status.

    arguments : those of ``egg.train``, as JSON
    """
    from egg.training.train import train  # with the kernels, which the comparison itself does not need

    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        return train(**json.loads(arguments)).follow()
    except (EggError, OSError, MemoryError) as error:
        print(f"egg: {str(error) or 'out of memory'}", file=sys.stderr)
        return 2


def _end_with_parent() -> None:
    """Save and end when the comparison has ended in any way, which closes the pipe from it."""
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def _call(arguments: dict[str, str | int]) -> int:
    """Train in a process of its own; returns its status, raises Stopped once it has saved after a signal.

    The process has its own session: Ctrl-C reaches the run only through the comparison, once.
    """
    received: list[int] = []
    command = [sys.executable, "-c", RUN, json.dumps(arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as process:

        def forward(number: int) -> None:
            received.append(number)
            process.send_signal(number)

        restore = catch_signals(forward)
        try:
            status = process.wait()
        except BaseException:  # the second signal
            process.kill()
            raise
        finally:
            restore()
    if received:
        raise Stopped(received[0])
    return status


def _other_settings(where: Path, configuration: Configuration) -> str:
    return (
        f"{where} has {configuration.name} with other settings: give it another name, or the comparison another --out"
    )


def results_table(configurations: list[Cost]) -> str:
    """Results in Markdown: a row for each configuration, with the mean over seeds and the range."""
    rows = [
        "| configuration | seeds | tokens | multiply-accumulates | bits per byte | range | seconds of training |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for c in configurations:
        bits = c.bits_per_byte
        name = c.name if c.measured_on == MEASURED[VALIDATION] else f"{c.name}, {c.measured_on}"
        rows.append(
            f"| {name} | {len(bits)} | {count(c.tokens)} | {count(c.multiply_accumulates)} | {c.mean:.4f} | "
            f"{min(bits):.4f} to {max(bits):.4f} | {c.seconds:.1f} |"
        )
    return "\n".join(rows)


def costs(results: list[RunResult], out: Path) -> list[Cost]:
    """What each configuration cost, from its runs' files.

    Raises EggError if a run's files are gone or damaged.
    """
    found = []
    for name in dict.fromkeys(r.name for r in results):
        runs = [r for r in results if r.name == name]
        folders = [out / name / f"seed-{r.seed}" for r in runs]
        where = folders[0] / checkpoint.CONFIG
        each = from_json(checkpoint.read_config(folders[0]), str(where)).multiply_accumulates
        seconds = [_training_seconds(folder) for folder in folders]
        tokens = sum(r.tokens for r in runs) // len(runs)
        found.append(
            Cost(
                name,
                _family(runs[0]),
                tokens,
                each * tokens,
                sum(seconds) / len(seconds),
                [r.bits_per_byte for r in runs],
                runs[-1].measured_on,
            )
        )
    return found


def _family(result: RunResult) -> str:
    name = result.name
    for stop in STOPS:
        name = name.removesuffix(f"-{result.settings.get(stop)}")
    return name


def _training_seconds(run: Path) -> float:
    """Seconds that a run's steps took, see ``Pace``."""
    pace = Pace()
    with telling(f"cannot read {run / METRICS}"):
        for record in read_records(run / METRICS):
            tokens, speed = record.get("tokens"), record.get("tokens_per_second")
            if not (is_number(tokens) and is_number(speed) and speed > 0):
                raise EggError(f"{run / METRICS} is no log of a run: the line of step {record['step']} has no numbers")
            pace.add(tokens, speed)
    return pace.seconds


def best_table(configurations: list[Cost], budget: str) -> str:
    """The best configuration for each budget in Markdown: of those whose runs end within it, the lowest mean.

    budget : "seconds" or "multiply_accumulates"; budgets are 1, 2 and 5 times powers of ten, up to the dearest run's
    """
    spent = [getattr(c, budget) for c in configurations]
    rows = [f"| {budget.replace('_', '-')} | best | bits per byte | tokens | of |", "| --- | --- | --- | --- | --- |"]
    for most in _budgets_between(min(spent), max(spent)):
        within = [c for c in configurations if getattr(c, budget) <= most]
        best = min(within, key=lambda c: c.mean)
        shown = f"{most:g}".replace("e+0", "e").replace("e+", "e")
        rows.append(f"| {shown} | {best.name} | {best.mean:.4f} | {count(best.tokens)} | {len(within)} |")
    return "\n".join(rows)


def _budgets_between(least: float, most: float) -> Iterator[float]:
    """1, 2 and 5 times powers of ten, from the first that is enough for one run to the first that is for all."""
    for power in range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1):
        for factor in (1, 2, 5):
            budget = float(f"{factor}e{power}")
            if budget >= least:
                yield budget
            if budget >= most:
                return
