"""Models on the Hugging Face Hub, fetched into its cache."""

import re
from pathlib import Path

from egg.errors import EggError
from egg.model.checkpoint import CONFIG, MODEL

_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def fetch(path: str | Path) -> str | Path:
    """What a path means: itself, or the folder of a Hub's model that has this name and no folder here has.

    path : a folder, or OWNER/NAME, or OWNER/NAME@REVISION
    Raises EggError, one line, for a model that cannot be fetched.
    """
    match = _NAME.fullmatch(str(path))
    # The beginning of a path that is there says that the rest is meant to be there too.
    if not match or Path(path).exists() or Path(path).parent.exists():
        return path
    import huggingface_hub

    name, revision = match.groups()
    try:
        return huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=[CONFIG, MODEL])
    except (OSError, ValueError) as error:  # among them all of the library's own
        why = str(error).strip().splitlines() or [type(error).__name__]
        raise EggError(
            f"{path}: no such folder, and the Hugging Face Hub gives no model of that name: {why[0]}"
        ) from error
