"""EMQX's REST API (`/api/v5` of EMQX 5 and 6): who is connected, kicks, bans, the caches of the nodes.

Every call here may be repeated: what was done already (a client that is gone, a ban that stands, a cache that an older version does
not have) is success. So a request that got no answer in time, or one that says "not now", is made again a few times, with a growing
pause at random; after that, and at once while a circuit breaker is open, it is `Transient`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime as dt
import random
import re
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Self
from urllib.parse import quote

import aiohttp
import msgspec
from aiohttp import hdrs
from yarl import URL

from companion.breaker import Breaker
from companion.core.errors import Permanent, Transient
from companion.metrics import Metrics
from companion.settings import Settings

NAME: Final = "emqx"
BASE: Final = "/api/v5"
PAGE: Final = 500
"""Clients on a page: a client takes 1.6 KB of it, and EMQX gives 10,000 at most."""

BULK: Final = 500
"""Clients kicked with one request."""

By = Literal["username", "clientid", "peerhost"]
"""What a ban goes by."""

Call = Literal["look", "clients", "kick", "ban", "unban", "caches"]
CALLS: Final[tuple[Call, ...]] = ("look", "clients", "kick", "ban", "unban", "caches")

_ATTEMPTS: Final = 3
_PAUSE: Final = (0.1, 1.0)
_LONGEST: Final = 4_194_304
_CHUNK: Final = 65_536
_MOST_PAGES: Final = 100_000
_FINE: Final = frozenset({200, 201, 202, 204})
_NOT_NOW: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_UNKNOWN: Final = frozenset({404, 405})
_BAD_KEY: Final = frozenset({401, 403})
_CODE: Final = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_EXISTS: Final = "ALREADY_EXISTS"
_CACHES: Final = ("/authentication/node_cache/reset", "/authorization/node_cache/reset")


@dataclass(frozen=True, slots=True)
class Client:
    """A client as EMQX lists it; `connected` is False for a session that outlives its connection."""

    client_id: str
    username: str
    connected: bool


@dataclass(frozen=True, slots=True)
class Page:
    """One page of clients; `total` is how many EMQX says there are in all, where it says so."""

    clients: Sequence[Client]
    total: int | None = None


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes

    @property
    def code(self) -> str:
        """The error code that EMQX gives (`CLIENTID_NOT_FOUND`), or nothing."""
        try:
            found = msgspec.json.decode(self.body)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return ""
        code = found.get("code") if isinstance(found, dict) else None
        return code if isinstance(code, str) and _CODE.fullmatch(code) else ""


class EmqxApi:
    """The calls; `open` makes one. `attempts` is how often a request is made before it is given up."""

    def __init__(
        self, settings: Settings, metrics: Metrics, http: aiohttp.ClientSession, attempts: int = _ATTEMPTS
    ) -> None:
        self._url = settings.emqx_url.rstrip("/") + BASE
        self._http = http
        self._attempts = attempts
        self._requests = metrics.emqx.requests
        self._breaker = Breaker(NAME)
        self._kicks_many = True

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, settings: Settings, metrics: Metrics, attempts: int = _ATTEMPTS) -> AsyncIterator[Self]:
        """Make a client of the API that `emqx_url` names, until the block ends. Nobody is asked yet."""
        credentials = f"{settings.emqx_api_key.get_secret_value()}:{settings.emqx_api_secret.get_secret_value()}"
        headers = {hdrs.AUTHORIZATION: f"Basic {base64.b64encode(credentials.encode()).decode()}"}
        timeout = aiohttp.ClientTimeout(total=settings.emqx_timeout)
        async with aiohttp.ClientSession(headers=headers, timeout=timeout) as http:
            yield cls(settings, metrics, http, attempts)

    @property
    def problem(self) -> str | None:
        """Why the last request failed, in one line; None after one that was answered."""
        return self._breaker.problem

    async def look(self, what: str) -> bytes:
        """Return what `GET /{what}` says."""
        return (await self._request("look", hdrs.METH_GET, f"/{what}")).body

    async def pages(self, *, username: str | None = None, connected: bool = False) -> AsyncIterator[Page]:
        """Yield the clients, of this user name if one is given, page by page; with `connected` without sessions that are offline.

        Whoever connects or goes meanwhile may be missed, or come twice.
        """
        query = f"?limit={PAGE}"
        if username is not None:
            query += f"&username={_quoted(username)}"
        if connected:
            query += "&conn_state=connected"
        for number in range(1, _MOST_PAGES):
            answer = await self._request("clients", hdrs.METH_GET, f"/clients{query}&page={number}")
            page, more = _page(answer.body)
            yield page
            if not more or not page.clients:
                return

    async def client(self, client_id: str) -> Client | None:
        """Return the client of this id, or None."""
        answer = await self._request("clients", hdrs.METH_GET, f"/clients/{_quoted(client_id)}", also=_UNKNOWN)
        return None if _is_gone("clients", answer) else _client(_decoded(answer.body))

    async def kick(self, client_ids: Sequence[str]) -> None:
        """End these clients' connections and sessions; those that are gone are no error."""
        for start in range(0, len(client_ids), BULK):
            some = client_ids[start : start + BULK]
            if len(some) > 1 and self._kicks_many and await self._kick_many(some):
                continue
            for one in some:
                _is_gone(
                    "kick", await self._request("kick", hdrs.METH_DELETE, f"/clients/{_quoted(one)}", also=_UNKNOWN)
                )

    async def _kick_many(self, client_ids: Sequence[str]) -> bool:
        """Kick them with one request; False where EMQX is too old for that (before 5.1)."""
        answer = await self._request("kick", hdrs.METH_POST, "/clients/kickout/bulk", list(client_ids), also=_UNKNOWN)
        self._kicks_many = answer.status not in _UNKNOWN
        return self._kicks_many

    async def ban(self, by: By, who: str, until: int, reason: str) -> bool:
        """Refuse whoever this is until then (Unix seconds); False when there is a ban already, which stays as it is."""
        body = {
            "as": by,
            "who": who,
            "by": "companion",
            "reason": reason,
            "until": dt.datetime.fromtimestamp(until, dt.UTC).isoformat(),
        }
        answer = await self._request("ban", hdrs.METH_POST, "/banned", body, also={400})
        if answer.status not in _FINE and answer.code != _EXISTS:
            raise Permanent(_told("ban", answer))
        return answer.status in _FINE

    async def unban(self, by: By, who: str) -> bool:
        """Take the ban back; False when there is none."""
        answer = await self._request("unban", hdrs.METH_DELETE, f"/banned/{by}/{_quoted(who)}", also=_UNKNOWN)
        return not _is_gone("unban", answer)

    async def reset_node_caches(self) -> int:
        """Have every node forget verdicts that it keeps for all clients; return how many such caches there are (5.9 and later)."""
        answers = [await self._request("caches", hdrs.METH_POST, path, also=_UNKNOWN) for path in _CACHES]
        return sum(answer.status not in _UNKNOWN for answer in answers)

    async def _request(
        self,
        call: Call,
        method: str,
        path: str,
        body: object = None,
        also: Collection[int] = frozenset(),
    ) -> _Answer:
        """Make a request until it is answered with success or a status of `also`.

        Raises `Transient` when EMQX is away, not able now or does not take our key, `Permanent` for any other answer.
        """
        pause, longest = _PAUSE
        for left in range(self._attempts - 1, -1, -1):
            try:
                answer = await self._breaker.call(lambda: self._once(call, method, path, body))
            except Transient:
                self._requests.labels(call, "failed").inc()
                if not left or self._breaker.open:
                    raise
                await asyncio.sleep(pause * (0.5 + random.random() / 2))  # noqa: S311 - spreads retries, protects nothing
                pause = min(pause * 2, longest)
                continue
            self._requests.labels(call, "answered").inc()
            if answer.status in _FINE or answer.status in also:
                return answer
            raise Permanent(_told(call, answer))
        raise AssertionError("unreachable")

    async def _once(self, call: Call, method: str, path: str, body: object) -> _Answer:
        more: dict[str, Any] = {}
        if body is not None:
            more = {"data": msgspec.json.encode(body), "headers": {hdrs.CONTENT_TYPE: "application/json"}}
        try:
            # A redirection would carry the key elsewhere.
            async with self._http.request(
                method, URL(self._url + path, encoded=True), allow_redirects=False, **more
            ) as response:
                answer = _Answer(response.status, await _limited(call, response))
        except TimeoutError:
            raise Transient(f"{NAME}: {call}: no answer in time") from None
        except (aiohttp.ClientError, OSError, ValueError) as problem:
            raise Transient(f"{NAME}: {call}: {type(problem).__name__}") from None
        if answer.status in _BAD_KEY:
            raise Transient(f"{NAME}: {call}: it does not take the API key (HTTP {answer.status})")
        if answer.status in _NOT_NOW or 300 <= answer.status < 400:  # noqa: PLR2004 - a redirection
            raise Transient(_told(call, answer))
        return answer


async def _limited(call: Call, response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK):
        body += chunk
        if len(body) > _LONGEST:
            raise Transient(f"{NAME}: {call}: longer than {_LONGEST} bytes")
    return bytes(body)


def _told(call: Call, answer: _Answer) -> str:
    """Return an answer in one line; of its text only the code, for the rest may repeat what was sent."""
    return f"{NAME}: {call}: HTTP {answer.status}" + (f" {answer.code}" if answer.code else "")


def _is_gone(call: Call, answer: _Answer) -> bool:
    """Tell whether EMQX says that there is no such thing. Raises `Permanent` when somebody else says that there is no such page."""
    if answer.status in _UNKNOWN and not answer.code:
        raise Permanent(_told(call, answer))
    return answer.status in _UNKNOWN


def _quoted(name: str) -> str:
    # A path may not end in dots that mean another one.
    return quote(name, safe="").replace(".", "%2E") if name in {".", ".."} else quote(name, safe="")


def _decoded(body: bytes) -> Any:  # noqa: ANN401 - any JSON value
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise Transient(f"{NAME}: clients: not what EMQX answers") from None


def _page(body: bytes) -> tuple[Page, bool]:
    """Return a page, and whether there are more."""
    found = _decoded(body)
    try:
        meta = found.get("meta") or {}
        clients = [_client(one) for one in found["data"]]
        total = meta.get("count")
        # Older versions do not say whether there are more; then a full page means that.
        more = meta["hasnext"] if "hasnext" in meta else len(clients) >= PAGE
    except (AttributeError, KeyError, TypeError):
        raise Transient(f"{NAME}: clients: not what EMQX answers") from None
    return Page(clients, total if type(total) is int else None), bool(more)


def _client(found: Mapping[str, Any]) -> Client:
    try:
        username = found.get("username")
        return Client(str(found["clientid"]), "" if username is None else str(username), bool(found["connected"]))
    except (AttributeError, KeyError, TypeError):
        raise Transient(f"{NAME}: clients: not what EMQX answers") from None
