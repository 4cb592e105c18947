"""Models that go by a name: the one that comes with egg, and those on the Hugging Face Hub."""

import re
from pathlib import Path

from egg.errors import EggError
from egg.model.checkpoint import ADAPTER, CONFIG, MODEL

PRETRAINED = "pretrained"
"""The model that comes with egg; never a path, even if one exists."""
SHIPPED = Path(__file__).parent.parent / PRETRAINED
"""Its folder."""
_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def fetch(path: str | Path) -> str | Path:
    """The folder that a path means: itself, or the model of that name if no such folder exists.

    path : a folder, or OWNER/NAME, or OWNER/NAME@REVISION, which is fetched into the Hub's cache; or "pretrained",
        the model that comes with egg, even if there is such a folder: that is "./pretrained", or a Path
    Raises EggError, one line, for a model that cannot be fetched.
    """
    if path == PRETRAINED:
        return SHIPPED
    match = _NAME.fullmatch(str(path))
    # A path whose parent exists is meant as a local path.
    if not match or Path(path).exists() or Path(path).parent.exists():
        return path
    import huggingface_hub

    name, revision = match.groups()
    try:
        return huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=[CONFIG, MODEL, ADAPTER])
    except (OSError, ValueError) as error:  # the library's own errors derive from these
        why = str(error).strip().splitlines() or [type(error).__name__]
        raise EggError(f"{path}: no such folder, and no such model from the Hugging Face Hub: {why[0]}") from error
