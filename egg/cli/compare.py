"""``egg compare``: the learning bench."""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from egg.cli.options import made_folder, parse, say
from egg.report.plots import plot_comparison
from egg.study.compare import Stopped, read_comparison, results_table, run_comparison


@dataclass(frozen=True)
class CompareArguments:
    """Run configurations side by side, at equal tokens, with several seeds each.

    FILE is TOML: keys are flags of egg train, keys at the top apply to all configurations, and each table is a
    configuration. Started again, it resumes where it was interrupted. For example:

      tokens = "1M"
      seeds = [1, 2]

      ["64-2"]

      ["256-2"]
      hidden_size = 256
    """

    file: str
    """The TOML file."""
    _: KW_ONLY
    out: str | None = None
    """Folder for its runs, results.jsonl and curves.png; none: runs/NAME, after the file's name."""


def main(argv: list[str], prog: str) -> int:
    """Compare as the arguments say; returns the exit status."""
    arguments = parse(CompareArguments, argv, prog=prog)
    path = Path(arguments.file)
    configurations, seeds = read_comparison(path)
    out = made_folder(arguments.out or Path("runs") / path.stem)
    try:
        results = run_comparison(configurations, seeds, out, say)
    except Stopped as stopped:
        say("stopped; the same command resumes")
        return 128 + stopped.number
    print(results_table(results))
    print(f"\ncurves: {plot_comparison(out, results)}")
    return 0
