"""What a broker tells about its clients: connected, disconnected, refused, subscribed, published. Plain values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class EventKind(StrEnum):
    """What happened; the values are EMQX's names of its events (5.8 to 6.2)."""

    CONNECTED = "client.connected"
    DISCONNECTED = "client.disconnected"
    CONNACK = "client.connack"
    AUTHENTICATED = "client.check_authn_complete"
    AUTHORIZED = "client.check_authz_complete"
    SUBSCRIBED = "session.subscribed"
    UNSUBSCRIBED = "session.unsubscribed"
    PUBLISHED = "message.publish"
    DELIVERED = "message.delivered"
    ACKNOWLEDGED = "message.acked"
    DROPPED = "message.dropped"
    NOT_DELIVERED = "delivery.dropped"


MEMBERSHIP: Final = frozenset({EventKind.CONNECTED, EventKind.DISCONNECTED})
"""Those that presence rests on."""

TAKEN_OVER: Final = frozenset({"takenover", "takeovered", "discarded"})
"""Reasons of a disconnect that say that a newer connection of the same client id is there (4.4 writes `takeovered`)."""

_SUCCESS: Final = frozenset({"success", "connection_accepted", "connack_accept"})


@dataclass(frozen=True, slots=True)
class BrokerEvent:
    """One event. Times are in Unix milliseconds; what the broker did not say is empty or None.

    `id` is the same for an event that is sent again. `reason` is that of a disconnect or a drop, the code of a CONNACK, or the
    verdict (`allow`, `deny`) of an authorization, whose `source` says who gave it. `peer` is `address:port`, or the address.
    `principal` is whom the user name stands for.
    """

    id: str
    kind: EventKind
    at: int
    client_id: str
    username: str = ""
    principal: str = ""
    node: str = ""
    peer: str = ""
    reason: str = ""
    topic: str = ""
    action: str = ""
    source: str = ""
    connected_at: int | None = None
    disconnected_at: int | None = None
    protocol: int | None = None
    keepalive: int | None = None
    clean_start: bool | None = None

    @property
    def refused(self) -> bool:
        """Whether the broker did not let a client in, or did not let it publish or subscribe."""
        if self.kind in (EventKind.CONNACK, EventKind.AUTHENTICATED):
            return self.reason not in _SUCCESS
        return self.kind is EventKind.AUTHORIZED and self.reason == "deny"

    @property
    def peer_host(self) -> str:
        """The address of the client, without the port and without the brackets of IPv6."""
        host, colon, port = self.peer.rpartition(":")
        if not colon or not port.isdigit() or (":" in host and not host.startswith("[")):
            host = self.peer
        return host.removeprefix("[").removesuffix("]")
