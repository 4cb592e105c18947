"""A caller's settings as a configuration: a preset, a file or a dict, and settings that override it."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from egg.config import (
    DEFAULT_PRESET,
    PRESETS,
    Config,
    EvolutionConfig,
    ModelConfig,
    RunConfig,
    preset,
    with_settings,
    with_size,
)
from egg.errors import EggError, perhaps
from egg.kernels import BACKENDS, BackendName
from egg.run.config_file import read_settings

FIELDS = {f.name for kind in (ModelConfig, EvolutionConfig, RunConfig) for f in fields(kind)}
WHERE = {"out", "backend", "threads", "device"}
"""Settings of where a run happens, which change no result."""
ALIASES = {"member_tokens": "tokens"}
NAMES = {"preset", "size", *WHERE, *ALIASES, *FIELDS}
"""The settings that a file can have."""


def configuration(
    base: str | os.PathLike | Mapping[str, Any] | Config | None, settings: Mapping[str, Any]
) -> tuple[Config, dict[str, Any]]:
    """A configuration, and the base's settings of where to run: name -> value.

    base : a preset's name, the path of a TOML file as ``--config`` takes, the same as a dict, a Config, or None: the
        default preset
    settings : as ``known`` returns them; they override the base
    Raises EggError for an unknown name or an invalid value.
    """
    own: dict[str, Any] = {}
    if "preset" in settings:
        if base is not None:
            raise EggError("preset: the first argument is a preset or a configuration already, give one of the two")
        base = settings["preset"]
    if isinstance(base, Config):
        config = base
    else:
        own = _own_settings(base)
        config = preset(own.get("preset", DEFAULT_PRESET))
    recipe = settings.get("recipe", own.get("recipe", config.evolution.recipe))
    own, settings = (with_size(given, shape_alone=recipe == "paper") for given in (own, settings))
    config = with_settings(with_settings(config, own), {**settings, "preset": own.get("preset", config.preset)})
    return config, {name: own[name] for name in WHERE & own.keys()}


def known(settings: Mapping[str, Any], names: Iterable[str] = ("preset", "size", *ALIASES, *FIELDS)) -> dict[str, Any]:
    """Settings under their present names, with underscores; raises EggError for one that is unknown."""
    found = {}
    for key, value in settings.items():
        name = key.replace("-", "_")
        if name not in names:
            raise EggError(f"unknown setting {key!r}{perhaps(name, names)}: settings are flags of egg train --help")
        found[ALIASES.get(name, name)] = os.fspath(value) if isinstance(value, os.PathLike) else value
    return found


def backend_name(name: str) -> BackendName:
    """The name of a backend; raises EggError for an unknown one."""
    if name not in BACKENDS:
        raise EggError(f"unknown backend {name!r}{perhaps(str(name), BACKENDS)}: choose {', '.join(BACKENDS)}")
    return cast(BackendName, name)


def _own_settings(base: str | os.PathLike | Mapping[str, Any] | None) -> dict[str, Any]:
    """The settings of a base."""
    if base is None:
        return {}
    if isinstance(base, Mapping):
        return known(base, NAMES)
    if isinstance(base, str) and base in PRESETS:
        return {"preset": base}
    if isinstance(base, str) and not (base.endswith(".toml") or Path(base).is_file()):
        raise EggError(
            f"unknown preset {base!r}{perhaps(base, PRESETS)}: choose {', '.join(PRESETS)}, or give a TOML file"
        )
    if isinstance(base, str | os.PathLike):
        return known(read_settings(os.fspath(base), NAMES, str(base)), NAMES)
    raise EggError(f"{base!r} is no configuration: give a preset's name, a Config, a dict or the path of a run.toml")
