"""A stand-in of EMQX's REST API over real HTTP: it answers as EMQX 5.8.9 was seen to, notes what it was asked, and can fail.

`tests/broker/test_emqx_api.py` holds its answers against the recorded ones.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import pytest
from aiohttp import web

FIXTURE: Final = Path(__file__).parents[1] / "fixtures" / "emqx-5.8.9-rest.jsonl"
KEY, SECRET = "key", "the-secret-of-the-api"
_NO_SUCH_CLIENT: Final = {"code": "CLIENTID_NOT_FOUND", "message": "Client ID not found"}
_NO_SUCH_PAGE: Final = "<html><head><title>404 - NOT FOUND</title></head><body><h1>404 - NOT FOUND</h1></body></html>"

Fault = Callable[["Asked"], web.Response | float | None]
"""Returns what to answer instead, how long to wait before the answer (0: hang up), or None to answer as always."""


def recorded() -> Sequence[Mapping[str, Any]]:
    """Return what was recorded: label, method, path, request, status, content_type, response."""
    return [json.loads(line) for line in FIXTURE.read_text().splitlines()]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: `path` is decoded and without the base, `at` is Unix seconds."""

    method: str
    path: str
    body: Any
    at: float
    query: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(slots=True)
class Connected:
    """A client; `stubborn` is how many kicks it outlives."""

    username: str
    online: bool = True
    stubborn: int = 0


class Emqx:
    """The broker behind the API. `bulk` and `node_caches` are what its version has (5.1 and 5.9)."""

    def __init__(self, *, bulk: bool = True, node_caches: bool = True) -> None:
        self.clients: dict[str, Connected] = {}
        self.banned: dict[tuple[str, str], dict[str, Any]] = {}
        self.asked: list[Asked] = []
        self.kicked: list[str] = []
        self.caches_reset = 0
        self.faults: list[Fault | web.Response | float] = []
        """Each is used for one request, in order."""
        self.fault: Fault | None = None
        """Is asked at every request once the others are used up."""
        self.bulk = bulk
        self.node_caches = node_caches
        self.says_more = True
        """Whether a page says that there are more (`hasnext`), which old versions do not."""
        self.url = ""
        self._over = asyncio.Event()

    @property
    def lines(self) -> list[str]:
        """What it was asked, as `METHOD /path`."""
        return [str(one) for one in self.asked]

    def connect(self, client_id: str, username: str, **more: Any) -> None:
        """Let a client be there."""
        self.clients[client_id] = Connected(username, **more)

    def forget(self) -> None:
        """Have nobody there and nobody banned, and be as if it had never been asked."""
        for kept in (self.clients, self.banned, self.asked, self.kicked):
            kept.clear()
        self.caches_reset = 0

    @contextlib.asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator[str]:
        """Serve until the block ends; yield the address."""
        runner = web.ServerRunner(web.Server(self._answer), shutdown_timeout=0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self.url
        finally:
            self._over.set()
            await runner.cleanup()
            self._over.clear()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path = unquote(request.raw_path.partition("?")[0]).removeprefix("/api/v5")
        text = await request.text()
        asked = Asked(request.method, path, json.loads(text) if text else None, time.time(), dict(request.query))
        if request.headers.get("Authorization") != authorization(SECRET):
            return _json({"code": "BAD_API_KEY_OR_SECRET", "message": "Check api_key/api_secret"}, 401)
        self.asked.append(asked)
        fault = self.faults.pop(0) if self.faults else self.fault
        if callable(fault):
            fault = fault(asked)
        if isinstance(fault, web.Response):
            return fault
        if fault == 0:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if fault is not None:
            # Whoever is held up must not hold up the end of a test.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(fault):
                    await self._over.wait()
        return self._act(asked)

    def _act(self, asked: Asked) -> web.Response:
        match [asked.method, *asked.path.strip("/").split("/", 2)]:
            case ["GET", "clients"]:
                return self._list(asked.query)
            case ["GET", "clients", *name]:
                found = self.clients.get("/".join(name))
                return _json(_NO_SUCH_CLIENT, 404) if found is None else _json(_shown("/".join(name), found))
            case ["DELETE", "clients", *name]:
                return web.Response(status=204) if self._kick("/".join(name)) else _json(_NO_SUCH_CLIENT, 404)
            case ["POST", "clients", "kickout", "bulk"] if self.bulk:
                for one in asked.body:
                    self._kick(one)
                return web.Response(status=204)
            case ["POST", "banned"]:
                return self._ban(asked.body)
            case ["DELETE", "banned", by, who]:
                if self.banned.pop((by, who), None) is None:
                    return _json({"code": "NOT_FOUND", "message": f"{by}: {who} not found"}, 404)
                return web.Response(status=204)
            case ["POST", "authentication" | "authorization", "node_cache", "reset"] if self.node_caches:
                self.caches_reset += 1
                return web.Response(status=204)
        return web.Response(status=404, text=_NO_SUCH_PAGE, content_type="text/html")

    def _kick(self, client_id: str) -> bool:
        found = self.clients.get(client_id)
        if found is None:
            return False
        self.kicked.append(client_id)
        if found.stubborn:
            found.stubborn -= 1
        else:
            del self.clients[client_id]
        return True

    def _list(self, query: Mapping[str, str]) -> web.Response:
        page, limit = int(query.get("page", "1")), int(query.get("limit", "100"))
        wanted = [
            (client_id, one)
            for client_id, one in self.clients.items()
            if query.get("username", one.username) == one.username
            and (one.online or query.get("conn_state") != "connected")
        ]
        some = wanted[(page - 1) * limit : page * limit]
        meta: dict[str, Any] = {"count": len(wanted), "limit": limit, "page": page}
        if self.says_more:
            meta["hasnext"] = page * limit < len(wanted)
        return _json({"data": [_shown(*one) for one in some], "meta": meta})

    def _ban(self, wanted: Mapping[str, Any]) -> web.Response:
        key = (wanted["as"], wanted["who"])
        if key in self.banned:
            return _json({"code": "ALREADY_EXISTS", "message": json.dumps(self.banned[key])}, 400)
        self.banned[key] = {**wanted, "at": "2026-11-22T14:25:33+00:00"}
        return _json(self.banned[key])


def _shown(client_id: str, client: Connected) -> Mapping[str, Any]:
    return {"clientid": client_id, "username": client.username, "connected": client.online, "proto_ver": 5}


def _json(body: object, status: int = 200) -> web.Response:
    return web.json_response(body, status=status)


def authorization(secret: str) -> str:
    """Return the header by which a client of the API makes itself known."""
    return f"Basic {base64.b64encode(f'{KEY}:{secret}'.encode()).decode()}"


def options(url: str, **more: Any) -> dict[str, Any]:
    """Return the settings that lead here, as they would be read from a file."""
    return {
        "emqx_url": url,
        "emqx_api_key": KEY,
        "emqx_api_secret": SECRET,
        "emqx_timeout": 10.0,
        **more,
    }


@pytest.fixture
async def emqx() -> AsyncIterator[Emqx]:
    server = Emqx()
    async with server.serving():
        yield server
