"""The hooks as EMQX meets them: recorded requests byte for byte, keys, connections, and answers to everything else."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from companion.core.rules import EVERYONE, Effect, Rule, RuleAction, subject_of_account, subject_of_kind
from tests.support.raw_http import connected, exchange, request
from tests.support.recording import KEY, Recorded, recorded_requests
from tests.support.service import HOOK_KEY, Service, account_of, serving
from tests.support.traces import decisions, only_trace

ALICE, ALICE_PASSWORD = "alice", "secret"
SPECIAL, SPECIAL_PASSWORD = "ålice & co=1", 'p"w\\+ %😀'

ALLOW, DENY = b'{"result":"allow"}', b'{"result":"deny"}'

RECORDED = recorded_requests()


def rule(subject: str, effect: Effect, action: RuleAction, filter_: str, qos: frozenset[int] | None = None) -> Rule:
    return Rule(subject, effect, action, filter_) if qos is None else Rule(subject, effect, action, filter_, qos)


RULES = (
    rule(subject_of_account(ALICE), Effect.ALLOW, RuleAction.PUBLISH, "a/b", frozenset({0})),
    rule(subject_of_kind("device"), Effect.ALLOW, RuleAction.PUBLISH, "will/${clientid}"),
    rule(subject_of_account(SPECIAL), Effect.ALLOW, RuleAction.PUBLISH, 'ä/"q"/b c'),
    rule(EVERYONE, Effect.ALLOW, RuleAction.ALL, "d/1"),
    rule(EVERYONE, Effect.ALLOW, RuleAction.SUBSCRIBE, "a/+/c"),
    rule(EVERYONE, Effect.ALLOW, RuleAction.SUBSCRIBE, "x/+"),
    rule(EVERYONE, Effect.ALLOW, RuleAction.SUBSCRIBE, "s/#"),
    rule(subject_of_account(ALICE), Effect.DENY, RuleAction.SUBSCRIBE, "s/1"),
    rule(EVERYONE, Effect.ALLOW, RuleAction.SUBSCRIBE, "e/${username}"),
)

ALLOWED = {
    ("publish", "a/b", "0"),
    ("publish", "will/dev-7", "1"),
    ("publish", 'ä/"q"/b c', "2"),
    ("publish", "d/1", "1"),
    ("subscribe", "a/+/c", "1"),
}
"""What these rules allow of what was recorded: not `x/#`, wider than `x/+`; not `s/+`, it takes `s/1`; not `a/b` at QoS 1."""


def expected(recorded: Recorded) -> bytes:
    """Return the right answer to a recorded request."""
    fields = recorded.fields
    if not fields["username"]:
        return DENY
    if recorded.hook == "auth":
        known = {(ALICE, ALICE_PASSWORD), (SPECIAL, SPECIAL_PASSWORD)}
        return ALLOW if (fields["username"], fields["password"]) in known else DENY
    return ALLOW if (fields["action"], fields["topic"], fields["qos"]) in ALLOWED else DENY


@pytest.fixture
async def recorded_broker(tmp_path: Path, logged: io.StringIO) -> AsyncIterator[Service]:
    """Run the hooks with the key, the accounts and the rules that the recorded broker was set up for."""
    del logged
    await asyncio.to_thread((tmp_path / "hook.key").write_text, f"{KEY}\n")
    async with serving(tmp_path, hooks_keys=()) as service:
        await service.store.accounts.add([account_of(ALICE, ALICE_PASSWORD), account_of(SPECIAL, SPECIAL_PASSWORD)])
        for one in RULES:
            await service.store.rules.add(one)
        yield service


def test_the_recording_is_what_it_should_be() -> None:
    """All three ways of asking are there, with the special characters, and the bodies are as long as the headers say."""
    assert len(RECORDED) == 60
    for way in ("json: ", "form: ", "get: "):
        of_way = [one for one in RECORDED if one.label.startswith(way)]
        assert len(of_way) == 20
        assert sum(expected(one) == ALLOW for one in of_way) == 13
        special = [one for one in of_way if one.fields["username"] == SPECIAL]
        assert [one.fields.get("password") for one in special] == [SPECIAL_PASSWORD, None]
    for one in RECORDED:
        assert dict(one.headers)["content-length"] == str(len(one.body.encode()))


@pytest.mark.parametrize("way", ["json", "form", "get"])
async def test_recorded_requests(recorded_broker: Service, way: str) -> None:
    """Each recorded request, byte for byte on a connection of its own, gets 200, the content type and the right verdict."""
    for one in RECORDED:
        if one.label.startswith(way):
            answer = await exchange(recorded_broker.hooks_port, one.encoded())
            assert (str(one), answer.status, answer.body) == (str(one), 200, expected(one))
            assert answer.headers["content-type"] == "application/json"


async def test_recorded_requests_in_a_pipeline(recorded_broker: Service, logged: io.StringIO) -> None:
    """All of them, written at once on one connection, are answered in their order; no password reaches the log."""
    async with connected(recorded_broker.hooks_port) as connection:
        await connection.send(*(one.encoded() for one in RECORDED))
        answers = [await connection.answer() for _ in RECORDED]
    assert [(answer.status, answer.body) for answer in answers] == [(200, expected(one)) for one in RECORDED]
    assert len(decisions(logged)) == 60
    for password in (ALICE_PASSWORD, SPECIAL_PASSWORD, "%F0%9F%98%80", "😀"):
        assert password not in logged.getvalue()


# Keys

SECOND_KEY = "another-key-for-the-rotation"


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong-key-of-some-length",
        f"Bearer {HOOK_KEY[:-1]}",
        f"Bearer {HOOK_KEY}x",
        f"Bearer {HOOK_KEY}, {HOOK_KEY}",
        f"Basic {HOOK_KEY}",
        HOOK_KEY,
        "Bearer ünicode-key-of-some-length",
    ],
)
async def test_without_a_valid_key(hooks: Service, logged: io.StringIO, authorization: str | None) -> None:
    """Whoever has no valid key gets 401 and a hint, no verdict, and no record but the count."""
    header = f"Authorization: {authorization}\r\n" if authorization is not None else ""
    head = f"POST /mqtt/auth HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{header}Content-Length: 2\r\n\r\n"
    answer = await exchange(hooks.hooks_port, head, "{}")
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert set(answer.json()) == {"error"}
    assert HOOK_KEY not in answer.body.decode()
    assert await hooks.metric("companion_http_unauthorized_total", port="hooks") == 1
    assert not any(value for _, value in await hooks.samples("companion_hook_decisions_total"))
    assert decisions(logged) == []


async def test_without_a_key_no_body_is_read(hooks: Service) -> None:
    """The 401 comes while the announced body is still on its way, and the connection ends: it will not be waited for."""
    head = "POST /mqtt/auth HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
    async with connected(hooks.hooks_port) as connection:
        await connection.send(head)
        answer = await connection.answer()
        assert (answer.status, answer.headers["connection"]) == (401, "close")
        assert await connection.ended()


async def test_without_a_key_and_without_a_body(hooks: Service) -> None:
    """A refused caller who sent no body may try again on the same connection."""
    async with connected(hooks.hooks_port) as connection:
        await connection.send("GET /mqtt/auth HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await connection.answer()).status == 401
        await connection.send(request("/mqtt/auth", key=HOOK_KEY, method="GET"))
        assert (await connection.answer()).body == DENY


@pytest.mark.parametrize("key", [HOOK_KEY, SECOND_KEY])
async def test_each_key_of_a_rotation(tmp_path: Path, key: str) -> None:
    """While a key is being replaced the old and the new one are both good."""
    async with serving(tmp_path, hooks_keys=(SecretStr(HOOK_KEY), SecretStr(SECOND_KEY))) as service:
        answer = await exchange(service.hooks_port, request("/mqtt/auth", b"{}", key=key))
    assert (answer.status, answer.body) == (200, DENY)


async def test_a_key_is_made_where_none_is_configured(tmp_path: Path) -> None:
    """The first start makes a key in the data folder, and that one is valid, also after the next start."""
    for _ in range(2):
        async with serving(tmp_path, hooks_keys=()) as service:
            key = (await asyncio.to_thread((tmp_path / "hook.key").read_text)).strip()
            assert (await exchange(service.hooks_port, request("/mqtt/auth", b"{}", key=key))).status == 200
            assert (await exchange(service.hooks_port, request("/mqtt/auth", b"{}", key="x" * 43))).status == 401


# Connections and paths


async def test_answers_of_a_pipeline_keep_its_order(hooks: Service) -> None:
    """Slow and quick questions written at once are answered in their order."""
    await hooks.store.accounts.add([account_of("alice", "secret")])
    right = b'{"username":"alice","password":"secret","clientid":"c"}'
    wrong = b'{"username":"alice","password":"wrong","clientid":"c"}'
    access = b'{"username":"alice","clientid":"c","action":"subscribe","topic":"alice/#"}'
    asked = [
        (request("/mqtt/auth", right, key=HOOK_KEY), ALLOW),
        (request("/mqtt/nothing", b"{}", key=HOOK_KEY), DENY),
        (request("/mqtt/authz", access, key=HOOK_KEY), ALLOW),
        (request("/mqtt/auth", wrong, key=HOOK_KEY), DENY),
        (request("/mqtt/auth", right, key=HOOK_KEY), ALLOW),
        (request("/mqtt/authz", b"[]", key=HOOK_KEY), DENY),
    ] * 5
    async with connected(hooks.hooks_port) as connection:
        await connection.send(*(encoded for encoded, _ in asked))
        assert [(await connection.answer()).body for _ in asked] == [body for _, body in asked]


async def test_a_connection_stays(hooks: Service) -> None:
    """One connection carries one question after the other, also when they are refused or malformed."""
    async with connected(hooks.hooks_port) as connection:
        for body in (b"{}", b"", b"nonsense", b'{"username":"alice"}', b"\xff"):
            await connection.send(request("/mqtt/auth", body, key=HOOK_KEY))
            answer = await connection.answer()
            assert (answer.status, answer.body) == (200, DENY)
            assert answer.headers.get("connection", "keep-alive") == "keep-alive"


@pytest.mark.parametrize(
    ("version", "header"), [("1.1", "Connection: close"), ("1.0", "X-Nothing: x"), ("1.0", "Connection: keep-alive")]
)
async def test_a_connection_that_is_to_end(hooks: Service, version: str, header: str) -> None:
    """Who wants the connection to end after the answer, or speaks HTTP/1.0, gets the whole answer, and then what he wants."""
    head = f"GET /mqtt/auth HTTP/{version}\r\nHost: x\r\nAuthorization: Bearer {HOOK_KEY}\r\n{header}\r\n\r\n"
    async with connected(hooks.hooks_port) as connection:
        await connection.send(head)
        answer = await connection.answer()
        assert (answer.status, answer.body) == (200, DENY)
        assert answer.headers["content-type"] == "application/json"
        if "keep-alive" in header:
            await connection.send(head)
            assert (await connection.answer()).body == DENY
        else:
            assert await connection.ended()


async def test_the_head_of_an_answer(hooks: Service) -> None:
    """Every answer says how long it is, what it is, and when it was given (RFC 9110 §6.6.1)."""
    answer = await exchange(hooks.hooks_port, request("/mqtt/auth", b"{}", key=HOOK_KEY))
    assert (answer.headers["content-length"], answer.headers["content-type"]) == ("17", "application/json")
    given = parsedate_to_datetime(answer.headers["date"])
    assert abs((datetime.now(UTC) - given).total_seconds()) < 60


@pytest.mark.parametrize("path", ["/", "/mqtt", "/mqtt/auth/", "/mqtt/authorize", "/MQTT/AUTH", "//mqtt/auth", "/%00"])
async def test_unknown_paths(hooks: Service, logged: io.StringIO, path: str) -> None:
    """A path that is no hook is denied in so many words, and the reason says so."""
    answer = await exchange(hooks.hooks_port, request(path, b'{"password":"secret"}', key=HOOK_KEY))
    assert (answer.status, answer.body) == (200, DENY)
    assert answer.headers["content-type"] == "application/json"
    assert (await only_trace(hooks, logged, "auth")).reason == "unknown_endpoint"


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "MADEUP"])
@pytest.mark.parametrize("hook", ["auth", "authz"])
async def test_unknown_methods(hooks: Service, logged: io.StringIO, hook: str, method: str) -> None:
    """A method that EMQX does not use is denied, and counted for the hook that was asked."""
    await hooks.store.accounts.add([account_of("alice", "secret")])
    body = b'{"username":"alice","password":"secret","action":"subscribe","topic":"alice/#"}'
    encoded = request(f"/mqtt/{hook}", body, key=HOOK_KEY, method=method)
    answer = await exchange(hooks.hooks_port, encoded)
    if method == "MADEUP":  # no HTTP method at all: the parser refuses it before there is a question
        assert answer.status == 400
        return
    assert (answer.status, answer.body) == (200, DENY)
    assert (await only_trace(hooks, logged, hook)).reason == "unknown_endpoint"


@pytest.mark.parametrize("method", ["HEAD", "CONNECT"])
async def test_an_answer_without_a_body(hooks: Service, logged: io.StringIO, method: str) -> None:
    """The answers to these have no body to hold a verdict, so their status refuses."""
    async with connected(hooks.hooks_port) as connection:
        await connection.send(request("/mqtt/auth", key=HOOK_KEY, method=method))
        answer = await connection.answer(no_body=True)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, POST")
    assert (await only_trace(hooks, logged, "auth")).reason == "unknown_endpoint"
