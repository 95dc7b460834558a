"""EMQX's REST API: our client against the stand-in, and the stand-in against what a real EMQX 5.8.9 answered."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from pydantic import SecretStr

from companion.core.errors import Permanent, Transient
from companion.emqx_api import BULK, PAGE, Client, EmqxApi
from companion.metrics import Metrics
from tests.support.emqx import SECRET, Emqx, authorization, emqx, options, recorded
from tests.support.service import make_settings

__all__ = ["emqx"]

UNTIL = 1_893_456_000
HOSTILE = ("a/b", "a b", "a%2Fb", "?x=1", "#", "..", "ä", "🦔", "a&username=b", '"')


@contextlib.asynccontextmanager
async def opened(folder: Path, url: str, metrics: Metrics | None = None, **more: Any) -> AsyncIterator[EmqxApi]:
    async with EmqxApi.open(make_settings(folder, **options(url, **more)), metrics or Metrics()) as api:
        yield api


@pytest.fixture
async def api(emqx: Emqx, tmp_path: Path) -> AsyncIterator[EmqxApi]:
    async with opened(tmp_path, emqx.url) as one:
        yield one


async def ids(api: EmqxApi, **query: Any) -> list[str]:
    return [one.client_id async for page in api.pages(**query) for one in page.clients]


STOOD_FOR = (
    *("clients, page 1", "clients, page 2", "one client", "unknown client", "ban", "ban again", "unban", "unban again"),
    *("kick", "kick again", "kick several", "node cache (5.9 and later; here absent)", "wrong key"),
)


async def test_the_standin_answers_as_emqx_did() -> None:
    """Status, content type and what our client reads are those of the recording, call for call."""
    server = Emqx(node_caches=False)
    for client_id, username in (("dev-2", "bob"), ("dev-1", "alice"), ("dev-0", "alice")):
        server.connect(client_id, username)
    by_label = {one["label"]: one for one in recorded()}
    async with server.serving() as url, aiohttp.ClientSession() as http:
        for label in STOOD_FOR:
            one = by_label[label]
            body = None if one["request"] is None else json.dumps(one["request"])
            key = {"Authorization": authorization("wrong" if label == "wrong key" else SECRET)}
            async with http.request(one["method"], url + one["path"], data=body, headers=key) as response:
                assert response.status == one["status"], label
                text = await response.text()
                if one["content_type"] is None:
                    assert not text
                    continue
                assert response.content_type == one["content_type"]
                if one["content_type"] != "application/json":
                    assert text == one["response"]
                    continue
                same_shape(json.loads(text), one["response"], label)


def same_shape(ours: Any, theirs: Any, label: str) -> None:
    """Check that EMQX said too what the stand-in says; it says no field that EMQX does not have."""
    if isinstance(ours, dict):
        for name, value in ours.items():
            if name not in {"at", "message", "until"}:
                same_shape(value, theirs[name], f"{label}.{name}")
    elif isinstance(ours, list):
        for one, other in zip(ours, theirs, strict=True):
            same_shape(one, other, label)
    else:
        assert ours == theirs, label


async def test_pages(emqx: Emqx, api: EmqxApi) -> None:
    """All clients of a user come, over as many pages as there are, and nobody else's; also where none says that there are more."""
    for number in range(2 * PAGE + 1):
        emqx.connect(f"a{number}", "alice")
    emqx.connect("b", "bob")
    emqx.connect("c", "bob", online=False)
    assert await ids(api, username="alice") == [f"a{number}" for number in range(2 * PAGE + 1)]
    assert emqx.lines == ["GET /clients"] * 3
    emqx.says_more = False
    assert len(await ids(api)) == 2 * PAGE + 3
    assert await ids(api, username="bob") == ["b", "c"]
    assert await ids(api, username="bob", connected=True) == ["b"]
    assert await ids(api, username="nobody") == []


async def test_names_are_what_they_are(emqx: Emqx, api: EmqxApi) -> None:
    """Names with characters that mean something in an address reach EMQX as they are."""
    for name in HOSTILE:
        emqx.connect(name, name)
    for name in HOSTILE:
        assert await api.client(name) == Client(name, name, connected=True)
        assert await ids(api, username=name) == [name]
        assert await api.ban("username", name, UNTIL, "because")
        assert await api.unban("username", name)
        await api.kick([name])
        assert await api.client(name) is None
    assert emqx.kicked == list(HOSTILE)


@pytest.mark.parametrize("bulk", [True, False])
async def test_kicks(tmp_path: Path, bulk: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """Many are kicked with few requests where EMQX can; an older one is asked for each, and who is gone is no error."""
    emqx = Emqx(bulk=bulk)
    names = [f"c{number}" for number in range(BULK + 2)]
    for name in names[1:]:
        emqx.connect(name, "alice")
    async with emqx.serving(), opened(tmp_path, emqx.url) as api:
        await api.kick(names)
        await api.kick([])
    assert emqx.clients == {}
    assert sorted(emqx.kicked) == sorted(names[1:])
    asked = [line for line in emqx.lines if "bulk" in line]
    assert len(asked) == (2 if bulk else 1)
    assert len(emqx.lines) == (2 if bulk else 1 + len(names))


async def test_bans(emqx: Emqx, api: EmqxApi) -> None:
    """A ban that stands is success, and so is one that is not there to be taken back; both are told."""
    assert await api.ban("clientid", "c", UNTIL, "stolen")
    assert not await api.ban("clientid", "c", UNTIL + 1, "stolen")
    (ban,) = emqx.banned.values()
    assert (ban["until"], ban["reason"], ban["by"]) == ("2030-01-01T00:00:00+00:00", "stolen", "companion")
    assert await api.unban("clientid", "c")
    assert not await api.unban("clientid", "c")


async def test_node_caches(tmp_path: Path) -> None:
    """Both are reset where there are any; a version without them is fine."""
    for there, count in ((True, 2), (False, 0)):
        emqx = Emqx(node_caches=there)
        async with emqx.serving(), opened(tmp_path, emqx.url) as api:
            assert await api.reset_node_caches() == count


@pytest.mark.parametrize(
    "faults",
    [[web.Response(status=503)], [0], [web.Response(status=500), web.Response(status=429)], [web.Response(body=b"{")]],
    ids=["not now", "hangs up", "twice", "no JSON"],
)
async def test_what_passes(emqx: Emqx, api: EmqxApi, faults: Sequence[web.Response | float]) -> None:
    """A request that is not answered, or not now, is made again; an answer that is none of EMQX's is an error that may pass."""
    emqx.connect("c", "alice")
    emqx.faults += faults
    if isinstance(faults[0], web.Response) and faults[0].status == 200:
        with pytest.raises(Transient):
            await ids(api)
    assert await ids(api) == ["c"]


async def test_a_slow_one(emqx: Emqx, tmp_path: Path) -> None:
    """Whoever is slower than the deadline is asked again, and given up after a few times."""
    async with opened(tmp_path, emqx.url, emqx_timeout=1.0) as api:
        emqx.faults += [5.0]
        assert await ids(api) == []
        emqx.faults += [5.0] * 3
        with pytest.raises(Transient, match="no answer in time"):
            await ids(api)
    assert len(emqx.asked) == 5


async def test_one_that_is_away(tmp_path: Path) -> None:
    """Nobody there: after a few times nobody is asked for a while, and everybody is told at once."""
    metrics = Metrics()
    async with opened(tmp_path, "http://127.0.0.1:1", metrics) as api:
        for _ in range(5):
            with pytest.raises(Transient):
                await api.kick(["c"])
        assert api.problem is not None
    assert b'companion_emqx_requests_total{call="kick",outcome="failed"}' in metrics.render()


async def test_a_wrong_key(emqx: Emqx, tmp_path: Path) -> None:
    """A key that EMQX does not take may be mended: that is told without the key, and nothing is taken for done."""
    async with opened(tmp_path, emqx.url, emqx_api_secret=SecretStr("wrong-secret")) as api:
        with pytest.raises(Transient, match="API key") as problem:
            await api.kick(["c"])
    assert "wrong-secret" not in str(problem.value)


async def test_what_is_refused(emqx: Emqx, api: EmqxApi) -> None:
    """Another refusal is for good, and of EMQX's words only the code is told: they repeat what was sent."""
    emqx.faults.append(web.json_response({"code": "BAD_REQUEST", "message": "who: secret"}, status=400))
    with pytest.raises(Permanent, match=r"^emqx: ban: HTTP 400 BAD_REQUEST$"):
        await api.ban("username", "secret", UNTIL, "x")


async def test_somebody_elses_pages(emqx: Emqx, api: EmqxApi) -> None:
    """A server that is no EMQX says of every page that it is not there: that is not taken for a client that is gone."""
    emqx.fault = lambda _: web.Response(status=404, text="<html>")
    for call in (api.kick(["c"]), api.unban("username", "u"), api.client("c"), ids(api)):
        with pytest.raises(Permanent):
            await call


async def test_no_redirections(emqx: Emqx, api: EmqxApi) -> None:
    """Nobody is followed elsewhere with our key."""
    emqx.fault = lambda _: web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"})
    with pytest.raises(Transient, match="302"):
        await api.kick(["c"])
