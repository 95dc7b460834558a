"""The guard: who guesses is refused unseen for a while, and nobody else is."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from broker_hooks.guard import Guard
from companion.core.errors import Transient
from companion.core.model import Allow, Connect, Decision, Deny, Reason
from companion.stores.counters import LocalCounters

KEYS = ["the-hook-key-of-the-tests"]
FAILURES, SECONDS = 3, 60.0


class Counted(LocalCounters):
    """Counters that remember their keys, and can be away."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: set[str] = set()
        self.away = False

    async def add(self, key: str, seconds: float) -> int:
        if self.away:
            raise Transient("away")
        self.keys.add(key)
        return await super().add(key, seconds)


class Door:
    """A guard, and an authentication behind it that answers what it is told to."""

    def __init__(self, counters: Counted, failures: int = FAILURES, keys: Sequence[str] = KEYS) -> None:
        self.now = 0.0
        self.asked = 0
        self.answer: Decision = Deny(Reason.WRONG_PASSWORD)
        self.guard = Guard(counters, keys=keys, failures=failures, seconds=SECONDS, clock=lambda: self.now)

    async def _authenticate(self, _connect: Connect) -> Decision:
        self.asked += 1
        return self.answer

    async def knock(self, username: str = "alice", peer_host: str = "10.0.0.1") -> Reason:
        connect = Connect("c1", username, "password", peer_host)
        return (await self.guard.judge(connect, self._authenticate)).reason


@pytest.fixture
def counters() -> Counted:
    return Counted()


@pytest.fixture
def door(counters: Counted) -> Door:
    return Door(counters)


async def test_refused_unseen_after_too_many(door: Door) -> None:
    """From the third failure on nobody looks at the password, right or wrong, until the time is over."""
    assert [await door.knock() for _ in range(4)] == [Reason.WRONG_PASSWORD] * 3 + [Reason.THROTTLED]
    door.answer = Allow(Reason.PASSWORD)
    assert await door.knock() is Reason.THROTTLED
    assert door.asked == 3
    door.now = SECONDS
    assert await door.knock() is Reason.PASSWORD


async def test_others_are_let_in(door: Door) -> None:
    """The same name from elsewhere, and other names from there, are not concerned."""
    for _ in range(4):
        await door.knock()
    door.answer = Allow(Reason.PASSWORD)
    assert await door.knock(peer_host="10.0.0.2") is Reason.PASSWORD
    assert await door.knock("bob") is Reason.PASSWORD


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("", "", True),
        ("a host", "another", False),
    ],
)
async def test_what_counts_as_one_place(door: Door, one: str, other: str, *, same: bool) -> None:
    """An IPv6 customer has a whole /64; a mapped IPv4 address is the address."""
    for _ in range(3):
        await door.knock(peer_host=one)
    assert (await door.knock(peer_host=other) is Reason.THROTTLED) is same


async def test_what_we_are_to_blame_for_does_not_count(door: Door) -> None:
    """Neither an overload nor a store that is away locks anybody out."""
    for reason in (Reason.STORE_AWAY, Reason.OVERLOADED, Reason.NO_CREDENTIALS):
        door.answer = Deny(reason)
        assert [await door.knock() for _ in range(4)] == [reason] * 4


async def test_replicas_count_together(counters: Counted) -> None:
    """Failures at one replica count at the other; no name is in the keys."""
    one, two = Door(counters), Door(counters)
    for door in (one, two, one):
        await door.knock()
    assert await one.knock() is Reason.THROTTLED
    assert [await two.knock(), await two.knock()] == [Reason.WRONG_PASSWORD, Reason.THROTTLED]
    (key,) = counters.keys
    assert "alice" not in key


async def test_who_is_refused_stays_so_while_keys_change(counters: Counted) -> None:
    """Old; new and old; new: nothing is forgotten, nor split over replicas that differ by a step."""
    one, two = Door(counters), Door(counters)
    new, both = ["the-new-hook-key-of-the-tests"], ["the-new-hook-key-of-the-tests", *KEYS]
    for _ in range(FAILURES):
        await one.knock("locked out before")
    one.guard.use(both)
    assert await one.knock("locked out before") is Reason.THROTTLED
    assert [await door.knock() for door in (one, two, one)] == [Reason.WRONG_PASSWORD] * 3
    assert await one.knock() is Reason.THROTTLED
    assert [await two.knock(), await two.knock()] == [Reason.WRONG_PASSWORD, Reason.THROTTLED]
    await one.knock("bob")
    await one.knock("bob")
    one.guard.use(new)
    assert [await one.knock("bob"), await one.knock("bob")] == [Reason.WRONG_PASSWORD, Reason.THROTTLED]
    started_later = Door(counters, keys=new)
    assert [await started_later.knock("bob") for _ in range(2)] == [Reason.WRONG_PASSWORD, Reason.THROTTLED]
    assert all("bob" not in key for key in counters.keys)


async def test_names_and_places_do_not_run_together(counters: Counted) -> None:
    """A name that ends as a place begins is another pair."""
    door = Door(counters)
    await door.knock("alice1", "0.0.0.1")
    await door.knock("alice", "10.0.0.1")
    assert len(counters.keys) == 2


async def test_without_counters_nothing_is_refused(door: Door, counters: Counted) -> None:
    """Counters that cannot count cost nobody an answer."""
    counters.away = True
    assert [await door.knock() for _ in range(5)] == [Reason.WRONG_PASSWORD] * 5


async def test_no_limit(counters: Counted) -> None:
    """Zero failures: nothing is counted."""
    door = Door(counters, failures=0)
    assert [await door.knock() for _ in range(5)] == [Reason.WRONG_PASSWORD] * 5
    assert not counters.keys
