"""Revocations over HTTP: what cannot be revoked, and the other answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from companion.settings import Role
from tests.support.jwts import token
from tests.support.revoking import ask, quick, revoke
from tests.support.service import OPS_KEY, serving

__all__ = ["quick"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "target"),
        ({"target": "planet", "name": "x"}, "target"),
        ({"target": "account"}, "name"),
        ({"target": "account", "name": 1}, "name"),
        ({"target": "account", "name": "x" * 65_536}, "name"),
        ({"target": "account", "name": "x", "seconds": 0}, "seconds"),
        ({"target": "account", "name": "x", "seconds": True}, "seconds"),
        ({"target": "account", "name": "x", "ban_seconds": -1}, "ban"),
        ({"target": "session", "name": "x", "ban_seconds": 1}, "ban"),
        ({"target": "account", "name": "x", "reason": "a\nb"}, "reason"),
        ({"target": "account", "name": "x", "planet": 1}, "planet"),
        ({"target": "account", "name": "x", "refuse": 0}, "refuse"),
        ({"target": "account", "name": "x", "refuse": False, "seconds": 5}, "refuse"),
        ({"target": "account", "token": "secret-token"}, "token"),
        ({"target": "token", "name": "x", "token": "secret-token"}, "token"),
        ({"target": "token", "token": ["secret-token"]}, "token"),
        ({"target": "token", "name": token()}, "name"),
        ({"target": "token", "name": "jti:"}, "name"),
        ([], "body"),
    ],
)
async def test_what_cannot_be_revoked(tmp_path: Path, body: Mapping[str, Any], field: str) -> None:
    """The answer names the field and what is allowed, never a token; nothing is written."""
    async with serving(tmp_path, Role.MAINTENANCE) as service:
        status, answer = await ask(service, "POST", "/revocations", body)
        assert (status, answer["field"]) == (422, field)
        assert "secret-token" not in answer["error"]
        assert token()[:20] not in answer["error"]
        assert await service.store.revocations.list() == []


async def test_other_answers(tmp_path: Path) -> None:
    """Without a key, of what there is not, of no JSON, of lists."""
    async with serving(tmp_path, Role.MAINTENANCE) as service:
        for method, path in (("GET", "/revocations"), ("POST", "/revocations"), ("POST", "/revocations/x/lift")):
            assert (await ask(service, method, path, key="wrong"))[0] == 401
        for method, path in (("GET", "/revocations/x"), ("POST", "/revocations/x/lift")):
            assert (await ask(service, method, path))[0] == 404
        headers = {"Authorization": f"Bearer {OPS_KEY}"}
        async with service.http.post(f"{service.ops}/revocations", data=b"{", headers=headers) as response:
            assert response.status == 400
        async with service.http.post(f"{service.ops}/revocations", data=b" " * 200_000, headers=headers) as response:
            assert response.status == 413
        one = await revoke(service, target="account", name="alice")
        _, answer = await ask(service, "GET", "/revocations?state=all&limit=5")
        assert [found["id"] for found in answer["revocations"]] == [one]
        for query in ("limit=0", "limit=x", "state=x"):
            assert (await ask(service, "GET", f"/revocations?{query}"))[0] == 422
