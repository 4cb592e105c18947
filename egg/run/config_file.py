"""A run's settings as TOML: read as flags that the command line overrides, written by every run.

A key is a flag's name, ``hidden_size`` or ``hidden-size``; a value is a number, true or false, or a text written as
on the command line.
"""

import json
import tomllib
from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import Any

from egg.config import Config, RunConfig
from egg.errors import EggError, telling
from egg.files import read_file

RUN_TOML = "run.toml"
SWITCHES = {f.name for f in fields(RunConfig) if f.type in (bool, "bool")}  # settings that are true or false
MAX_TOML = 1 << 20  # bytes: a longer file is no file of settings


def to_toml(config: Config, made_with: dict[str, str] | None = None) -> bytes:
    """The content of a run's run.toml: everything that determines its result.

    made_with : program, commit, processor and backend, as comments
    """
    lines = [
        "# The settings of this run. The same run again, in a folder of its own:",
        f"#   egg train --config {RUN_TOML}",
        *(f"# {name}: {' '.join(value.split())}" for name, value in (made_with or {}).items()),
        f"preset = {_written(config.preset)}",
    ]
    for section in (config.model, config.evolution, config.run):
        lines += ["", f"# {section.__doc__.partition(';')[0].strip().removesuffix('.')}"]
        names = getattr(section, "used", None) or [f.name for f in fields(section)]
        lines += [f"{name} = {_written(getattr(section, name))}" for name in names]
    # A path that is not UTF-8 holds what TOML cannot: such a line is for people alone.
    return ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace")


def read_toml(path: str | Path, where: str) -> dict[str, Any]:
    """What a file of TOML holds.

    where : the file, as messages name it
    Raises EggError, one line, for a file that cannot be read, is no TOML, or holds a number that cannot be shown.
    """
    try:
        with telling(where, "; give a TOML file"):
            content = tomllib.loads(read_file(path, MAX_TOML).decode())
        repr(content)  # ValueError for a number of thousands of digits, which TOML can say in hexadecimal
    except (ValueError, RecursionError) as error:
        raise EggError(f"{where} is not TOML: {error}") from None
    return content


def read_settings(path: str | Path, known: Collection[str], where: str) -> dict[str, str | int | float]:
    """The settings in a file, under its own keys.

    known : names of the allowed settings, with underscores
    where : the file's name in messages
    Raises EggError, one line, for a file that cannot be read, is not TOML, or holds anything else.
    """
    content = read_toml(path, where)
    unknown = [key for key in content if key.replace("-", "_") not in known]
    if unknown:
        raise EggError(
            f"{where}: unknown {', '.join(map(repr, unknown))}; keys are the names of flags "
            "(egg train --help), without tables"
        )
    for key, value in content.items():
        if isinstance(value, bool) != (key.replace("-", "_") in SWITCHES) or not isinstance(value, str | int | float):
            kind = "true or false" if key.replace("-", "_") in SWITCHES else "a number or a text"
            raise EggError(f"{where}: {key} must be {kind}, not {value!r}")
    return content


def _written(value: str | int | float | None) -> str:
    """A value in TOML; None is "none", as on the command line."""
    if value is None:
        value = "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # TOML's strings are JSON's, except that TOML escapes one more control character.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
