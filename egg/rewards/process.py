"""A user's reward function, called in a process of its own, so that one that hangs can be ended."""

import importlib
import inspect
import math
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Sequence

from egg.errors import EggError

START_SECONDS = 60  # for the module to be imported
LONGEST = 7 * 86400  # seconds that a call may be given: a week, and what every system can wait for


def check_timeout(seconds: float) -> None:
    """Raises EggError for what is no time that a call may take."""
    if not 0 < seconds <= LONGEST:
        raise EggError(f"--reward-timeout {seconds:g}: must be more than 0 and at most {LONGEST} seconds")


class Reward:
    """Scores texts; ``close`` ends the process.

    spec : MODULE:FUNCTION; the module is looked for in the present folder too
    timeout : seconds that one call for many texts may take
    Raises EggError, one line that names the function, if it cannot be loaded.
    """

    def __init__(self, spec: str, timeout: float):
        module, _, function = spec.partition(":")
        if not module or not function:
            raise EggError(f"--reward {spec}: give MODULE:FUNCTION, as egg.rewards:target_length")
        check_timeout(timeout)
        self.spec, self._timeout = spec, timeout
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, module, function, list(sys.path)), daemon=True)
        self._process.start()
        theirs.close()
        self._answer(START_SECONDS)

    def __call__(self, prompts: Sequence[str], texts: Sequence[str]) -> list[float]:
        """The scores of texts, each after its prompt; raises EggError for what is no score, or not in time."""
        self._ours.send(list(zip(prompts, texts, strict=True)))
        return self._answer(self._timeout)

    def _answer(self, seconds: float):
        try:
            if not self._ours.poll(seconds):
                raise EggError(
                    f"--reward {self.spec} took more than {seconds:g} s and was ended: does it hang? (--reward-timeout)"
                )
            kind, content = self._ours.recv()
        except EOFError:
            raise EggError(f"--reward {self.spec}: its process has ended") from None
        if kind == "error":
            raise EggError(f"--reward {self.spec} {content}")
        return content

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._ours.close()


def _serve(pipe, module: str, function: str, path: list[str]) -> None:
    """Answer lists of (prompt, text) with ("scores", list) or ("error", what is wrong), until the other end closes."""
    # Ctrl-C reaches every process: the command finishes its step
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.path[:] = ["", *path]
    try:
        score = getattr(importlib.import_module(module), function)
        both = takes_prompt(score)
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
                value = float(score(text, prompt) if both else score(text))
                if not math.isfinite(value):
                    raise ValueError(f"returned {value} for {text[:40]!r}")
                scores.append(value)
            pipe.send(("scores", scores))
        except BaseException as error:
            pipe.send(("error", f"failed: {type(error).__name__}: {error}"))


def _end_with_parent() -> None:
    """End this process when its parent has ended, however that was: nobody would read what it computes."""
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)


def takes_prompt(score) -> bool:
    """Whether a function has a second argument for the prompt: one without a default, or one of that name.

    Others with a default are settings of its own, as in ``def score(text, target=20)``.
    """
    signature = inspect.signature(score)
    places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    placed = [p for p in signature.parameters.values() if p.kind in places]
    return len(placed) > 1 and (placed[1].default is placed[1].empty or placed[1].name == "prompt")
