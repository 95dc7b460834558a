"""A service at whose doors bad input is tried: afterwards it has to work, and the secret is to be nowhere."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from companion.settings import Role
from tests.support.bad_bodies import SECRET
from tests.support.eventually import eventually
from tests.support.raw_http import exchange, request
from tests.support.service import HOOK_KEY, OPS_KEY, Service, account_of, serving

HOOKS = ("/mqtt/auth", "/mqtt/authz")
GOOD: dict[str, Any] = {"op": "update", "db": "thing", "collection": "devices", "id": "d1"}


@pytest.fixture
async def service(tmp_path: Path, logged: io.StringIO) -> AsyncIterator[Service]:
    """Run everything; afterwards see that it still works, and that the secret is nowhere."""
    async with serving(tmp_path, Role.ALL) as running:
        yield running
        await still_well(running)
        assert SECRET not in await running.scrape()
        for reason in ("internal", "store_away", "deadline", "overloaded"):
            assert not [value for labels, value in await counted(running, reason) if value], reason
    assert SECRET not in logged.getvalue()
    assert "Traceback" not in logged.getvalue()


async def counted(service: Service, reason: str) -> Sequence[tuple[dict[str, str], float]]:
    samples = await service.samples("companion_hook_decisions_total")
    return [(labels, value) for labels, value in samples if labels["reason"] == reason]


async def still_well(service: Service) -> None:
    """Fail unless a good question gets its answer, the good change alone was taken, and no record holds the secret."""
    await service.store.accounts.add([account_of("good", "password")])
    assert await service.login("good", "password") == {"result": "allow"}
    assert (await service.change(GOOD | {"event_id": "good"}))[0] == 202
    assert await service.metric("companion_changes_taken_total", outcome="accepted") == 1

    async def last_record() -> bool:
        return any(audit.username == "good" for audit in await service.store.audits.latest(1))

    await eventually(last_record, what="all audit records are written: they are written in order")
    assert SECRET not in str(await service.store.audits.latest(1000))


async def ask_hooks(service: Service, body: bytes, **more: Any) -> None:
    """Send a body to both hooks and fail unless each denies in so many words."""
    for path in HOOKS:
        answer = await exchange(service.hooks_port, request(path, body, key=HOOK_KEY, **more))
        assert (answer.status, answer.body) == (200, b'{"result":"deny"}')
        assert answer.headers["content-type"] == "application/json"


async def post_changes(service: Service, body: bytes, **more: Any) -> tuple[int, dict[str, str]]:
    """Send a body to `/changes` and return the status and the error, which is one line for people."""
    answer = await exchange(service.running.ops_port, request("/changes", body, key=OPS_KEY, **more))
    error = answer.json()
    assert isinstance(error, dict)
    assert error["error"].isprintable()
    assert len(error["error"]) < 500
    return answer.status, error
