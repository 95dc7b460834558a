"""Where settings come from: the environment, files of secrets, the configuration file. Knows the origin of each."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr, ValidationError
from pydantic_core import ErrorDetails

from companion.core.errors import Invalid
from companion.settings import Settings, secret_fields

PREFIX: Final = "COMPANION_"
CONFIG: Final = "COMPANION_CONFIG"
_FILE: Final = "_file"
_IN_A_LIST: Final = 2


@dataclass(frozen=True, slots=True)
class Loaded:
    """Checked settings, where each was found (`default`, `COMPANION_HOOKS_PORT`, `companion.toml`), and what was not understood."""

    settings: Settings
    origins: Mapping[str, str]
    unknown: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Found:
    value: Any
    origin: str


def load(environ: Mapping[str, str]) -> Loaded:
    """Read and check the settings.

    Raises `Invalid` naming the first key that is wrong, its value (unless it is a secret) and what is allowed. Unknown variables
    of the environment are reported, not refused: orchestrators add their own (`COMPANION_SERVICE_HOST`). Unknown keys in the
    file are refused.
    """
    found: dict[str, _Found] = {}
    if environ.get(CONFIG):
        found |= _from_file(Path(environ[CONFIG]))
    from_environment, unknown = _from_environment(environ)
    found |= from_environment
    try:
        settings = Settings.model_validate({name: entry.value for name, entry in found.items()})
    except ValidationError as problem:
        raise _explained(problem.errors(include_url=False)[0], found) from None
    origins = {name: found[name].origin if name in found else "default" for name in Settings.model_fields}
    return Loaded(settings, origins, unknown)


def displayed(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield (name, value as text) of every setting, secrets hidden."""
    for name in Settings.model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            yield name, "(set, hidden)" if value.get_secret_value() else "(not set)"
        elif name in secret_fields():
            yield name, f"({len(value)} set, hidden)" if value else "(not set)"
        elif isinstance(value, tuple | dict):
            yield name, ", ".join(str(part) for part in value)
        else:
            yield name, "" if value is None else str(value)


def _from_environment(environ: Mapping[str, str]) -> tuple[dict[str, _Found], tuple[str, ...]]:
    found: dict[str, _Found] = {}
    unknown: list[str] = []
    for variable, text in sorted(environ.items()):
        if not variable.startswith(PREFIX) or variable == CONFIG:
            continue
        name = variable.removeprefix(PREFIX).lower()
        if not _take(found, name, text, variable):
            unknown.append(variable)
    return found, tuple(unknown)


def _from_file(path: Path) -> dict[str, _Found]:
    try:
        content = tomllib.loads(path.read_text())
    except OSError as problem:
        raise Invalid(CONFIG, str(path), f"a TOML file that can be read ({problem.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise Invalid(CONFIG, str(path), f"a valid TOML file ({problem})") from None
    found: dict[str, _Found] = {}
    for key, value in content.items():
        entries = (
            ((f"{key}_{inner}", deep) for inner, deep in value.items()) if isinstance(value, dict) else ((key, value),)
        )
        for name, entry in entries:
            if not _take(found, name, entry, str(path)):
                # The value stays unsaid: under a name with a slip of the pen there may be a password.
                raise Invalid(name, "this key", f"use one of the settings (in {path})")
    return found


def _take(found: dict[str, _Found], name: str, value: object, origin: str) -> bool:
    """Note the value of a known setting, or of a known secret that stands in a file; False when the name is unknown."""
    if name in Settings.model_fields:
        target = name
    elif name.endswith(_FILE) and name.removesuffix(_FILE) in secret_fields():
        target = name.removesuffix(_FILE)
        value = _secret_file(name, str(value))
        origin = f"{origin} (a file)"
    else:
        return False
    if target in found:
        raise Invalid(target, "two values", f"one: {found[target].origin} and {origin} both set it")
    found[target] = _Found(value, origin)
    return True


def _secret_file(name: str, path: str) -> str:
    try:
        return Path(path).read_text().strip("\r\n")
    except (OSError, ValueError) as problem:
        raise Invalid(name, path, f"a file that can be read ({problem})") from None


def _explained(error: ErrorDetails, found: Mapping[str, _Found]) -> Invalid:
    """Turn pydantic's first error into one line with our names."""
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        name, _, message = message.partition(": ")
    else:
        name = str(error["loc"][0])
    entry = found.get(name)
    value = "***" if name in secret_fields() else entry.value if entry else ""
    origin = f" (from {entry.origin})" if entry else ""
    inside = len(error["loc"]) > 1 and name not in secret_fields()
    if inside and (isinstance(error["input"], Mapping) or len(error["loc"]) > _IN_A_LIST):
        # Of a list of tables, the part that is wrong says more than the whole.
        name = ".".join(map(str, error["loc"]))
        value = error["input"]
    return Invalid(name, value, message + origin)
