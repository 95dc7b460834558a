"""SCRAM over HTTP: keys for those who have some, keys of nobody for everybody else."""

from __future__ import annotations

import io
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from companion.core.scram import keys_of_nobody, scram_keys
from tests.support.jwts import in_seconds
from tests.support.service import HOOK_KEY, Service, account_of, serving
from tests.support.traces import only_trace

KEYS = scram_keys("secret", "sha256", 4096)


def scram(data_dir: Path, **more: Any) -> AbstractAsyncContextManager[Service]:
    return serving(data_dir, **{"scram_algorithm": "sha256"} | more)


async def ask(service: Service, username: str, **more: str) -> dict[str, Any]:
    """Ask as EMQX does."""
    headers = {"Authorization": f"Bearer {HOOK_KEY}"}
    fields = {"username": username, "clientid": "c1", "peerhost": "10.1.2.3"} | more
    async with service.http.post(f"{service.hooks}/mqtt/scram", json=fields, headers=headers) as response:
        assert response.status == 200
        assert response.content_type == "application/json"
        answer: dict[str, Any] = await response.json()
    return answer


CASES: dict[str, tuple[str, dict[str, Any] | None]] = {
    "good": ("scram", {"scram": str(KEYS)}),
    "unknown": ("unknown_user", None),
    "disabled": ("account_disabled", {"scram": str(KEYS), "disabled": True}),
    "expired": ("account_expired", {"scram": str(KEYS), "expires_at": 1}),
    "no keys": ("unusable_hash", {}),
    "spoilt keys": ("unusable_hash", {"scram": "SCRAM-SHA-256$x"}),
    "another algorithm": ("unusable_hash", {"scram": str(scram_keys("secret", "sha512", 4096))}),
    "other iterations": ("unusable_hash", {"scram": str(scram_keys("secret", "sha256", 5000))}),
}


@pytest.mark.parametrize("name", CASES)
async def test_answers(tmp_path: Path, logged: io.StringIO, name: str) -> None:
    """Whoever may get in gets the real keys; everybody else gets keys of the same form, the same ones each time."""
    expected, account = CASES[name]
    async with scram(tmp_path) as service:
        if account is not None:
            await service.store.accounts.add([account_of("alice", "secret", **account)])
        answer = await ask(service, "alice")
        assert (await only_trace(service, logged, "scram")).reason == expected
        keys = KEYS if expected == "scram" else keys_of_nobody("alice", HOOK_KEY, "sha256", 4096)
        assert answer == {
            "stored_key": keys.stored_key.hex(),
            "server_key": keys.server_key.hex(),
            "salt": keys.salt.hex(),
        }
        assert await ask(service, "alice") == answer
    assert KEYS.stored_key.hex() not in logged.getvalue()


async def test_further_fields(tmp_path: Path) -> None:
    """The end, the attributes and a superuser are told beside the keys."""
    ends = in_seconds(600)
    async with scram(tmp_path, hooks_client_attrs={"kind": "kind"}, hooks_superusers=True) as service:
        await service.store.accounts.add([account_of("alice", "x", scram=str(KEYS), expires_at=ends, superuser=True)])
        answer = await ask(service, "alice")
        assert answer["expire_at"] == ends
        assert answer["client_attrs"] == {"kind": "device"}
        assert answer["is_superuser"] is True
        assert "result" not in answer
        assert await service.may("alice", "subscribe", "alice/#")


async def test_what_gets_no_keys(tmp_path: Path) -> None:
    """No user name, and what cannot be understood: an explicit deny, which is the same for everybody."""
    async with scram(tmp_path) as service:
        assert await ask(service, "") == {"result": "deny"}
        assert await ask(service, "a\0b") == {"result": "deny"}
        assert await ask(service, "${username}") == {"result": "deny"}


async def test_where_it_is_off(hooks: Service, logged: io.StringIO) -> None:
    """Without an algorithm there is no such hook."""
    assert await ask(hooks, "alice") == {"result": "deny"}
    assert "unknown_endpoint" in logged.getvalue()
