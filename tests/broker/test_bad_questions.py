"""Questions to the hooks that are none, in a body, a form or a query: an explicit denial."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.bad_bodies import SECRET, chunked
from tests.support.bad_input import HOOKS, ask_hooks, counted, service
from tests.support.raw_http import exchange, request
from tests.support.service import HOOK_KEY, Service, account_of

__all__ = ["service"]

HOOK_FIELDS = ("username", "clientid", "peerhost", "topic", "action", "access", "qos", "retain", "anything else")


VALID = {
    "username": "alice",
    "password": SECRET,
    "clientid": "c1",
    "action": "subscribe",
    "topic": "alice/#",
}


WRONG_VALUES: dict[str, Any] = {
    "null": None,
    "a number": 1,
    "true": True,
    "a list": ["alice"],
    "an object": {"alice": 1},
    "a NUL": "alice\0",
    "a placeholder": "${username}",
}


@pytest.mark.parametrize("field", [*HOOK_FIELDS, "password"])
async def test_questions_that_are_none(service: Service, field: str) -> None:
    """A field of a wrong kind spoils the whole question, though the rest of it would be allowed."""
    await service.store.accounts.add([account_of("alice", SECRET)])
    malformed = 0
    for name, value in WRONG_VALUES.items():
        if isinstance(value, str) and field in {"password", "anything else"}:
            continue  # any text may be a password
        await ask_hooks(service, json.dumps(VALID | {field: value}).encode())
        malformed += 2
        assert (name, sum(value for _, value in await counted(service, "malformed"))) == (name, malformed)


async def test_a_question_with_too_many_fields(service: Service) -> None:
    """64 fields are enough for every template, 65 are not a question."""
    await service.store.accounts.add([account_of("alice", "secret")])
    for count, verdict in ((59, b'{"result":"allow"}'), (60, b'{"result":"deny"}')):
        fields = VALID | {"password": "secret"} | {f"field{number}": "x" for number in range(count)}
        for body in (json.dumps(fields).encode(), json.dumps(fields, separators=(",", ":")).encode()):
            answer = await exchange(service.hooks_port, request("/mqtt/auth", body, key=HOOK_KEY))
            assert (count, answer.body) == (count, verdict)


BAD_FORMS = {
    "a percent sign at the end": b"username=alice&password=%s&x=%%" % SECRET.encode(),
    "a percent sign before one digit": b"username=alice&password=%s&x=%%4" % SECRET.encode(),
    "a percent sign before no digits": b"username=alice&password=%s&x=%%zz" % SECRET.encode(),
    "escapes that are no UTF-8": b"username=alice&password=%s&x=%%ff" % SECRET.encode(),
    "an escape of a surrogate": b"username=alice&password=%s&x=%%ED%%A0%%80" % SECRET.encode(),
    "an escape too long for its character": b"username=alice&password=%s&x=%%C0%%AF" % SECRET.encode(),
    "a field twice": b"username=alice&password=%s&username=alice" % SECRET.encode(),
    "a field twice, once escaped": b"username=alice&password=%s&usern%%61me=alice" % SECRET.encode(),
    "a field without a value": b"username=alice&password=%s&x" % SECRET.encode(),
    "nothing between two": b"username=alice&&password=%s" % SECRET.encode(),
    "nothing at the end": b"username=alice&password=%s&" % SECRET.encode(),
    "a NUL": b"username=alice%%00&password=%s" % SECRET.encode(),
    "65 fields": b"username=alice&password=%s" % SECRET.encode() + b"".join(b"&f%d=x" % n for n in range(63)),
    "JSON": json.dumps({"username": "alice", "password": SECRET}).encode(),
}


@pytest.mark.parametrize("way", ["form", "get"])
@pytest.mark.parametrize("name", BAD_FORMS)
async def test_forms_that_are_none(service: Service, name: str, way: str) -> None:
    """What is no form, or an ambiguous one, is denied, in a body as in a query."""
    await service.store.accounts.add([account_of("alice", SECRET)])
    form = BAD_FORMS[name]
    if way == "form":
        await ask_hooks(service, form, content_type="application/x-www-form-urlencoded")
        await ask_hooks(service, form + b"\xe9", content_type="application/x-www-form-urlencoded")
    else:
        for path in HOOKS:
            target = f"{path}?{form.decode().replace(' ', '%20')}"
            answer = await exchange(service.hooks_port, request(target, key=HOOK_KEY, method="GET"))
            assert (answer.status, answer.body) == (200, b'{"result":"deny"}')
    assert sum(value for _, value in await counted(service, "malformed")) >= 2


async def test_a_query_that_is_too_long(service: Service) -> None:
    """A query has the limit of a body."""
    for path in HOOKS:
        target = f"{path}?username=alice&password={SECRET * 2600}"
        answer = await exchange(service.hooks_port, request(target, key=HOOK_KEY, method="GET"))
        assert (answer.status, answer.body) == (200, b'{"result":"deny"}')
    assert sum(value for _, value in await counted(service, "too_large")) == 2


async def test_the_longest_question(service: Service) -> None:
    """A body of just the longest size is read, one byte more is too large."""
    await service.store.accounts.add([account_of("alice", "secret")])
    shortest = json.dumps({"username": "alice", "password": "secret", "pad": ""}).encode()
    for extra, verdict in ((0, b'{"result":"allow"}'), (1, b'{"result":"deny"}')):
        pad = b"x" * (service.settings.hooks_max_body - len(shortest) + extra)
        body = shortest.replace(b'"pad": ""', b'"pad": "' + pad + b'"')
        for encoded in (
            request("/mqtt/auth", body, key=HOOK_KEY),
            request("/mqtt/auth", chunked(body), key=HOOK_KEY, headers=("Transfer-Encoding: chunked",)),
        ):
            assert (await exchange(service.hooks_port, encoded)).body == verdict
