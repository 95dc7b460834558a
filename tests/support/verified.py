"""Verified credentials of one process, with a check that is counted and a place to share them that can be away."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from broker_hooks.verified import Verdict, VerifiedCredentials
from companion.core.errors import Transient
from companion.core.model import Account, Deny, Kind, Reason
from companion.core.ports import Proofs
from companion.metrics import Metrics
from tests.support.clocks import Clock

KEY = "k" * 32
SECRET = "secret"
HOUR = 3600.0
ALICE = Account("alice", Kind.DEVICE, "alice", "$2b$04$hash")
WRONG = Deny(Reason.WRONG_PASSWORD)


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
def door(clock: Clock) -> Door:
    return Door(clock)
