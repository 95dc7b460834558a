"""What was found when a store was looked at."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `problem` says in one line what is wrong and what would mend it; None where all is well."""

    store: str
    what: str
    problem: str | None
