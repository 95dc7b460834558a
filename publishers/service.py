"""The publisher, wired: what it needs comes in once, here."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

import structlog

from companion.background import background
from companion.core.errors import Invalid
from companion.core.ports import Store
from companion.core.presence_topics import parse as parse_presence_topic
from companion.core.routing import Router
from companion.leadership import Leadership, Term
from companion.metrics import Metrics
from companion.settings import Settings
from publishers.delivery import Delivery
from publishers.inbox_source import InboxSource
from publishers.mqtt_config import MqttConfig
from publishers.mqtt_delivery import MqttDelivery
from publishers.pipeline import Pipeline
from publishers.presence_topics import PresenceTopics
from publishers.rendering import Renderer

log = structlog.get_logger("publishers.service")


LEASE: Final = "publisher"
_RELEASE_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Publisher:
    """A running publisher. `taken` is to be called when the inbox has something new."""

    store: Store
    delivery: Delivery
    leadership: Leadership
    taken: Callable[[], None]

    async def trouble(self) -> str | None:
        """Return what keeps changes from being published, or None; that another process publishes is none."""
        troubles = (await self.store.troubles()).values()
        return next((problem for problem in troubles if problem is not None), self.delivery.trouble)


def make_router(settings: Settings) -> Router:
    """Return the router of the configured topic templates."""
    return Router(settings.publisher_topics, settings.publisher_max_topics)


@contextlib.asynccontextmanager
async def running_publisher(settings: Settings, store: Store, metrics: Metrics) -> AsyncIterator[Publisher]:
    """Publish, or wait for the turn to, until the block ends; then finish what is in flight within the shutdown deadline.

    The checkpoints are saved and the lease is given back.
    """
    renderer = Renderer(make_router(settings), settings.publisher_qos, settings.publisher_expiry)
    async with MqttDelivery(_mqtt(settings), _Observer(metrics)) as delivery:
        metrics.delivery.in_flight.set_function(lambda: delivery.in_flight)
        inbox = InboxSource(store.inbox, store.checkpoints)
        pipeline = Pipeline(
            sources=(inbox, *store.sources),
            delivery=delivery,
            renderer=renderer,
            metrics=metrics,
            limit=settings.publisher_changes,
            attempts=settings.publisher_attempts,
        )
        presence: PresenceTopics | None = None
        if settings.presence_topic:
            presence = PresenceTopics(
                presence=store.presence,
                template=parse_presence_topic(settings.presence_topic),
                delivery=delivery,
                metrics=metrics,
                qos=settings.publisher_qos,
                expiry=settings.publisher_expiry,
                attempts=settings.publisher_attempts,
            )

        async def publish(term: Term) -> None:
            async with asyncio.TaskGroup() as works:
                works.create_task(pipeline.run(term))
                if presence is not None:
                    works.create_task(presence.run(term))

        holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        leadership = Leadership(store.leases, LEASE, holder, settings.publisher_lease)
        metrics.leases.held.labels(LEASE).set_function(lambda: leadership.leading)

        async def finish() -> None:
            leadership.stop()
            inbox.wake()
            if presence is not None:
                presence.stop()
            await pipeline.finish(settings.shutdown_deadline)
            # Given back, the lease need not run out before the next can begin.
            await leadership.ended(_RELEASE_SECONDS)

        async with background(leadership.run(publish), finish=finish):
            yield Publisher(store, delivery, leadership, inbox.wake)


def _mqtt(settings: Settings) -> MqttConfig:
    password = settings.mqtt_password.get_secret_value()
    return MqttConfig(
        host=settings.mqtt_host,
        port=settings.mqtt_port,
        # Two publishers with one client id would throw each other out for ever.
        client_id=f"{settings.mqtt_client_id}-{secrets.token_hex(4)}",
        username=settings.mqtt_username or None,
        password=password or None,
        tls=_tls(settings) if settings.mqtt_tls else None,
        protocol=settings.mqtt_protocol,
        window=settings.publisher_window,
    )


def _tls(settings: Settings) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=settings.mqtt_ca_file)
    except OSError as problem:
        raise Invalid("mqtt_ca_file", str(settings.mqtt_ca_file), f"a file of PEM certificates ({problem})") from None


class _Observer:
    """Turns what the delivery tells into metrics and log lines."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._acknowledged = metrics.delivery.acknowledged.inc
        self._seconds = metrics.delivery.ack_seconds.observe
        self._last_reason = ""

    def connected(self) -> None:
        """Count a connection."""
        self._metrics.delivery.connected.set(1)
        self._metrics.delivery.connects.inc()
        self._last_reason = ""
        log.info("connected to the broker")

    def connect_failed(self, reason: str) -> None:
        """Log a failed attempt, once per reason: the attempts go on for as long as the broker is away."""
        if reason != self._last_reason:
            self._last_reason = reason
            log.warning("no connection to the broker", reason=reason)

    def disconnected(self, reason: str) -> None:
        """Note a lost connection."""
        self._metrics.delivery.connected.set(0)
        log.warning("disconnected from the broker", reason=reason)

    def acknowledged(self, seconds: float) -> None:
        """Count an acknowledgement."""
        self._acknowledged()
        self._seconds(seconds)

    def refused(self, reason_code: int) -> None:
        """Count a refusal."""
        del reason_code  # the log line of the pipeline names it; as a label it would be an open set
        self._metrics.delivery.refused.inc()
