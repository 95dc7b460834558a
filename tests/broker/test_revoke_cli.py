"""`companion revoke` as real processes, beside a service that kicks."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from companion.settings import Role
from tests.support.emqx import KEY, SECRET, Emqx, options
from tests.support.eventually import eventually
from tests.support.jwts import token
from tests.support.service import Service, account_of, serving


@dataclass(frozen=True, slots=True)
class House:
    """A service, the broker behind it, and the command line on the same data."""

    service: Service
    emqx: Emqx
    environ: dict[str, str]

    async def companion(self, *arguments: str, text: str = "", code: int = 0) -> tuple[str, str]:
        """Run a command; return what it printed on standard output and standard error."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "companion.cli", *arguments, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=self.environ
        )
        async with asyncio.timeout(60):
            output, errors = await process.communicate(text.encode())
        assert process.returncode == code, errors.decode()
        assert "Traceback" not in errors.decode()
        return output.decode(), errors.decode()

    async def revocations(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((await self.companion("revoke", "list", "--json"))[0])
        return found


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    emqx = Emqx()
    environ = {
        **os.environ,
        "COMPANION_DATA_DIR": str(tmp_path),
        "COMPANION_EMQX_API_KEY": KEY,
        "COMPANION_EMQX_API_SECRET": SECRET,
    }
    async with (
        emqx.serving() as url,
        serving(tmp_path, Role.ALL, revocation_settle=0.1, **options(url)) as service,
    ):
        await service.store.accounts.add([account_of("alice", "secret")])
        yield House(service, emqx, {**environ, "COMPANION_EMQX_URL": url})


async def test_an_account(house: House) -> None:
    """Revoked with a ban, waited for, shown and lifted; at the hooks it is felt both times."""
    house.emqx.connect("a", "alice")
    output, _ = await house.companion("revoke", "account", "alice", "--ban", "60", "--reason", "stolen", "--wait")
    assert "account alice is refused from now on" in output
    assert "kick: 1 client" in output
    assert house.emqx.clients == {}
    assert (await house.service.login("alice", "secret"))["result"] == "deny"
    (found,) = await house.revocations()
    assert (found["name"], found["reason"], found["state"]) == ("alice", "stolen", "done")
    assert found["asked_by"].startswith("cli")
    output, _ = await house.companion("revoke", "show", found["id"])
    assert all(word in output for word in ("stolen", "told", "caches", "ban", "kick", "check"))
    assert json.loads((await house.companion("revoke", "show", found["id"], "--json"))[0]) == found
    assert "stands, done" in (await house.companion("revoke", "list"))[0]
    output, _ = await house.companion("revoke", "lift", found["id"], "--wait")
    assert "is admitted again" in output
    assert house.emqx.banned == {}

    async def admitted() -> bool:
        return bool((await house.service.login("alice", "secret"))["result"] == "allow")

    await eventually(admitted, what="alice is admitted")
    assert "no waiting" not in (await house.companion("revoke", "list", "--waiting"))[0]


async def test_the_others(house: House) -> None:
    """A session, a client, a token by its jti, its digest and itself; of the last only a digest is kept and shown."""
    access = token()
    for arguments, text in (
        (("session", "s1", "--for", "900"), ""),
        (("client", "c1"), ""),
        (("token", "j1"), ""),
        (("token", "0" * 64), ""),
        (("token", "--token-file", "-"), f"{access}\n"),
    ):
        output, _ = await house.companion("revoke", *arguments, text=text)
        assert access[:20] not in output
    found = await house.revocations()
    assert [(one["target"], one["name"][:10]) for one in reversed(found)] == [
        ("session", "s1"),
        ("client", "c1"),
        ("token", "jti:j1"),
        ("token", "sha256:000"),
        ("token", found[0]["name"][:10]),
    ]
    assert found[0]["name"].startswith("sha256:")
    assert access not in json.dumps(found)
    assert found[-1]["until"] is not None


async def test_only_a_kick(house: House) -> None:
    """Clients go and may come back."""
    house.emqx.connect("a", "alice")
    output, _ = await house.companion("revoke", "kick", "alice", "--wait")
    assert "account alice is to be kicked" in output
    assert house.emqx.kicked == ["a"]
    assert (await house.service.login("alice", "secret"))["result"] == "allow"
    assert "refuses nobody, done" in (await house.companion("revoke", "list"))[0]


async def test_wrong_usage(house: House) -> None:
    """One line that says what is allowed, and an exit code; a token in the place of a name is not repeated."""
    for arguments, word in (
        (("account", ""), "name"),
        (("account", "a", "--for", "0"), "seconds"),
        (("account", "a", "--ban", "-1"), "ban"),
        (("token",), "name"),
        (("token", token()), "name"),
        (("token", "x", "--token-file", "/nowhere"), "--token-file"),
        (("lift", "nothing"), "revocation"),
        (("show", "nothing"), "revocation"),
    ):
        _, errors = await house.companion("revoke", *arguments, code=1)
        assert word in errors
        assert errors.count("\n") == 1
        assert token()[:20] not in errors
    assert await house.revocations() == []


async def test_without_the_api(house: House) -> None:
    """It is said that nobody is kicked where no API is named."""
    environ = {name: value for name, value in house.environ.items() if name != "COMPANION_EMQX_URL"}
    _, errors = await House(house.service, house.emqx, environ).companion("revoke", "account", "alice")
    assert "nobody is kicked" in errors
