"""The ``egg`` command: the table of subcommands, and errors in one line instead of a traceback."""

import importlib
import io
import os
import signal
import sys
import traceback

from egg import __version__
from egg.cli import interrupts
from egg.data import DataError
from egg.errors import EggError, perhaps
from egg.kernels import BackendError
from egg.ranks import distributed

COMMANDS = {
    "train": ("egg.cli.train", "train a model, or continue a run"),
    "eval": ("egg.cli.eval", "measure a model's bits per byte on a text"),
    "sample": ("egg.cli.sample", "generate text with a model"),
    "adapt": ("egg.cli.adapt", "fit a model to another text, by a small adapter"),
    "compress": ("egg.cli.compress", "compress a file with a model, lossless"),
    "decompress": ("egg.cli.compress", "restore a compressed file"),
    "export": ("egg.cli.export", "export a model to C, the Hugging Face Hub or ONNX"),
    "data": ("egg.cli.data", "prepare text, describe it, empty the cache"),
    "compare": ("egg.cli.compare", "train configurations side by side, with several seeds"),
    "plot": ("egg.cli.plot", "draw the curves of runs"),
    "lm-eval": ("egg.cli.lm_eval", "run lm-evaluation-harness with the model egg"),
    "inspect": ("egg.cli.inspect", "show kernels, weights, a text's path, the integer tables"),
    "intrinsic-dimension": ("egg.cli.intrinsic_dimension", "d90: how few parameters suffice to adapt a model"),
    "geometry": ("egg.cli.geometry", "the shape of hidden states: anisotropy, intrinsic dimension"),
    "bench": ("egg.cli.bench", "measure the speed, beside the CPU's peak"),
    "completion": ("egg.cli.completion", "complete commands, flags and values in a shell"),
}
"""Command -> the module whose ``main(argv, prog)`` runs it, and its line in the help."""


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
    """Run one command and return the exit status: 2 for bad input, with one line on standard error.

    prog : the command as the user called it, for help and advice
    """
    _open_streams()
    distributed.silence()
    try:
        if command not in COMMANDS:
            raise EggError(
                f"unknown command {command!r}{perhaps(command, COMMANDS)}: choose {', '.join(COMMANDS)} (egg --help)"
            )
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
        # The reader of the output has gone. Without this the interpreter complains at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MemoryError:
        advice = "a smaller --hidden-size, --num-layers, --seq-len or --streams needs less"
        if command not in ("train", "adapt", "bench"):
            advice = "a smaller file or model needs less"
        return distributed.fail(f"out of memory: {advice}", 2)
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
            "For example:",
            '  egg sample pretrained --prompt "def "',
            "  egg train --preset quickstart",
            "",
            "egg COMMAND --help describes a command, egg --version prints the version.",
        ]
    )
