"""A principal's policy as a list for EMQX: made once, or, where rules hold at some times or places only, anew for each login."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf

from companion.core.acl import NotExact
from companion.core.acl_moment import rules_now
from companion.core.rules import Rule

CompileAcl = Callable[[Sequence[Rule], Mapping[str, str]], bytes | NotExact]
"""Makes the list of rules for EMQX from those of a principal and what their placeholders stand for."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A policy as a list, or why there is none, and until when (Unix seconds) it says what the policy says."""

    acl: bytes | NotExact
    until: float = inf


class PolicyList:
    """The list of one principal. Raises `Invalid` for a rule that cannot be enforced."""

    __slots__ = ("_compile", "_ready", "_rules", "_values")

    def __init__(self, compile_acl: CompileAcl, rules: Sequence[Rule], values: Mapping[str, str]) -> None:
        self._compile = compile_acl
        self._ready: Listed | None = None
        self._rules: Sequence[Rule] = ()
        self._values: Mapping[str, str] = {}
        if any(rule.conditional for rule in rules):
            self._rules, self._values = rules, values
        else:
            self._ready = Listed(compile_acl(rules, values))

    @property
    def size(self) -> int:
        """How many bytes a list that is kept has."""
        return len(self._ready.acl) if self._ready and isinstance(self._ready.acl, bytes) else 0

    def at(self, now: float, peer_host: str) -> Listed:
        """Return the list for a client that logs in at `now` (Unix seconds) from this address."""
        if self._ready is not None:
            return self._ready
        held, until = rules_now(self._rules, now, peer_host)
        return Listed(self._compile(held, self._values), until)
