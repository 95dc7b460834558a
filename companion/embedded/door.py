"""Where clients come in: nobody gets past it without the hooks' consent, and one client id is inside once."""

from __future__ import annotations

import asyncio
import contextlib
import time
import traceback
from collections.abc import AsyncIterator
from typing import Final, cast

import structlog

from companion.embedded.answers import Refusal
from companion.embedded.client import Client
from companion.embedded.config import EmbeddedBrokerConfig
from companion.embedded.connect import MalformedConnect, RefusedConnect, connack, read_connect
from companion.embedded.hook_client import HookClient
from companion.embedded.mqtt_core import MqttCore
from companion.embedded.streams import ClientWriter

log = structlog.get_logger("companion.embedded")

_CONNECT_TIMEOUT: Final = 15.0
"""Seconds until the CONNECT must be there, EMQX's default `idle_timeout`."""

_GRACE: Final = 2.0
"""Seconds beyond one question to the hooks that a connection may take to end."""


@contextlib.asynccontextmanager
async def open_door(config: EmbeddedBrokerConfig, hooks: HookClient, core: MqttCore) -> AsyncIterator[int]:
    """Listen, and yield the port (of several addresses of one host, the first one's). At the end every connection is ended.

    Raises `OSError` naming host and port when it cannot listen there.
    """
    door = _Door(hooks, core, patience=config.request_timeout + _GRACE)
    try:
        server = await asyncio.start_server(door.accept, config.host, config.port)
    except OSError as problem:
        reason = problem.strerror or str(problem)
        raise OSError(
            problem.errno, f"the embedded broker cannot listen on {config.host}:{config.port}: {reason}"
        ) from problem
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await door.close()
        await server.wait_closed()


class _Door:
    """The connections, and who is inside."""

    def __init__(self, hooks: HookClient, core: MqttCore, *, patience: float) -> None:
        """Give a connection that has been hung up on `patience` seconds to end by itself."""
        self._hooks = hooks
        self._core = core
        self._patience = patience
        self._closing = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._inside: dict[str, tuple[Client, asyncio.Task[None]]] = {}

    async def close(self) -> None:
        """End every connection; whoever is not in yet does not come in."""
        self._closing = True
        inside = {task for _client, task in self._inside.values()}
        for client, _task in self._inside.values():
            client.hang_up()
        for task in self._tasks - inside:
            task.cancel()
        await self._ended(set(self._tasks))

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take a new TCP connection."""
        client_writer = ClientWriter(writer)
        if self._closing:
            client_writer.abort()
            return
        task = asyncio.get_running_loop().create_task(self._connection(reader, client_writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connection(self, reader: asyncio.StreamReader, writer: ClientWriter) -> None:
        try:
            client = await self._admit(reader, writer)
            if client is not None:
                await self._serve(client)
        except Exception:  # noqa: BLE001 - one connection's trouble stays its own
            # As text, not as `exc_info`: some renderers show the values of locals, and a password is among them.
            log.error("a connection ended with an error", exception=traceback.format_exc())
        finally:
            await writer.close()

    async def _admit(self, reader: asyncio.StreamReader, writer: ClientWriter) -> Client | None:
        """Return the client, or None after it has been told no."""
        peer = writer.get_peer_info()
        if peer is None:
            return None
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                connect = await read_connect(reader)
        except (TimeoutError, MalformedConnect):
            return None
        except RefusedConnect as refused:
            writer.write(connack(refused.code))
            return None
        verdict = await self._hooks.login(
            username=connect.username, peerhost=peer[0], password=connect.password, clientid=connect.client_id
        )
        if isinstance(verdict, Refusal):
            writer.write(connack(verdict))
            return None
        return Client(connect, verdict, peerhost=peer[0], hooks=self._hooks, reader=reader, writer=writer)

    async def _serve(self, client: Client) -> None:
        # `accept` made a task for it.
        task = cast("asyncio.Task[None]", asyncio.current_task())
        # [MQTT-3.1.4-2] One connection for a client id: the one before ends completely, will included, before this one begins.
        while (before := self._inside.get(client.client_id)) is not None:
            before[0].hang_up()
            await self._ended({before[1]})
        self._inside[client.client_id] = (client, task)
        expiry = None
        if client.expires_at is not None:
            expiry = asyncio.get_running_loop().call_later(
                max(0.0, client.expires_at - time.time()), self._expire, client
            )
        try:
            await self._core.serve(client)
            if not self._closing:
                await self._core.publish_will(client)
        finally:
            if expiry is not None:
                expiry.cancel()
            del self._inside[client.client_id]

    @staticmethod
    def _expire(client: Client) -> None:
        log.info("disconnected: the credential has expired", clientid=client.client_id)
        client.hang_up()

    async def _ended(self, tasks: set[asyncio.Task[None]]) -> None:
        """Wait for connections that have been hung up on; past the deadline, cancel what they still wait for."""
        if not tasks:
            return
        _done, late = await asyncio.wait(tasks, timeout=self._patience)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
