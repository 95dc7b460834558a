"""The port `Presence`."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from companion.cleaning import PLATFORM
from companion.core.broker_events import BrokerEvent, EventKind
from companion.core.errors import CompanionError
from companion.core.ports import Selection, Store
from companion.core.presence import Present
from tests.support.adapters import Open
from tests.support.entities import HOSTILE

PORTS = {"presence"}
NEVER = 2**52


def connected(client_id: str, at: int = 1000, username: str = "alice", **more: object) -> BrokerEvent:
    event = BrokerEvent(
        f"c-{client_id}-{at}",
        EventKind.CONNECTED,
        at,
        client_id,
        username,
        username,
        "emqx@1",
        "10.0.0.1:5",
        connected_at=at,
        protocol=5,
        keepalive=60,
        clean_start=True,
    )
    return replace(event, **more)  # type: ignore[arg-type]


def disconnected(client_id: str, began: int = 1000, at: int = 2000, username: str = "alice") -> BrokerEvent:
    return replace(
        connected(client_id, began, username),
        id=f"d-{client_id}-{at}",
        kind=EventKind.DISCONNECTED,
        at=at,
        disconnected_at=at,
        reason="normal",
    )


async def clients(store: Store, **query: object) -> list[str]:
    return [one.client_id for one in await store.presence.list(**query)]  # type: ignore[arg-type]


async def test_every_field_comes_back(store: Store) -> None:
    """What was told is what is found, while it is connected and afterwards."""
    assert list(await store.presence.list()) == []
    assert list(await store.presence.take([])) == []
    assert list(await store.presence.take([connected("c1")])) == ["c-c1-1000"]
    wanted = Present("c1", "alice", "alice", 1000, "10.0.0.1:5", "emqx@1", 5, 60, True, True)  # noqa: FBT003 - by position
    assert list(await store.presence.list()) == [wanted]
    await store.presence.take([disconnected("c1")])
    ended = replace(wanted, ended_at=2000, ended_for="normal", revision=2)
    assert list(await store.presence.list()) == [ended]
    await store.presence.take([replace(disconnected("c2"), connected_at=None, protocol=None, clean_start=None)])
    (_, other) = await store.presence.list()
    assert (other.gone_at, other.gone_for, other.protocol, other.clean_start) == (2000, "normal", None, None)


async def test_what_comes_again_is_known(store: Store, other: Store) -> None:
    """An event is new once, whoever takes it and however often, also within one call."""
    events = [connected("c1"), connected("c1"), disconnected("c1")]
    assert sorted(await store.presence.take(events)) == ["c-c1-1000", "d-c1-2000"]
    assert list(await other.presence.take(events)) == []
    assert list(await other.presence.take([connected("c1"), connected("c2")])) == ["c-c2-1000"]
    assert [one.online for one in await store.presence.list()] == [False, True]


async def test_one_principal_many_clients(store: Store) -> None:
    """Connections of one principal do not hide each other; look-ups go by principal, client and state, page by page."""
    await store.presence.take([connected(f"c{number}") for number in range(5)])
    await store.presence.take([connected("x", username="bob"), disconnected("c2")])
    assert await clients(store, principal="alice") == ["c0", "c1", "c2", "c3", "c4"]
    assert await clients(store, principal="alice", online=True) == ["c0", "c1", "c3", "c4"]
    assert await clients(store, online=False) == ["c2"]
    assert await clients(store, client_id="x") == ["x"]
    assert await clients(store, client_id="x", principal="alice") == []
    assert await clients(store, limit=2) == ["c0", "c1"]
    assert await clients(store, limit=2, after="c1") == ["c2", "c3"]


async def test_principals_are_what_they_are(store: Store) -> None:
    """Names that look alike are told apart."""
    for number, name in enumerate(HOSTILE):
        await store.presence.take([connected(name, 1000 + number, username=name)])
    for number, name in enumerate(HOSTILE):
        (found,) = await store.presence.list(client_id=name)
        assert (found.connected_at, found.principal) == (1000 + number, name)
        assert await clients(store, principal=name) == [name]


async def test_two_at_once(store: Store, other: Store) -> None:
    """Events of one client that two processes take at once lead to where any order leads."""
    lives = [(connected("c1", at), disconnected("c1", at, at + 5)) for at in range(1000, 1200, 10)]
    takes = [
        (store, other)[number % 2].presence.take([event])
        for number, event in enumerate(event for life in lives for event in reversed(life))
    ]
    assert all(len(new) == 1 for new in await asyncio.gather(*takes))
    (found,) = await store.presence.list()
    assert (found.connected_at, found.disconnected_at, found.seen) == (1190, 1195, True)


async def test_telling(store: Store) -> None:
    """What changed is untold until it was told, and what has changed meanwhile stays untold."""
    await store.presence.take([connected("c1"), connected("c2")])
    assert [one.client_id for one in await store.presence.untold(1)] != []
    untold = await store.presence.untold(10)
    assert sorted(one.client_id for one in untold) == ["c1", "c2"]
    await store.presence.take([disconnected("c1")])
    await store.presence.told(untold)
    await store.presence.told([])
    (left,) = await store.presence.untold(10)
    assert (left.client_id, left.online) == ("c1", False)
    await store.presence.told([left])
    assert list(await store.presence.untold(10)) == []
    await store.presence.take([connected("c2")])
    assert list(await store.presence.untold(10)) == []


async def test_pruning(store: Store) -> None:
    """Old events go, as many as asked for; who is connected stays."""
    await store.presence.take([connected(f"c{number}") for number in range(5)])
    assert await store.presence.prune(0, None, 10) == 0
    assert [await store.presence.prune(NEVER, None, limit, dry=True) for limit in (3, 100)] == [3, 5]
    assert [await store.presence.prune(NEVER, None, 3) for _ in range(3)] == [3, 2, 0]
    assert len(await store.presence.list()) == 5


async def test_what_cannot_be_stored(store: Store) -> None:
    """Text that is no UTF-8 is refused with an error of ours, and nothing of the call is taken."""
    with pytest.raises(CompanionError):
        await store.presence.take([connected("c1"), connected("\ud800")])
    assert list(await store.presence.take([connected("c1")])) == ["c-c1-1000"]


async def test_after_reopening(open_store: Open) -> None:
    """A store that is opened later knows all of it."""
    async with open_store() as store:
        await store.presence.take([connected("c1")])
    async with open_store() as store:
        assert list(await store.presence.take([connected("c1")])) == []
        assert await clients(store) == ["c1"]


async def test_long_gone_clients_are_due(store: Store) -> None:
    """By the cleaner's own policy who went long ago is due, and nobody who is there, however long."""
    policy = PLATFORM["presence"]
    at = 1_700_000_000_000
    await store.presence.take([connected("there", at), connected("gone", at), disconnected("gone", at, at + 5)])
    for before, due in ((at, 0), (at + 5, 0), (at + 6, 1), (at * 2, 1)):
        selection = Selection(policy.time, before, policy.query, policy.hold)
        await store.documents.check(policy.collection, selection)
        assert await store.documents.count_due(policy.collection, selection) == due
