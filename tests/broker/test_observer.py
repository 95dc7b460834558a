"""The observer at work in a service: what was counted, over HTTP and at the command line."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from companion.core.broker_events import BrokerEvent, EventKind
from companion.core.model import Change, ChangeOp
from companion.settings import Role
from tests.support.eventually import eventually
from tests.support.service import OPS_KEY, Service, account_of, serving

KEY = {"Authorization": f"Bearer {OPS_KEY}"}
DAY = dt.date(2026, 1, 31)
CREATED = "THING_COUNT__CREATE_METRICS"
SUMMED = "THING_SUM__CREATE_METRICS"
MEASURES = ({"kind": "sum", "collection": "thing.metrics", "field": "value"},)


def created(number: int, hour: int = 13, **document: Any) -> Change:
    at = dt.datetime(2026, 1, 31, hour, tzinfo=dt.UTC) + dt.timedelta(minutes=number)
    after = {"owner": "alice", "value": number, "created_by": "bob", **document}
    return Change(
        f"e{number}", ChangeOp.CREATE, "thing", "metrics", f"{number}", int(at.timestamp() * 1000), after=after
    )


async def stats(service: Service, **fields: str) -> tuple[int, Any]:
    async with service.http.get(f"{service.ops}/stats", params=fields, headers=KEY) as response:
        return response.status, await response.json()


async def totals(service: Service, owner: str = "alice") -> Mapping[tuple[str, str], int]:
    status, body = await stats(service, owner=owner, **{"from": "2026-01-01", "to": "2026-01-31"})
    assert status == 200
    return {(one["key"], one["flag"]): one["total"] for one in body["series"]}


async def counted(service: Service, wanted: Mapping[tuple[str, str], int], owner: str = "alice") -> None:
    """Wait until this was counted, and nothing else."""

    async def there() -> bool:
        return await totals(service, owner) == wanted

    await eventually(there, what=f"{wanted}")


async def companion(data_dir: Path, *arguments: str) -> tuple[int, str]:
    """Run a command; return its exit code and what it printed."""
    command = [sys.executable, "-m", "companion.cli", "stats", "show", *arguments]
    process = await asyncio.create_subprocess_exec(
        *command,
        env={"COMPANION_DATA_DIR": str(data_dir), "PATH": "/usr/bin:/bin", "PYTHONUTF8": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def test_from_a_change_to_a_chart(tmp_path: Path) -> None:
    """What is taken is counted once for everybody concerned, and shown; a service that is not asked to counts nothing."""
    changes = [created(number) for number in range(1, 5)]
    async with serving(tmp_path, Role.MAINTENANCE) as service:
        await service.store.inbox.append(changes[:2])
        assert await totals(service) == {}
    async with serving(tmp_path, Role.MAINTENANCE, observer=True, stats_measures=MEASURES) as service:
        await service.store.inbox.append(changes)
        await counted(service, {(CREATED, ""): 4, (SUMMED, ""): 10})
        await counted(service, {(CREATED, "actor"): 4, (SUMMED, "actor"): 10}, "bob")
        assert await service.metric("companion_stats_changes_total", reader="inbox") == 4
        assert await service.metric("companion_lease_held", lease="observer") == 1
        assert await service.metric("companion_stats_lag_seconds") > 0
        _, body = await stats(service, owner="alice", key=CREATED, **{"from": "2026-01-31", "to": "2026-01-31"})
        assert [point for point in body["series"][0]["points"] if point["value"]] == [
            {"at": "2026-01-31 13:00", "value": 4}
        ]
    # In the next life nothing is counted again.
    async with serving(tmp_path, Role.MAINTENANCE, observer=True) as service:
        await service.store.inbox.append([created(5)])
        await counted(service, {(CREATED, ""): 5, (SUMMED, ""): 10})

    days = ("--owner", "alice", "--from", "2026-01-31", "--to", "2026-02-01")
    code, text = await companion(tmp_path, *days)
    assert code == 0
    (line,) = [line for line in text.splitlines() if SUMMED in line]
    assert "owner" in line
    assert "10" in line
    assert "█" * 40 in line
    code, text = await companion(tmp_path, *days, "--key", CREATED, "--by", "day")
    assert code == 0
    assert text.startswith(f"{CREATED} of 'alice', 2026-01-31 to 2026-02-01\n5 in all")
    charted = {line.split()[0]: "█" * 40 in line for line in text.splitlines() if line.split()[0].startswith("2026-")}
    assert charted == {"2026-01-31": True, "2026-02-01": False}
    code, text = await companion(tmp_path, *days, "--json")
    assert [one["total"] for one in json.loads(text)["series"]] == [5, 10]
    code, text = await companion(tmp_path, "--owner", "nobody", "--from", "2026-01-31", "--to", "2026-01-31")
    assert (code, text) == (0, "nothing was counted for 'nobody' from 2026-01-31 to 2026-01-31\n")
    code, text = await companion(tmp_path, "--owner", "alice", "--by", "week")
    assert code == 1
    assert text.startswith("companion: by: 'week' is not allowed")


async def test_decisions(tmp_path: Path) -> None:
    """What the hooks decide is counted by verdict and reason, for all and for users that there are."""
    async with serving(tmp_path, Role.ALL, observer=True) as service:
        await service.store.accounts.add([account_of("alice", "secret")])
        for name, password in (("alice", "secret"), ("alice", "wrong"), ("mallory", "secret")):
            await service.login(name, password)
        await service.may("alice", "publish", "nowhere")
        await service.audits(4)
        today = dt.datetime.now(dt.UTC).date()
        days = {"from": (today - dt.timedelta(1)).isoformat(), "to": (today + dt.timedelta(1)).isoformat()}

        async def found(owner: str) -> Mapping[str, int]:
            _, body = await stats(service, owner=owner, **days)
            return {one["key"].removeprefix("HOOKS_COUNT__"): one["total"] for one in body["series"]}

        async def all_counted() -> bool:
            return sum((await found("hooks")).values()) == 2 * 4

        await eventually(all_counted, what="every decision is counted")
        assert await found("hooks") == {
            "ALLOW_AUTH": 1,
            "ALLOW_AUTH_PASSWORD": 1,
            "DENY_AUTH": 2,
            "DENY_AUTH_UNKNOWN_USER": 1,
            "DENY_AUTH_WRONG_PASSWORD": 1,
            "DENY_AUTHZ": 1,
            "DENY_AUTHZ_NO_RULE": 1,
        }
        assert (await found("alice"))["DENY_AUTH"] == 1
        assert await found("mallory") == {}


async def test_events(tmp_path: Path) -> None:
    """What the broker tells is counted by what it is and why, for the broker and for who was let in, each event once."""
    at = int(dt.datetime(2026, 1, 31, 13, tzinfo=dt.UTC).timestamp() * 1000)

    def event(number: int, kind: EventKind, reason: str = "") -> BrokerEvent:
        return BrokerEvent(f"{number}", kind, at, "c1", "alice", "p1", reason=reason, connected_at=at)

    told = [
        event(1, EventKind.CONNECTED),
        event(2, EventKind.DISCONNECTED, "keepalive_timeout"),
        event(3, EventKind.DISCONNECTED, "something new"),
        event(4, EventKind.CONNACK, "banned"),
        event(5, EventKind.CONNACK, "success"),
        event(6, EventKind.PUBLISHED),
        event(7, EventKind.PUBLISHED),
        event(8, EventKind.DROPPED, "no_subscribers"),
        event(9, EventKind.AUTHORIZED, "allow"),
        event(10, EventKind.AUTHENTICATED, "success"),
        event(11, EventKind.SUBSCRIBED),
    ]
    async with serving(tmp_path, Role.MAINTENANCE, observer=True) as service:
        await service.store.presence.take(told[:6])
        await service.store.presence.take(told)
        own = {
            "CONNECT_CLIENTS": 1,
            "DISCONNECT_CLIENTS": 2,
            "DISCONNECT_CLIENTS_KEEPALIVE_TIMEOUT": 1,
            "DISCONNECT_CLIENTS_OTHER": 1,
            "PUBLISH_MESSAGES": 2,
            "DROP_MESSAGES": 1,
            "DROP_MESSAGES_NO_SUBSCRIBERS": 1,
            "SUBSCRIBE_TOPICS": 1,
        }
        refused = {"REFUSE_CLIENTS": 1, "REFUSE_CLIENTS_BANNED": 1}
        keyed = {(f"MQTT_COUNT__{name}", ""): count for name, count in (own | refused).items()}
        await counted(service, keyed, "broker")
        await counted(service, {key: keyed[key] for key in keyed if "REFUSE" not in key[0]}, "p1")
        assert await service.metric("companion_stats_changes_total", reader="events") == 8


async def test_two_replicas(tmp_path: Path) -> None:
    """Of two one counts; when it stops, the other goes on at once, and every change is counted once."""
    options: dict[str, Any] = {"observer": True, "observer_lease": 5.0}
    async with serving(tmp_path, Role.MAINTENANCE, **options) as second:
        async with serving(tmp_path, Role.MAINTENANCE, **options) as first:
            held = [await one.metric("companion_lease_held", lease="observer") for one in (first, second)]
            assert sum(held) <= 1
            await first.store.inbox.append([created(number) for number in range(1, 4)])
            await counted(first, {(CREATED, ""): 3})
            await counted(second, {(CREATED, ""): 3})
        await second.store.inbox.append([created(4)])
        await counted(second, {(CREATED, ""): 4})


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "owner"),
        ({"owner": "a", "from": "x"}, "from"),
        ({"owner": "a", "by": "week"}, "by"),
        ({"owner": "a", "colour": "red"}, "colour"),
    ],
)
async def test_bad_requests(tmp_path: Path, fields: Mapping[str, str], field: str) -> None:
    """A 422 that names what is wrong."""
    async with serving(tmp_path, Role.MAINTENANCE) as service:
        status, body = await stats(service, **fields)
        assert (status, body["field"]) == (422, field)


async def test_without_a_key(tmp_path: Path) -> None:
    """Nobody sees statistics without an operations key."""
    async with (
        serving(tmp_path, Role.MAINTENANCE) as service,
        service.http.get(f"{service.ops}/stats", params={"owner": "alice"}) as response,
    ):
        assert response.status == 401
        assert response.headers["WWW-Authenticate"] == "Bearer"
