"""Hooks for the embedded broker, as a raw TCP server: what was asked is kept to the byte, what is answered is up to the test."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support.recording import recorded_requests
from tests.support.waiting import wait_until


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. `headers` as they came: in order, names as spelled."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = json.loads(self.body)
        return fields

    @property
    def is_login(self) -> bool:
        return self.path == "/mqtt/auth"


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer; `content_type` None sends no such header, `hold` keeps the answer back until it is set."""

    body: bytes = b'{"result":"allow"}'
    status: int = 200
    content_type: str | None = "application/json"
    hold: asyncio.Event | None = None
    location: str | None = None


ALLOW = Reply()
DENY = Reply(b'{"result":"deny"}')


def allowed(**more: object) -> Reply:
    return Reply(json.dumps({"result": "allow", **more}).encode())


@dataclass(slots=True)
class Hooks:
    """What was asked so far, and how to answer: allow, unless a test says otherwise."""

    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    answer: Callable[[Asked], Reply] = lambda _: ALLOW
    drop_next: bool = False
    """Close the connection instead of answering the next request."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def logins(self) -> list[Asked]:
        return [asked for asked in self.asked if asked.is_login]

    @property
    def questions(self) -> list[tuple[str, str]]:
        """Action and topic of every question to `/mqtt/authz`."""
        return [(asked.fields["action"], asked.fields["topic"]) for asked in self.asked if not asked.is_login]

    def deny(self, *topics: str) -> None:
        """Deny these topics and filters from now on."""
        self.answer = lambda asked: DENY if not asked.is_login and asked.fields["topic"] in topics else ALLOW

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                asked = await _read(reader)
                self.asked.append(asked)
                if self.drop_next:
                    self.drop_next = False
                    break
                reply = self.answer(asked)
                if reply.hold is not None:
                    await reply.hold.wait()
                writer.write(_encoded(reply))
                await writer.drain()
        writer.close()


async def _read(reader: asyncio.StreamReader) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    request_line, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
    method, path, version = request_line.split(" ")
    assert version == "HTTP/1.1"
    headers = tuple((name, value) for name, _, value in (line.partition(": ") for line in lines))
    length = next(int(value) for name, value in headers if name.lower() == "content-length")
    return Asked(method, path, headers, await reader.readexactly(length))


def _encoded(reply: Reply) -> bytes:
    head = f"HTTP/1.1 {reply.status} X\r\n"
    if reply.content_type is not None:
        head += f"content-type: {reply.content_type}\r\n"
    if reply.location is not None:
        head += f"location: {reply.location}\r\n"
    body = b"" if reply.status == 204 else reply.body
    if reply.status != 204:
        head += f"content-length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


@contextlib.asynccontextmanager
async def running_hooks() -> AsyncIterator[Hooks]:
    """Run hooks on a free port; connections end with them."""
    hooks = Hooks()
    connections: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(hooks.serve(reader, writer))
        connections.add(task)
        task.add_done_callback(connections.discard)
        task.add_done_callback(lambda _: writer.close())

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    hooks.port = server.sockets[0].getsockname()[1]
    try:
        yield hooks
    finally:
        server.close()
        for task in tuple(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await server.wait_closed()


@contextlib.asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """Fail if a task that began meanwhile goes on after the block, or an exception was looked at by nobody."""
    before = asyncio.all_tasks()
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    yield
    await wait_until(lambda: asyncio.all_tasks() - before <= {asyncio.current_task()}, what="the end of every task")
    gc.collect()
    assert complaints == []


def recorded(label: str) -> list[Asked]:
    """Return what a running EMQX 5.8.9 sent under this label, as JSON."""
    return [
        Asked(request.method, request.target, request.headers, request.body.encode())
        for request in recorded_requests()
        if request.label == f"json: {label}"
    ]


@pytest.fixture
async def hooks() -> AsyncIterator[Hooks]:
    async with nothing_left(), running_hooks() as running:
        yield running
