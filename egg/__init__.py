"""egg: integer-only byte-level language models, trained by evolution alone.

import egg
for report in egg.train("quickstart", out="runs/first"):
    print(report.step, report.train_integer_bits_per_byte)
network = egg.load("runs/first")
network.logits("text"), network.bits_per_byte("text"), network.generate("text", 100)
"""

import os as _os

# Nothing more is imported here: until egg.cli.start handles signals, Ctrl-C is Python's.
TYPE_CHECKING = False  # as typing's, which takes milliseconds to import; a checker of types takes it for true
if TYPE_CHECKING:
    from egg.errors import EggError
    from egg.model.network import Network, load
    from egg.training.train import train

# In a checkout kernels/ and data/ lie beside this folder; installed, they lie inside it.
if not _os.path.isdir(_os.path.join(__path__[0], "kernels")):
    __path__.append(_os.path.dirname(__path__[0]))

__version__ = "0.1.0"

__all__ = ["EggError", "Network", "__version__", "load", "train"]


def __getattr__(name: str):
    """Import on first use."""
    if name == "EggError":
        from egg.errors import EggError

        return EggError
    if name in ("Network", "load"):
        from egg.model import network

        return getattr(network, name)
    if name == "train":
        from egg.training.train import train

        return train
    raise AttributeError(f"module 'egg' has no attribute {name!r}")
