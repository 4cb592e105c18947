"""The recipes by name."""

from egg.evolution.base import Evolution, Text
from egg.evolution.branches import BranchEvolution
from egg.evolution.paper import PaperEvolution
from egg.kernels.backend import Backend
from egg.ranks.distributed import ALONE, Alone


def recipe_class(recipe: str) -> type[Evolution]:
    """The class of a recipe."""
    return {"egg": BranchEvolution, "paper": PaperEvolution}[recipe]


def evolution(config, backend: Backend, text: Text, ranks: Alone = ALONE) -> Evolution:
    """A model at the beginning of its training, by the recipe of the configuration.

    Arguments as for ``Evolution``.
    """
    return recipe_class(config.evolution.recipe)(config, backend, text, ranks)
