"""``egg bench``: how fast this machine trains, evaluates and generates, beside what it could do; and how small texts
become, beside other programs."""

import json
import shlex
import statistics
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Annotated

from cyclopts import Parameter

from egg.bench.cases import LOW_RANK, NAMES, PERTURBATION, RANKS, WITHOUT_RECIPE, choose_cases
from egg.bench.check import check_backend, check_full_rank, check_low_rank
from egg.bench.compression import Compression, measure, model_compressor, other_programs, sum_of
from egg.bench.timing import Budget, Timing, time_cases
from egg.cli.corpus import open_measured
from egg.cli.options import ColumnFlag, ComputeFlags, ForceFlag, JsonFlag, one_of, parse, say
from egg.compute import Compute
from egg.data import SPLITS
from egg.errors import EggError, telling
from egg.files import read_file
from egg.model.compress import MAX_TEXT
from egg.model.network import Network, read_model
from egg.run.origin import commit, cpu_name, versions

MAX_JSON = 1 << 24  # bytes of a file of --json


@dataclass(frozen=True, kw_only=True)
class BenchArguments:
    """Measure speed: check the backend against the reference, then time it beside the CPU's peak.

    Prints a table for docs/benchmarks.md on standard output, progress on standard error. The cases:
     forward: readers (16 in recipe egg) read T = 32 bytes each with unperturbed weights; packing these is not timed.
     branches: members branch off after every byte, as many as the hidden size, and are scored: the time that those
    beyond 16 add to cast_votes, and in proportion the first 16.
     votes: the head's branches, credit along the wire, and the outer products: cast_votes, less forward and branches.
     update: update_rows, once for the step's tokens.
     step: a whole step of training, from weights to weights, on synthetic text; of recipe paper too.
     stations: such a step with credit stations, at gates, state and past.
     eval: egg.model.evaluate on synthetic documents of 256 bytes, each read from state zero.
     generate: egg.model.sample on an empty prompt, with all of a sample's bytes drawn at temperature 1: 1,024 samples
    side by side, and one by itself.
     compress: egg.model.compress on random bytes in 8 segments, with a model that learns; up to hidden size 256.
     perturbation: time per member that reads 100 bytes, over hidden sizes, in its own table: of rank 1, 4 and 16 and
    with Gaussian noise of rank 1, as in recipe paper, and of full rank, whose noise is drawn from the seed, added to
    the weights in place and subtracted again, one member after another.

    Useful work is M = 12 D^2 L + 256 D multiply-accumulates (MAC) for each byte read, 256 D for its branches, 8 D^2 L +
    256 D for its votes, and the sum of the three for a token of a step, 4 D^2 L more with stations; in recipe paper M,
    and M + 256 D per pair and step; for a byte of compress 2 M, and what its branches, votes and stations take. The
    peak is that of int8 dot products whose weights and sums stay in registers, on all threads at once, the best of all
    measurements: other work on the machine makes fractions too low, never too high. With --backend cupy times are the
    device's, between events, and the peak is that of a large int8 product of cuBLAS.

    egg bench compress compares egg compress with other programs (egg bench compress --help).

    For example: egg bench --only step --hidden-size 256 --num-layers 1
    """

    only: Annotated[str | None, Parameter(metavar="{" + ",".join((*NAMES, PERTURBATION)) + "}")] = None
    """Measure one thing; none: all."""
    recipe: Annotated[str | None, Parameter(metavar="{egg,paper}")] = None
    """Measure one recipe; none: both, paper up to hidden size 256."""
    hidden_size: int | None = None
    """Measure models of this width; none: 64, 256 and 1024, with 2 layers."""
    num_layers: int | None = None
    """Measure models with this many layers; with --hidden-size any model can be measured."""
    readers: int | None = None
    """Readers of recipe egg, members of recipe paper, documents of eval, samples of generate, segments of compress;
    none: the defaults."""
    seconds: float = Budget.seconds
    """Time for each case, in 3 to 9 repeats; after about four minutes no case is repeated."""
    json: JsonFlag = False
    compare: str | None = None
    """A file of an earlier --json on this machine: rows say how many times as fast they are now."""
    compute: ComputeFlags = Compute()


@dataclass(frozen=True)
class CompressionArguments:
    """Compare egg compress with gzip, bzip2, xz, zstd and PPMd: bits per byte, and megabytes a second each way.

    Each compresses every text by itself and restores it; a row counts only if the same bytes come back. The programs
    run on one thread, as their libraries do by default, egg on --threads. Compilation is not timed. Give texts that
    the model was not trained on.

    PPMd needs pip install 'egg-lm[ppmd]'; the table names what is missing.

    For example:
      egg bench compress letters/*.txt --model runs/nano-20261121-101500
      egg bench compress --data stdlib --model runs/first --model runs/second --json
    """

    files: Annotated[tuple[str, ...], Parameter(name="file")] = ()
    """Files to compress, one after another; or --data."""
    _: KW_ONLY
    model: Annotated[tuple[str, ...], Parameter(metavar="MODEL")] = ()
    """A model, as for egg compress; give the flag once for each of several. None: the other programs alone."""
    data: str | None = None
    """Text to compress, as for training: the documents of a split, end to end."""
    data_column: ColumnFlag = None
    force_text: ForceFlag = False
    split: Annotated[str | None, one_of(*SPLITS, "all")] = None
    """data: its split; none: validation, or all of an undivided text."""
    seconds: float = 1.0
    """Time for each program and text: both directions are repeated until it has passed, at most 9 times."""
    json: JsonFlag = False
    compute: ComputeFlags = Compute()


SUBCOMMANDS = {"": BenchArguments, "compress": CompressionArguments}


def main(argv: list[str], prog: str) -> int:
    """Measure as the arguments say; returns the exit status."""
    arguments = parse(SUBCOMMANDS, argv, prog=prog)
    if not arguments.seconds >= 0:
        raise EggError(f"--seconds {arguments.seconds}: must be 0 or more")
    command = f"{prog} {shlex.join(argv)}".strip()
    return (_compress if isinstance(arguments, CompressionArguments) else _time)(arguments, command)


def _time(arguments: BenchArguments, command: str) -> int:
    cases = choose_cases(
        arguments.only, arguments.hidden_size, arguments.num_layers, arguments.readers, arguments.recipe
    )
    source = commit()  # before the measurements: someone may commit meanwhile
    before = None if arguments.compare is None else earlier_rates(arguments.compare)
    backend = arguments.compute.make(say)
    say("checking against the reference (the first time also compiles: up to a minute)")
    check_backend(backend)
    if backend.name == "cupy":
        cases = _available_on_cupy(cases)
    elif any(case.name == PERTURBATION for case in cases):
        check_full_rank(backend)
        check_low_rank(backend, LOW_RANK)
    if backend.name == "cupy":
        peaks = DevicePeaks(backend)
    else:
        peaks = Peaks(arguments.compute.threads, arguments.seconds / 160)
    timings = time_cases(
        cases, arguments.compute.make, budget=Budget(arguments.seconds), before_repeat=peaks.measure, notify=say
    )
    environment = {**peaks.summary(), **_environment(backend, source, command)}
    peak = environment["peak_gmacs"]
    members = member_costs([timing for timing in timings if timing.case.name == PERTURBATION])
    timings = [timing for timing in timings if timing.case.name != PERTURBATION]
    if arguments.json:
        rows = [timing_json(timing, peak) for timing in timings]
        if before is not None:
            rows = [row | {"times_as_fast": _times_as_fast(row, before)} for row in rows]
        print(json.dumps({**environment, "rows": rows, "perturbations": members}))
    else:
        tables = [timing_table(timings, peak, before)] if timings else []
        tables += [member_table(members)] if members else []
        print("\n".join([*heading(environment), *(line for t in tables for line in ("", *t))]))
    return 0


def _environment(backend, source: str | None, command: str) -> dict:
    """What figures depend on.

    backend : None if only other programs were measured
    source : the commit
    """
    return {
        "backend": backend and backend.name,
        "description": backend and backend.description,
        "cpu": cpu_name(),
        "versions": versions(),
        "commit": source,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "command": command,
    }


def _compress(arguments: CompressionArguments, command: str) -> int:
    if bool(arguments.files) == (arguments.data is not None):
        raise EggError("give FILE or --data TEXT, one of them")
    source = commit()
    models = [(name, *read_model(name)[:2]) for name in arguments.model]
    texts = _texts(arguments)
    backend = arguments.compute.make(say) if models else None
    compressors, missing = other_programs()
    compressors += [model_compressor(name, Network(backend, *model)) for name, *model in models]
    rows: dict[str, list[Compression]] = {}
    for name, text in texts.items():
        rows[name] = []
        for compressor in compressors:
            say(f"{name}: {compressor.name}")
            rows[name].append(measure(compressor, text, arguments.seconds))
    environment = _environment(backend, source, command)
    environment["versions"] |= _versions_of_programs(missing)
    if arguments.json:
        figures = [{"text": name, **compression_json(row)} for name in rows for row in rows[name]]
        print(json.dumps({**environment, "rows": figures, "not_installed": missing}))
    else:
        print("\n".join(heading(environment)))
        if len(rows) > 1:
            sums = [sum_of(list(parts)) for parts in zip(*rows.values(), strict=True)]
            rows |= {f"all {len(rows)} texts, each by itself": sums}
        for name, figures in rows.items():
            print("\n".join(["", f"{name}: {figures[0].text_bytes:,} bytes", "", *compression_table(figures, missing)]))
        if missing:
            print(f"\nTo measure what is not installed: {'; '.join(dict.fromkeys(missing.values()))}")
    wrong = [f"{row.compressor} on {name}" for name in rows for row in rows[name] if not row.restored]
    if wrong:
        raise EggError(f"not restored: {', '.join(wrong)}")
    return 0


def _texts(arguments: CompressionArguments) -> dict[str, bytes]:
    """Contents by name."""
    texts = {}
    for path in arguments.files:
        with telling(path, "; give a file"):
            texts[path] = read_file(path, MAX_TEXT)
        if not texts[path]:
            raise EggError(f"{path} is empty: give a file of a byte or more")
    if arguments.data is not None:
        opened = open_measured(
            {}, arguments.data, arguments.data_column, arguments.split, force_text=arguments.force_text
        )
        if opened is None:
            raise EggError("--data is empty: give stdlib, minipile or a path")
        corpus, split = opened
        if corpus.bytes(split) > MAX_TEXT:
            raise EggError(f"{corpus.name} {split} has more than {MAX_TEXT:,} bytes: give another text, or --split")
        text = corpus.split(split)
        texts[f"{corpus.name} {split}"] = text[text != 0].tobytes()
    return texts


def _versions_of_programs(missing: dict[str, str]) -> dict[str, str]:
    import zlib

    import zstandard

    found = {"zlib": zlib.ZLIB_RUNTIME_VERSION, "zstd": ".".join(map(str, zstandard.ZSTD_VERSION))}
    return found if missing else found | {"pyppmd": version("pyppmd")}


def compression_json(row: Compression) -> dict:
    """A row of the JSON; figures are null if the text was not restored."""
    there, back = row.rates
    figures = {
        "packed_bytes": row.packed_bytes,
        "bits_per_byte": row.bits_per_byte,
        "compress_megabytes_per_second": float(f"{there:.4g}"),
        "decompress_megabytes_per_second": float(f"{back:.4g}"),
    }
    return {
        "compressor": row.compressor,
        "text_bytes": row.text_bytes,
        **(figures if row.restored else dict.fromkeys(figures)),
        "repeats": row.repeats,
        "restored": row.restored,
    }


def compression_table(rows: list[Compression], missing: dict[str, str]) -> list[str]:
    """Compressors on one text as an aligned Markdown table, the smallest result first.

    missing : names of those that are not installed
    """
    lines = [["", "bytes", "bits per byte", "compress, MB/s", "decompress, MB/s"]]
    for row in sorted(rows, key=lambda row: (not row.restored, row.packed_bytes)):
        if row.restored:
            figures = [f"{row.packed_bytes:,}", f"{row.bits_per_byte:.4f}", *(f"{rate:.3g}" for rate in row.rates)]
        else:
            figures = ["not restored", "-", "-", "-"]
        lines.append([row.compressor, *figures])
    lines += [[name, "not installed", "-", "-", "-"] for name in missing]
    return _markdown(lines)


def _available_on_cupy(cases: list) -> list:
    """The cases that backend cupy can run; raises EggError if it can run none."""
    available = [case for case in cases if case.name != PERTURBATION]
    if not available:
        raise EggError("backend cupy has no full-rank noise: choose numba")
    return available


class Peaks:
    """The CPU's int8 dot-product peak on one core and on all threads, measured before every repeat of every case."""

    def __init__(self, threads: int | None, seconds: float):
        self.instruction_set, self._peak, self._seconds = None, None, seconds
        self._one: list[float] = []
        self._all: list[float] = []
        try:
            from egg.kernels.cpu import load

            self.threads = load(threads).threads  # chooses the instruction set
            from egg.kernels.cpu import simd
            from egg.kernels.cpu.peak import Peak
        except ModuleNotFoundError as error:
            self.threads = threads
            say(f"the CPU's peak cannot be measured: {error}")
            return
        self.instruction_set, self._peak = simd.instruction_set, Peak()

    def measure(self) -> None:
        """Take one more measurement of each."""
        if self._peak:
            self._one.append(self._peak.measure(1, self._seconds))
            self._all.append(self._peak.measure(self.threads, self._seconds))

    def summary(self) -> dict:
        """Peaks in 1e9 multiply-accumulates per second, the highest measured; null without Numba."""
        measured = bool(self._all)
        return {
            "peak_gmacs": _round(max(self._all)) if measured else None,
            "peak_median_gmacs": _round(statistics.median(self._all)) if measured else None,
            "peak_one_core_gmacs": _round(max(self._one)) if measured else None,
            "instruction_set": self.instruction_set,
            "threads": self.threads,
        }


class DevicePeaks:
    """The GPU's int8 rate in a large product of cuBLAS, measured before every repeat of every case."""

    def __init__(self, backend):
        from egg.kernels.cuda.peak import Peak

        self._peak, self._rates = Peak(backend.device), []

    def measure(self) -> None:
        """Take one more measurement."""
        self._rates.append(self._peak.measure())

    def summary(self) -> dict:
        """Peaks in 1e9 multiply-accumulates per second, the highest and the median."""
        return {
            "peak_gmacs": _round(max(self._rates)),
            "peak_median_gmacs": _round(statistics.median(self._rates)),
            "peak_one_core_gmacs": None,
            "instruction_set": self._peak.description,
            "threads": None,
        }


def timing_json(timing: Timing, peak: float | None) -> dict:
    """A row of the JSON; a figure is null where noise hides it."""
    case = timing.case
    median, low, high = timing.rates
    return {
        "name": case.name,
        "recipe": case.recipe,
        "hidden_size": case.shape.hidden_size,
        "num_layers": case.shape.num_layers,
        "readers": case.readers,
        "seq_len": case.seq_len,
        "tokens_per_second": _round(median),
        "spread": [_round(low), _round(high)],
        "gmacs": _round(timing.gmacs),
        "fraction_of_peak": _fraction(timing, peak),
        "seconds": statistics.median(timing.seconds),
        "repeats": len(timing.seconds),
    }


# What tells a row of the JSON from the others
ROW = "name", "recipe", "hidden_size", "num_layers", "readers", "seq_len"


def earlier_rates(path: str) -> dict[tuple, float]:
    """Tokens per second of the rows of an earlier ``--json``, by ROW.

    Raises EggError, one line, if the file is not such a JSON, or is of another CPU.
    """
    with telling(f"--compare {path}", "; give a file that egg bench --json has written"):
        content = read_file(path, MAX_JSON)
    try:
        earlier = json.loads(content)
        cpu, rows = earlier["cpu"], earlier["rows"]
        rates = {tuple(row[key] for key in ROW): row["tokens_per_second"] for row in rows}
    except (ValueError, TypeError, KeyError) as error:
        raise EggError(f"--compare {path}: give a file that egg bench --json has written") from error
    if cpu != cpu_name():
        raise EggError(f"--compare {path} is of another machine: {cpu}, and this is {cpu_name()}")
    return rates


def _times_as_fast(row: dict, before: dict[tuple, float]) -> float | None:
    """How many times as fast a row is as before; None if it was not measured then, or noise hides it."""
    earlier, now = before.get(tuple(row[key] for key in ROW)), row["tokens_per_second"]
    return round(now / earlier, 3) if earlier and now else None


def member_costs(timings: list[Timing]) -> list[dict]:
    """Seconds per member of each rank, for each model."""
    by_rank = {(timing.case.shape, timing.case.recipe): timing for timing in timings}
    costs = []
    for shape in dict.fromkeys(timing.case.shape for timing in timings):
        ranks = {rank: by_rank[shape, rank] for rank in RANKS}
        seconds = {rank: statistics.median(t.seconds) / t.case.readers for rank, t in ranks.items()}
        costs.append(
            {
                "hidden_size": shape.hidden_size,
                "num_layers": shape.num_layers,
                "parameters": shape.parameters,
                "seq_len": ranks["rank 1"].case.seq_len,
                "rank_1_members": ranks["rank 1"].case.readers,
                "full_rank_members": ranks["full rank"].case.readers,
                **{f"{_key(rank)}_seconds_per_member": s for rank, s in seconds.items()},
                "full_rank_over_rank_1": round(seconds["full rank"] / seconds["rank 1"], 2),
            }
        )
    return costs


def _key(rank: str) -> str:
    return rank.lower().replace(" ", "_")


def member_table(members: list[dict]) -> list[str]:
    """The same as a Markdown table, milliseconds."""
    lines = [["model", "parameters", "bytes read", "rank 1, ms per member", *RANKS[1:], "times"]]
    for m in members:
        lines.append(
            [
                f"{m['hidden_size']}/{m['num_layers']}",
                f"{m['parameters']:,}",
                str(m["seq_len"]),
                *(f"{1000 * m[f'{_key(rank)}_seconds_per_member']:.3g}" for rank in RANKS),
                f"{m['full_rank_over_rank_1']:.3g}",
            ]
        )
    return _markdown(lines)


def heading(environment: dict) -> list[str]:
    """When, where and with what the cases were timed, as paragraphs."""
    e = environment
    libraries = ", ".join(f"{name} {v}" for name, v in e["versions"].items())
    machine = ", ".join(filter(None, (e["cpu"], e["description"])))
    lines = [f"{e['date']}, commit {e['commit'] or 'unknown'}, `{e['command']}`: {machine}; {libraries}."]
    if e.get("peak_gmacs") and e["backend"] == "cupy":
        lines.append(
            f"Peak by {e['instruction_set']}: {e['peak_gmacs']:.0f} GMAC/s, the best measured between the "
            f"repeats, {e['peak_median_gmacs']:.0f} the median; times are the device's, between events."
        )
    elif e.get("peak_gmacs"):
        lines.append(
            f"Peak of int8 dot products with {e['instruction_set']}: {e['peak_one_core_gmacs']:.0f} GMAC/s on one "
            f"core, {e['peak_gmacs']:.0f} on {e['threads']} threads, the best measured between the repeats; the median "
            f"{e['peak_median_gmacs']:.0f} shows how busy the machine was."
        )
    return lines


def timing_table(timings: list[Timing], peak: float | None, before: dict[tuple, float] | None = None) -> list[str]:
    """The timings as an aligned Markdown table.

    before : ``earlier_rates``, for a last column with how many times as fast each row is
    """
    lines = [
        ["timed", "recipe", "model", "readers, T", "tokens/s", "lowest to highest", "GMAC/s", "of peak", "repeats"]
    ]
    for timing in timings:
        case, fraction = timing.case, _fraction(timing, peak)
        median, low, high = map(_short, timing.rates)
        lines.append(
            [
                case.name,
                "-" if case.name in WITHOUT_RECIPE else case.recipe,
                f"{case.shape.hidden_size}/{case.shape.num_layers}",
                f"{case.readers:,}, {case.seq_len}",
                median,
                f"{low} to {high}",
                "-" if timing.gmacs is None else f"{timing.gmacs:.3g}",
                "-" if fraction is None else f"{100 * fraction:.0f} %",
                str(len(timing.seconds)),
            ]
        )
        if before is not None:
            times = _times_as_fast(timing_json(timing, peak), before)
            lines[-1].append("-" if times is None else f"{times:.2f}")
    if before is not None:
        lines[0].append("times as fast")
    return _markdown(lines)


def _markdown(lines: list[list[str]]) -> list[str]:
    """A table of cells, the first line its heading."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines]


def _fraction(timing: Timing, peak: float | None) -> float | None:
    return None if timing.gmacs is None or not peak else round(timing.gmacs / peak, 4)


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _short(rate: float | None) -> str:
    """Three digits and a unit: 59.4 k, 1.21 M."""
    if rate is None:
        return "-"
    for unit, size in (("M ", 10**6), ("k ", 10**3)):
        if rate >= size:
            return f"{rate / size:.3g} {unit}".strip()
    return f"{rate:.3g}"
