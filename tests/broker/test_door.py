"""The door of the operations port, over real HTTP: who is let in, bodies in pieces, and what goes wrong told in one line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from companion.core import strict_json
from companion.core.errors import Invalid, Transient
from companion.door import Door, NotThere, as_json, number_of, read_body
from companion.keys import Keyring
from companion.metrics import Metrics

KEY = "the-ops-key-of-the-tests"
MOST = 100


@dataclass(frozen=True, slots=True)
class House:
    """A port with handlers behind the door."""

    url: str
    http: ClientSession
    metrics: Metrics

    async def ask(self, path: str, body: object = None, key: str = KEY) -> tuple[int, dict[str, object]]:
        headers = {"Authorization": f"Bearer {key}"}
        async with self.http.post(f"{self.url}{path}", data=body, headers=headers) as response:
            return response.status, await response.json()


@pytest.fixture
async def house() -> AsyncIterator[House]:
    metrics = Metrics()
    door = Door(Keyring([KEY]), metrics)

    async def echo(request: web.Request) -> web.Response:
        return as_json(strict_json.decode(await read_body(request, MOST)), 202)

    async def counted(request: web.Request) -> web.Response:
        return as_json({"limit": number_of(request, "limit", 7, 9)})

    async def fails(request: web.Request) -> web.Response:
        raise {
            "there": NotThere("there is no such run"),
            "field": Invalid("name", "x", "another"),
            "away": Transient("redis: no answer"),
        }[request.match_info["how"]]

    app = web.Application()
    for path, handle in (("/echo", echo), ("/counted", counted), ("/fails/{how}", fails)):
        app.router.add_post(path, door.behind(handle))
    async with TestServer(app) as server, ClientSession() as http:
        yield House(str(server.make_url("")).rstrip("/"), http, metrics)


async def test_a_body_in_pieces(house: House) -> None:
    """It is read to its end, however slowly it comes."""

    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b'{"a"', b": [1, 2", b", 3]}"):
            yield piece
            await asyncio.sleep(0.02)

    assert await house.ask("/echo", pieces()) == (202, {"a": [1, 2, 3]})


@pytest.mark.parametrize("pieces", [1, 3])
async def test_a_body_that_is_too_long(house: House, pieces: int) -> None:
    """It is refused, whether its length is told or not."""

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(pieces):
            yield b"x" * MOST

    body: object = b"x" * (MOST + 1) if pieces == 1 else endless()
    assert await house.ask("/echo", body) == (413, {"error": f"the body is longer than {MOST} bytes"})


@pytest.mark.parametrize(
    ("body", "error"),
    [(b"{", "JSON"), (b'{"a": 1, "a": 2}', "the key 'a' is there twice in one object"), (b"", "JSON")],
)
async def test_what_is_no_json(house: House, body: bytes, error: str) -> None:
    """It is a 400 that says why."""
    status, answer = await house.ask("/echo", body)
    assert status == 400
    assert error in str(answer["error"])


async def test_who_has_no_key(house: House) -> None:
    """401, counted, and the body is not looked at."""
    status, answer = await house.ask("/echo", b"{", key="another-key-of-the-tests")
    assert (status, list(answer)) == (401, ["error"])
    assert house.metrics.registry.get_sample_value("companion_http_unauthorized_total", {"port": "ops"}) == 1


@pytest.mark.parametrize(
    ("how", "status", "answer"),
    [
        ("there", 404, {"error": "there is no such run"}),
        ("field", 422, {"error": "name: 'x' is not allowed; another", "field": "name"}),
        ("away", 503, {"error": "the store did not answer: redis: no answer"}),
    ],
)
async def test_what_goes_wrong(house: House, how: str, status: int, answer: dict[str, str]) -> None:
    """Each kind has its status, and says in one line what it is."""
    assert await house.ask(f"/fails/{how}") == (status, answer)


@pytest.mark.parametrize(("query", "limit"), [("", 7), ("?limit=1", 1), ("?limit=9", 9)])
async def test_numbers(house: House, query: str, limit: int) -> None:
    """A number of the query has a default and bounds."""
    assert await house.ask(f"/counted{query}") == (200, {"limit": limit})


@pytest.mark.parametrize("text", ["0", "10", "-1", "one", "٣", ""])
async def test_what_is_no_number(house: House, text: str) -> None:
    """It is refused with its name and what is allowed."""
    status, answer = await house.ask(f"/counted?limit={text}")
    assert (status, answer["field"]) == (422, "limit")
    assert "a number from 1 to 9" in json.dumps(answer)
