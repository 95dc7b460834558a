"""The guard: who guesses is refused unseen for a while, and nobody else is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from broker_hooks.flapping import Flapping
from broker_hooks.guard import Guard, Limits
from companion.background import background
from companion.core.errors import Transient
from companion.core.lockouts import Growth, Lockout, Target
from companion.core.model import Allow, Connect, Decision, Deny, Reason
from companion.metrics import Metrics
from companion.stores.counters import LocalCounters
from companion.stores.lockouts import LocalLockouts
from tests.support.clocks import Clock, clock
from tests.support.waiting import wait_until

__all__ = ["clock"]

KEYS = ["the-hook-key-of-the-tests"]
FAILURES, ADDRESS_FAILURES, SECONDS, LONGEST = 3, 6, 60.0, 150.0


class Counted(LocalCounters):
    """Counters that remember their keys, and can be away."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock=clock)
        self.keys: set[str] = set()
        self.away = False

    async def add(self, key: str, seconds: float) -> int:
        if self.away:
            raise Transient("away")
        self.keys.add(key)
        return await super().add(key, seconds)


class Shared:
    """The port `Lockouts` in memory, for several guards; it can be away."""

    def __init__(self, clock: Clock) -> None:
        self._local = LocalLockouts(now=clock)
        self.told: list[Lockout] = []
        self.away = False

    async def lock(self, target: Target, growth: Growth) -> Lockout:
        if self.away:
            raise Transient("away")
        made = self._local.lock(target, growth)
        lockout = Lockout(made.target, made.until, made.times, len(self.told) + 1)
        self.told.append(lockout)
        return lockout

    async def after(self, number: int, limit: int) -> Sequence[Lockout]:
        if self.away:
            raise Transient("away")
        return self.told[number : number + limit]

    async def active(self, limit: int) -> Sequence[Lockout]:
        return self.told[:limit]

    async def lift(self, key: str) -> bool:
        (target,) = {one.target for one in self.told if one.target.key == key}
        self.told.append(Lockout(target, 0, 0, len(self.told) + 1))
        return True


class Door:
    """A guard, and an authentication behind it that answers what it is told to."""

    def __init__(
        self,
        counters: Counted,
        lockouts: Shared,
        clock: Clock,
        failures: int = FAILURES,
        keys: Sequence[str] = KEYS,
        **more: Any,
    ) -> None:
        self.clock = clock
        self.asked = 0
        self.answer: Decision = Deny(Reason.WRONG_PASSWORD)
        self.metrics = Metrics()
        limits = Limits(failures, more.pop("address_failures", ADDRESS_FAILURES), SECONDS, LONGEST)
        self.guard = Guard(counters, lockouts, self.metrics, limits, keys=keys, now=clock, **more)

    async def _authenticate(self, _connect: Connect) -> Decision:
        self.asked += 1
        return self.answer

    async def knock(self, username: str = "alice", peer_host: str = "10.0.0.1", client_id: str = "c1") -> Reason:
        connect = Connect(client_id, username, "password", peer_host)
        return (await self.guard.judge(connect, self._authenticate)).reason

    async def until_refused(self, **knock: str) -> int:
        """Knock with a wrong password until nobody looks at it any more; return how often that was looked at."""
        for count in range(100):
            if await self.knock(**knock) in {Reason.THROTTLED, Reason.ADDRESS_THROTTLED}:
                return count
        raise AssertionError("never refused")


@pytest.fixture
def lockouts(clock: Clock) -> Shared:
    return Shared(clock)


@pytest.fixture
def counters(clock: Clock) -> Counted:
    return Counted(clock)


@pytest.fixture
def door(counters: Counted, lockouts: Shared, clock: Clock) -> Door:
    return Door(counters, lockouts, clock)


async def test_refused_unseen_after_too_many(door: Door) -> None:
    """From the third failure on nobody looks at the password, right or wrong, until the time is over."""
    assert [await door.knock() for _ in range(4)] == [Reason.WRONG_PASSWORD] * 3 + [Reason.THROTTLED]
    door.answer = Allow(Reason.PASSWORD)
    assert await door.knock() is Reason.THROTTLED
    assert door.asked == 3
    door.clock.now += SECONDS + 0.01
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


async def test_replicas_count_together(counters: Counted, lockouts: Shared, clock: Clock) -> None:
    """Failures at one replica count at the other; no name is in the keys."""
    one, two = (Door(counters, lockouts, clock, address_failures=0) for _ in range(2))
    for door in (one, two, one):
        await door.knock()
    assert await one.knock() is Reason.THROTTLED
    assert [await two.knock(), await two.knock()] == [Reason.WRONG_PASSWORD, Reason.THROTTLED]
    (key,) = counters.keys
    assert "alice" not in key


async def test_who_is_refused_stays_so_while_keys_change(counters: Counted, lockouts: Shared, clock: Clock) -> None:
    """Old; new and old; new: nothing is forgotten, nor split over replicas that differ by a step."""
    one, two = (Door(counters, lockouts, clock, address_failures=0) for _ in range(2))
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
    started_later = Door(counters, lockouts, clock, keys=new, address_failures=0)
    assert [await started_later.knock("bob") for _ in range(2)] == [Reason.WRONG_PASSWORD, Reason.THROTTLED]
    assert all("bob" not in key for key in counters.keys)


async def test_names_and_places_do_not_run_together(counters: Counted, lockouts: Shared, clock: Clock) -> None:
    """A name that ends as a place begins is another pair."""
    door = Door(counters, lockouts, clock, address_failures=0)
    await door.knock("alice1", "0.0.0.1")
    await door.knock("alice", "10.0.0.1")
    assert len(counters.keys) == 2


async def test_each_time_for_longer(door: Door) -> None:
    """The second lock-out lasts twice as long, and none longer than the longest; after a day the first comes again."""
    for seconds in (SECONDS, 2 * SECONDS, LONGEST, LONGEST):
        assert await door.until_refused() == FAILURES
        door.clock.now += seconds - 0.1
        assert await door.knock() is Reason.THROTTLED
        door.clock.now += 0.2
    door.clock.now += 2 * 86_400
    assert await door.until_refused() == FAILURES
    door.clock.now += SECONDS + 0.1
    assert await door.knock() is Reason.WRONG_PASSWORD


async def test_guessing_at_many_names(door: Door) -> None:
    """From the sixth failure at an address on everybody there is refused, whatever the name; elsewhere nobody is."""
    for number in range(ADDRESS_FAILURES):
        assert await door.knock(f"name-{number}") is Reason.WRONG_PASSWORD
    door.answer = Allow(Reason.PASSWORD)
    assert await door.knock("alice") is Reason.ADDRESS_THROTTLED
    assert await door.knock("alice", "10.0.0.2") is Reason.PASSWORD
    door.clock.now += SECONDS + 0.1
    assert await door.knock("alice") is Reason.PASSWORD


async def test_without_addresses_nobody_is_locked_out_by_others(door: Door) -> None:
    """A broker that tells no address makes all clients look like one: only names count then."""
    for number in range(2 * ADDRESS_FAILURES):
        assert await door.knock(f"name-{number}", "") is Reason.WRONG_PASSWORD


async def test_trusted_addresses(counters: Counted, lockouts: Shared, clock: Clock) -> None:
    """From the networks that are exempt nothing is counted, and nobody refused."""
    door = Door(counters, lockouts, clock, exempt=["10.0.0.0/8", "2001:db8::/32"], flapping=Flapping(1, 1))
    for peer_host in ("10.1.2.3", "2001:db8::1", "::ffff:10.0.0.9"):
        assert [await door.knock(peer_host=peer_host) for _ in range(10)] == [Reason.WRONG_PASSWORD] * 10
    assert not counters.keys
    assert await door.knock(peer_host="11.0.0.1") is Reason.WRONG_PASSWORD
    assert await door.knock(peer_host="no address") is Reason.FLAPPING


async def test_another_replica_and_a_new_one_know(counters: Counted, lockouts: Shared, clock: Clock) -> None:
    """A lock-out holds, for the right password too, at a replica that follows and at one that starts; lifted, at none."""
    one, two = Door(counters, lockouts, clock), Door(counters, lockouts, clock)
    two.answer = Allow(Reason.PASSWORD)
    async with background(two.guard.follow()):
        assert await two.knock() is Reason.PASSWORD
        await one.until_refused()
        await wait_until(lambda: two.metrics.registry.get_sample_value("companion_locked_out"), 20, "it is heard of")
        assert await two.knock() is Reason.THROTTLED
        three = Door(counters, lockouts, clock)
        three.answer = Allow(Reason.PASSWORD)
        await three.guard.catch_up()
        assert await three.knock() is Reason.THROTTLED
        await lockouts.lift(lockouts.told[-1].target.key)
        await three.guard.catch_up()
        assert await three.knock() is Reason.PASSWORD


async def test_who_starts_while_the_store_is_away(door: Door, lockouts: Shared) -> None:
    """Nobody waits for it; who is locked out is heard of when it is back."""
    await door.until_refused()
    lockouts.away = True
    late = Door(Counted(door.clock), lockouts, door.clock)
    await late.guard.catch_up()
    assert await late.knock() is Reason.WRONG_PASSWORD
    async with background(late.guard.follow()):
        await asyncio.sleep(0.05)
        lockouts.away = False
        await wait_until(lambda: late.metrics.registry.get_sample_value("companion_locked_out"), 20, "it is heard of")
    assert await late.knock() is Reason.THROTTLED


async def test_it_is_counted(door: Door) -> None:
    """Lock-outs are counted, each once, by what they concern."""
    sample = door.metrics.registry.get_sample_value
    await door.until_refused()
    await door.until_refused(username="bob")
    await door.until_refused(username="carol")
    counted = [sample("companion_lockouts_total", {"scope": scope}) for scope in ("account", "address")]
    assert counted == [2, 1]
    assert sample("companion_locked_out") == 3
    door.clock.now += SECONDS + 0.1
    assert sample("companion_locked_out") == 0


async def test_without_counters_nothing_is_refused(door: Door, counters: Counted, lockouts: Shared) -> None:
    """Counters that cannot count, and lock-outs that cannot be kept, cost nobody an answer."""
    counters.away = True
    assert [await door.knock() for _ in range(5)] == [Reason.WRONG_PASSWORD] * 5
    counters.away, lockouts.away = False, True
    assert [await door.knock() for _ in range(5)] == [Reason.WRONG_PASSWORD] * 5


async def test_no_limit(counters: Counted, lockouts: Shared, clock: Clock) -> None:
    """Zero failures: nothing is counted."""
    door = Door(counters, lockouts, clock, failures=0, address_failures=0)
    assert [await door.knock() for _ in range(5)] == [Reason.WRONG_PASSWORD] * 5
    assert not counters.keys


async def test_clients_that_connect_again_and_again(counters: Counted, lockouts: Shared, clock: Clock) -> None:
    """Beyond the limit a client is refused until its minute is over, let in before or not; other clients are not."""
    door = Door(counters, lockouts, clock, flapping=Flapping(2, 0, clock))
    door.answer = Allow(Reason.PASSWORD)
    assert [await door.knock() for _ in range(4)] == [Reason.PASSWORD] * 2 + [Reason.FLAPPING] * 2
    assert await door.knock(client_id="c2") is Reason.PASSWORD
    assert await door.knock("alic", client_id="ec1") is Reason.PASSWORD
    clock.now += 60.1
    assert await door.knock() is Reason.PASSWORD


async def test_users_that_connect_again_and_again(counters: Counted, lockouts: Shared, clock: Clock) -> None:
    """A user name has a limit over all its clients; clients without one have none of this kind."""
    door = Door(counters, lockouts, clock, flapping=Flapping(0, 2, clock))
    door.answer = Allow(Reason.PASSWORD)
    reasons = [await door.knock(client_id=f"c{number}") for number in range(4)]
    assert reasons == [Reason.PASSWORD] * 2 + [Reason.FLAPPING] * 2
    assert await door.knock("bob") is Reason.PASSWORD
    assert [await door.knock("", client_id=f"c{number}") for number in range(4)] == [Reason.PASSWORD] * 4
