"""Requests whose head is known, answered from memory: no head is parsed twice, and no task made where nothing waits.

    bytes ──▶ a head that came before, byte by byte? ──▶ its whole body there? ──▶ memory decides? ──▶ the answer
                     └──────────────────────── no ───────────────────────────────────▶ aiohttp, one request at a time

A broker sends the same head with every request but for the length of the body, and most decisions rest on what is remembered.
aiohttp takes half of the time of such an answer: to parse the head, to build a request from it, to run a task. So what a head came
to is remembered under exactly its bytes, once aiohttp has parsed it and the hooks have admitted its key. Nothing is parsed here: a
head that differs in one byte is another one, and aiohttp remains the only one who says what HTTP is.

To know where the next request begins, aiohttp is given no more than one at a time; what comes behind it is held until it is
answered. That is the order in which aiohttp would work too. Where the end of a request cannot be told from its length, or more
than one was given, all the rest of the connection is aiohttp's.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, Final, NamedTuple

from aiohttp import HttpVersion11, hdrs, web

from companion.metrics import Hook

_END: Final = b"\r\n\r\n"
_MOST_HEADS: Final = 4096
_LONGEST_HEAD: Final = 2048
_LONGEST_UNKNOWN: Final = 65_536
"""Of a head that does not end we keep no more than this; aiohttp has its own limits."""
_MOST_HELD: Final = 1_048_576
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,9})[ \t]*\r\n", re.IGNORECASE)
_OTHER_FRAMING: Final = (hdrs.TRANSFER_ENCODING, hdrs.CONTENT_ENCODING, hdrs.EXPECT, hdrs.UPGRADE)
_FOR_YEARS: Final = 10 * 365 * 86_400.0


class Head(NamedTuple):
    """What a head says: what is asked, the content type of the body and its length in bytes."""

    hook: Hook
    content_type: str
    length: int


class Heads:
    """The heads that are known, each with a valid key in it; to be forgotten when the keys change."""

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}
        self.get: Final = self._known.get
        self.clear: Final = self._known.clear

    def learn(self, head: bytes, request: web.BaseRequest, hook: Hook) -> None:
        """Remember the head of a request that aiohttp has parsed and whose key is valid."""
        # One request in one form: what ends a line is not a matter of taste, and the length is no riddle.
        if len(head) > _LONGEST_HEAD or head.count(b"\n") != head.count(b"\r\n") or not head.startswith(b"POST /"):
            return
        if len(self._known) >= _MOST_HEADS:
            self._known.clear()
        self._known[head] = Head(hook, request.headers.get(hdrs.CONTENT_TYPE, ""), request.content_length or 0)


Answerer = Callable[[Head, bytes], bytes | None]
"""Returns the whole answer to a request with this head and this body, as far as memory decides; None: it has to be asked."""


class _State(Enum):
    FREE = auto()
    """Nothing is under way: the next byte begins a request."""
    ASKED = auto()
    """aiohttp has a request, or a part of one, that is not answered yet."""
    HANDED_OVER = auto()
    """Whatever comes is aiohttp's."""


class Connection(web.RequestHandler):
    """One connection of a caller: aiohttp's, with the short way before it."""

    __slots__ = ("_answer", "_given", "_head", "_heads", "_held", "_seeking", "_state", "_stop", "heard")

    def __init__(self, server: web.Server, heads: Heads, answer: Answerer, **options: Any) -> None:  # noqa: ANN401 - aiohttp's
        super().__init__(server, **options)
        self._heads = heads
        self._answer = answer
        self._state = _State.FREE
        # Of the request that aiohttp has: its head unless that is known, how much of it was given, and where it ends.
        self._head = b""
        self._seeking = False
        self._given = 0
        self._stop = 0
        self._held = b""
        self.heard = True
        """Whether anything came since this was last set to False."""

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        self.heard = True
        # aiohttp calls this with nothing to have itself look again at what it holds.
        if self._state is _State.HANDED_OVER or not data:
            super().data_received(data)
            return
        self._held = self._rest(self._held + data if self._held else data)
        transport = self.transport
        if len(self._held) > _MOST_HELD and transport is not None and not transport.is_closing():
            transport.pause_reading()

    def begun(self, request: web.BaseRequest, hook: Hook | None) -> None:
        """Hear that aiohttp has parsed a head; `hook` is what it asks with a valid key, None for anything else."""
        if self._state is not _State.ASKED or not self._head:
            return
        # Only of a length that it says itself is it known where a request ends, and only if no more than that was given.
        framed = not any(name in request.headers for name in _OTHER_FRAMING)
        length = request.content_length or 0
        stop = len(self._head) + length
        if self._seeking or not framed or self._given > stop or not _stays_open(request):
            self.hand_over()
            return
        if hook is not None and length:
            self._heads.learn(self._head, request, hook)
        self._stop = stop
        self._go_on()

    def answered(self) -> None:
        """Hear that the request at hand was answered, on a connection that stays open."""
        if self._state is _State.ASKED and self._given == self._stop:
            self._state = _State.FREE
            self._head = b""
            self._go_on()
        else:
            # Answered before it was there as a whole: what still comes of it is for aiohttp to drop.
            self.hand_over()

    def hand_over(self) -> None:
        """Leave whatever comes to aiohttp, and what is held."""
        if self._state is not _State.HANDED_OVER:
            self._state = _State.HANDED_OVER
            self._head = b""
            self._go_on()

    def _go_on(self) -> None:
        held, self._held = self._held, b""
        if self._state is not _State.HANDED_OVER:
            self._held = self._rest(held)
        elif held:
            super().data_received(held)
        transport = self.transport
        if len(held) > _MOST_HELD >= len(self._held) and transport is not None and not transport.is_closing():
            transport.resume_reading()

    def _rest(self, data: bytes) -> bytes:
        """Go on as far as it goes now, and return what is to be held."""
        while data:
            if self._state is _State.FREE:
                data = self._begin(data)
            elif self._seeking:
                data = self._seek(data)
            elif self._state is _State.HANDED_OVER:
                super().data_received(data)
                return b""
            elif self._given < self._stop:
                data = self._give(data)
            else:
                return data
        return b""

    def _begin(self, data: bytes) -> bytes:
        transport = self.transport
        if transport is None or transport.is_closing():
            return b""
        end = data.find(_END) + len(_END)
        known = self._heads.get(data[:end])
        if known is not None and len(data) >= end + known.length and not self.writing_paused:
            answer = self._answer(known, data[end : end + known.length])
            if answer is not None:
                transport.write(answer)
                return data[end + known.length :]
        self._state = _State.ASKED
        self._given = 0
        self._seeking = known is None
        self._stop = 0 if known is None else end + known.length
        return data

    def _seek(self, data: bytes) -> bytes:
        """Look for the end of a head that is not known."""
        self._head += data
        end = self._head.find(_END) + len(_END)
        if end < len(_END):
            self._given += len(data)
            super().data_received(data)
            if len(self._head) > _LONGEST_UNKNOWN:
                self._seeking = False
                self.hand_over()
            return b""
        self._seeking = False
        self._head = self._head[:end]
        # Only a hint, of how much may be given at once, until aiohttp has said what the head says.
        length = _LENGTH.search(self._head)
        self._stop = end + int(length[1]) if length else sys.maxsize
        return data

    def _give(self, data: bytes) -> bytes:
        some = data[: self._stop - self._given]
        self._given += len(some)
        super().data_received(some)
        return data[len(some) :]


def _stays_open(request: web.BaseRequest) -> bool:
    return request.version == HttpVersion11 and bool(request.keep_alive)


class Server(web.Server):
    """aiohttp's low-level server, whose connections have the short way; those on which nothing comes for long are closed."""

    def __init__(self, handler: Any, heads: Heads, answer: Answerer, idle: float, **options: Any) -> None:  # noqa: ANN401 - aiohttp's
        super().__init__(handler, handler_cancellation=options.pop("handler_cancellation"))
        self._heads = heads
        self._answer = answer
        self._idle = idle
        # aiohttp does not see what is answered without it, so that it cannot tell who is idle.
        self._options = {**options, "keepalive_timeout": _FOR_YEARS, "loop": asyncio.get_running_loop()}

    def __call__(self) -> web.RequestHandler:
        """Return the protocol of a new connection."""
        return Connection(self, self._heads, self._answer, **self._options)

    async def sweep(self) -> None:
        """Close, until cancelled, the connections on which nothing came for a whole period of `idle` seconds."""
        while True:
            await asyncio.sleep(self._idle)
            for connection in self.connections:
                if isinstance(connection, Connection) and not connection.heard and connection.transport is not None:
                    connection.transport.close()
                elif isinstance(connection, Connection):
                    connection.heard = False
