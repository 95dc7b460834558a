"""A TCP proxy of ours in front of a store or a broker, that can delay, reset, swallow and refuse."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator
from typing import Final

_CHUNK: Final = 65_536
_RESET: Final = struct.pack("ii", 1, 0)


class Proxy:
    """Passes bytes between whoever connects to `port` and a server at `target`; faults hold until `heal`."""

    def __init__(self, target: int, host: str = "127.0.0.1") -> None:
        self.port = 0
        self.accepted_at: list[float] = []
        """When each connection was accepted (monotonic): somebody's attempt, whether the server is there or not."""
        self._target = target
        self._host = host
        self._delay = 0.0
        self._open = asyncio.Event()
        self._open.set()
        self._server: asyncio.Server | None = None
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter | None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def connections(self) -> int:
        """How many were ever accepted."""
        return len(self.accepted_at)

    async def start(self) -> None:
        """Listen, on the same port as before if there was one."""
        self._server = await asyncio.start_server(self._accept, self._host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse new connections and reset the old ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.reset()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def delay(self, seconds: float) -> None:
        """Hold every chunk back for this long, both ways."""
        self._delay = seconds

    def swallow(self) -> None:
        """Be a black hole: connections are accepted and stay, and nothing passes."""
        self._open.clear()

    def heal(self) -> None:
        """Pass everything again, also what was swallowed: TCP would have sent it again."""
        self._delay = 0.0
        self._open.set()

    def reset(self) -> None:
        """Reset every connection (RST)."""
        for pair in list(self._pairs):
            for writer in pair:
                if writer is not None:
                    self._kill(writer)

    @staticmethod
    def _kill(writer: asyncio.StreamWriter) -> None:
        sock = writer.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted_at.append(time.monotonic())
        behind: asyncio.StreamWriter | None = None
        pair = (writer, behind)
        self._pairs.add(pair)
        try:
            await self._open.wait()
            far_reader, behind = await asyncio.open_connection(self._host, self._target)
            self._pairs.discard(pair)
            pair = (writer, behind)
            self._pairs.add(pair)
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._pass(reader, behind))
                ways.create_task(self._pass(far_reader, writer))
        except (OSError, asyncio.CancelledError, ExceptionGroup):
            pass
        finally:
            self._pairs.discard(pair)
            self._tasks.discard(task)
            for one in pair:
                if one is not None:
                    self._kill(one)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(_CHUNK):
            if self._delay:
                await asyncio.sleep(self._delay)
            await self._open.wait()
            writer.write(chunk)
            await writer.drain()
        raise ConnectionResetError


@contextlib.asynccontextmanager
async def proxied(target: int) -> AsyncIterator[Proxy]:
    """Run a proxy in front of this port of 127.0.0.1."""
    proxy = Proxy(target)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()
