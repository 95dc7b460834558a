"""Errors, split by what the caller does next.

CompanionError
├── Invalid        bad input: tell the sender which field, which value, what is allowed; never try again
├── Transient      a store or a peer is away or busy: try again later, with back-off
└── Permanent      it will not work however often it is tried: record it and go on
    ├── Fenced     another holder of the lease came after us: stop writing
    └── Forgotten  a store has lost what it had acknowledged: make it good from where it came from
"""

from __future__ import annotations


class CompanionError(Exception):
    """The root of every error that this project raises on purpose."""


class Invalid(CompanionError):
    """Input that cannot be accepted.

    `field` names what is wrong (a path such as `changes[3].op`), `value` shows it (shortened; never a secret), `allowed`
    says what would be right.
    """

    def __init__(self, field: str, value: object, allowed: str) -> None:
        self.field = field
        self.value = shown(value)
        self.allowed = allowed
        super().__init__(field, self.value, allowed)

    def __str__(self) -> str:
        return f"{self.field}: {self.value} is not allowed; {self.allowed}"

    def within(self, path: str) -> Invalid:
        """Return the same complaint about a field inside `path`."""
        moved = Invalid(f"{path}.{self.field}", "", self.allowed)
        moved.value = self.value
        return moved


class Transient(CompanionError):
    """A store or a peer cannot serve now; the same call may succeed later."""


class Permanent(CompanionError):
    """The same call would fail again, however often it is tried."""


class Fenced(Permanent):
    """A write under a fencing token that is not the newest: somebody else holds the lease since, and this writer must stop."""


class Forgotten(Permanent):
    """A store has lost writes that it had acknowledged."""


def shown(value: object, limit: int = 80) -> str:
    """Return `value` as one printable line of at most `limit` characters, for messages to people."""
    text = ascii(value) if not isinstance(value, str) else ascii(value[: limit + 1])
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
