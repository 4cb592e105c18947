"""``egg lm-eval``: the command line of lm-evaluation-harness, which then knows the model ``egg``."""

import sys
from dataclasses import dataclass

from egg.errors import EggError


@dataclass(frozen=True)
class LmEvalArguments:
    """What completion knows of the command: nothing, the arguments are the harness's."""


def main(argv: list[str], prog: str) -> int:
    """Run the harness with these arguments, unread: help, output and exit status are its own.

    Releases up to 0.4.13 read no entry points, so that the model is registered here.

    For example:
      egg lm-eval run --model egg --model_args pretrained=runs/nano --tasks wikitext
    """
    try:
        import lm_eval.models  # noqa: F401, first: a registry that is not empty is not filled
        from lm_eval.__main__ import cli_evaluate
        from lm_eval.api.registry import model_registry
    except ImportError as error:
        raise EggError(f"{prog} needs lm-evaluation-harness ({error}): pip install 'egg-lm[lm-eval]'") from None
    if "egg" not in model_registry:
        model_registry.register("egg", target="egg.export.lm_eval:EggLM")
    sys.argv = [prog, *argv]  # the harness reads no other
    cli_evaluate()
    return 0
