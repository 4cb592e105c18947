"""``egg lm-eval``: the command line of lm-evaluation-harness, with the model ``egg``."""

import sys
from dataclasses import dataclass

from egg.errors import EggError


@dataclass(frozen=True)
class LmEvalArguments:
    """Arguments for shell completion: none, as they are the harness's."""


def main(argv: list[str], prog: str) -> int:
    """Run the harness with these arguments, unparsed: help, output and exit status are the harness's.

    The model is registered here, as releases up to 0.4.13 read no entry points.

    For example:
      egg lm-eval run --model egg --model_args pretrained=runs/nano --tasks wikitext
    """
    try:
        import lm_eval.models  # noqa: F401, before registering: only an empty registry is filled
        from lm_eval.__main__ import cli_evaluate
        from lm_eval.api.registry import model_registry
    except ImportError as error:
        raise EggError(f"{prog} needs lm-evaluation-harness ({error}): pip install 'egg-lm[lm-eval]'") from None
    if "egg" not in model_registry:
        model_registry.register("egg", target="egg.export.lm_eval:EggLM")
    sys.argv = [prog, *argv]  # the harness reads only these
    cli_evaluate()
    return 0
