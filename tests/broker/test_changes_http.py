"""`POST /changes`: what is taken, what is answered, and who is refused; over real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from companion.core.model import Change, ChangeOp
from companion.settings import Role
from publishers import changes_api
from tests.support.eventually import eventually
from tests.support.raw_http import connected, exchange, request
from tests.support.service import HOOK_KEY, OPS_KEY, Service, serving
from tests.support.traces import lines

GOOD: dict[str, Any] = {"op": "update", "db": "thing", "collection": "devices", "id": "d1"}


@pytest.fixture
async def publisher(tmp_path: Path, logged: io.StringIO) -> AsyncIterator[Service]:
    """Run the publisher, without a broker: every change has a topic, so what was taken waits in the inbox."""
    del logged
    async with serving(tmp_path, Role.PUBLISHER, publisher_topics=("{db}/{id}",), shutdown_deadline=0.1) as service:
        yield service


async def taken(service: Service) -> list[Change]:
    return [item.change for item in await service.store.inbox.read(0, 100_000)]


async def test_a_change_in_full(publisher: Service) -> None:
    """Every field is kept as it was sent, durably, before the 202."""
    before, after = {"owner": "o1", "shares": ["p1"]}, {"owner": "o2", "n": [1, 2.5, None, {"é": "🦔"}]}
    content = GOOD | {"event_id": "e1", "op": "restore", "at": 1_700_000_000_123, "before": before, "after": after}
    assert await publisher.change(content) == (
        202,
        {"accepted": 1, "duplicates": 0, "unrouted": 0, "event_ids": ["e1"]},
    )
    wanted = Change("e1", ChangeOp.RESTORE, "thing", "devices", "d1", 1_700_000_000_123, before, after)
    assert await taken(publisher) == [wanted]


async def test_a_change_in_short(publisher: Service) -> None:
    """What is left out, or null, is filled in: a new event id, the time of now, no documents."""
    earliest = int(time.time() * 1000)
    nulls = {"event_id": None, "at": None, "before": None, "after": None}
    answers = [await publisher.change(GOOD | more) for more in ({}, nulls)]
    assert [(status, answer["accepted"], answer["unrouted"]) for status, answer in answers] == [(202, 1, 0)] * 2
    first, second = await taken(publisher)
    assert [one.event_id for one in (first, second)] == [answer["event_ids"][0] for _, answer in answers]
    assert first.event_id != second.event_id
    for change in (first, second):
        assert earliest <= change.at <= int(time.time() * 1000)
        assert (change.before, change.after) == (None, None)


async def test_a_batch(publisher: Service) -> None:
    """A list of up to the configured number is taken in its order; each entry is counted as new or known."""
    batch = [GOOD | {"event_id": f"e{number}"} for number in (*range(999), 5)]
    status, answer = await publisher.change(batch)
    assert (status, answer["accepted"], answer["duplicates"], answer["unrouted"]) == (202, 999, 1, 0)
    assert answer["event_ids"] == [change["event_id"] for change in batch]
    assert [change.event_id for change in await taken(publisher)] == [f"e{number}" for number in range(999)]
    assert (await publisher.change(batch))[1]["duplicates"] == 1000
    for outcome, count in (("accepted", 999), ("duplicate", 1001), ("rejected", 0)):
        assert await publisher.metric("companion_changes_taken_total", outcome=outcome) == count


async def test_the_same_change_from_many_at_once(publisher: Service) -> None:
    """Of many who send one event at the same time one is told that it is new."""
    answers = await asyncio.gather(*(publisher.change(GOOD | {"event_id": "e1"}) for _ in range(20)))
    assert sorted(answer["accepted"] for _, answer in answers) == [0] * 19 + [1]
    assert {status for status, _ in answers} == {202}
    assert len(await taken(publisher)) == 1


async def test_changes_that_concern_nobody(tmp_path: Path) -> None:
    """With the platform's topics a change without an owner, shares and clients has no topic; its sender is told."""
    async with serving(tmp_path, Role.PUBLISHER, shutdown_deadline=0.1) as service:
        owned = GOOD | {"before": {"owner": "o1"}}
        status, answer = await service.change([GOOD, owned, GOOD | {"after": {"owner": ""}}, GOOD | {"after": {}}])
        assert (status, answer["accepted"], answer["unrouted"]) == (202, 4, 3)


async def test_a_batch_that_keeps_us_busy(tmp_path: Path) -> None:
    """While a batch with a hundred thousand topics is worked through, others are answered."""
    many = {"shares": [f"p{number}" for number in range(200)], "clients": ["c1", "c2", "c3", "c4"]}
    async with serving(tmp_path, Role.PUBLISHER) as service:
        # The last one is refused, and the batch with it: publishing them is not what this is about.
        too_many = many | {"groups": [f"g{number}" for number in range(500)]}
        batch = [GOOD | {"after": many}] * 100 + [GOOD | {"after": too_many}]
        posting = asyncio.create_task(service.change(batch))
        answered = 0
        while not posting.done():
            async with service.http.get(f"{service.ops}/healthz") as response:
                answered += response.status == 200
        assert (await posting)[0] == 422
        assert answered > 10


@pytest.mark.parametrize("op", ChangeOp)
async def test_every_op(publisher: Service, op: ChangeOp) -> None:
    """Each of the five operations is taken."""
    assert (await publisher.change(GOOD | {"op": op.value}))[0] == 202
    assert [change.op for change in await taken(publisher)] == [op]


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json; charset=utf-8", "APPLICATION/JSON", ""]
)
async def test_content_types(publisher: Service, content_type: str) -> None:
    """JSON is JSON with a parameter, in capitals, and when nobody says what it is."""
    encoded = request("/changes", json.dumps(GOOD).encode(), key=OPS_KEY, content_type=content_type)
    assert (await exchange(publisher.running.ops_port, encoded)).status == 202


# Keys


@pytest.mark.parametrize("key", ["", HOOK_KEY, f"{OPS_KEY}x"])
async def test_without_a_valid_key(publisher: Service, key: str) -> None:
    """Whoever has no key of this port gets 401, his change is not taken, and his body is not waited for."""
    head = request("/changes", key=key, headers=("Content-Length: 1000000",))
    answer = await exchange(publisher.running.ops_port, head)
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert set(answer.json()) == {"error"}
    assert await publisher.metric("companion_http_unauthorized_total", port="ops") == 1
    assert await taken(publisher) == []


async def test_each_key_of_a_rotation(tmp_path: Path) -> None:
    """While a key is being replaced the old and the new one are both good."""
    keys = (SecretStr(OPS_KEY), SecretStr("another-key-for-the-rotation"))
    async with serving(tmp_path, Role.PUBLISHER, ops_keys=keys) as service:
        for key in keys:
            encoded = request("/changes", json.dumps(GOOD).encode(), key=key.get_secret_value())
            assert (await exchange(service.running.ops_port, encoded)).status == 202


async def test_what_needs_no_key(publisher: Service) -> None:
    """Metrics and health are for whoever reaches the port; other methods and paths are not there."""
    for path, status in (("/metrics", 200), ("/healthz", 200), ("/readyz", 503), ("/changes", 405), ("/nothing", 404)):
        async with publisher.http.get(f"{publisher.ops}{path}") as response:
            assert (path, response.status) == (path, status)


async def test_a_process_without_a_publisher_takes_none(hooks: Service) -> None:
    """Where nobody would publish it, a change is not taken."""
    encoded = request("/changes", json.dumps(GOOD).encode(), key=OPS_KEY)
    assert (await exchange(hooks.running.ops_port, encoded)).status == 404


# Expectations (RFC 9110 §10.1.1)


async def test_a_caller_who_asks_first(publisher: Service) -> None:
    """Who expects to be told gets 100 before the body and 202 behind it."""
    body = json.dumps(GOOD).encode()
    head = request("/changes", key=OPS_KEY, headers=("Expect: 100-continue", f"Content-Length: {len(body)}"))
    async with connected(publisher.running.ops_port) as connection:
        await connection.send(head)
        assert (await connection.answer()).status == 100
        await connection.send(body)
        assert (await connection.answer()).status == 202


@pytest.mark.parametrize(
    ("key", "length", "expectation", "status"),
    [
        ("wrong", 2, "100-continue", 401),
        (OPS_KEY, 10_000_000, "100-continue", 413),
        (OPS_KEY, 2, "200-perhaps", 417),
    ],
)
async def test_a_caller_who_asks_in_vain(
    publisher: Service, key: str, length: int, expectation: str, status: int
) -> None:
    """Who would be refused anyway is refused before the body is sent."""
    head = request("/changes", key=key, headers=(f"Expect: {expectation}", f"Content-Length: {length}"))
    answer = await exchange(publisher.running.ops_port, head)
    assert answer.status == status
    assert set(answer.json()) == {"error"}


# What goes wrong


async def test_a_caller_who_falls_silent(publisher: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that does not come is not waited for without end."""
    monkeypatch.setattr(changes_api, "_DEADLINE", 0.2)
    head = request("/changes", b'{"op":', key=OPS_KEY, headers=("Content-Length: 100",))
    answer = await exchange(publisher.running.ops_port, head)
    assert answer.status == 408
    assert "0.2 s" in answer.json()["error"]


async def test_a_caller_who_leaves(publisher: Service, logged: io.StringIO) -> None:
    """A connection that ends in the middle of a body leaves no change, and no fault of ours in the log."""
    async with connected(publisher.running.ops_port) as connection:
        await connection.send(request("/changes", b'{"op":', key=OPS_KEY, headers=("Content-Length: 100",)))
        # Once the next caller has an answer, the first one's beginning has been read.
        assert (await exchange(publisher.running.ops_port, request("/changes", key="no key"))).status == 401

    async def refused() -> bool:
        return await publisher.metric("companion_changes_taken_total", outcome="rejected") == 1

    await eventually(refused, what="the change is refused")
    assert await taken(publisher) == []
    assert not [line for line in lines(logged) if line["level"] == "error"]


async def test_a_store_that_fails(publisher: Service) -> None:
    """What cannot be stored is answered with 503: the sender keeps it and comes again."""
    await asyncio.to_thread(_break_store, publisher.settings.data_dir)
    answer = await exchange(publisher.running.ops_port, request("/changes", json.dumps(GOOD).encode(), key=OPS_KEY))
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert answer.json() == {"error": "the changes were not stored: embedded store: no such table: inbox"}


def _break_store(data_dir: Path) -> None:
    with contextlib.closing(sqlite3.connect(data_dir / "companion.sqlite3")) as connection:
        connection.execute("ALTER TABLE inbox RENAME TO gone")
