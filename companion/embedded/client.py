"""One accepted connection: who it is, what it may do, and amqtt's protocol handler for it."""

from __future__ import annotations

import asyncio
import contextlib
from contextvars import ContextVar
from typing import Any, Final

import structlog
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler

from companion.core.errors import Invalid
from companion.core.model import Action
from companion.embedded.answers import Grant
from companion.embedded.connect import Connect
from companion.embedded.hook_client import HookClient
from companion.embedded.streams import ClientReader, ClientWriter
from companion.embedded.topics import asked_filter

log = structlog.get_logger("companion.embedded")

_UNDECIDED: Final = 100
"""Publishes of one client that may wait for a verdict before no more of its bytes are read."""

_PATIENCE: Final = 1.5
"""Keep-alive periods of silence after which a client counts as gone (MQTT 3.1.1 §3.1.2.10)."""


class Client:
    """An authenticated connection. Its identity is fixed here: a session may outlive it, what it was allowed to do does not."""

    def __init__(
        self,
        connect: Connect,
        grant: Grant,
        *,
        peerhost: str,
        hooks: HookClient,
        reader: asyncio.StreamReader,
        writer: ClientWriter,
    ) -> None:
        self.client_id = connect.client_id
        self.username = connect.username
        self.clean_session = connect.clean_session
        self.will = connect.will
        self.peerhost = peerhost
        self.expires_at = grant.expires_at
        self.session: Any = None
        """amqtt's session, once there is one."""
        self.message: Any = None
        """The message of the client that waits for its verdict."""
        self.subscribe_qos = 0
        """QoS of the filter that waits for its verdict."""
        self.has_subscribed = False
        """Whether this connection, not an earlier one of its session, has sent a SUBSCRIBE."""
        self._superuser = grant.superuser
        self._hooks = hooks
        self._progress = asyncio.Event()
        self.reader = ClientReader(reader, _PATIENCE * connect.keep_alive or None, self._room)
        self.writer = writer

    async def may_publish(self, topic: str, *, qos: int, retain: bool) -> bool:
        """Ask the hooks, unless this is a superuser."""
        return self._superuser or await self._permits(Action.PUBLISH, topic, qos=qos, retain=retain)

    async def may_subscribe(self, topic_filter: str) -> bool:
        """Ask the hooks about the filter without its prefix, unless this is a superuser.

        A filter with a prefix is refused even if the hooks allow it: amqtt would grant it and deliver nothing.
        """
        try:
            asked = asked_filter(topic_filter)
        except Invalid:
            return False
        allowed = self._superuser or await self._permits(Action.SUBSCRIBE, asked, qos=self.subscribe_qos, retain=False)
        if allowed and asked != topic_filter:
            log.warning(
                "refused: the embedded broker has no shared or exclusive subscriptions",
                clientid=self.client_id,
                filter=topic_filter,
            )
            return False
        return allowed

    def settled(self) -> None:
        """Note that a message has its verdict."""
        self.message = None
        self._progress.set()

    async def all_settled(self) -> None:
        """Wait until every message that has been acknowledged has its verdict."""
        while self.message is not None or self._undecided():
            self._progress.clear()
            await self._progress.wait()

    def hang_up(self) -> None:
        """Close the connection from our side; MQTT 3.1.1 has no packet to say why."""
        self.reader.feed_eof()
        self.writer.abort()

    def _undecided(self) -> int:
        size: int = self.session.delivered_message_queue.qsize()
        return size

    async def _room(self) -> None:
        while self._undecided() >= _UNDECIDED:
            self._progress.clear()
            await self._progress.wait()

    async def _permits(self, action: Action, topic: str, *, qos: int, retain: bool) -> bool:
        return await self._hooks.permits(
            action=action,
            topic=topic,
            qos=qos,
            retain=retain,
            username=self.username,
            peerhost=self.peerhost,
            clientid=self.client_id,
        )


CURRENT: ContextVar[Client] = ContextVar("companion.embedded.client")
"""The client whose packets the running task handles."""


class ClientHandler(BrokerProtocolHandler):  # type: ignore[misc]  # amqtt ships no types
    """amqtt's handler, which ends a connection only when what it has acknowledged is decided."""

    def __init__(self, plugins_manager: object, client: Client) -> None:
        super().__init__(plugins_manager)
        self._client = client

    async def handle_disconnect(self, disconnect: object | None) -> None:
        """Forget the will when the client says goodbye (MQTT 3.1.1 §3.14.4); None means it just went."""
        if disconnect is not None:
            self._client.will = None
            # Acknowledgements that are still out will not come; amqtt would wait for each of them.
            self._stop_waiters()
        await super().handle_disconnect(disconnect)

    async def wait_disconnect(self) -> object | None:
        """Wait for the end of the connection, then for the verdicts: amqtt acknowledges a PUBLISH before it is decided."""
        packet: object | None = await super().wait_disconnect()
        if not self._client.clean_session:
            # From here on its messages are kept for the next connection.
            self._client.session.transitions.disconnect()
        await self._client.all_settled()
        return packet

    async def mqtt_deliver_next_message(self) -> object | None:
        """Take the next message, and note that it is not decided yet."""
        message: object | None = await super().mqtt_deliver_next_message()
        self._client.message = message
        return message

    async def mqtt_publish(self, *args: Any, **more: Any) -> None:  # noqa: ANN401 - amqtt's signature, handed through
        """Send a message; one that the client does not acknowledge in time is lost, and not an error of the broker."""
        with contextlib.suppress(TimeoutError):
            await super().mqtt_publish(*args, **more)

    async def end(self) -> None:
        """Stop, and wait for amqtt's reader task, which closes the socket once more on its way out."""
        await self.stop()
        if self._reader_task is not None:
            await asyncio.wait([self._reader_task])
