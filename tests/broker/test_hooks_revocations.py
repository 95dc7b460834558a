"""Revocations as clients feel them, over real HTTP: at the next login, and at the next publish of whoever is connected."""

from __future__ import annotations

import io
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from companion.core.errors import CompanionError
from companion.core.ports import Store
from companion.core.revocations import Revocation, Target, revocation_of
from companion.core.rules import EVERYONE, Effect, Rule, RuleAction
from tests.support import mongo, production, redis
from tests.support.eventually import eventually
from tests.support.jwts import SECRET, token
from tests.support.service import Service, account_of, serving

TOPIC = "t/1"


async def people(service: Service) -> None:
    await service.store.accounts.add([account_of("alice", "secret"), account_of("bob", "secret")])
    await service.store.rules.add(Rule(EVERYONE, Effect.ALLOW, RuleAction.PUBLISH, TOPIC))


@pytest.fixture(params=["embedded", "production"])
async def service(request: pytest.FixtureRequest, tmp_path: Path, logged: io.StringIO) -> AsyncIterator[Service]:
    """Run hooks that take passwords and tokens."""
    del logged
    values: dict[str, Any] = {"token_secrets": (SecretStr(SECRET),)}
    if request.param == "production":
        values |= production.settings_of(mongo.shared_url(), redis.shared_server(redis.debian_redis()).url)
        values |= {"hooks_deadline": 20.0, "mongo_timeout": 10.0, "redis_timeout": 5.0}
    async with serving(tmp_path, **values) as running:
        await people(running)
        yield running


async def revoke(store: Store, target: Target, name: str, **more: Any) -> Revocation:
    one = revocation_of(target, name, time.time(), **more)
    assert await store.revocations.add(one)
    return one


async def allowed(service: Service, username: str, password: str, client_id: str) -> tuple[bool, bool]:
    """Tell whether this client gets in, and whether it may publish as if it were in already."""
    login = (await service.login(username, password, client_id))["result"] == "allow"
    return login, await service.may(username, "publish", TOPIC, client_id)


async def admitted(service: Service, *who: str) -> None:
    """Wait until this client is let in, and may publish."""

    async def there() -> bool:
        return await allowed(service, *who) == (True, True)

    await eventually(there, 20, f"{who[0]} is admitted")


async def refused(service: Service, *who: str) -> None:
    """Wait until this client is refused in both."""

    async def there() -> bool:
        return await allowed(service, *who) == (False, False)

    await eventually(there, 20, f"{who[0]} is refused")


@pytest.mark.parametrize(("target", "name"), [(Target.ACCOUNT, "alice"), (Target.CLIENT, "c1")])
async def test_an_account_and_a_client(service: Service, target: Target, name: str) -> None:
    """Refused while it stands, for the reason `revoked`, whatever is remembered; lifted, all is as before. Others go on."""
    await admitted(service, "alice", "secret", "c1")
    one = await revoke(service.store, target, name)
    await refused(service, "alice", "secret", "c1")
    assert await allowed(service, "bob", "secret", "c2") == (True, True)
    assert (await allowed(service, "alice", "secret", "c3"))[0] is (target is Target.CLIENT)
    await service.login("alice", "wrong", "c1")

    async def reasons() -> set[tuple[str, str, str]] | None:
        found = {(one.kind, one.verdict, one.reason) for one in await service.store.audits.latest(1000)}
        wanted = {("auth", "deny", "revoked"), ("authz", "deny", "revoked"), ("auth", "deny", "wrong_password")}
        return found if wanted <= found else None

    await eventually(reasons, what="the audit says why")
    await service.store.revocations.lift(one.id, int(time.time() * 1000))
    await admitted(service, "alice", "secret", "c1")


async def test_a_session(service: Service) -> None:
    """All that belongs to a platform session is refused; another session of the same user goes on."""
    mine, other = token(session="s1"), token(session="s2")
    await admitted(service, "u1", mine, "s1:x")
    await admitted(service, "u1", other, "s2:x")
    await revoke(service.store, Target.SESSION, "s1")
    await refused(service, "u1", mine, "s1:x")
    await refused(service, "u1", token(session="s1"), "s1:y")
    assert await allowed(service, "u1", other, "s2:x") == (True, True)


@pytest.mark.parametrize("by", ["jti", "itself"])
async def test_a_token(service: Service, by: str) -> None:
    """One token is refused, by its `jti` or its digest, also whoever is connected with it; the session goes on with another."""
    mine, other = token(jti="j1"), token(jti="j2")
    await admitted(service, "u1", mine, "s1:x")
    if by == "jti":
        await revoke(service.store, Target.TOKEN, "j1")
    else:
        await revoke(service.store, Target.TOKEN, "", token=mine)
    await refused(service, "u1", mine, "s1:x")
    await admitted(service, "u1", other, "s1:x")


async def test_for_a_while(service: Service) -> None:
    """A revocation that has an end ends by itself."""
    await revoke(service.store, Target.ACCOUNT, "alice", seconds=2)
    await refused(service, "alice", "secret", "c1")
    await admitted(service, "alice", "secret", "c1")


async def test_the_store_is_away(tmp_path: Path) -> None:
    """While MongoDB is away who was allowed lately goes on, but nobody who is known to be revoked: not in memory, not anew."""
    (tmp_path / "mongo").mkdir()
    async with mongo.mongo_server(tmp_path / "mongo") as server, redis.redis_server(tmp_path / "redis") as shared:
        values: dict[str, Any] = {
            **production.settings_of(server.url, shared.url),
            "cache_seconds": 0.5,
            "cache_stale": 300.0,
        }
        async with serving(tmp_path, **values, hooks_deadline=5.0, mongo_timeout=1.0) as running:
            await people(running)
            await admitted(running, "alice", "secret", "c1")
            await admitted(running, "bob", "secret", "c2")
            one = await revoke(running.store, Target.ACCOUNT, "alice")
            await refused(running, "alice", "secret", "c1")
            server.kill()
            # The life of what is remembered is over, and the store cannot say anything new.
            until = time.monotonic() + 3
            while time.monotonic() < until:
                assert await allowed(running, "alice", "secret", "c1") == (False, False)
            await admitted(running, "bob", "secret", "c2")
            assert await allowed(running, "alice", "secret", "c1") == (False, False)
            server.start()

            async def lifted() -> bool:
                try:
                    return await running.store.revocations.lift(one.id, int(time.time() * 1000)) is not None
                except CompanionError:
                    return False

            await eventually(lifted, 30, "it is lifted")
            await admitted(running, "alice", "secret", "c1")
