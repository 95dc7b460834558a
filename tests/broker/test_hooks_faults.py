"""The hooks when something is wrong: callers who leave, a store that fails, too many logins, a fault of our own."""

from __future__ import annotations

import asyncio
import contextlib
import io
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from broker_hooks.app import HooksHandler
from broker_hooks.audit import AuditTrail
from broker_hooks.hashing import hash_password
from broker_hooks.recorder import Recorder
from companion.core.errors import Permanent, Transient
from companion.core.model import Access, Account, Allow, Connect, Decision, Kind, Reason
from companion.core.ports import Store
from companion.keys import Keyring
from companion.metrics import Metrics
from companion.stores.embedded import EmbeddedStore
from tests.support.eventually import eventually
from tests.support.raw_http import connected, exchange, request
from tests.support.service import HOOK_KEY, Service, account_of, serving
from tests.support.traces import decisions, lines, only_trace

DENY = b'{"result":"deny"}'


async def test_a_caller_who_leaves(hooks: Service, logged: io.StringIO) -> None:
    """A connection that ends in the middle of a body is a malformed question, no fault of ours."""
    async with connected(hooks.hooks_port) as connection:
        await connection.send(request("/mqtt/auth", b'{"username":', key=HOOK_KEY, headers=("Content-Length: 100",)))
        # Once the next caller has an answer, the first one's beginning has been read.
        assert (await exchange(hooks.hooks_port, request("/mqtt/auth", key="no key"))).status == 401

    async def decided() -> bool:
        return bool(decisions(logged))

    await eventually(decided, what="a decision")
    trace = await only_trace(hooks, logged, "auth")
    assert (trace.reason, trace.line["detail"]) == ("malformed", "the connection ended before the body did")
    assert not [line for line in lines(logged) if line["level"] == "error"]


@pytest.mark.parametrize("hook", ["auth", "authz", "nothing"])
async def test_a_caller_who_falls_silent(tmp_path: Path, logged: io.StringIO, hook: str) -> None:
    """Who sends a head and then nothing, or half a body and then nothing, is denied when the deadline has come."""
    async with serving(tmp_path, hooks_deadline=0.3, password_deadline=0.2) as service:
        for part, more in (
            (b"", "Content-Length: 100"),
            (b'{"username":"al', "Content-Length: 100"),
            (b'10\r\n{"usern', "Transfer-Encoding: chunked"),
            (b"", "Content-Length: 1000000000"),
        ):
            async with connected(service.hooks_port) as connection:
                await connection.send(request(f"/mqtt/{hook}", part, key=HOOK_KEY, headers=(more,)))
                answer = await connection.answer()
                assert (answer.status, answer.body) == (200, DENY)
                assert await connection.ended()
    reasons = [line["reason"] for line in decisions(logged)]
    assert reasons == (["unknown_endpoint"] * 4 if hook == "nothing" else ["deadline"] * 3 + ["too_large"])


async def test_a_store_that_fails(hooks: Service, logged: io.StringIO) -> None:
    """What cannot be looked up is denied, with the reason, readiness says so too; when the store is back all is well."""
    await hooks.store.accounts.add([account_of("alice", "secret")])
    assert await readiness(hooks) == (200, {"hooks": "ready"})
    await asyncio.to_thread(_rename, hooks.settings.data_dir, accounts="a", generation="g")
    assert await hooks.login("alice", "secret") == {"result": "deny"}
    trace = await only_trace(hooks, logged, "auth")
    assert (trace.reason, trace.line["detail"]) == ("store_away", "embedded store: no such table: accounts")
    assert await readiness(hooks) == (503, {"hooks": "embedded store: no such table: generation"})

    async def noticed() -> bool:
        return any(line["event"] == "store away" for line in lines(logged))

    await eventually(noticed, what="the log says that the store is away")
    for _ in range(10):
        await hooks.login("alice", "secret")
    assert sum(line["event"] == "store away" for line in lines(logged)) == 1
    await asyncio.to_thread(_rename, hooks.settings.data_dir, a="accounts", g="generation")
    assert await hooks.login("alice", "secret") == {"result": "allow"}
    assert await readiness(hooks) == (200, {"hooks": "ready"})


async def readiness(service: Service) -> tuple[int, dict[str, str]]:
    async with service.http.get(f"{service.ops}/readyz") as response:
        return response.status, (await response.json())["roles"]


def _rename(data_dir: Path, **tables: str) -> None:
    """Rename tables under the service: they are away for it, and then back."""
    with contextlib.closing(sqlite3.connect(data_dir / "companion.sqlite3")) as connection:
        for old, new in tables.items():
            connection.execute(f"ALTER TABLE {old} RENAME TO {new}")


# Overload


def fleet(count: int, cost: int) -> list[Account]:
    """Return devices with the same password; who asks for the same account and password shares one check."""
    hashed = hash_password("secret", cost)
    return [Account(f"device-{number}", Kind.DEVICE, f"device-{number}", hashed) for number in range(count)]


async def logins(service: Service, count: int) -> Counter[str]:
    """Let `count` devices of `fleet` log in at once and return how often each verdict came."""
    answers = await asyncio.gather(*(service.login(f"device-{number}", "secret") for number in range(count)))
    return Counter(answer["result"] for answer in answers)


async def test_more_logins_than_can_wait(tmp_path: Path, logged: io.StringIO) -> None:
    """When many log in at once, those beyond the queue are denied as overload, in so many words; later all is well."""
    async with serving(tmp_path, password_workers=1, password_waiting=1) as service:
        await service.store.accounts.add(fleet(40, 10))
        results = await logins(service, 40)
        reasons = Counter(line["reason"] for line in decisions(logged))
        assert results["allow"] >= 2  # one in work and one in the queue, at least
        assert reasons == {"password": results["allow"], "overloaded": results["deny"]}
        assert results["deny"] >= 30

        async def at_rest() -> bool:
            return await service.metric("companion_password_checks") == 0

        await eventually(at_rest, what="no check is left")
        assert await logins(service, 2) == {"allow": 2}
        assert await service.metric(
            "companion_hook_decisions_total", hook="auth", verdict="deny", reason="overloaded"
        ) == float(results["deny"])


async def test_a_check_that_takes_too_long(tmp_path: Path, logged: io.StringIO) -> None:
    """A check that is not done in time ends as overload, before the deadline of the answer would end it."""
    async with serving(tmp_path, password_workers=1, password_waiting=100, password_deadline=0.05) as service:
        await service.store.accounts.add(fleet(5, 12))
        assert await logins(service, 5) == {"deny": 5}
        assert Counter(line["reason"] for line in decisions(logged)) == {"overloaded": 5}


async def test_unknown_users_wait_in_the_same_queue(tmp_path: Path, logged: io.StringIO) -> None:
    """Overload does not tell who exists: somebody unknown is refused for it like everybody else."""
    async with serving(tmp_path, password_cost=10, password_workers=1, password_waiting=1) as service:
        answers = await asyncio.gather(*(service.login(f"nobody{number}", "secret") for number in range(30)))
        assert answers == [{"result": "deny"}] * 30
        reasons = Counter(line["reason"] for line in decisions(logged))
        assert set(reasons) == {"unknown_user", "overloaded"}


# Faults of our own

Ask = Callable[[Connect | Access], Awaitable[Decision]]


@contextlib.asynccontextmanager
async def answering(store: Store, ask: Ask, *, deadline: float = 3.0) -> AsyncIterator[int]:
    """Serve hooks that decide with `ask`, and yield the port."""
    metrics = Metrics()
    recorder = Recorder(metrics, AuditTrail(store.audits, metrics), "all", 1.0)
    handler = HooksHandler(
        keyring=Keyring([HOOK_KEY]),
        recorder=recorder,
        metrics=metrics,
        authenticate=ask,
        authorize=ask,
        max_body=65_536,
        deadline=deadline,
    )
    runner = web.ServerRunner(web.Server(handler))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def _forget(_: object) -> Decision:
    raise KeyError("the secret of alice")


async def _lose_the_store(_: object) -> Decision:
    raise Transient("store: connection refused")


async def _lose_it_for_good(_: object) -> Decision:
    raise Permanent("store: wrong schema")


async def _never(_: object) -> Decision:
    await asyncio.Event().wait()
    return Allow(Reason.PASSWORD)


@pytest.mark.parametrize("hook", ["auth", "authz"])
@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (_forget, ("internal", "KeyError")),
        (_lose_the_store, ("store_away", "store: connection refused")),
        (_lose_it_for_good, ("store_away", "store: wrong schema")),
        (_never, ("deadline", "")),
    ],
    ids=["a fault", "a store that is away", "a store that is broken", "no end"],
)
async def test_whatever_happens_is_a_denial(
    tmp_path: Path, logged: io.StringIO, ask: Ask, told: tuple[str, str], hook: str
) -> None:
    """Whatever ends a decision without a verdict becomes an explicit denial, and nothing of a fault's text is logged."""
    async with EmbeddedStore.open(tmp_path) as store, answering(store, ask, deadline=0.3) as port:
        body = b'{"username":"alice","password":"x","action":"publish","topic":"t"}'
        answer = await exchange(port, request(f"/mqtt/{hook}", body, key=HOOK_KEY))
    assert (answer.status, answer.headers["content-type"], answer.body) == (200, "application/json", DENY)
    (line,) = decisions(logged)
    assert (line["hook"], line["reason"], line.get("detail", "")) == (hook, *told)
    assert line["username"] == "alice"
    assert "the secret of alice" not in logged.getvalue()
    faults = [line for line in lines(logged) if line["event"] == "hook failed"]
    assert len(faults) == (1 if told[0] == "internal" else 0)
    assert all(fault["problem"].startswith("KeyError < test_hooks_faults.py:") for fault in faults)


async def test_the_last_audit_records_are_written_at_the_end(tmp_path: Path) -> None:
    """A record that waits for its batch when the service ends is written before it ends."""
    async with serving(tmp_path) as service:
        await service.store.accounts.add([account_of("alice", "secret")])
        for password in ("secret", "wrong", "secret"):
            await service.login("alice", password)
    async with EmbeddedStore.open(tmp_path) as store:
        verdicts = [record.verdict for record in await store.audits.latest(10)]
    assert verdicts == ["allow", "deny", "allow"]
