"""Asks the hooks over HTTP, in exactly the words of EMQX 5.8.9: same fields, same order, same headers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Final

import aiohttp
import msgspec
import structlog

from companion.core.model import Action
from companion.embedded.answers import Answer, Grant, Refusal, login, verdict
from companion.embedded.config import EmbeddedBrokerConfig
from companion.tls import client_context

log = structlog.get_logger("companion.embedded")

_POOL: Final = 32
"""Connections to the hooks at most; further questions wait, inside their own deadline."""

_HEADERS: Final = ("content-length", "host", "authorization", "content-type")


@contextlib.asynccontextmanager
async def open_hook_client(config: EmbeddedBrokerConfig) -> AsyncIterator[HookClient]:
    """Yield a client with a bounded pool of connections, which end with the block."""
    ca, cert = config.hooks_ca, config.hooks_client_cert
    tls = True if ca is None and cert is None else client_context(ca, cert, names=("hooks_ca", "hooks_client_cert"))
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=_POOL, ssl=tls),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"authorization": f"Bearer {config.hook_key}", "content-type": "application/json"},
        middlewares=(_in_order,),
        # One deadline around the whole exchange (`_ask`) replaces the ones of aiohttp.
        timeout=aiohttp.ClientTimeout(),
    ) as session:
        yield HookClient(session, config.hooks_url, config.request_timeout)


class HookClient:
    """Asks one question at a time per call; any number of calls may run at once."""

    def __init__(self, session: aiohttp.ClientSession, url: str, timeout: float) -> None:
        self._session = session
        self._base = url.rstrip("/")
        self._timeout = timeout
        self._trouble: str | None = None

    async def login(self, *, username: str, peerhost: str, password: str, clientid: str) -> Grant | Refusal:
        """Ask whether a client may connect; no answer in time is a refusal."""
        answer = await self._ask(
            "/mqtt/auth",
            {
                "zone": "default",
                "username": username,
                "peerhost": peerhost,
                "password": password,
                "clientid": clientid,
                "cert_subject": "",
                "cert_common_name": "",
            },
        )
        return Refusal.NOT_AUTHORIZED if answer is None else login(answer, time.time())

    async def permits(
        self, *, action: Action, topic: str, qos: int, retain: bool, username: str, peerhost: str, clientid: str
    ) -> bool:
        """Ask whether a client may publish to a topic or subscribe to a filter; no answer in time is a no."""
        answer = await self._ask(
            "/mqtt/authz",
            {
                "username": username,
                "topic": topic,
                "retain": "true" if retain else "false",
                "qos": str(qos),
                "proto_name": "mqtt",
                "peerhost": peerhost,
                "mountpoint": "",
                "clientid": clientid,
                "action": action.value,
            },
        )
        return answer is not None and verdict(answer) is not None

    async def _ask(self, path: str, fields: dict[str, str]) -> Answer | None:
        body = msgspec.json.encode(fields)
        try:
            async with asyncio.timeout(self._timeout):
                try:
                    answer = await self._post(path, body)
                except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                    # A pooled connection that the other side had closed: EMQX repeats the request too. One new one either
                    # works at once or shows that nobody is there, so there is nothing to back off from.
                    answer = await self._post(path, body)
        except TimeoutError:
            self._report(f"no answer within {self._timeout} s")
            return None
        except (aiohttp.ClientError, OSError) as problem:
            self._report(f"{type(problem).__name__}: {problem}")
            return None
        self._report(None if answer.status in (200, 204) else f"HTTP {answer.status}")
        return answer

    async def _post(self, path: str, body: bytes) -> Answer:
        # A redirect is no verdict, and would carry the password elsewhere.
        async with self._session.post(self._base + path, data=body, allow_redirects=False) as response:
            content_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            return Answer(response.status, content_type, await response.read())

    def _report(self, trouble: str | None) -> None:
        """Log when the hooks stop or start to give verdicts, not each time somebody is refused for it."""
        if trouble == self._trouble:
            return
        self._trouble = trouble
        if trouble is None:
            log.info("the hooks answer again", url=self._base)
        else:
            log.warning("the hooks give no verdict: everybody is refused", url=self._base, problem=trouble)


async def _in_order(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Send EMQX's headers only, in its order and spelling; aiohttp adds others and puts Host first."""
    ordered = [(name, request.headers[name]) for name in _HEADERS]
    request.headers.clear()
    request.headers.extend(ordered)
    return await send(request)
