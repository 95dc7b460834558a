"""Hooks with a device, a user and a session that are asked about, and rules that can be felt once they are stored."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from companion.core.model import Account, Kind, Session
from companion.core.rules import Effect, Rule, RuleAction, subject_of_account
from tests.support.eventually import eventually
from tests.support.jwts import SECRET, in_seconds
from tests.support.service import Service, serving

ALICE = subject_of_account("alice")


@pytest.fixture
async def service(tmp_path: Path, logged: io.StringIO) -> AsyncIterator[Service]:
    """Run hooks with a device `alice` of the principal `p1`, a user `bob` of his own, and a session `s1` of the user `u1`."""
    del logged
    async with serving(tmp_path, token_secrets=(SecretStr(SECRET),), token_leeway=0) as running:
        await running.store.accounts.add(
            [
                Account("alice", Kind.DEVICE, "p1", "no hash", groups=("west", "night"), tenant="acme"),
                Account("bob", Kind.USER, "bob", "no hash", groups=("east",)),
            ]
        )
        session = Session("u1", "s1:1", "u1", "s1", in_seconds(900), groups=("east",), tenant="t/+")
        await running.store.sessions.put(session)
        yield running


async def allow(service: Service, subject: str, action: RuleAction, filter_: str, **limits: Any) -> Rule:
    """Store a rule that allows, and wait until it can be felt."""
    return await _stored(service, Rule(subject, Effect.ALLOW, action, filter_, **limits))


async def deny(service: Service, subject: str, action: RuleAction, filter_: str, **limits: Any) -> Rule:
    """Store a rule that denies, and wait until it can be felt."""
    return await _stored(service, Rule(subject, Effect.DENY, action, filter_, **limits))


async def _stored(service: Service, rule: Rule) -> Rule:
    """Store the rule behind one that lets a witness see that it has arrived."""
    stored = await service.store.rules.add(rule)
    witness = f"witness/{stored.id}"
    await service.store.rules.add(Rule(subject_of_account("bob"), Effect.ALLOW, RuleAction.SUBSCRIBE, witness))
    await eventually(lambda: service.may("bob", "subscribe", witness, "witness"), what="the rule is felt")
    return stored
