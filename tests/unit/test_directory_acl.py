"""What the list for a login is made from, when the store is away or something changes meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from broker_hooks.directory import Directory
from broker_hooks.one_hop import OneHop
from broker_hooks.revoked import Revoked
from companion.core.acl import compile_acl
from companion.core.errors import Transient
from companion.core.model import Allow, Connect, Deny, Notice, Reason, Scope
from companion.core.rule_sets import RuleBook
from companion.core.rules import EVERYONE, Effect, Rule, RuleAction
from companion.core.windows import Window
from companion.metrics import Metrics
from companion.stores.embedded import EmbeddedStore
from tests.support.service import account_of

MONDAY = 1_795_996_800.0
"""30 November 2026, 00:00 UTC."""

ALICE = Connect("c1", "alice", "secret", "192.0.2.1")
ALLOW = Allow(Reason.PASSWORD)


class Interrupted:
    """The rules of a store; `fault` happens once they are read, before they are returned."""

    def __init__(self, rules: Any) -> None:
        self._rules = rules
        self.reads = 0

    async def fault(self) -> None:
        """Nothing, until a test puts something here."""

    async def of(self, subjects: Sequence[str]) -> Sequence[Rule]:
        """Read, and be interrupted."""
        found: Sequence[Rule] = await self._rules.of(subjects)
        self.reads += 1
        await self.fault()
        return found


class House:
    """A directory over a real store whose reading of rules can be interrupted."""

    def __init__(self, store: EmbeddedStore, *, seconds: float = 60, longest: int = 0) -> None:
        self.rules = Interrupted(store.rules)
        self.metrics = Metrics()
        self.store = store
        self.now = MONDAY

        class Seen:
            """The store, with its rules as they are read here."""

            accounts, sessions, notices, rules = store.accounts, store.sessions, store.notices, self.rules

        self.directory = Directory(
            Seen(),  # type: ignore[arg-type]
            self.metrics,
            Revoked(store.revocations, self.metrics, seconds=60),
            entries=100,
            seconds=seconds,
            stale=60,
            compile_acl=lambda rules, values: compile_acl(rules, values, max_topics=64, max_bytes=9999),
            now=lambda: self.now,
        )
        self.one_hop = OneHop(self.directory, self.metrics, seconds=longest, patience=0.5, now=lambda: self.now)

    async def complete(self, peer_host: str = "192.0.2.1", expires_at: int | None = None) -> Allow:
        """Complete an allowed login."""
        answer = await self.one_hop.complete(ALICE._replace(peer_host=peer_host), ALLOW._replace(expires_at=expires_at))
        assert isinstance(answer, Allow)
        assert answer.reason is Reason.PASSWORD
        return answer

    async def log_in(self) -> bytes:
        """Complete an allowed login and return its list, or nothing."""
        return (await self.complete()).acl

    def count(self, outcome: str) -> int:
        """Return how many logins came to this."""
        return self.metrics.acl.lists[outcome].count


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[EmbeddedStore]:
    """Open a store with one account."""
    async with EmbeddedStore.open(tmp_path / "data", 0.02) as opened:
        await opened.accounts.add([account_of("alice", "secret")])
        yield opened


@pytest.fixture
def house(store: EmbeddedStore) -> House:
    """Return a directory over it."""
    return House(store)


async def away() -> None:
    raise Transient("away")


async def test_a_refusal_stays_one(house: House) -> None:
    """Only allowed logins are completed."""
    refused = Deny(Reason.WRONG_PASSWORD)
    assert await house.one_hop.complete(ALICE, refused) is refused
    assert house.rules.reads == 0


async def test_without_the_store_a_login_has_no_list(house: House) -> None:
    """The login itself stands; the client is asked about request by request."""
    house.rules.fault = away  # type: ignore[method-assign]
    assert await house.log_in() == b""
    assert house.count("unavailable") == 1


async def test_what_serves_while_the_store_is_away_is_no_list(store: EmbeddedStore) -> None:
    """A policy beyond its life may decide a request, and is not given away for a whole session."""
    house = House(store, seconds=0.01)
    assert await house.log_in() != b""
    await asyncio.sleep(0.05)
    house.rules.fault = away  # type: ignore[method-assign]
    assert await house.log_in() == b""


async def test_a_store_that_hangs_does_not_hold_a_login(house: House) -> None:
    """After `patience` the login goes without."""

    async def forever() -> None:
        await asyncio.sleep(3600)

    house.rules.fault = forever  # type: ignore[method-assign]
    assert await house.log_in() == b""
    assert house.count("unavailable") == 1


@pytest.mark.parametrize("notice", [Notice(Scope.RULES), Notice(Scope.ACCOUNT, "alice"), Notice(Scope.EVERYTHING)])
async def test_a_change_while_the_policy_is_read(house: House, store: EmbeddedStore, notice: Notice) -> None:
    """A list is never made of rules that were changed, as we know, before it was given: they are read again."""

    async def changed() -> None:
        if house.rules.reads == 1:
            await store.rules.add(Rule(EVERYONE, Effect.ALLOW, RuleAction.PUBLISH, "new"))
            house.directory._take(notice)

    house.rules.fault = changed  # type: ignore[method-assign]
    assert b'"new"' in await house.log_in()
    assert house.rules.reads == 2
    assert house.metrics.acl.overtaken[notice.scope].count == 1


async def test_other_rule_files_while_the_policy_is_read(house: House) -> None:
    """A reload of rule files counts as a change, and lists from before are overtaken by it."""

    async def reloaded() -> None:
        if house.rules.reads == 1:
            house.directory.use(RuleBook())

    house.rules.fault = reloaded  # type: ignore[method-assign]
    assert await house.log_in() != b""
    assert house.rules.reads == 2
    assert house.metrics.acl.overtaken[Scope.RULES].count == 1


async def test_changes_without_end(house: House) -> None:
    """Rules that change faster than they are read leave the login without a list."""

    async def changed() -> None:
        house.directory._take(Notice(Scope.RULES))

    house.rules.fault = changed  # type: ignore[method-assign]
    assert await house.log_in() == b""
    assert house.count("unavailable") == 1
    assert house.rules.reads == 3


async def test_another_account_changes_nothing(house: House) -> None:
    """Word of somebody else's account, or session, does not make a policy be read again."""

    async def changed() -> None:
        house.directory._take(Notice(Scope.ACCOUNT, "bob"))
        house.directory._take(Notice(Scope.SESSION, "bob"))

    house.rules.fault = changed  # type: ignore[method-assign]
    assert await house.log_in() != b""
    assert house.rules.reads == 1


async def test_an_account_that_is_gone_by_then(house: House, store: EmbeddedStore) -> None:
    """Disabled between the check of the password and the list: no list; the next request is refused."""
    await store.accounts.set_disabled("alice", disabled=True)
    assert await house.log_in() == b""
    assert house.count("refused") == 1


# Rules for some times and places


async def test_a_time_window_ends_the_session(house: House, store: EmbeddedStore) -> None:
    """The list is of the rules that hold now, and serves until a window opens or closes; what ends before that still does."""
    window = Window("0 9 * * *", 3600)
    await store.rules.add(Rule(EVERYONE, Effect.ALLOW, RuleAction.PUBLISH, "t", windows=(window,)))
    before = await house.complete()
    assert (b'"t"' in before.acl, before.expires_at) == (False, MONDAY + 9 * 3600)
    house.now = MONDAY + 9 * 3600
    within = await house.complete()
    assert (b'"t"' in within.acl, within.expires_at) == (True, MONDAY + 10 * 3600)
    assert (await house.complete(expires_at=int(house.now) + 60)).expires_at == house.now + 60
    assert house.rules.reads == 1


async def test_a_window_that_opens_soon(house: House, store: EmbeddedStore) -> None:
    """For some seconds nobody has to come back: the client is asked about, and it stays connected."""
    window = Window("0 9 * * *", 3600)
    await store.rules.add(Rule(EVERYONE, Effect.ALLOW, RuleAction.PUBLISH, "t", windows=(window,)))
    house.now = MONDAY + 9 * 3600 - 5
    answer = await house.complete()
    assert (answer.acl, answer.expires_at) == (b"", None)
    assert house.count("condition") == 1


async def test_a_place(house: House, store: EmbeddedStore) -> None:
    """The address of the login decides, for each login anew, also from what is remembered."""
    await store.rules.add(Rule(EVERYONE, Effect.ALLOW, RuleAction.PUBLISH, "t", locations=("10.0.0.0/8",)))
    for address, there in (("10.1.2.3", True), ("192.0.2.1", False), ("", False)):
        answer = await house.complete(address)
        assert answer.acl
        assert (b'"t"' in answer.acl, answer.expires_at) == (there, None)
    assert house.rules.reads == 1


async def test_the_longest_session_and_a_window(store: EmbeddedStore) -> None:
    """Whichever ends first."""
    house = House(store, longest=600)
    window = Window("0 9 * * *", 3600)
    await store.rules.add(Rule(EVERYONE, Effect.ALLOW, RuleAction.PUBLISH, "t", windows=(window,)))
    end = (await house.complete()).expires_at
    assert end is not None
    assert MONDAY + 480 <= end <= MONDAY + 602
    house.now = MONDAY + 9 * 3600 - 60
    assert (await house.complete()).expires_at == MONDAY + 9 * 3600
