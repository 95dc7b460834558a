"""Bad input on every door: a clear refusal, nothing of it in logs, audits and metrics, and a service that goes on."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from companion.settings import Role
from tests.support.bad_bodies import MEGABYTES_10, NOT_HTTP, NOT_JSON, OTHER_VALUES, SECRET, TOO_LARGE, chunked
from tests.support.eventually import eventually
from tests.support.raw_http import Answer, connected, exchange, request
from tests.support.service import HOOK_KEY, OPS_KEY, Service, account_of, serving

HOOKS = ("/mqtt/auth", "/mqtt/authz")
ALIEN_TYPES = ("text/plain", "application/xml", "multipart/form-data; boundary=x", "application/jsonp", "json", "*/*")

GOOD: dict[str, Any] = {"op": "update", "db": "thing", "collection": "devices", "id": "d1"}


@pytest.fixture
async def service(tmp_path: Path, logged: io.StringIO) -> AsyncIterator[Service]:
    """Run everything; afterwards see that it still works, and that the secret is nowhere."""
    async with serving(tmp_path, Role.ALL) as running:
        yield running
        await still_well(running)
        assert SECRET not in await running.scrape()
        for reason in ("internal", "store_away", "deadline", "overloaded"):
            assert not [value for labels, value in await counted(running, reason) if value], reason
    assert SECRET not in logged.getvalue()
    assert "Traceback" not in logged.getvalue()


async def counted(service: Service, reason: str) -> Sequence[tuple[dict[str, str], float]]:
    samples = await service.samples("companion_hook_decisions_total")
    return [(labels, value) for labels, value in samples if labels["reason"] == reason]


async def still_well(service: Service) -> None:
    """Fail unless a good question gets its answer, the good change alone was taken, and no record holds the secret."""
    await service.store.accounts.add([account_of("good", "password")])
    assert await service.login("good", "password") == {"result": "allow"}
    assert (await service.change(GOOD | {"event_id": "good"}))[0] == 202
    assert await service.metric("companion_changes_taken_total", outcome="accepted") == 1

    async def last_record() -> bool:
        return any(audit.username == "good" for audit in await service.store.audits.latest(1))

    await eventually(last_record, what="all audit records are written: they are written in order")
    assert SECRET not in str(await service.store.audits.latest(1000))


async def ask_hooks(service: Service, body: bytes, **more: Any) -> None:
    """Send a body to both hooks and fail unless each denies in so many words."""
    for path in HOOKS:
        answer = await exchange(service.hooks_port, request(path, body, key=HOOK_KEY, **more))
        assert (answer.status, answer.body) == (200, b'{"result":"deny"}')
        assert answer.headers["content-type"] == "application/json"


async def post_changes(service: Service, body: bytes, **more: Any) -> tuple[int, dict[str, str]]:
    """Send a body to `/changes` and return the status and the error, which is one line for people."""
    answer = await exchange(service.running.ops_port, request("/changes", body, key=OPS_KEY, **more))
    error = answer.json()
    assert isinstance(error, dict)
    assert error["error"].isprintable()
    assert len(error["error"]) < 500
    return answer.status, error


# The same for every door


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


# Changes


def _changed(**fields: Any) -> dict[str, Any]:
    return GOOD | {"after": {"owner": "o1", "password": SECRET}} | fields


def _without(name: str) -> dict[str, Any]:
    return {field: value for field, value in _changed().items() if field != name}


def _after(**fields: Any) -> dict[str, Any]:
    return _changed(after={"owner": "o1", "password": SECRET} | fields)


SHORT_TEXT: dict[str, Any] = {
    "a number": 17,
    "true": True,
    "a list": ["d1"],
    "an object": {"id": "d1"},
    "empty": "",
    "too long": "x" * 257,
    "a NUL": "d\0",
    "a line break": "d\n1",
    "an escape": "\x1b[31m",
    "a line separator": "d\u2028",
    "a private character": "\ue000",
}
TIMES: dict[str, Any] = {
    "negative": -1,
    "a fraction": 1.5,
    "a whole fraction": 1000.0,
    "true": True,
    "text": "1000",
    "a list": [1000],
    "in nanoseconds": 1_700_000_000_000_000_000,
    "beyond the year 9999": 253_402_300_800_000,
}
OPS: dict[str, Any] = dict.fromkeys(("", "c", "UPDATE", "upsert", "update ")) | {
    "a number": 1,
    "true": True,
    "a list": ["update"],
    "an object": {"op": "update"},
}
NO_OBJECT: dict[str, Any] = {"text": SECRET, "empty": "", "a number": 17, "false": False, "a list": [SECRET]}
NO_TEXT: dict[str, Any] = {"a number": 1, "true": True, "a list": ["o1"], "an object": {"id": "o1"}}
NO_LIST: dict[str, Any] = {"text": "p1", "a number": 7, "an object": {"p1": True}, "false": False}
NO_TEXT_IN_LIST: dict[str, Any] = {name: ["p1", bad] for name, bad in ({"null": None} | NO_TEXT).items()}
FEW_SHARES = [f"p{number}" for number in range(100)]

BAD_CHANGES: dict[str, dict[str, Any]] = {
    "op": {"missing": _without("op"), "null": _changed(op=None)}
    | {name: _changed(op=name if bad is None else bad) for name, bad in OPS.items()},
    **{
        field: {"missing": _without(field), "null": _changed(**{field: None})}
        | {name: _changed(**{field: bad}) for name, bad in SHORT_TEXT.items()}
        for field in ("db", "collection", "id")
    },
    "event_id": {name: _changed(event_id=bad) for name, bad in SHORT_TEXT.items()},
    "at": {name: _changed(at=bad) for name, bad in TIMES.items()},
    **{field: {name: _changed(**{field: bad}) for name, bad in NO_OBJECT.items()} for field in ("before", "after")},
    **{
        f"after.{field}": {name: _after(**{field: bad}) for name, bad in NO_TEXT.items()}
        for field in ("owner", "identity")
    },
    **{
        f"after.{field}": {name: _after(**{field: bad}) for name, bad in NO_LIST.items()}
        for field in ("shares", "clients", "groups")
    },
    **{
        f"after.{field}[1]": {name: _after(**{field: bad}) for name, bad in NO_TEXT_IN_LIST.items()}
        for field in ("shares", "clients", "groups")
    },
    "before.shares[0]": {"null": _changed(before={"shares": [None]})},
    "password": {"an unknown field": _changed(password=SECRET)},
    "Op": {"a field in another case": _changed(Op="update")},
    "": {"a field with an empty name": _changed(**{"": 1})},
    "x" * 80: {"a field with a long name": _changed(**{"x" * 5000: 1})},
    "[1].op": {"the second one": [_changed(), _changed(op="x")]},
    "[7].after.shares[1]": {"the eighth one": [_changed()] * 7 + [_after(shares=["a", 1])]},
    "[0]": {"a list in the list": [[_changed()]]},
    "body": {"a batch that is too long": [_changed()] * 1001},
    "topics": {
        "100,000 shares": _after(shares=[f"p{number}" for number in range(100_000)]),
        "shares times clients": _after(shares=FEW_SHARES, clients=FEW_SHARES),
    },
    "topic": {"an owner that makes no topic": _after(owner="x" * 66_000)},
}
"""By the field that is wrong."""


@pytest.mark.parametrize("field", BAD_CHANGES)
async def test_changes_that_are_none(service: Service, field: str) -> None:
    """A change that is wrong is refused as a whole, with its batch: 422, and the path to the first mistake."""
    for name, content in BAD_CHANGES[field].items():
        status, error = await post_changes(service, json.dumps(content).encode())
        assert (name, status, error["field"]) == (name, 422, field)
    refused = await service.metric("companion_changes_taken_total", outcome="rejected")
    assert refused == len(BAD_CHANGES[field])
    assert await service.store.inbox.backlog(0) == 0


# Hooks

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
