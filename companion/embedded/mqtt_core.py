"""amqtt's broker behind our door: sessions, QoS flows, retained messages and routing are amqtt's; every decision is the hooks'.

A subclass rather than a plugin of amqtt, because its plugins are not told the QoS of what they decide, are asked again for every
delivery (and a broadcast that waits there loses messages when somebody subscribes meanwhile), and come after a CONNECT has already
changed the session of that client id. What is overridden and why stands with each method; the version is pinned to 0.12.
"""

from __future__ import annotations

import logging
from typing import Any, Final

import structlog
from amqtt.broker import Broker
from amqtt.contexts import Action, BrokerConfig, ListenerConfig, ListenerType
from amqtt.session import Session

from companion.embedded.client import CURRENT, Client, ClientHandler

log = structlog.get_logger("companion.embedded")

_LISTENER: Final = "default"
_SESSION_EXPIRY: Final = 2 * 3600
"""Seconds that the session of an absent client is kept, EMQX's default for MQTT 3.1.1."""

_OFFLINE_MESSAGES: Final = 1000
"""Messages kept for an absent client, EMQX's default; the oldest goes first."""


class MqttCore(Broker):  # type: ignore[misc]  # amqtt ships no types
    """The part of the broker that begins after the login."""

    def __init__(self) -> None:
        # amqtt narrates packets below WARNING; a process that configured it stricter keeps that.
        for name in ("amqtt", "transitions"):
            logger = logging.getLogger(name)
            logger.setLevel(max(logger.getEffectiveLevel(), logging.WARNING))
        super().__init__(
            BrokerConfig(
                listeners={_LISTENER: ListenerConfig(type=ListenerType.EXTERNAL)},
                # None of amqtt's own: its defaults let anybody in, log packets and publish $SYS.
                plugins={},
                session_expiry_interval=_SESSION_EXPIRY,
            )
        )

    async def serve(self, client: Client) -> None:
        """Serve an authenticated client until its connection ends, and leave nothing of the connection behind."""
        CURRENT.set(client)
        handler = ClientHandler(self.plugins_manager, client)
        client.session = await self._session_of(client)
        try:
            # What `external_connected` does between its own reading of CONNECT and its book-keeping of listeners.
            await self._handle_client_session(client.reader, client.writer, client.session, handler, None, _LISTENER)
        finally:
            await handler.end()
            client.session.transitions.disconnect()
            self._drop_undecided(client)
            if client.clean_session:
                await self._delete_session(client.client_id)

    @staticmethod
    def _drop_undecided(client: Client) -> None:
        """Forget what had no verdict before the deadline: it must not be decided for the next one with this client id."""
        undecided = client.session.delivered_message_queue
        if undecided.empty():
            return
        log.warning("dropped: publishes without a verdict", clientid=client.client_id, count=undecided.qsize())
        while not undecided.empty():
            undecided.get_nowait()

    async def publish_will(self, client: Client) -> None:
        """Publish the will of a client that has gone without a DISCONNECT, if it may; `$` topics are the broker's."""
        will = client.will
        if will is None or will.topic.startswith("$"):
            return
        if not await client.may_publish(will.topic, qos=will.qos, retain=will.retain):
            return
        await self.internal_message_broadcast(will.topic, will.payload)
        if will.retain:
            await self.retain_message(None, will.topic, will.payload, will.qos)

    async def _session_of(self, client: Client) -> Any:  # noqa: ANN401 - amqtt ships no types
        """Return the session to go on with, or a new one (MQTT 3.1.1 §3.1.2.4). Only the user who left one comes back to it."""
        kept = self.sessions.get(client.client_id, (None, None))[0]
        if kept is not None and not client.clean_session and kept.username == client.username:
            kept.parent = 1
            return kept
        await self._delete_session(client.client_id)
        session = Session()
        session.client_id = client.client_id
        session.username = client.username
        session.clean_session = client.clean_session
        return session

    async def _authenticate(self, session: object, listener: object) -> bool:  # noqa: ARG002 - amqtt's signature
        """Let in who is here: nobody reaches `serve` without the hooks' consent."""
        return True

    async def _topic_filtering(self, session: Any, topic: str, action: object) -> bool:  # noqa: ANN401 - amqtt ships no types
        """Ask the hooks about a publish or a filter. Deliveries are never asked about, as in EMQX, and must not wait here."""
        if action == Action.RECEIVE:
            self._make_room(session)
            return True
        client = CURRENT.get()
        if action == Action.SUBSCRIBE:
            return await client.may_subscribe(topic)
        return await client.may_publish(topic, qos=client.message.qos, retain=client.message.retain)

    @staticmethod
    def _make_room(session: Any) -> None:  # noqa: ANN401 - amqtt ships no types
        if session.retained_messages.qsize() >= _OFFLINE_MESSAGES:
            session.retained_messages.get_nowait()

    async def add_subscription(self, subscription: tuple[str, int], session: object) -> int:
        """Note the QoS, which amqtt does not pass on to the question, before amqtt asks it."""
        client = CURRENT.get()
        client.subscribe_qos = subscription[1]
        client.has_subscribed = True
        code: int = await super().add_subscription(subscription, session)
        return code

    async def _handle_message_delivery(self, client_session: object, handler: object, wait_deliver: object) -> bool:
        """Note that the message has its verdict, whatever it was."""
        try:
            going_on: bool = await super()._handle_message_delivery(client_session, handler, wait_deliver)
        finally:
            CURRENT.get().settled()
        return going_on

    async def _publish_retained_messages_for_subscription(self, subscription: tuple[str, int], session: Any) -> None:  # noqa: ANN401 - amqtt ships no types
        """Send retained messages for a new subscription only (MQTT 3.1.1 §3.3.1.3).

        At every CONNECT amqtt also does it for each filter that anybody has subscribed to, which tells a client what it never
        asked for and the hooks never allowed.
        """
        if CURRENT.get().has_subscribed:
            await super()._publish_retained_messages_for_subscription(subscription, session)
