"""Templates that become topics and filters, and cannot be injected.

A value from data (a user name, a client id, an owner, a group that is a domain name) is escaped before it enters a topic, so it
can add neither a level nor a wildcard, and two different values never give the same text. The escape is percent-encoding of
exactly these: `%`, `/`, `+`, `#`, the control characters (NUL among them), and a `$` at the start, which would otherwise reach
the broker's own topics (`$SYS`, `$share`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from companion.core.errors import Invalid

_UNSAFE: Final = re.compile(r"^\$|[%/+#\x00-\x1f\x7f-\x9f]")


def escape_level(value: str) -> str:
    """Return `value` as text that stays within one topic level; injective, and the identity for ordinary names."""
    # What needs no change stays the same object: many are remembered.
    return _UNSAFE.sub(_percent, value) if _UNSAFE.search(value) else value


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match.group().encode())


@dataclass(frozen=True, slots=True)
class Template:
    """Text with placeholders, parsed once: literals and names alternate, beginning and ending with a literal."""

    source: str
    literals: tuple[str, ...]
    names: tuple[str, ...]

    @classmethod
    def parse(cls, source: str, *, opener: str, allowed: frozenset[str], field: str) -> Template:
        """Parse `source`; a placeholder is `opener` + name + `}` (`${username}`, or `{owner}` with the opener `{`).

        Raises `Invalid` naming `field` for a name that is not in `allowed` and for a brace that is no placeholder.
        """
        names: list[str] = []
        literals: list[str] = []
        rest = source
        while True:
            literal, found, after = rest.partition(opener)
            literals.append(literal)
            if "{" in literal or "}" in literal:
                raise Invalid(field, source, f"braces only in placeholders such as {opener}{min(allowed)}}}")
            if names and found and "/" not in literal:
                # (a, b-c) and (a-b, c) would make the same level of `{one}-{other}`, and one could take the topics of the other.
                raise Invalid(field, source, "at most one placeholder in a level")
            if not found:
                return cls(source, tuple(literals), tuple(names))
            name, closed, rest = after.partition("}")
            if not closed or name not in allowed:
                known = ", ".join(f"{opener}{one}}}" for one in sorted(allowed))
                raise Invalid(field, source, f"the placeholders are {known}")
            names.append(name)

    def render(self, values: Mapping[str, str]) -> str | None:
        """Return the text with every value escaped, or None when a value is missing or empty."""
        parts = [self.literals[0]]
        for name, literal in zip(self.names, self.literals[1:], strict=True):
            value = values.get(name)
            if not value:
                return None
            parts += (escape_level(value), literal)
        return "".join(parts)

    def widen(self, values: Mapping[str, str]) -> str:
        """Render, with `+` for every level that holds a placeholder without a value: what a *deny* rule must still stop."""
        marked = [self.literals[0]]
        for name, literal in zip(self.names, self.literals[1:], strict=True):
            value = values.get(name)
            marked += (escape_level(value) if value else "\0", literal)
        return "/".join("+" if "\0" in level else level for level in "".join(marked).split("/"))
