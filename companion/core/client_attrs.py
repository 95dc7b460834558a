"""Attributes of a client for the broker (`client_attrs`, EMQX 5.7 and later). Pure.

EMQX refuses the whole login for a key or a value that it does not like, so nothing else is ever sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_KEY: Final = re.compile(r"[A-Za-z0-9]+[A-Za-z0-9_-]*")
_MOST_CHARACTERS: Final = 1024


def is_attr_key(key: str) -> bool:
    """Tell whether EMQX takes this key."""
    return _KEY.fullmatch(key) is not None


def is_attr_value(value: object) -> bool:
    """Tell whether a value can be sent: text that is not empty, not too long, valid UTF-8 and without control characters."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= _MOST_CHARACTERS
        and not any(character < " " or "\ud800" <= character <= "\udfff" for character in value)
    )


def sendable(attrs: Mapping[str, str]) -> dict[str, str]:
    """Return those that EMQX takes."""
    return {key: value for key, value in attrs.items() if is_attr_key(key) and is_attr_value(value)}
