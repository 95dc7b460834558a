"""A real service with TLS on both ports, the files that it reads, and clients of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from broker_hooks.hashing import hash_password
from companion.core.model import Account, Kind
from companion.stores.embedded import EmbeddedStore
from tests.support.certificates import Authority, Issued
from tests.support.raw_http import RawConnection, request
from tests.support.serve import Serving, companion_serve
from tests.support.service import HOOK_KEY, OPS_KEY

ASK: Final = json.dumps({"username": "alice", "clientid": "c", "action": "subscribe", "topic": "alice/#"}).encode()
ALLOW: Final = b'{"result":"allow"}'
CONNECTIONS: Final = 12
POLL: Final = 0.2
REFUSED: Final = "certificate refused: the old one stays"


class House:
    """The files of a service with TLS on both ports, and clients of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = Authority()
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_bytes(self.ca.certificate)
        self.cert, self.key = folder / "server.pem", folder / "server.key"
        self.first = self.ca.issue()
        self.first.write(self.cert, self.key)
        self.service: Serving

    @property
    def settings(self) -> dict[str, object]:
        both = {
            f"{port}_tls_{name}": path
            for port in ("hooks", "ops")
            for name, path in (("cert", self.cert), ("key", self.key))
        }
        return {**both, "hooks_keys": HOOK_KEY, "ops_keys": OPS_KEY, "tls_poll": POLL, "log_decisions": "none"}

    def trusting(self, presented: Issued | None = None) -> ssl.SSLContext:
        """Return the context of a client that trusts our CA."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        if presented is not None:
            pair = self.folder / "client.pem"
            pair.write_bytes(presented.certificate + presented.key)
            context.load_cert_chain(pair)
        return context

    @contextlib.asynccontextmanager
    async def connected(
        self, port: int, context: ssl.SSLContext | None = None
    ) -> AsyncIterator[tuple[RawConnection, bytes]]:
        """Connect with TLS; yield the connection and the certificate that was shown."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context or self.trusting())
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        try:
            yield RawConnection(reader, writer), shown
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def ask(self, context: ssl.SSLContext | None = None, key: str = HOOK_KEY) -> tuple[int, bytes]:
        """Ask the hooks; return status and body."""
        async with self.connected(self.service.hooks_port, context) as (connection, _):
            return await asked(connection, key)

    async def shown(self, port: int) -> set[bytes]:
        """Return the certificates that are shown on many connections."""

        async def once() -> bytes:
            async with self.connected(port) as (_, certificate):
                return certificate

        return set(await asyncio.gather(*(once() for _ in range(CONNECTIONS))))

    async def ops(self, method: str, path: str) -> tuple[int, str]:
        async with self.connected(self.service.ops_port) as (connection, _):
            await connection.send(request(path, key=OPS_KEY, method=method))
            answer = await connection.answer()
            return answer.status, answer.body.decode()

    async def metric(self, name: str, port: str = "hooks") -> float:
        _, text = await self.ops("GET", "/metrics")
        (value,) = [
            line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(f'{name}{{port="{port}"}}')
        ]
        return float(value)

    async def refuses(self, context: ssl.SSLContext) -> None:
        """Fail unless no answer comes to a client with this context. With TLS 1.3 it may learn of it only when it reads."""
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await self.ask(context)


async def asked(connection: RawConnection, key: str = HOOK_KEY) -> tuple[int, bytes]:
    await connection.send(request("/mqtt/authz", ASK, key=key))
    answer = await connection.answer()
    return answer.status, answer.body


@pytest.fixture
async def house(tmp_path: Path) -> House:
    async with EmbeddedStore.open(tmp_path / "data") as store:
        await store.accounts.add([Account("alice", Kind.DEVICE, "alice", hash_password("secret", 4))])
    return House(tmp_path)


@contextlib.asynccontextmanager
async def open_house(house: House, *options: str, **more: object) -> AsyncIterator[Serving]:
    settings = {**house.settings, **more}
    async with companion_serve(house.folder / "data", "--role", "hooks", *options, **settings) as house.service:
        yield house.service
