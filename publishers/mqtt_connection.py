"""One network connection to the broker, from CONNECT to its end.

gmqtt brings the framing and the packets. What surrounds them in its `Client` does not fit acknowledged delivery: it ignores reason
codes, reconnects by itself, leaks packet identifiers, closes without a deadline, and reads through a task that outlives the
connection. So the protocol is driven directly here: bytes in, answers out, no task of its own.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from gmqtt.mqtt.constants import MQTTCommands, MQTTv50, MQTTv311
from gmqtt.mqtt.package import Package
from gmqtt.mqtt.protocol import MQTTProtocol
from gmqtt.mqtt.utils import ConnectionState, IdGenerator

from companion.core.errors import CompanionError
from publishers.mqtt_config import MqttConfig
from publishers.mqtt_limits import Limits, read_properties
from publishers.mqtt_reasons import UNACCEPTABLE_PROTOCOL_VERSION, shown_reason

PUBACK: Final = int(MQTTCommands.PUBACK)
PUBREC: Final = int(MQTTCommands.PUBREC)
PUBREL: Final = int(MQTTCommands.PUBREL) | 0x02
PUBCOMP: Final = int(MQTTCommands.PUBCOMP)
_CONNACK: Final = int(MQTTCommands.CONNACK)
_DISCONNECT: Final = int(MQTTCommands.DISCONNECT)

_INBOUND_MAXIMUM: Final = 65_536
"""Most bytes we let the broker put into one packet; it only ever has to answer."""

_CLOSE_SECONDS: Final = 1.0
"""How long a DISCONNECT may take to leave before the connection is cut."""

_IDENTIFIER: Final = struct.Struct("!H")

Answer = Callable[[int, int, int], None]
"""Takes an acknowledgement: the command (`PUBACK`, `PUBREC` or `PUBCOMP`), the packet identifier, the reason code."""


class NotConnected(Exception):
    """An attempt to connect failed; the text is one line, without a secret."""


@dataclass(frozen=True, slots=True)
class End:
    """Why a connection ended: one line, and the reason code if the broker gave one."""

    trouble: str
    reason_code: int | None = None


def protocol_version(config: MqttConfig) -> int:
    """Return the number that stands for the protocol version in CONNECT (MQTT 5 §3.1.2.2)."""
    return int(MQTTv50 if config.protocol == "5" else MQTTv311)


class Connection(MQTTProtocol):  # type: ignore[misc] # gmqtt ships no types
    """A connection that the broker has accepted; `open` makes one.

    `ended` is resolved once, with the reason, whoever ends it; nothing is answered after that. `on_answer` gets every
    acknowledgement, `on_read` is called after each batch of them.
    """

    def __init__(self, config: MqttConfig) -> None:
        self._version = protocol_version(config)
        super().__init__(connection_state=ConnectionState(protocol_version=self._version), id_generator=IdGenerator())
        self.set_connection(self)  # gmqtt hands every packet to its connection's `put_package`
        self._config = config
        self._loop = asyncio.get_running_loop()
        self._answered = asyncio.Event()
        self._gone = asyncio.Event()
        self._unread = b""
        self._unwritten: list[bytes | bytearray] = []
        self._last_in = self._last_out = self._loop.time()
        self.ended: asyncio.Future[End] = self._loop.create_future()
        self.limits = Limits()
        self.on_answer: Answer = _ignore
        self.on_read: Callable[[], None] = _ignore

    @classmethod
    async def open(cls, config: MqttConfig) -> Connection:
        """Connect, introduce ourselves with a clean start, and return once the broker has accepted.

        Raises `NotConnected`; it never takes longer than `connect_timeout`.
        """
        connection = cls(config)
        try:
            async with asyncio.timeout(config.connect_timeout):
                await connection._connect()
        except TimeoutError:
            raise NotConnected(f"no answer from {config.endpoint} within {config.connect_timeout:g} s") from None
        except (OSError, UnicodeError, CompanionError) as error:
            raise NotConnected(_why(error, config.endpoint)) from error
        if connection.ended.done():
            raise NotConnected(connection.ended.result().trouble)
        return connection

    async def _connect(self) -> None:
        """Return when the broker has accepted or the connection has ended; leave nothing open otherwise."""
        config = self._config
        password = config.password() if callable(config.password) else config.password
        try:
            await self._loop.create_connection(lambda: self, config.host, config.port, ssl=config.tls)
            await self.send_auth_package(
                config.client_id.encode(),
                config.username.encode() if config.username is not None else None,
                password.encode() if password is not None else None,
                clean_session=True,
                keepalive=config.keepalive,
                maximum_packet_size=_INBOUND_MAXIMUM,
            )
            await self._answered.wait()
        finally:
            if self.ended.done() or not self._answered.is_set():
                self.drop("given up")
                if self._transport is not None:
                    await self._gone.wait()

    # Writing: what is written in one turn of the event loop leaves in one piece.

    def write_data(self, data: bytes | bytearray) -> None:
        """Send a packet at the end of this turn of the event loop."""
        if not self._unwritten:
            self._loop.call_soon(self._flush)
        self._unwritten.append(data)

    def _flush(self) -> None:
        data = b"".join(self._unwritten)
        self._unwritten.clear()
        if data and not self._transport.is_closing():
            self._transport.write(data)
            self._last_out = self._loop.time()

    @property
    def keep_alive_seconds(self) -> int:
        """Our keep alive, or the broker's if that is shorter (MQTT 5 §3.2.2.3.14); 0 from the broker is "none"."""
        return min(self._config.keepalive, self.limits.server_keep_alive or self._config.keepalive)

    def keep_alive(self) -> None:
        """Ping a broker that has been silent, and give up on one that stays so; call it several times per keep alive."""
        interval = self.keep_alive_seconds
        now = self._loop.time()
        if now - self._last_in > 1.5 * interval:
            self.drop(f"nothing heard from {self._config.endpoint} for {1.5 * interval:g} s")
        elif now - min(self._last_in, self._last_out) > 0.5 * interval:
            self.send_ping_request()

    # The end.

    def drop(self, trouble: str, reason_code: int | None = None) -> None:
        """End the connection at once; whatever was not written is lost."""
        self._end(trouble, reason_code)
        if self._transport is not None:
            self._transport.abort()

    async def close(self) -> None:
        """Say DISCONNECT if the connection stands, and return when it is gone, after 1 s at most."""
        if not self.ended.done():
            self.send_disconnect()
            self._flush()
            self._end("closed", None)
        self._transport.close()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self._gone.wait()
        finally:
            self._transport.abort()
        await self._gone.wait()

    def _end(self, trouble: str, reason_code: int | None) -> None:
        if not self.ended.done():
            self.ended.set_result(End(trouble, reason_code))
            self._answered.set()

    # What the transport calls. gmqtt's own versions feed a stream and a task that reads it.

    def connection_made(self, transport: asyncio.Transport) -> None:  # noqa: D102 - asyncio.Protocol
        self._transport = transport
        if self.ended.done():
            transport.abort()

    def data_received(self, data: bytes) -> None:  # noqa: D102 - asyncio.Protocol
        self._last_in = self._loop.time()
        if self._unread:
            data = self._unread + data
        read = self._read_packet(data)
        self._unread = data[read:]
        if read < 0 or len(self._unread) > _INBOUND_MAXIMUM:
            self.drop(f"malformed packet from {self._config.endpoint}")
        self.on_read()
        self._acknowledge_at_once()

    def _acknowledge_at_once(self) -> None:
        """Keep Linux from delaying its TCP acknowledgement, for which a broker with Nagle's algorithm waits 40 ms per PUBACK."""
        sock = self._transport.get_extra_info("socket")
        if sock is not None and hasattr(socket, "TCP_QUICKACK"):
            with suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def eof_received(self) -> None:  # noqa: D102 - asyncio.Protocol; None lets the transport close itself
        return None

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102 - asyncio.Protocol
        detail = f": {_line(exc)}" if exc is not None else ""
        self._end(f"connection lost {self._config.endpoint}{detail}", None)
        self._gone.set()

    def put_package(self, package: Package) -> None:
        """Take one packet of the broker's; gmqtt calls it for each that is complete."""
        if self.ended.done():
            return
        command, body = package.cmd & 0xF0, package.data
        if command in (PUBACK, PUBREC, PUBCOMP) and len(body) >= _IDENTIFIER.size:
            reason = body[_IDENTIFIER.size] if len(body) > _IDENTIFIER.size else 0  # left out, it is success (§3.4.2.1)
            self.on_answer(command, _IDENTIFIER.unpack_from(body)[0], reason)
        elif command == _CONNACK:
            self._read_connack(body)
        elif command == _DISCONNECT:
            reason = body[0] if body else 0
            self.drop(f"broker disconnected: {shown_reason(reason)}", reason)

    def _read_connack(self, body: bytes) -> None:
        try:
            reason = body[1]
            limits = Limits.of(read_properties(body[2:])) if self._version == MQTTv50 else Limits.unannounced()
        except (ValueError, IndexError, struct.error):
            self.drop(f"malformed CONNACK from {self._config.endpoint}")
            return
        if reason:
            hint = "; the broker may speak MQTT 3.1.1 only" if reason == UNACCEPTABLE_PROTOCOL_VERSION else ""
            self.drop(f"broker refused the connection: {shown_reason(reason)}{hint}", reason)
        elif not self._answered.is_set():
            self.limits = limits
            self._answered.set()


def _ignore(*_: int) -> None:
    """Take nothing: the broker has nothing to acknowledge yet."""


def _why(error: Exception, endpoint: str) -> str:
    if isinstance(error, ConnectionRefusedError):
        return f"connection refused {endpoint}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate of {endpoint} not accepted: {error.verify_message}"
    return f"cannot connect to {endpoint}: {_line(error)}"


def _line(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
