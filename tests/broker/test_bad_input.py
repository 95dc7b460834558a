"""Bad input on every door: a clear refusal, nothing of it in logs, audits and metrics, and a service that goes on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.bad_bodies import MEGABYTES_10, NOT_HTTP, NOT_JSON, OTHER_VALUES, SECRET, TOO_LARGE, chunked
from tests.support.bad_input import GOOD, ask_hooks, counted, post_changes, service
from tests.support.raw_http import Answer, connected
from tests.support.service import HOOK_KEY, OPS_KEY, Service, account_of

__all__ = ["service"]

ALIEN_TYPES = ("text/plain", "application/xml", "multipart/form-data; boundary=x", "application/jsonp", "json", "*/*")


@pytest.mark.parametrize("name", NOT_JSON)
async def test_not_json(service: Service, name: str) -> None:
    """What is no JSON, or ambiguous, is refused: 400 with a reason, and an explicit denial by the hooks."""
    body = NOT_JSON[name]
    status, error = await post_changes(service, body)
    assert (status, set(error)) == (400, {"error"})
    assert SECRET not in error["error"]
    await ask_hooks(service, body)
    await ask_hooks(service, body, content_type="")
    refused = [*await counted(service, "malformed"), *await counted(service, "too_large")]
    assert sum(value for _, value in refused) >= 2


@pytest.mark.parametrize("name", OTHER_VALUES)
async def test_no_object(service: Service, name: str) -> None:
    """JSON that is no object is refused: 422 and where it is wrong, and an explicit denial by the hooks."""
    value = OTHER_VALUES[name]
    body = json.dumps(value).encode()
    status, error = await post_changes(service, body)
    assert (status, error["field"]) == (422, "[0]" if isinstance(value, list) and value else "body")
    await ask_hooks(service, body)
    assert sum(value for _, value in await counted(service, "malformed")) == 2


@pytest.mark.parametrize("in_chunks", [True, False])
@pytest.mark.parametrize("name", TOO_LARGE)
async def test_too_large(service: Service, name: str, *, in_chunks: bool) -> None:
    """10 MB are refused, whether they are announced or come in chunks: 413, and an explicit denial by the hooks."""
    body = TOO_LARGE[name]
    assert len(body) > MEGABYTES_10 - 100
    more: dict[str, Any] = {"headers": ("Transfer-Encoding: chunked",)} if in_chunks else {}
    if in_chunks:
        body = chunked(*(body[at : at + 100_000] for at in range(0, len(body), 100_000)))
    status, error = await post_changes(service, body, **more)
    assert status == 413
    assert str(service.settings.changes_max_body) in error["error"]
    await ask_hooks(service, body, **more)
    assert sum(value for _, value in await counted(service, "too_large")) == 2


@pytest.mark.parametrize("content_type", ALIEN_TYPES)
async def test_another_content_type(service: Service, content_type: str) -> None:
    """A body that says it is something else is not guessed at: 415, and an explicit denial by the hooks."""
    await service.store.accounts.add([account_of("alice", SECRET)])
    body = json.dumps({"username": "alice", "password": SECRET, "action": "subscribe", "topic": "alice/#"}).encode()
    status, error = await post_changes(service, json.dumps(GOOD).encode(), content_type=content_type)
    assert (status, set(error)) == (415, {"error"})
    await ask_hooks(service, body, content_type=content_type)
    assert sum(value for _, value in await counted(service, "malformed")) == 2


async def test_compressed_with_its_header(service: Service) -> None:
    """A compressed body is not unpacked, so that it cannot grow: it is no JSON."""
    more = {"headers": ("Content-Encoding: gzip",)}
    status, error = await post_changes(service, NOT_JSON["compressed"], **more)
    assert (status, set(error)) == (400, {"error"})
    await ask_hooks(service, NOT_JSON["compressed"], **more)


@pytest.mark.parametrize("name", NOT_HTTP)
async def test_not_http(service: Service, name: str) -> None:
    """What breaks HTTP itself is answered with 400 by all doors, and the connection ends."""
    for port, path, key in (
        (service.hooks_port, "/mqtt/auth", HOOK_KEY),
        (service.hooks_port, "/mqtt/authz", HOOK_KEY),
        (service.running.ops_port, "/changes", OPS_KEY),
    ):
        async with connected(port) as connection:
            await connection.send(NOT_HTTP[name](path, key))
            answer: Answer = await connection.answer()
            if answer.status == 200 and name == "a body that is longer than it says":
                # As far as it says, it is a request, which the hooks answer; only the next one is none.
                assert answer.json() == {"result": "deny"}
                answer = await connection.answer()
            assert answer.status == 400
            assert await connection.ended()
