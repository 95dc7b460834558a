"""Verified passwords that processes share: what others need not check, and why nobody gets in by what lies there."""

from __future__ import annotations

import asyncio

from broker_hooks.verified import Verdict
from tests.support.clocks import Clock, clock
from tests.support.verified import HOUR, WRONG, Door, Shelf
from tests.support.waiting import wait_until

__all__ = ["clock"]


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
