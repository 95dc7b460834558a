"""A short run of the fuzzer, and what its judge finds."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from tests.conftest import Note
from tests.faults.fuzz import fuzz_service, problems
from tests.faults.fuzz_client import fuzz, request
from tests.faults.fuzz_judge import Verdict
from tests.support.serve import companion_serve

REQUESTS = 5_000
FEW = range(1, 1_001)
MARKER = b"dev-2"
DENY = b'{"result":"deny"}'

Sabotage = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


async def test_nothing_is_allowed_and_nothing_fails(tmp_path: Path, note: Note) -> None:
    """5,000 requests: each gets an explicit denial or a refusal; right ones in between are allowed."""
    verdict = await fuzz_service(tmp_path, seed=7, numbers=range(1, REQUESTS + 1))
    note(f"fuzz: {verdict.summary()}")
    assert verdict.wrong == []
    assert verdict.problems == []
    assert verdict.requests == REQUESTS
    assert verdict.clean
    assert min(verdict.families[one] for one in ("fields", "bytes", "json", "spoiled", "framing")) > REQUESTS / 50
    assert verdict.answers["deny"] > REQUESTS / 2
    assert verdict.answers["401"] > 0
    assert verdict.answers["400"] > 0


def test_a_request_is_drawn_from_its_number() -> None:
    """What was wrong once can be sent again."""
    assert [request(3, number) for number in FEW] == [request(3, number) for number in FEW]
    assert request(3, 1) != request(4, 1)


@contextlib.asynccontextmanager
async def sabotaged(sabotage: Sabotage) -> AsyncIterator[int]:
    """Serve hooks that deny everything, but do something else where the marker is in the body."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if MARKER in await request.read():
            return await sabotage(request)
        return web.Response(status=405 if request.method in {"HEAD", "CONNECT"} else 200, body=DENY)

    server = web.Server(answer, access_log=None, max_line_size=200_000, auto_decompress=False)
    runner = web.ServerRunner(server, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def fuzzed(sabotage: Sabotage) -> Verdict:
    async with sabotaged(sabotage) as port:
        return await fuzz(
            port, seed=1, numbers=[one for one in FEW if request(1, one).family != "unfinished"], controls=False
        )


async def denies(_request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(body=DENY)


async def allows(_request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(text=json.dumps({"result": "allow"}))


async def ignores(_request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(text=json.dumps({"result": "ignore"}))


async def says_nothing(_request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(status=204)


async def fails(_request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(status=503, body=DENY)


async def redirects(_request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(status=302, headers={"Location": "/"})


async def hangs_up(request: web.BaseRequest) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


@pytest.mark.parametrize(
    ("sabotage", "allowed", "failed", "silent", "other"),
    [
        (allows, True, False, False, False),
        (ignores, True, False, False, False),
        (says_nothing, True, False, False, False),
        (fails, False, True, False, False),
        (redirects, False, False, False, True),
        (hangs_up, False, False, True, False),
    ],
)
async def test_what_is_wrong_is_found(
    sabotage: Sabotage, *, allowed: bool, failed: bool, silent: bool, other: bool
) -> None:
    """Hooks that do wrong where a marker is are found out, by what they do; a failure counts whatever its body says."""
    verdict = await fuzzed(sabotage)
    found = (verdict.allowed > 0, verdict.failed > 0, verdict.silent > 0, verdict.other > 0)
    assert found == (allowed, failed, silent, other), verdict.wrong
    assert not verdict.clean
    assert any("dev-2" in one for one in verdict.wrong)


async def test_without_sabotage_nothing_is_found() -> None:
    """Hooks that deny everything do nothing wrong, but prove nothing either without controls."""
    verdict = await fuzzed(denies)
    assert verdict.wrong == []
    assert not verdict.clean


async def test_controls_that_are_refused_are_found() -> None:
    """Hooks that deny what is right too are found out."""
    async with sabotaged(denies) as port:
        verdict = await fuzz(port, seed=1, numbers=[one for one in FEW if request(1, one).family != "unfinished"])
    assert verdict.wrong
    assert all("was not allowed" in one for one in verdict.wrong)


async def test_what_the_service_tells_is_found(tmp_path: Path) -> None:
    """A hook that denies because it fails inside is no good either: its log tells, and so does its end."""
    async with companion_serve(tmp_path, "--role", "hooks") as service:
        assert await problems(service) == []
        service.entries.append({"event": "hook failed", "level": "error"})
        (told,) = await problems(service)
        assert "hook failed" in told
