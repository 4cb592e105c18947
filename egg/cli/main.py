"""The ``egg`` command: one table of subcommands, and one line instead of a traceback."""

import importlib
import io
import os
import signal
import sys
import traceback

from egg import __version__
from egg.cli import interrupts
from egg.data import DataError
from egg.errors import EggError
from egg.kernels import BackendError
from egg.ranks import distributed

COMMANDS = {
    "train": ("egg.cli.train", "train a model, or go on with a run"),
    "eval": ("egg.cli.eval", "measure a model's bits per byte on a text"),
    "sample": ("egg.cli.sample", "generate text with a model"),
    "adapt": ("egg.cli.adapt", "fit a model to another text, by a small adapter"),
    "compress": ("egg.cli.compress", "make a file small with a model, lossless"),
    "decompress": ("egg.cli.compress", "bring it back"),
    "export": ("egg.cli.export", "take a model elsewhere: to C, to the Hugging Face Hub"),
    "data": ("egg.cli.data", "prepare text, tell what it is like, empty the cache"),
    "compare": ("egg.cli.compare", "learning side by side: configurations, seeds, curves"),
    "plot": ("egg.cli.plot", "draw the curves of runs"),
    "lm-eval": ("egg.cli.lm_eval", "run lm-evaluation-harness, which then knows the model egg"),
    "inspect": ("egg.cli.inspect", "look inside: kernels, weights, a text's way, the tables"),
    "intrinsic-dimension": ("egg.cli.intrinsic_dimension", "d90: how few parameters suffice to adapt a model"),
    "geometry": ("egg.cli.geometry", "the shape of hidden states: anisotropy, intrinsic dimension"),
    "bench": ("egg.cli.bench", "measure the speed, beside what the CPU could do"),
    "completion": ("egg.cli.completion", "complete commands, flags and values in a shell"),
}
"""Name -> the module whose ``main(argv, prog)`` does it, and its line in the help."""


def main(argv: list[str] | None = None) -> int:
    """Run ``egg COMMAND ...`` and return the exit status.

    argv : arguments after the program's name; None is the command line's
    """
    argv = sys.argv[1:] if argv is None else argv
    _open_streams()
    distributed.silence()
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if argv[0] in ("-V", "--version"):
        print(f"egg {__version__}")
        return 0
    return run(argv[0], argv[1:], prog=f"egg {argv[0]}")


def run(command: str, argv: list[str], *, prog: str) -> int:
    """Run one command and return the exit status: 2 for bad input, told in one line on stderr.

    prog : how the user called it, for help and advice
    """
    _open_streams()
    distributed.silence()
    try:
        if command not in COMMANDS:
            raise EggError(f"unknown command {command!r}: choose {', '.join(COMMANDS)} (egg --help)")
        if command != "train" and (processes := distributed.launched()[1]) > 1:
            raise EggError(
                f"{processes} processes were started: only training divides its work among several, start {prog} as one"
            )
        module = importlib.import_module(COMMANDS[command][0])
        interrupts.ready()
        return module.main(argv, prog)
    except interrupts.Terminated:
        return distributed.fail("terminated", 128 + signal.SIGTERM)
    except KeyboardInterrupt:
        return distributed.fail("interrupted", 128 + signal.SIGINT)
    except BrokenPipeError:
        # Whoever read our output has gone. Without this the interpreter complains at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MemoryError:
        less = "a smaller --hidden-size, --num-layers, --seq-len or --streams needs less"
        if command not in ("train", "adapt", "bench"):
            less = "a smaller file or model needs less, or give it a machine with more"
        return distributed.fail(f"out of memory: {less}", 2)
    except (EggError, DataError, BackendError, OSError) as error:
        return distributed.fail(str(error), 2)
    except Exception:
        if distributed.launched()[1] > 1:  # the others would wait for this rank
            return distributed.fail(traceback.format_exc(), 1)
        raise


def _open_streams() -> None:
    """See to it that whatever is printed can be.

    Python has None for an output that was closed before it started (``>&-``): what is printed goes nowhere. And most
    locales refuse the characters that their encoding has not, such as those of a name that is not UTF-8.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        elif isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {line}" for name, (_, line) in COMMANDS.items()]
    return "\n".join(
        [
            f"egg {__version__}: an integer-only byte-level language model, trained by evolution alone",
            "",
            "usage: egg COMMAND [OPTIONS]",
            "",
            *lines,
            "",
            "To begin with:",
            "  egg train --preset quickstart",
            "",
            "egg COMMAND --help tells more, egg --version the version.",
        ]
    )
