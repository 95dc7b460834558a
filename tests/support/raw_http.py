"""HTTP/1.1 as bytes: requests exactly as written, answers as they come, for what no well-behaved client would send."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the decoded body of an answer that says it is JSON."""
        assert self.headers["content-type"].partition(";")[0] == "application/json"
        return json.loads(self.body)


class RawConnection:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, *parts: bytes | str) -> None:
        """Write these bytes, or this text as UTF-8; a server that has closed already is no error, its answer may be there."""
        with contextlib.suppress(ConnectionError):
            self._writer.write(b"".join(part.encode() if isinstance(part, str) else part for part in parts))
            await self._writer.drain()

    async def finish(self) -> None:
        """Say that nothing more will be sent."""
        with contextlib.suppress(OSError):
            self._writer.write_eof()

    async def answer(self, *, no_body: bool = False) -> Answer:
        """Read one answer; `no_body`: to HEAD, whose length is that of another.

        Raises `asyncio.IncompleteReadError` when the connection ends before it is complete.
        """
        async with asyncio.timeout(_SECONDS):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status, *lines = head.rstrip("\r\n").split("\r\n")
            pairs = (line.partition(":") for line in lines)
            headers = {name.lower(): value.strip() for name, _, value in pairs}
            length = 0 if no_body else int(headers.get("content-length", "0"))
            body = await self._reader.readexactly(length)
        return Answer(int(status.split(" ")[1]), headers, body)

    async def ended(self) -> bool:
        """Wait until the server closes the connection; False when it sends something instead."""
        async with asyncio.timeout(_SECONDS):
            try:
                return await self._reader.read(1) == b""
            except ConnectionError:
                return True


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[RawConnection]:
    """Connect to 127.0.0.1."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield RawConnection(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def exchange(port: int, *parts: bytes | str) -> Answer:
    """Send one request on a connection of its own and return the answer."""
    async with connected(port) as connection:
        await connection.send(*parts)
        return await connection.answer()


def request(
    target: str,
    body: bytes = b"",
    *,
    key: str,
    method: str = "POST",
    content_type: str = "application/json",
    headers: tuple[str, ...] = (),
) -> bytes:
    """Return a request; `headers` are further header lines. A length is added unless they say how long the body is."""
    lines = [f"{method} {target} HTTP/1.1", "Host: companion", f"Authorization: Bearer {key}"]
    if content_type:
        lines.append(f"Content-Type: {content_type}")
    if not any(line.lower().startswith(("content-length:", "transfer-encoding:")) for line in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join((*lines, *headers, "", "")).encode() + body
