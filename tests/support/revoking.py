"""A service that revokes, against the stand-in of EMQX's REST API, and what is asked of it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from companion.core.revocations import Revocation
from companion.settings import Role
from maintenance import revoker
from tests.support.emqx import options
from tests.support.eventually import eventually
from tests.support.service import OPS_KEY, Service, serving

CACHES = ["POST /authentication/node_cache/reset", "POST /authorization/node_cache/reset"]
SETTLE = 0.3


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again soon, and show at once what waits."""
    monkeypatch.setattr(revoker, "_PAUSE", (0.02, 0.1))
    monkeypatch.setattr(revoker, "_GAUGE_SECONDS", 0.05)


@contextlib.asynccontextmanager
async def at_work(folder: Path, url: str, role: Role = Role.MAINTENANCE, **more: Any) -> AsyncIterator[Service]:
    values = {"revocation_settle": SETTLE, "revocation_lease": 2.0, **options(url), **more}
    async with serving(folder, role, **values) as service:
        yield service


async def ask(service: Service, method: str, path: str, body: Any = None, key: str = OPS_KEY) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {key}"}
    async with service.http.request(method, service.ops + path, json=body, headers=headers) as response:
        return response.status, await response.json()


async def revoke(service: Service, **fields: Any) -> str:
    status, answer = await ask(service, "POST", "/revocations", fields)
    assert status == 202, answer
    assert answer["state"] == "waiting"
    return str(answer["id"])


async def done(service: Service, revocation_id: str) -> Revocation:
    """Wait until nothing is left to do."""

    async def there() -> Revocation | None:
        found = await service.store.revocations.get(revocation_id)
        return found if found is not None and not found.waiting else None

    return await eventually(there, 30, "all is done")


async def audits(service: Service) -> Sequence[tuple[str, str, str]]:
    records = (await service.store.audits.latest(100))[::-1]
    return [(one.verdict, one.reason, one.rule) for one in records if one.kind == "revocation"]
