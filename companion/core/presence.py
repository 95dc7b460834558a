"""Presence: from the broker's events to who is connected, in whatever order and however often they arrive. Pure.

There is a record per client id, for MQTT allows it one connection at a time. A connection is told from the others of its client id
by when it began and where it came from; the record is about the newest that is known, and what is told of an older one changes
nothing. So an event that comes late, comes again, or comes before the one that it follows leads to the same record. That a
connection was taken over ends it and no other.

The 4.4 webhook does not say when the connection that ended had begun: such an end holds for everything that began before it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from companion.core.broker_events import TAKEN_OVER, BrokerEvent, EventKind
from companion.core.pseudonyms import is_pseudonym


@dataclass(frozen=True, slots=True)
class Present:
    """The newest connection of a client id. Times are in Unix milliseconds.

    `connected_at` is 0 when only an end is known; `seen` says that its beginning was told. `ended_at` and `ended_for` are its end,
    `gone_at` and `gone_for` the last end that names no connection. `revision` grows with every change; `told` says that the
    presence topic shows this revision. `former` is a JSON list of the principals whose client id it was before, as long as their
    topics do not show that it is not any more.
    """

    client_id: str
    username: str
    principal: str
    connected_at: int = 0
    peer: str = ""
    node: str = ""
    protocol: int | None = None
    keepalive: int | None = None
    clean_start: bool | None = None
    seen: bool = False
    ended_at: int | None = None
    ended_for: str = ""
    gone_at: int = 0
    gone_for: str = ""
    revision: int = 1
    told: bool = False
    former: str = ""

    @property
    def formers(self) -> Sequence[str]:
        """The principals in `former`."""
        return tuple(json.loads(self.former)) if self.former else ()

    @property
    def _swept(self) -> bool:
        return self.ended_at is None and self.gone_at > 0 and self.gone_at >= self.connected_at

    @property
    def disconnected_at(self) -> int | None:
        """When it ended; None while it is connected, as far as anybody told."""
        return self.gone_at if self._swept else self.ended_at

    @property
    def reason(self) -> str:
        """Why it ended; empty while it is connected."""
        return self.gone_for if self._swept else self.ended_for

    @property
    def online(self) -> bool:
        """Whether it is connected, as far as anybody told."""
        return self.disconnected_at is None

    @property
    def changed_at(self) -> int:
        """When it connected or disconnected last."""
        return max(self.connected_at, self.disconnected_at or 0)


def merged(before: Present | None, event: BrokerEvent) -> Present | None:
    """Return the record with what this event tells; None when it tells nothing new, or is not about connections."""
    after: Present | None = None
    if event.kind is EventKind.CONNECTED:
        after = _connected(before, event)
    elif event.kind is EventKind.DISCONNECTED:
        after = _gone(before, event) if event.connected_at is None else _ended(before, event, event.connected_at)
    if after is None or before is None:
        return after
    former = () if before.told else before.formers
    if after.principal != before.principal:
        former = (*(one for one in former if one != before.principal), before.principal)
    text = json.dumps(former) if former else ""
    return replace(after, revision=before.revision + 1, told=False, former=text)


def _connected(before: Present | None, event: BrokerEvent) -> Present | None:
    began = event.at if event.connected_at is None else event.connected_at
    if before is None:
        return _of(event, began, seen=True)
    order = _order(before, began, event.peer)
    if order < 0 or (order == 0 and before.seen):
        return None
    after = replace(_of(event, began, seen=True), gone_at=before.gone_at, gone_for=before.gone_for)
    if order == 0:
        peer = event.peer or before.peer
        return replace(after, peer=peer, ended_at=before.ended_at, ended_for=before.ended_for)
    return after


def _ended(before: Present | None, event: BrokerEvent, began: int) -> Present | None:
    end = event.at if event.disconnected_at is None else event.disconnected_at
    if before is None:
        return replace(_of(event, began, seen=False), ended_at=end, ended_for=event.reason)
    order = _order(before, began, event.peer)
    if order < 0 or (order == 0 and before.ended_at is not None):
        return None
    after = before
    if order > 0:
        after = replace(_of(event, began, seen=False), gone_at=before.gone_at, gone_for=before.gone_for)
    return replace(after, ended_at=end, ended_for=event.reason)


def _gone(before: Present | None, event: BrokerEvent) -> Present | None:
    end = event.at if event.disconnected_at is None else event.disconnected_at
    if event.reason in TAKEN_OVER or (before is not None and end <= before.gone_at):
        return None
    return replace(before or _of(event, 0, seen=False), gone_at=end, gone_for=event.reason)


def _of(event: BrokerEvent, began: int, *, seen: bool) -> Present:
    return Present(
        event.client_id,
        event.username,
        event.principal or event.username,
        began,
        event.peer,
        event.node,
        event.protocol,
        event.keepalive,
        event.clean_start,
        seen,
    )


def _order(before: Present, began: int, peer: str) -> int:
    """Return whether this connection is newer than (1), the same as (0) or older (-1) than that of the record."""
    if began != before.connected_at:
        return 1 if began > before.connected_at else -1
    if not peer or not before.peer or is_pseudonym(before.peer) or peer == before.peer:
        return 0
    # Two that began in one millisecond: any order will do, as long as it is always the same.
    return 1 if peer > before.peer else -1
