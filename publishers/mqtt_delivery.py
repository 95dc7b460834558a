"""Acknowledged delivery over MQTT: stay connected, keep the order, send again what was not acknowledged."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from types import TracebackType
from typing import Self

from companion.core.errors import Transient
from publishers.delivery import Refused, Unsendable
from publishers.messages import Message
from publishers.mqtt_backoff import Backoff
from publishers.mqtt_config import MqttConfig
from publishers.mqtt_connection import Connection, End, NotConnected, protocol_version
from publishers.mqtt_encoding import encode
from publishers.mqtt_flight import Flight, Pending
from publishers.mqtt_observer import DeliveryObserver, Unobserved
from publishers.mqtt_reasons import BLAMES_A_PACKET

_STRIKES = 2
"""How many connections have to end at a message before it is suspected or refused."""


class MqttDelivery:
    """A `Delivery` to one MQTT broker; connected, or trying to be, between entering and leaving it as a context.

    Every connection begins with a clean start: the list of what is unacknowledged is kept here, not in a session that the broker
    may have lost. After a reconnect it is published again in its original order, before anything new. QoS 2 is therefore exactly
    once within a connection and at least once across a lost one.

    When the broker ends the connection with a reason that means one of our packets, or connections end again and again at the
    same message, those in flight are tried one by one, and the one over which the broker ends it again, alone and with such a
    reason, is refused: one bad message does not hold up all others. (MQTT 3.1.1 knows no reasons, so there it does.)
    """

    def __init__(self, config: MqttConfig, observer: DeliveryObserver | None = None) -> None:
        self._config = config
        self._version = protocol_version(config)
        self._observer = observer or Unobserved()
        self._waiting: OrderedDict[Pending, None] = OrderedDict()
        self._flight: Flight | None = None
        self._suspects = 0
        self._trouble: str | None = "not started"
        self._keeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin to connect; does not wait for it."""
        self._trouble = f"connecting to {self._config.endpoint}"
        self._keeper = asyncio.create_task(self._keep_connected(), name=f"mqtt {self._config.endpoint}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect; whatever is still pending fails with `Transient`. Takes little more than 1 s if the broker is stuck."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
            if not self._keeper.cancelled():
                self._keeper.result()

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted us and the connection stands."""
        return self._flight is not None

    @property
    def trouble(self) -> str | None:
        """Why there is no connection, in one line without a secret; None while connected."""
        return self._trouble

    @property
    def in_flight(self) -> int:
        """How many messages are sent and not yet acknowledged."""
        return len(self._flight) if self._flight is not None else 0

    @property
    def waiting(self) -> int:
        """How many messages wait for room in the window, or for a connection."""
        return len(self._waiting)

    async def deliver(self, message: Message) -> None:
        """See `Delivery.deliver`."""
        if self._keeper is None or self._keeper.done():
            raise Transient(f"the delivery to {self._config.endpoint} is not running")
        try:
            packet = encode(message, self._version)
        except Unsendable as error:
            self._observer.refused(error.reason_code)
            raise
        pending = Pending(packet, asyncio.get_running_loop().create_future())
        self._waiting[pending] = None
        self._send_waiting()
        try:
            failure = await pending.outcome
        except asyncio.CancelledError:
            self._waiting.pop(pending, None)
            raise
        if failure is not None:
            raise failure

    def _send_waiting(self) -> None:
        flight = self._flight
        while flight is not None and self._waiting and len(flight) < (1 if self._suspects else flight.window):
            pending, _ = self._waiting.popitem(last=False)
            if not pending.outcome.cancelled():
                self._suspects = max(0, self._suspects - 1)
                flight.send(pending)

    async def _keep_connected(self) -> None:
        backoff = Backoff(self._config.backoff_initial, self._config.backoff_max)
        clock = asyncio.get_running_loop().time
        try:
            while True:
                try:
                    connection = await Connection.open(self._config)
                except NotConnected as failure:
                    self._trouble = str(failure)
                    self._observer.connect_failed(self._trouble)
                else:
                    since = clock()
                    await self._serve(connection)
                    backoff.outlived(clock() - since)
                await asyncio.sleep(backoff.next())
        finally:
            self._trouble = "closed"
            while self._waiting:
                pending, _ = self._waiting.popitem()
                pending.settle(
                    Transient(f"the delivery to {self._config.endpoint} was closed before the acknowledgement")
                )

    async def _serve(self, connection: Connection) -> None:
        """Carry messages over the connection until it ends."""
        flight = Flight(connection, self._config.window, self._observer)
        connection.on_answer = flight.answer
        connection.on_read = self._send_waiting
        end = End("closed")
        try:
            self._flight, self._trouble = flight, None
            self._observer.connected()
            self._send_waiting()
            end = await self._watch(connection, flight)
        finally:
            self._flight, self._trouble = None, end.trouble
            self._take_back(flight, end)
            await connection.close()
            self._observer.disconnected(end.trouble)

    async def _watch(self, connection: Connection, flight: Flight) -> End:
        """Return when the connection has ended; end it when the broker does not answer in time."""
        patience = self._config.ack_timeout
        tick = min(connection.keep_alive_seconds, patience) / 4
        while True:
            ended, _ = await asyncio.wait({connection.ended}, timeout=tick)
            if ended:
                return connection.ended.result()
            if flight.overdue(patience):
                connection.drop(f"no acknowledgement from {self._config.endpoint} within {patience:g} s")
            else:
                connection.keep_alive()

    def _take_back(self, flight: Flight, end: End) -> None:
        """Put what was not acknowledged before everything that waits, in its order."""
        left = flight.unacknowledged()
        if left:
            first, blames = left[0], end.reason_code in BLAMES_A_PACKET
            first.losses += 1
            if blames or first.losses >= _STRIKES:
                # One more than there are, so that the last of them travels alone as well.
                self._suspects = max(self._suspects, len(left) + 1)
            if end.reason_code is not None and blames and len(flight) == 1 and first.losses >= _STRIKES:
                flight.refuse(left.pop(), Refused(end.reason_code, "the broker disconnects over this message"))
        for pending in reversed(left):
            self._waiting[pending] = None
            self._waiting.move_to_end(pending, last=False)
