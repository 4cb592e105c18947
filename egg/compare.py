"""The learning bench: configurations side by side, at equal member-tokens, with several seeds each.

Every run is an ordinary run folder, DIR/NAME/seed-N, made by ``egg train``; a line of DIR/results.jsonl keeps
what came of it.
"""

import json
import subprocess
import sys
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path

from egg.errors import EggError
from egg.runlog import METRICS, VALIDATION, read_lines

RESULTS = "results.jsonl"
SEEDS = "seeds"
KEPT_BACK = ("seed", "out", "resume", "config")  # flags that are not a configuration's to set
INTERRUPTED = 130


@dataclass(frozen=True)
class Configuration:
    """One row of a comparison: a name, and flags of ``egg train`` with their values."""

    name: str
    settings: dict[str, str]

    def flags(self) -> list[str]:
        """The settings as ``egg train`` takes them."""
        return [f"--{key.replace('_', '-')}={value}" for key, value in self.settings.items()]


@dataclass(frozen=True)
class Result:
    """What came of one run."""

    name: str
    seed: int
    settings: dict[str, str]
    commit: str | None
    """Of the code that began or went on with the run; ``+`` where files had changed since."""
    member_tokens: int
    bits_per_byte: float
    """Exact, of the validation split, at the run's end."""
    seconds: float


def read_comparison(path: Path) -> tuple[list[Configuration], list[int]]:
    """The configurations and seeds of a comparison's TOML file.

    What stands at the top is common to all configurations; each table is one, and overrides it.
    Raises EggError, one line, for a file that cannot be read or says something else.
    """
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise EggError(f"cannot read {path} ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise EggError(f"{path} is no TOML file: {error}") from error
    seeds = content.pop(SEEDS, [1, 2])
    if not (isinstance(seeds, list) and seeds and all(type(seed) is int for seed in seeds)):
        raise EggError(f"{path}: {SEEDS} must be a list of whole numbers, as in seeds = [1, 2]")
    common = {key: value for key, value in content.items() if not isinstance(value, dict)}
    tables = {key: value for key, value in content.items() if isinstance(value, dict)}
    if not tables:
        raise EggError(f"{path} names no configuration: add a table such as [sign]")
    configurations = []
    for name, own in tables.items():
        settings = {"preset": "quickstart"} | common | own
        for key, value in settings.items():
            if key in KEPT_BACK or isinstance(value, dict | list | bool):
                raise EggError(
                    f"{path}: {name} cannot set {key} = {value!r}: a comparison does that itself"
                )
        configurations.append(Configuration(name, {k: str(v) for k, v in settings.items()}))
    return configurations, seeds


def run_comparison(
    configurations: list[Configuration], seeds: list[int], out: Path, say
) -> list[Result]:
    """Run what has no result yet, seed by seed, going on with runs that were interrupted.

    say : is told a line about each run
    Raises EggError if a run fails or a kept result is of other settings, KeyboardInterrupt after Ctrl-C.
    """
    results = read_results(out)
    for (
        seed
    ) in seeds:  # all configurations of a seed first: an interrupted comparison compares already
        for configuration in configurations:
            done = next(
                (r for r in results if (r.name, r.seed) == (configuration.name, seed)), None
            )
            if done is None:
                say(f"{configuration.name}, seed {seed}")
                results.append(_run(configuration, seed, out))
                with (out / RESULTS).open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(results[-1])) + "\n")
            elif done.settings != configuration.settings:
                raise EggError(
                    f"{out / RESULTS} has {configuration.name} with other settings: give it another name, "
                    "or the comparison another --out"
                )
    wanted = {(c.name, seed) for c in configurations for seed in seeds}
    return [r for r in results if (r.name, r.seed) in wanted]


def read_results(out: Path) -> list[Result]:
    """The results kept in a comparison's folder.

    Raises EggError for a line that is none.
    """
    path = out / RESULTS
    if not path.exists():
        return []
    results = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            results.append(Result(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise EggError(
                f"{path}, line {number} is no result: remove it to run that again"
            ) from error
    return results


def _run(configuration: Configuration, seed: int, out: Path) -> Result:
    folder = out / configuration.name / f"seed-{seed}"
    arguments = ["train", *configuration.flags(), f"--seed={seed}", f"--out={folder}"]
    if (folder / "config.json").exists():
        stops = [f for f in configuration.flags() if f.startswith(("--steps=", "--member-tokens="))]
        arguments = ["train", f"--resume={folder}", *stops]
    program = "import sys; from egg.cli import main; sys.exit(main(sys.argv[1:]))"
    try:
        status = subprocess.run([sys.executable, "-c", program, *arguments]).returncode
    except KeyboardInterrupt:  # the run heard it too, and saves
        status = INTERRUPTED
    if status == INTERRUPTED:
        raise KeyboardInterrupt
    if status:
        raise EggError(f"{configuration.name}, seed {seed} ended with status {status}: see above")
    *_, last = (record for _, _, record in read_lines(folder / METRICS))
    return Result(
        configuration.name,
        seed,
        configuration.settings,
        commit(),
        last["member_tokens"],
        last[VALIDATION],
        last["seconds"],
    )


def commit() -> str | None:
    """The commit of this code; None outside a git checkout."""
    here = Path(__file__).parent

    def git(*words):
        return subprocess.run(["git", "-C", here, *words], capture_output=True, text=True)

    try:
        head, changed = git("rev-parse", "--short", "HEAD"), git("status", "--porcelain", "-uno")
    except OSError:
        return None
    if head.returncode or changed.returncode:
        return None
    return head.stdout.strip() + ("+" if changed.stdout else "")


def table(results: list[Result]) -> str:
    """Results in Markdown: a row a configuration, its mean over seeds and their range."""
    rows = [
        "| configuration | seeds | member-tokens | bits per byte | range | seconds |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in dict.fromkeys(r.name for r in results):
        some = [r for r in results if r.name == name]
        bits = [r.bits_per_byte for r in some]
        rows.append(
            f"| {name} | {len(some)} | {some[0].member_tokens / 1e6:.1f}M | {sum(bits) / len(bits):.4f} | "
            f"{min(bits):.4f} to {max(bits):.4f} | {sum(r.seconds for r in some) / len(some):.0f} |"
        )
    return "\n".join(rows)
