"""The short way of the hooks: answers from memory are those of the long way, however the bytes come."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from pydantic import SecretStr

from broker_hooks import app
from broker_hooks.quick import Head
from companion.core.rules import EVERYONE, Effect, Rule, RuleAction
from tests.support.raw_http import Answer, connected, exchange, request
from tests.support.service import HOOK_KEY, Service, account_of, serving

ALLOW, DENY = b'{"result":"allow"}', b'{"result":"deny"}'
LOGIN = b'{"username":"alice","password":"secret","clientid":"c1"}'
WRONG = b'{"username":"alice","password":"wrong!","clientid":"c1"}'
PUBLISH = b'{"username":"alice","clientid":"c1","action":"publish","topic":"t/1"}'
REFUSED = b'{"username":"alice","clientid":"c1","action":"publish","topic":"u/1"}'
FORM = b"username=alice&password=secret&clientid=c1"
CHUNKED = ("Transfer-Encoding: chunked",)


@pytest.fixture
async def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Service, list[Head]]]:
    """Run hooks who know alice, and list the requests that memory answers."""
    recalled: list[Head] = []
    at_once = app.HooksHandler.at_once

    def noted(self: app.HooksHandler, head: Head, body: bytes) -> bytes | None:
        answer = at_once(self, head, body)
        recalled.extend([head] if answer is not None else [])
        return answer

    monkeypatch.setattr(app.HooksHandler, "at_once", noted)
    async with serving(tmp_path, throttle_failures=0, hooks_deadline=1.0, password_deadline=0.9) as service:
        await service.store.accounts.add([account_of("alice", "secret")])
        await service.store.rules.add(Rule(EVERYONE, Effect.ALLOW, RuleAction.ALL, "t/#"))
        await service.remembers("alice", "t/1")
        await service.login("alice", "secret")
        yield service, recalled


def login(body: bytes = LOGIN, **more: str) -> bytes:
    return request("/mqtt/auth", body, key=HOOK_KEY, **more)  # type: ignore[arg-type]


def access(body: bytes = PUBLISH) -> bytes:
    return request("/mqtt/authz", body, key=HOOK_KEY)


def chunked(body: bytes) -> bytes:
    sent = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    return request("/mqtt/auth", key=HOOK_KEY, headers=CHUNKED) + sent


async def answers(service: Service, pieces: Sequence[bytes], count: int) -> list[Answer]:
    async with connected(service.hooks_port) as connection:
        for piece in pieces:
            await connection.send(piece)
            await asyncio.sleep(0)
        return [await connection.answer() for _ in range(count)]


async def test_from_memory(known: tuple[Service, list[Head]]) -> None:
    """The second request with a head is answered from memory: the same answer, counted, logged and audited alike."""
    service, recalled = known
    for sent, body, hook in ((login(), ALLOW, "auth"), (access(), ALLOW, "authz"), (access(REFUSED), DENY, "authz")):
        del recalled[:]
        first, second = await answers(service, [sent, sent], 2)
        assert (first.status, first.body, first.headers) == (
            200,
            body,
            second.headers | {"date": first.headers["date"]},
        )
        assert (second.status, second.body) == (200, body)
        assert {one.hook for one in recalled} <= {hook}
        del recalled[:]
        assert (await exchange(service.hooks_port, sent)).body == body
        assert [one.hook for one in recalled] == [hook]
    hits = await service.metric("companion_cache_lookups_total", cache="credential", outcome="hit")
    looks = await service.metric("companion_hook_decisions_total", hook="auth", verdict="allow", reason="password")
    assert (hits, looks) == (3, 4)


async def test_whatever_is_not_remembered_takes_the_long_way(known: tuple[Service, list[Head]]) -> None:
    """A wrong password, a body that is none, another's request: each its own verdict, in the order in which they were asked."""
    service, recalled = known
    await exchange(service.hooks_port, login())
    del recalled[:]
    bodies = [LOGIN, WRONG, LOGIN, b"{" * len(LOGIN), LOGIN, LOGIN.replace(b"alice", b"nobod"), LOGIN]
    told = await answers(service, [b"".join(map(login, bodies))], len(bodies))
    assert [one.body for one in told] == [ALLOW, DENY, ALLOW, DENY, ALLOW, DENY, ALLOW]
    assert len(recalled) == 4


async def test_a_key_that_is_withdrawn(tmp_path: Path) -> None:
    """A head is known with its key: a key that is valid no more opens nothing, on open connections either."""
    keys = tmp_path / "hook.key"
    await asyncio.to_thread(keys.write_text, HOOK_KEY)
    async with serving(tmp_path, hooks_keys=()) as service:
        await service.store.accounts.add([account_of("alice", "secret")])
        async with connected(service.hooks_port) as connection:
            for _ in range(3):
                await connection.send(login())
                assert (await connection.answer()).body == ALLOW
            await asyncio.to_thread(keys.write_text, "another-key-than-that-one")
            assert (await service.running.reloading.reload()).told is None
            await connection.send(login())
            assert (await connection.answer()).status == 401


async def test_pieces(known: tuple[Service, list[Head]]) -> None:
    """Wherever the bytes are cut, whatever follows whatever: every request gets its own answer, in order."""
    service, recalled = known
    kinds = [
        (login(), ALLOW),
        (login(WRONG), DENY),
        (access(), ALLOW),
        (access(REFUSED), DENY),
        (chunked(LOGIN), ALLOW),
        (b"\r\n" + login(), ALLOW),
        (login(b""), DENY),
        (request("/mqtt/nothing", LOGIN, key=HOOK_KEY), DENY),
        (request("/v4/auth", FORM, key=HOOK_KEY, content_type="application/x-www-form-urlencoded"), b"allow"),
        (request("/mqtt/auth", LOGIN, key=HOOK_KEY, content_type="text/plain"), DENY),
        (request("/mqtt/auth?username=alice&password=secret&clientid=c1", key=HOOK_KEY, method="GET"), ALLOW),
    ]
    seed = random.randrange(10**6)  # noqa: S311 - told when it fails
    chance = random.Random(seed)  # noqa: S311 - cuts bytes, protects nothing
    for _ in range(150):
        # Mostly of the kinds that memory answers, as in life; of the others seldom one, for after some all is the long way.
        wanted = [
            kinds[chance.choice((0, 0, 0, 1, 2, 2, 3, 3, *range(len(kinds))))] for _ in range(chance.randint(1, 12))
        ]
        sent = b"".join(one for one, _ in wanted)
        cuts = sorted(chance.randrange(len(sent)) for _ in range(chance.choice((0, 0, 1, 3, 40))))
        pieces = [sent[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
        told = await answers(service, pieces, len(wanted))
        assert {one.status for one in told} == {200}, seed
        assert [one.body for one in told] == [body for _, body in wanted], seed
    assert len(recalled) > 100


async def test_a_body_that_does_not_come(known: tuple[Service, list[Head]]) -> None:
    """Half a body behind a known head is refused explicitly when the deadline is over, as behind any other."""
    service, _ = known
    await exchange(service.hooks_port, login())
    async with connected(service.hooks_port) as connection:
        await connection.send(login()[:-1])
        assert (await connection.answer()).body == DENY
        assert await connection.ended()


async def test_a_long_pipeline(known: tuple[Service, list[Head]]) -> None:
    """Megabytes behind a request that takes its time are held, not lost; a caller who reads nothing is not answered for ever."""
    service, recalled = known
    count = 20_000
    sent = login(WRONG) + login() * count
    async with connected(service.hooks_port) as connection:
        sending = asyncio.create_task(connection.send(sent))
        assert (await connection.answer()).body == DENY
        assert [(await connection.answer()).body for _ in range(count)] == [ALLOW] * count
        await sending
    assert len(recalled) > count // 2


async def test_many_heads(known: tuple[Service, list[Head]]) -> None:
    """More heads than are kept, and heads too long to be kept, are answered like any other."""
    service, recalled = known
    del recalled[:]
    async with connected(service.hooks_port) as connection:
        for number in range(5000):
            await connection.send(request("/mqtt/auth", LOGIN, key=HOOK_KEY, headers=(f"X-Number: {number}",)))
            assert (await connection.answer()).body == ALLOW
        assert recalled == []
        for _ in range(3):
            await connection.send(request("/mqtt/auth", LOGIN, key=HOOK_KEY, headers=(f"X-Long: {'x' * 3000}",)))
            assert (await connection.answer()).body == ALLOW
    assert recalled == []


async def test_a_connection_that_is_idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection on which nothing comes for long is closed, whichever way it was answered before; one in use is not."""
    monkeypatch.setattr("broker_hooks.service._IDLE_SECONDS", 0.5)
    async with serving(tmp_path) as service:
        await service.store.accounts.add([account_of("alice", "secret")])
        async with connected(service.hooks_port) as used, connected(service.hooks_port) as idle:
            async with asyncio.timeout(20):
                ended = asyncio.create_task(idle.ended())
                while not ended.done():
                    await used.send(login())
                    assert (await used.answer()).body == ALLOW
                    await asyncio.sleep(0.02)
            assert ended.result()
            await used.send(login())
            assert (await used.answer()).body == ALLOW


async def test_a_fault_is_a_denial(
    known: tuple[Service, list[Head]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever goes wrong in memory, the long way is taken, and the fault is told."""
    del caplog
    service, recalled = known
    await exchange(service.hooks_port, login())
    del recalled[:]

    def fail(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr("broker_hooks.passwords.PasswordCredential.recall", fail)
    assert (await exchange(service.hooks_port, login())).body == ALLOW
    assert recalled == []


async def test_keys_of_others(tmp_path: Path) -> None:
    """A head without a valid key is never remembered."""
    async with serving(tmp_path, hooks_keys=(SecretStr(HOOK_KEY),)) as service:
        stranger = request("/mqtt/auth", LOGIN, key="the-key-of-somebody-else")
        for _ in range(3):
            assert (await exchange(service.hooks_port, stranger)).status == 401
