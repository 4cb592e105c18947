"""A user's reward function, called in its own process, so that a function that hangs can be ended."""

import importlib
import inspect
import math
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

from egg.errors import EggError

START_SECONDS = 60  # for the module to be imported
MAX_TIMEOUT = 7 * 86400  # seconds: a week, which every system can wait for


def check_timeout(seconds: float) -> None:
    """Raises EggError for a timeout out of range."""
    if not 0 < seconds <= MAX_TIMEOUT:
        raise EggError(f"--reward-timeout {seconds:g}: must be more than 0 and at most {MAX_TIMEOUT} seconds")


class Reward:
    """Scores texts; ``close`` ends the process.

    spec : FILE.py:FUNCTION, or MODULE:FUNCTION, where the module may be in the current folder
    timeout : seconds that one call for many texts may take
    Raises EggError, one line that names the function, if it cannot be loaded.
    """

    def __init__(self, spec: str, timeout: float):
        module, _, function = spec.rpartition(":")
        if not module or not function:
            raise EggError(f"--reward {spec}: give FILE.py:FUNCTION or MODULE:FUNCTION, as egg.rewards:target_length")
        check_timeout(timeout)
        self.spec, self._timeout = spec, timeout
        context = multiprocessing.get_context("spawn")
        self._pipe, child_pipe = context.Pipe()
        self._process = context.Process(target=_serve, args=(child_pipe, module, function, list(sys.path)), daemon=True)
        self._process.start()
        child_pipe.close()
        self._answer(START_SECONDS)

    def __call__(self, prompts: Sequence[str], texts: Sequence[str]) -> list[float]:
        """The scores of texts, each after its prompt; raises EggError if the function fails or exceeds the timeout."""
        self._pipe.send(list(zip(prompts, texts, strict=True)))
        return self._answer(self._timeout)

    def _answer(self, seconds: float):
        try:
            if not self._pipe.poll(seconds):
                raise EggError(
                    f"--reward {self.spec} took more than {seconds:g} s and was ended: does it hang? (--reward-timeout)"
                )
            kind, content = self._pipe.recv()
        except EOFError:
            raise EggError(f"--reward {self.spec}: its process has ended") from None
        if kind == "error":
            raise EggError(f"--reward {self.spec} {content}")
        return content

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _serve(pipe, module: str, function: str, path: list[str]) -> None:
    """Answer lists of (prompt, text) with ("scores", list) or ("error", what is wrong), until the other end closes."""
    # Ctrl-C reaches every process; the command finishes its step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.path[:] = ["", *path]
    try:
        score = getattr(_load(module), function)
        with_prompt = takes_prompt(score)
        pipe.send(("ready", None))
    except BaseException as error:  # a module may call sys.exit
        pipe.send(("error", f"cannot be loaded: {type(error).__name__}: {error}"))
        return
    while True:
        try:
            samples = pipe.recv()
        except EOFError:
            return
        try:
            scores = []
            for prompt, text in samples:
                value = float(score(text, prompt) if with_prompt else score(text))
                if not math.isfinite(value):
                    raise ValueError(f"returned {value} for {text[:40]!r}")
                scores.append(value)
            pipe.send(("scores", scores))
        except BaseException as error:
            pipe.send(("error", f"failed: {type(error).__name__}: {error}"))


def _load(module: str):
    """A module by its name, or by its file, beside which it may import others."""
    if not module.endswith(".py"):
        return importlib.import_module(module)
    path = Path(module).absolute()
    sys.path.insert(0, str(path.parent))
    loaded = sys.modules[path.stem] = ModuleType(path.stem)
    SourceFileLoader(path.stem, str(path)).exec_module(loaded)
    return loaded


def _end_with_parent() -> None:
    """End this process when its parent ends, for whatever reason: nobody would read its answers."""
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)


def takes_prompt(score) -> bool:
    """Whether a function's second argument is for the prompt: it has no default, or is called ``prompt``.

    Other arguments with defaults are the function's settings, as in ``def score(text, target=20)``.
    """
    signature = inspect.signature(score)
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [p for p in signature.parameters.values() if p.kind in kinds]
    return len(positional) > 1 and (positional[1].default is positional[1].empty or positional[1].name == "prompt")
