"""egg: integer-only byte-level language models, trained by evolution alone.

import egg
model = egg.load("runs/...")
model.logits(tokens), model.scores(tokens)
"""

from egg.errors import EggError
from egg.model.network import Model, load

__version__ = "0.1.0"

__all__ = ["EggError", "Model", "__version__", "load"]
