"""Models on the Hugging Face Hub, fetched into its cache."""

import re
from pathlib import Path

from egg.errors import EggError
from egg.model.checkpoint import CONFIG, MODEL

_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def fetch(path: str | Path) -> str | Path:
    """The folder that a path means: itself, or the fetched model of that name on the Hub if no such folder exists.

    path : a folder, or OWNER/NAME, or OWNER/NAME@REVISION
    Raises EggError, one line, for a model that cannot be fetched.
    """
    match = _NAME.fullmatch(str(path))
    # A path whose parent exists is meant as a local path.
    if not match or Path(path).exists() or Path(path).parent.exists():
        return path
    import huggingface_hub

    name, revision = match.groups()
    try:
        return huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=[CONFIG, MODEL])
    except (OSError, ValueError) as error:  # the library's own errors derive from these
        why = str(error).strip().splitlines() or [type(error).__name__]
        raise EggError(f"{path}: no such folder, and no such model from the Hugging Face Hub: {why[0]}") from error
