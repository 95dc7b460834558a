"""Kinds of values of settings."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from companion.account_sources import tables

_KEY_CHARACTERS: Final = 16
KEY_ALLOWED: Final = f"has at least {_KEY_CHARACTERS} printable ASCII characters and no space"


def is_key(text: str) -> bool:
    """Tell whether callers may present this as a key: long enough, and what an HTTP header can carry."""
    return len(text) >= _KEY_CHARACTERS and text.isascii() and text.isprintable() and " " not in text


def split(value: object) -> object:
    """Environment values and secret files hold lists as text: one a line, or separated by commas."""
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.replace("\n", ",").split(",") if part.strip())


def named(value: object) -> object:
    """Tables that have names are an object; none of them are an empty one."""
    found = tables(value)
    return found or {} if isinstance(found, tuple) else found


Secrets = Annotated[tuple[SecretStr, ...], BeforeValidator(split)]
Names = Annotated[tuple[str, ...], BeforeValidator(split)]
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Days = Annotated[float, Field(gt=0, le=36_500)]


class Group(BaseModel):
    """Some of the settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
