"""egg: integer-only byte-level language models, trained by evolution alone.

import egg
network = egg.load("runs/...")
network.logits("text"), network.bits_per_byte("text"), network.generate("text", 100)
"""

import os as _os
from typing import TYPE_CHECKING

from egg.errors import EggError

if TYPE_CHECKING:
    from egg.model.network import Network, load

# In a checkout kernels/ and data/ lie beside this folder; installed, they lie inside it.
if not _os.path.isdir(_os.path.join(__path__[0], "kernels")):
    __path__.append(_os.path.dirname(__path__[0]))

__version__ = "0.1.0"

__all__ = ["EggError", "Network", "__version__", "load"]


def __getattr__(name: str):
    """Import ``egg.load`` and what else needs the kernels when it is first asked for."""
    if name in ("Network", "load"):
        from egg.model import network

        return getattr(network, name)
    raise AttributeError(f"module 'egg' has no attribute {name!r}")
