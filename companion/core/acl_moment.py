"""What of a policy holds now and here, for a list that is given away for a while (`companion.core.acl`).

The address of a client stays the same as long as it is connected, so a rule for some places holds for the whole session or never.
A rule for some times holds until its window opens or closes; so long the list may be used.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from companion.core.locations import networks_of
from companion.core.policy import Conditions
from companion.core.rules import Effect, Rule
from companion.core.windows import FOREVER, schedule_of


def rules_now(rules: Iterable[Rule], now: float, peer_host: str) -> tuple[Sequence[Rule], float]:
    """Return the rules that hold at `now` (Unix seconds) for a client at this address, without their conditions, and until when.

    Until that time, which may be infinity, and not at it, they say what all of the rules say. An address that is none meets every
    deny rule and no allow rule that is limited to places, as in `Policy`. Raises `Invalid` for a window that cannot be understood.
    """
    held = []
    until = FOREVER
    for rule in rules:
        if not rule.conditional:
            held.append(rule)
            continue
        conditions = Conditions(tuple(map(schedule_of, rule.windows)), networks_of(rule.locations))
        in_place = conditions.in_place(peer_host)
        if not (in_place or (in_place is None and rule.effect is Effect.DENY)):
            continue
        until = min(until, *(schedule.certain_until(now) for schedule in conditions.schedules), FOREVER)
        if conditions.in_time(now):
            held.append(replace(rule, windows=(), locations=()))
    return held, until
