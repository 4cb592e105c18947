"""``egg compare``: the learning bench."""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from egg.cli.options import made_folder, parse, say
from egg.report.plots import plot_comparison, plot_costs
from egg.study.compare import Stopped, best_table, costs, read_comparison, results_table, run_comparison

SCALING = "scaling.png"


@dataclass(frozen=True)
class CompareArguments:
    """Run configurations side by side, at equal tokens, with several seeds each.

    FILE is TOML: keys are flags of egg train, keys at the top apply to all configurations, and each table is a
    configuration, or one for each budget where a stop is a list. Started again, it resumes where it was interrupted.
    Besides the results it prints which configuration is best for each budget of seconds and of multiply-accumulates.
    For example:

      tokens = ["1M", "4M"]
      seeds = [1, 2]

      [small]
      size = "S"

      [wide]
      hidden_size = 256
    """

    file: str
    """The TOML file."""
    _: KW_ONLY
    out: str | None = None
    """Folder for its runs, results.jsonl, curves.png and, where configurations differ in budget alone, scaling.png;
    none: runs/NAME, after the file's name."""
    quiet: bool = False
    """Print errors and results, nothing else."""


def main(argv: list[str], prog: str) -> int:
    """Compare as the arguments say; returns the exit status."""
    arguments = parse(CompareArguments, argv, prog=prog)
    path = Path(arguments.file)
    configurations, seeds = read_comparison(path)
    out = made_folder(arguments.out or Path("runs") / path.stem)
    try:
        notify = (lambda line: None) if arguments.quiet else say
        results = run_comparison(configurations, seeds, out, notify, quiet=arguments.quiet)
    except Stopped as stopped:
        say("stopped; the same command resumes")
        return 128 + stopped.number
    spent = costs(results, out)
    print(results_table(spent))
    if len(spent) > 1:
        for budget in ("seconds", "multiply_accumulates"):
            print(f"\n{best_table(spent, budget)}")
    print(f"\ncurves: {plot_comparison(out, results)}")
    if len({c.family for c in spent}) < len(spent):
        print(f"loss at the end over cost: {plot_costs(spent, out / SCALING)}")
    return 0
