"""Verified passwords: what is remembered, shared and refused, for how long, and what is checked once for many."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from broker_hooks.password_pool import Abandoned, Overloaded, PasswordPool
from broker_hooks.verified import Verdict, VerifiedCredentials
from companion.core.errors import Transient
from companion.core.model import Account, AccountSecret, Deny, Kind, Reason
from companion.core.ports import Proofs
from companion.metrics import Metrics
from tests.support.waiting import wait_until

KEY = "k" * 32
SECRET = "secret"
HOUR = 3600.0
ALICE = Account("alice", Kind.DEVICE, "alice", "$2b$04$hash")
WRONG = Deny(Reason.WRONG_PASSWORD)


class Clock:
    """Both clocks; they move when they are told to."""

    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


class Shelf:
    """The port `Proofs` in memory; it can be away, and can be looked at."""

    def __init__(self) -> None:
        self.proofs: dict[str, bytes] = {}
        self.away = False

    async def get(self, name: str) -> bytes | None:
        if self.away:
            raise Transient("away")
        return self.proofs.get(name)

    async def put(self, name: str, proof: bytes, seconds: float) -> None:
        if self.away:
            raise Transient("away")
        assert 0 < seconds <= HOUR
        self.proofs[name] = proof


class Door:
    """One process: verified credentials, and a check that counts how often it was asked."""

    def __init__(self, clock: Clock, shared: Proofs | None = None, **more: Any) -> None:
        self.clock = clock
        self.metrics = Metrics()
        self.checked: list[str] = []
        self.verdict = Verdict()
        values: dict[str, Any] = {
            "key": KEY,
            "deadline": 20.0,
            "entries": 100,
            "seconds": HOUR,
            "refused_seconds": 5.0,
            "clock": clock,
            "now": clock,
        }
        self.verified = VerifiedCredentials(self.metrics, shared=shared, **(values | more))

    async def ask(
        self, account: Account | None = ALICE, password: str = SECRET, username: str = "alice"
    ) -> Deny | None:
        async def check() -> Verdict:
            self.checked.append(password)
            await asyncio.sleep(0)
            return self.verdict

        return await self.verified.refusal(account, username, password.encode(), check, self.clock())

    def count(self, name: str, outcome: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, {"outcome": outcome})


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def door(clock: Clock) -> Door:
    return Door(clock)


async def test_a_right_one_is_checked_once(door: Door) -> None:
    """The same password of the same account is good without a check, for its time; then it is checked again."""
    for _ in range(5):
        assert await door.ask() is None
    assert len(door.checked) == 1
    door.clock.now += HOUR * 0.79
    assert await door.ask() is None
    assert len(door.checked) == 1
    door.clock.now += HOUR * 0.21
    assert await door.ask() is None
    assert len(door.checked) == 2


async def test_another_password_is_another(door: Door) -> None:
    """Nothing but the very same password and user name is remembered."""
    await door.ask()
    for account, password, username in (
        (ALICE, "Secret", "alice"),
        (ALICE, "secret", "alic"),
        (ALICE, "", "alicesecret"),
    ):
        await door.ask(account, password, username)
    assert len(door.checked) == 4


CHANGES: dict[str, Any] = {
    "username": "alicia",
    "kind": Kind.USER,
    "principal": "somebody",
    "password_hash": "$2b$04$another",
    "disabled": True,
    "expires_at": 1_800_000_000,
    "subjects": ("alice@example.org",),
    "groups": ("people",),
    "tenant": "example",
    "secrets": (AccountSecret("s1", "$2b$04$further"),),
    "attributes": {"site": "north"},
    "superuser": True,
    "certificates": ("cn:alice",),
    "scram": "kept for SCRAM",
}


@pytest.mark.parametrize("name", CHANGES)
async def test_whatever_changes_an_account_is_felt(door: Door, name: str) -> None:
    """With any field another, what was right before is checked again; back to what it was, it is remembered."""
    await door.ask()
    changed = dataclasses.replace(ALICE, **{name: CHANGES[name]})
    await door.ask(changed)
    assert len(door.checked) == 2
    await door.ask()
    assert len(door.checked) == 2


def test_every_field_is_tried() -> None:
    """A new field of an account has to be tried above; of rules nothing depends here."""
    compared = {field.name for field in dataclasses.fields(Account) if field.compare}
    assert compared == {*CHANGES, "rules"}


async def test_a_wrong_one_for_seconds(door: Door) -> None:
    """The same wrong password is refused without a check; after seconds it is checked again."""
    door.verdict = Verdict(WRONG)
    for _ in range(3):
        assert await door.ask() == WRONG
    assert len(door.checked) == 1
    door.clock.now += 5
    assert await door.ask() == WRONG
    assert len(door.checked) == 2


async def test_a_corrected_password_works_at_once(door: Door) -> None:
    """What was refused is bound to the account as it was: mended, or only now there, it is checked at once."""
    door.verdict = Verdict(WRONG)
    await door.ask()
    await door.ask(None)
    door.verdict = Verdict()
    assert await door.ask(dataclasses.replace(ALICE, password_hash="$2b$04$mended")) is None
    assert len(door.checked) == 3


async def test_only_what_would_come_out_the_same_is_remembered(door: Door) -> None:
    """Other refusals, whatever they are, are checked each time."""
    door.verdict = Verdict(Deny(Reason.STORE_AWAY))
    for _ in range(2):
        await door.ask()
    assert len(door.checked) == 2


async def test_a_verdict_that_ends(door: Door) -> None:
    """A secret that is right only for a while is remembered no longer; one that is wrong only for a moment too."""
    door.verdict = Verdict(None, door.clock.now + 10)
    await door.ask()
    door.clock.now += 9
    await door.ask()
    assert len(door.checked) == 1
    door.clock.now += 1
    door.verdict = Verdict(WRONG, door.clock.now + 1)
    assert await door.ask() == WRONG
    door.clock.now += 1
    door.verdict = Verdict()
    assert await door.ask() is None


async def test_nothing_is_remembered(clock: Clock) -> None:
    """With 0 seconds every login is checked."""
    door = Door(clock, Shelf(), seconds=0, refused_seconds=0)
    for verdict in (Verdict(), Verdict(), Verdict(WRONG), Verdict(WRONG)):
        door.verdict = verdict
        await door.ask()
    assert len(door.checked) == 4


# One check for many


@pytest.mark.parametrize("verdict", [Verdict(), Verdict(WRONG)])
async def test_many_at_once(door: Door, verdict: Verdict) -> None:
    """Those who ask for the same at the same time get the outcome of one check, right or wrong."""
    door.verdict = verdict
    outcomes = await asyncio.gather(*(door.ask() for _ in range(50)), door.ask(password="other"))
    assert outcomes == [verdict.deny] * 51
    assert len(door.checked) == 2
    assert door.count("companion_credential_checks_total", "joined") == 49


async def test_an_error_is_everybodys_and_not_remembered(door: Door) -> None:
    """When the check fails, all who wait are told; the next one checks again."""

    async def failing() -> Verdict:
        await asyncio.sleep(0)
        raise Overloaded("too many")

    asking = [door.verified.refusal(ALICE, "alice", b"secret", failing, 0.0) for _ in range(3)]
    outcomes = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(one) for one in outcomes] == [Overloaded] * 3
    assert await door.ask() is None


async def test_nobody_waits_beyond_the_deadline(clock: Clock) -> None:
    """Who waits too long is told so; the check goes on, and its outcome is there for the next."""
    door = Door(clock, deadline=0.05)
    gate = asyncio.Event()

    async def slow() -> Verdict:
        await gate.wait()
        return Verdict()

    with pytest.raises(Overloaded):
        await door.verified.refusal(ALICE, "alice", b"secret", slow, 0.0)
    gate.set()
    await asyncio.sleep(0.01)
    assert await door.ask() is None
    assert not door.checked


@pytest.fixture
async def pool() -> AsyncIterator[PasswordPool]:
    pool = PasswordPool(1, 10, 20.0, Metrics())
    yield pool
    await asyncio.to_thread(pool.close)


async def test_nothing_is_checked_for_who_has_gone(door: Door, pool: PasswordPool) -> None:
    """When all who asked hung up before the check began, it is not made; if one stays, it is."""
    done: list[str] = []

    def asking(password: str) -> asyncio.Task[Deny | None]:
        async def check() -> Verdict:
            await pool.run(done.append, password)
            return Verdict()

        return asyncio.ensure_future(door.verified.refusal(ALICE, "alice", password.encode(), check, 0.0))

    gate = threading.Event()
    busy = asyncio.ensure_future(pool.run(gate.wait))
    await asyncio.sleep(0)
    left: Sequence[asyncio.Task[Deny | None]] = [asking("left") for _ in range(3)]
    stayed = [asking("stayed") for _ in range(2)]
    await asyncio.sleep(0.05)
    for task in (*left, stayed[0]):
        task.cancel()
    await asyncio.wait([*left, stayed[0]])
    await wait_until(lambda: door.count("companion_credential_checks_total", "abandoned"), 20, "it is given up")
    gate.set()
    await busy
    assert await stayed[1] is None
    assert done == ["stayed"]
    # Who comes back begins anew.
    assert await asking("left") is None
    assert done == ["stayed", "left"]


async def test_closing(door: Door) -> None:
    """What is under way at the end is given up, and whoever waits is told."""

    async def never() -> Verdict:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    waiting = asyncio.ensure_future(door.verified.refusal(ALICE, "alice", b"secret", never, 0.0))
    await asyncio.sleep(0.01)
    await door.verified.close()
    with pytest.raises(Overloaded):
        await waiting


# Shared


async def shelved(shelf: Shelf, count: int = 1) -> None:
    await wait_until(lambda: len(shelf.proofs) == count, 20, "it is shared")


async def test_others_need_not_check(clock: Clock) -> None:
    """What one process found right, another with the same key knows; what it found wrong is not shared."""
    shelf = Shelf()
    one, two = Door(clock, shelf), Door(clock, shelf)
    await one.ask()
    await shelved(shelf)
    for _ in range(2):
        assert await two.ask() is None
    assert not two.checked
    assert two.count("companion_credential_proofs_total", "hit") == 1
    one.verdict = Verdict(WRONG)
    await one.ask(password="wrong")
    await one.ask(None)
    await asyncio.sleep(0.01)
    assert len(shelf.proofs) == 1


async def test_it_ends_for_all(clock: Clock) -> None:
    """Who learned of it from another forgets it when the first does, not later."""
    shelf = Shelf()
    one, two = Door(clock, shelf), Door(clock, shelf)
    await one.ask()
    await shelved(shelf)
    clock.now += HOUR * 0.7
    await two.ask()
    clock.now += HOUR * 0.3
    await two.ask()
    assert len(two.checked) == 1


async def test_another_key(clock: Clock) -> None:
    """A process with another key finds nothing."""
    shelf = Shelf()
    one, two = Door(clock, shelf), Door(clock, shelf, key="x" * 32)
    await one.ask()
    await shelved(shelf)
    await two.ask()
    assert len(two.checked) == 1


async def test_who_can_write_there_lets_nobody_in(clock: Clock) -> None:
    """A proof of another password, one made longer, or anything else under the right name, is none."""
    shelf = Shelf()
    one = Door(clock, shelf)
    await one.ask()
    await shelved(shelf)
    ((name, proof),) = shelf.proofs.items()
    await one.ask(password="mine")
    await shelved(shelf, 2)
    (of_mine,) = (proof for other, proof in shelf.proofs.items() if other != name)
    longer = (int.from_bytes(proof[:8]) + 1000).to_bytes(8) + proof[8:]
    forgeries = [of_mine, longer, proof[:-1], b"", b"1", proof + b"x", bytes(len(proof))]
    for forged in forgeries:
        shelf.proofs[name] = forged
        two = Door(clock, shelf)
        two.verdict = Verdict(WRONG)
        assert await two.ask() == WRONG
        assert two.count("companion_credential_proofs_total", "forged") == 1


async def test_nothing_readable_lies_there(clock: Clock) -> None:
    """Neither names nor proofs hold a user name, a password or a hash."""
    shelf = Shelf()
    await Door(clock, shelf).ask()
    await shelved(shelf)
    ((name, proof),) = shelf.proofs.items()
    for text in (b"alice", b"secret", b"hash"):
        assert text not in name.encode() + bytes.fromhex(name) + proof


async def test_without_the_others(clock: Clock) -> None:
    """A store that is away costs nobody an answer; each process then remembers alone."""
    shelf = Shelf()
    shelf.away = True
    door = Door(clock, shelf)
    for _ in range(2):
        assert await door.ask() is None
    assert len(door.checked) == 1
    assert door.count("companion_credential_proofs_total", "away")


async def test_abandoned_is_no_verdict(door: Door) -> None:
    """A check that was given up leaves nothing behind."""

    async def given_up() -> Verdict:
        raise Abandoned("nobody waits")

    with pytest.raises(Abandoned):
        await door.verified.refusal(ALICE, "alice", b"secret", given_up, 0.0)
    assert await door.ask() is None
    assert len(door.checked) == 1
