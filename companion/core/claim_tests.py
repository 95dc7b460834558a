"""What the settings demand of the claims of a token, and read from them. Pure.

A name stands for a claim of exactly that name, or is a path into nested ones (`realm_access.roles`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

ANY: Final = "*"
"""Stands for every value that is not empty."""


def claim_at(claims: Mapping[str, Any], name: str) -> Any:  # noqa: ANN401 - whatever stands there
    """Return the claim of a name, or what a path leads to; None where there is nothing."""
    if name in claims:
        return claims[name]
    value: Any = claims
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def text_of_claim(value: object) -> str:
    """Return a claim that is one value as text; empty for what is none."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int | float) else ""


@dataclass(frozen=True, slots=True)
class ClaimTest:
    """Whether a claim has one of these values, or holds one of them where it is a list.

    `${username}` and `${clientid}` in a value stand for what the client sent; `ANY` for every value.
    """

    name: str
    values: tuple[str, ...]

    def met(self, claim: object, username: str, client_id: str) -> bool:
        """Tell whether it has."""
        held = [text_of_claim(one) for one in (claim if isinstance(claim, list) else [claim])]
        return any(self._is(value, held, username, client_id) for value in self.values)

    @staticmethod
    def _is(value: str, held: Sequence[str], username: str, client_id: str) -> bool:
        if value == ANY:
            return any(held)
        wanted = value
        for placeholder, sent in (("${username}", username), ("${clientid}", client_id)):
            if placeholder in value:
                if not sent or "${" in sent:
                    return False
                wanted = wanted.replace(placeholder, sent)
        return bool(wanted) and wanted in held
