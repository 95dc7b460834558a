"""The messages that one connection carries: sent, and not yet acknowledged."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from companion.core.errors import CompanionError
from publishers.delivery import Refused
from publishers.mqtt_connection import PUBREC, PUBREL, Connection
from publishers.mqtt_encoding import Packet
from publishers.mqtt_observer import DeliveryObserver
from publishers.mqtt_reasons import FAILURE

_MAX_IDENTIFIER: Final = 65_535


@dataclass(slots=True, eq=False)
class Pending:
    """A message on its way, and the future that its caller awaits: None for acknowledged, or the error to raise.

    The error is a result and not an exception of the future, so that nothing is left unretrieved when the caller was cancelled
    meanwhile. `sent_at` is in seconds of the event loop's clock; `losses` counts the connections that ended with
    this message as the oldest unacknowledged.
    """

    packet: Packet
    outcome: asyncio.Future[CompanionError | None]
    sent_at: float = 0.0
    losses: int = 0

    def settle(self, error: CompanionError | None) -> None:
        """Tell the caller, unless it went away."""
        if not self.outcome.done():
            self.outcome.set_result(error)


class Flight:
    """Messages by packet identifier, in the order in which they were sent over `connection`.

    It ends with its connection, and with it every identifier: nothing can leak into the next one. `window` is the most that may
    be in flight; MQTT 5 §4.9 counts a QoS 2 message until its PUBCOMP.
    """

    def __init__(self, connection: Connection, window: int, observer: DeliveryObserver) -> None:
        self.window = min(window, connection.limits.receive_maximum)
        self._connection = connection
        self._observer = observer
        self._clock = asyncio.get_running_loop().time
        self._pending: dict[int, Pending] = {}
        self._last_identifier = 0

    def __len__(self) -> int:
        return len(self._pending)

    def send(self, pending: Pending) -> None:
        """Send a message, or refuse it if the broker would; the caller has seen that there is room in the window."""
        packet = pending.packet
        objection = self._connection.limits.objection(packet)
        if objection is not None:
            self.refuse(pending, objection)
            return
        identifier = self._last_identifier % _MAX_IDENTIFIER + 1
        while identifier in self._pending:
            identifier = identifier % _MAX_IDENTIFIER + 1
        self._last_identifier = identifier
        self._pending[identifier] = pending
        pending.sent_at = self._clock()
        packet.data[packet.identifier_at : packet.identifier_at + 2] = identifier.to_bytes(2, "big")
        self._connection.write_data(packet.data)

    def answer(self, command: int, identifier: int, reason: int) -> None:
        """Take an acknowledgement (MQTT 5 §4.3.2, §4.3.3): a PUBREC goes on with PUBREL unless it refuses, the rest are final."""
        pending = self._pending.get(identifier)
        if pending is None:
            return
        if command == PUBREC and reason < FAILURE:
            self._connection.send_command_with_mid(PUBREL, identifier, False)  # noqa: FBT003 - gmqtt's flag for a repeat
            return
        del self._pending[identifier]
        if reason < FAILURE:
            self._observer.acknowledged(self._clock() - pending.sent_at)
            pending.settle(None)
        else:
            self.refuse(pending, Refused(reason))

    def refuse(self, pending: Pending, error: Refused) -> None:
        """Tell the caller and the observer that the message is not to be delivered."""
        self._observer.refused(error.reason_code)
        pending.settle(error)

    def overdue(self, seconds: float) -> bool:
        """Tell whether the oldest message has waited for its acknowledgement for longer than this."""
        oldest = next(iter(self._pending.values()), None)
        return oldest is not None and self._clock() - oldest.sent_at > seconds

    def unacknowledged(self) -> list[Pending]:
        """Return what has to be sent again when the connection is gone, oldest first."""
        return [pending for pending in self._pending.values() if not pending.outcome.done()]
