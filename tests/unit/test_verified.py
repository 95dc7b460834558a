"""Verified passwords: what is remembered and refused, and for how long."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from broker_hooks.verified import Verdict
from companion.core.model import Account, AccountSecret, Deny, Kind, Reason
from tests.support.clocks import Clock, clock
from tests.support.verified import ALICE, HOUR, WRONG, Door, Shelf, door

__all__ = ["clock", "door"]


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
