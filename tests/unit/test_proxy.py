"""The proxy of the fault tests does what it says, or the tests behind it prove nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from tests.support.proxy import Proxy, proxied


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """Run a proxy in front of a server that answers every line with itself."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, proxied(server.sockets[0].getsockname()[1]) as running:
        yield running


async def connect(proxy: Proxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", proxy.port)


async def ask(pair: tuple[asyncio.StreamReader, asyncio.StreamWriter], seconds: float = 5.0) -> bytes:
    pair[1].write(b"hello\n")
    return await asyncio.wait_for(pair[0].readline(), seconds)


async def test_it_passes_bytes(proxy: Proxy) -> None:
    """Without a fault it is not there."""
    pair = await connect(proxy)
    assert await ask(pair) == b"hello\n"
    assert proxy.connections == 1
    pair[1].close()


async def test_it_delays(proxy: Proxy) -> None:
    """Every chunk waits, each way."""
    pair = await connect(proxy)
    proxy.delay(0.2)
    begun = time.monotonic()
    assert await ask(pair) == b"hello\n"
    assert time.monotonic() - begun >= 0.4
    pair[1].close()


async def test_it_swallows_and_heals(proxy: Proxy) -> None:
    """A black hole answers nobody, old or new; what was sent into it arrives once it has healed."""
    pair = await connect(proxy)
    await ask(pair)
    proxy.swallow()
    late = await connect(proxy)
    for one in (pair, late):
        with pytest.raises(TimeoutError):
            await ask(one, 0.2)
    proxy.heal()
    assert await asyncio.wait_for(pair[0].readline(), 5) == b"hello\n"
    assert await asyncio.wait_for(late[0].readline(), 5) == b"hello\n"
    pair[1].close()
    late[1].close()


async def test_it_resets(proxy: Proxy) -> None:
    """Connections break with RST, and new ones are served."""
    pair = await connect(proxy)
    await ask(pair)
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(pair[0].readline(), 5)
    pair[1].close()
    again = await connect(proxy)
    assert await ask(again) == b"hello\n"
    again[1].close()


async def test_it_refuses_and_comes_back_on_the_same_port(proxy: Proxy) -> None:
    """Stopped, nobody listens there; started again, it is where it was."""
    port = proxy.port
    await proxy.stop()
    with pytest.raises(ConnectionRefusedError):
        await connect(proxy)
    await proxy.start()
    assert proxy.port == port
    pair = await connect(proxy)
    assert await ask(pair) == b"hello\n"
    pair[1].close()
