"""``egg bench``: how fast this machine trains, evaluates and generates, beside what it could do."""

import json
import shlex
import statistics
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from cyclopts import Parameter

from egg.bench.cases import NAMES, PERTURBATION, RANKS, plan
from egg.bench.check import check, check_full_rank
from egg.bench.timing import Patience, Row, measure
from egg.cli.options import ComputeFlags, JsonFlag, parse, say
from egg.compute import Compute
from egg.errors import EggError
from egg.run.origin import commit, cpu_name, versions


@dataclass(frozen=True, kw_only=True)
class BenchArguments:
    """Measure speed: check the backend against the reference, then time it beside the CPU's peak.

    A table for docs/benchmarks.md on standard output, progress on standard error. What is timed:
     forward: readers read T bytes each with unperturbed weights, 16 of them in recipe egg, T = 32. Packing the weights
    is not in it.
     branches: members branch off after every byte, as many as the hidden size, and are scored: what those beyond 16
    add to the time of cast_votes, and in proportion the 16.
     votes: the head's branches, credit along the wire, and the outer products: cast_votes, less forward and branches.
     update: update_rows, once for the step's tokens.
     step: a whole step as training does it, from weights to weights, on synthetic text; of recipe paper too.
     eval: egg.model.evaluate on synthetic documents of 256 bytes, each read from state zero.
     generate: egg.model.sample on an empty prompt, with all of a sample's bytes drawn at temperature 1.
     perturbation: time per member that reads 100 bytes, over hidden sizes, in a table of its own: of rank 1, as recipe
    paper has it, and of full rank, whose noise is drawn from the seed, added to the weights in place and taken off
    again, one member after another.

    Useful work is M = 12 D^2 L + 256 D multiply-accumulates (MAC) for each byte read, 256 D for its branches, 8 D^2 L +
    256 D for its votes, and the sum of the three for a token of a step; in recipe paper M, and M + 256 D a pair and
    step. The peak is that of int8 dot products whose weights and sums stay in registers, on all threads at once; the
    best of all looks counts, so other work on the machine makes fractions too low, never too high. With --backend cupy
    times are the device's own, between events, and the peak is that of a large int8 product of cuBLAS.

    For example: egg bench --only step --hidden-size 256 --num-layers 1
    """

    only: Annotated[str | None, Parameter(metavar="{" + ",".join((*NAMES, PERTURBATION)) + "}")] = None
    """Measure one thing; none: all."""
    recipe: Annotated[str | None, Parameter(metavar="{egg,paper}")] = None
    """Measure one recipe; none: both, paper up to hidden size 256."""
    hidden_size: int | None = None
    """Measure models of this width; none: 64, 256 and 1024, with 2 layers."""
    num_layers: int | None = None
    """Measure models of so many layers; with --hidden-size any model can be measured."""
    readers: int | None = None
    """Readers of recipe egg, members of recipe paper, documents of eval, samples of generate; none: enough of each."""
    seconds: float = Patience.seconds
    """Time for each row, in 3 to 9 repeats; after about seven minutes no row is repeated."""
    json: JsonFlag = False
    compute: ComputeFlags = Compute()


def main(argv: list[str], prog: str) -> int:
    """Measure as the arguments say; returns the exit status."""
    arguments = parse(BenchArguments, argv, prog=prog)
    cases = plan(arguments.only, arguments.hidden_size, arguments.num_layers, arguments.readers, arguments.recipe)

    if not arguments.seconds >= 0:
        raise EggError(f"--seconds {arguments.seconds}: must be 0 or more")
    source = commit()  # as it is now, whatever is committed meanwhile
    backend = arguments.compute.make(say)
    say("checking against the reference (the first time also compiles: up to a minute)")
    check(backend, branches=backend.name != "cupy")
    if backend.name == "cupy":
        cases = _without(cases)
    elif any(case.name == PERTURBATION for case in cases):
        check_full_rank(backend)
    if backend.name == "cupy":
        peaks = DevicePeaks(backend)
    else:
        peaks = Peaks(arguments.compute.threads, arguments.seconds / 160)
    rows = measure(
        cases, arguments.compute.make, patience=Patience(arguments.seconds), beside=peaks.measure, notify=say
    )
    facts = {
        **peaks.facts(),
        "backend": backend.name,
        "description": backend.description,
        "cpu": cpu_name(),
        "versions": versions(),
        "commit": source,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "command": f"{prog} {shlex.join(argv)}".strip(),
    }
    peak = facts["peak_gmacs"]
    members = member_facts([row for row in rows if row.case.name == PERTURBATION])
    rows = [row for row in rows if row.case.name != PERTURBATION]
    if arguments.json:
        lines = [row_facts(row, peak) for row in rows]
        print(json.dumps({**facts, "rows": lines, "perturbations": members}))
    else:
        tables = [table(rows, peak)] if rows else []
        tables += [member_table(members)] if members else []
        print("\n".join([*heading(facts), *(line for t in tables for line in ("", *t))]))
    return 0


def _without(cases: list) -> list:
    """What backend cupy can be asked; raises EggError if nothing is left."""
    lacks = ("branches", "votes", "update", PERTURBATION)
    left = [c for c in cases if c.name not in lacks and (c.name, c.recipe) != ("step", "egg")]
    if not left:
        raise EggError("backend cupy has neither recipe egg nor full-rank noise: choose numba")
    return left


class Peaks:
    """The CPU's int8 dot-product peak on one core and on all threads, measured beside every repeat of every row."""

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

    def facts(self) -> dict:
        """In 1e9 multiply-accumulates a second, the highest measured; null where there is no Numba."""
        there = bool(self._all)
        return {
            "peak_gmacs": _round(max(self._all)) if there else None,
            "peak_median_gmacs": _round(statistics.median(self._all)) if there else None,
            "peak_one_core_gmacs": _round(max(self._one)) if there else None,
            "instruction_set": self.instruction_set,
            "threads": self.threads,
        }


class DevicePeaks:
    """The GPU's int8 rate in a large product of cuBLAS, measured beside every repeat of every row."""

    def __init__(self, backend):
        from egg.kernels.cuda.peak import Peak

        self._peak, self._rates = Peak(backend.device), []

    def measure(self) -> None:
        """Take one more measurement."""
        self._rates.append(self._peak.measure())

    def facts(self) -> dict:
        """In 1e9 multiply-accumulates a second, the highest and the median."""
        return {
            "peak_gmacs": _round(max(self._rates)),
            "peak_median_gmacs": _round(statistics.median(self._rates)),
            "peak_one_core_gmacs": None,
            "instruction_set": self._peak.description,
            "threads": None,
        }


def row_facts(row: Row, peak: float | None) -> dict:
    """A row of the JSON; figures are null where noise left none."""
    case = row.case
    median, low, high = row.rates
    return {
        "name": case.name,
        "recipe": case.recipe,
        "hidden_size": case.shape.hidden_size,
        "num_layers": case.shape.num_layers,
        "readers": case.readers,
        "seq_len": case.seq_len,
        "tokens_per_second": _round(median),
        "spread": [_round(low), _round(high)],
        "gmacs": _round(row.gmacs),
        "fraction_of_peak": _fraction(row, peak),
        "seconds": statistics.median(row.seconds),
        "repeats": len(row.seconds),
    }


def member_facts(rows: list[Row]) -> list[dict]:
    """Seconds per member of rank 1 and of full rank, for each model."""
    times = {(row.case.shape, row.case.recipe): row for row in rows}
    found = []
    for shape in dict.fromkeys(row.case.shape for row in rows):
        one, full = (times[shape, rank] for rank in RANKS)
        seconds = [statistics.median(r.seconds) / r.case.readers for r in (one, full)]
        found.append(
            {
                "hidden_size": shape.hidden_size,
                "num_layers": shape.num_layers,
                "parameters": shape.parameters,
                "seq_len": one.case.seq_len,
                "rank_1_members": one.case.readers,
                "full_rank_members": full.case.readers,
                "rank_1_seconds_per_member": seconds[0],
                "full_rank_seconds_per_member": seconds[1],
                "full_rank_over_rank_1": round(seconds[1] / seconds[0], 2),
            }
        )
    return found


def member_table(members: list[dict]) -> list[str]:
    """The same as a Markdown table, milliseconds."""
    lines = [["model", "parameters", "bytes read", "rank 1, ms per member", "full rank", "times"]]
    for m in members:
        one, full = (1000 * m[f"{rank}_seconds_per_member"] for rank in ("rank_1", "full_rank"))
        lines.append(
            [
                f"{m['hidden_size']}/{m['num_layers']}",
                f"{m['parameters']:,}",
                str(m["seq_len"]),
                f"{one:.3g}",
                f"{full:.3g}",
                f"{m['full_rank_over_rank_1']:.3g}",
            ]
        )
    return _markdown(lines)


def heading(facts: dict) -> list[str]:
    """Where and with what it was measured, as paragraphs."""
    libraries = ", ".join(f"{name} {v}" for name, v in facts["versions"].items())
    lines = [
        f"{facts['date']}, commit {facts['commit'] or 'unknown'}, `{facts['command']}`: {facts['cpu']}, "
        f"{facts['description']}; {libraries}."
    ]
    if facts["peak_gmacs"] and facts["backend"] == "cupy":
        lines.append(
            f"Peak by {facts['instruction_set']}: {facts['peak_gmacs']:.0f} GMAC/s, the best measured beside the "
            f"rows, {facts['peak_median_gmacs']:.0f} the median; times are the device's own, between events."
        )
    elif facts["peak_gmacs"]:
        peak, median = facts["peak_gmacs"], facts["peak_median_gmacs"]
        lines.append(
            f"Peak of int8 dot products with {facts['instruction_set']}: "
            f"{facts['peak_one_core_gmacs']:.0f} GMAC/s on one core, {peak:.0f} on {facts['threads']} "
            f"threads, the best measured beside the rows; the median {median:.0f} says how much of "
            "the machine there was."
        )
    return lines


def table(rows: list[Row], peak: float | None) -> list[str]:
    """The rows in Markdown, aligned."""
    lines = [
        ["timed", "recipe", "model", "readers, T", "tokens/s", "lowest to highest", "GMAC/s", "of peak", "repeats"]
    ]
    for row in rows:
        case, fraction = row.case, _fraction(row, peak)
        median, low, high = map(_short, row.rates)
        lines.append(
            [
                case.name,
                case.recipe if case.name not in ("eval", "generate") else "-",
                f"{case.shape.hidden_size}/{case.shape.num_layers}",
                f"{case.readers:,}, {case.seq_len}",
                median,
                f"{low} to {high}",
                "-" if row.gmacs is None else f"{row.gmacs:.3g}",
                "-" if fraction is None else f"{100 * fraction:.0f} %",
                str(len(row.seconds)),
            ]
        )
    return _markdown(lines)


def _markdown(lines: list[list[str]]) -> list[str]:
    """A table of cells, the first line its heading."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines]


def _fraction(row: Row, peak: float | None) -> float | None:
    return None if row.gmacs is None or not peak else round(row.gmacs / peak, 4)


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
