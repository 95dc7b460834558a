"""Presence on a retained topic, through a real broker that comes and goes."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from companion.core.broker_events import BrokerEvent, EventKind
from companion.core.errors import Invalid, Transient
from companion.core.presence import Present
from companion.core.presence_topics import parse, topic_of
from companion.settings import Role, Settings
from tests.support.eventually import eventually
from tests.support.mosquitto import Mosquitto
from tests.support.service import Service, serving
from tests.support.subscriber import Inbox, subscriber
from tests.support.waiting import wait_until

NOW = int(time.time() * 1000)
TOPIC = "{identity}/{session}/status"


def connected(client_id: str, at: int = NOW, principal: str = "alice") -> BrokerEvent:
    return BrokerEvent(
        f"c {client_id} {at}", EventKind.CONNECTED, at, client_id, principal, principal, connected_at=at, peer="p"
    )


def disconnected(client_id: str, began: int = NOW, principal: str = "alice") -> BrokerEvent:
    return BrokerEvent(
        f"d {client_id} {began}",
        EventKind.DISCONNECTED,
        began + 5,
        client_id,
        principal,
        principal,
        connected_at=began,
        disconnected_at=began + 5,
        peer="p",
        reason="normal",
    )


def shown(inbox: Inbox, topic: str) -> Sequence[tuple[str, int]]:
    """Return what was shown on a topic, in order."""
    bodies = [json.loads(one.payload) for one in inbox.messages if one.topic == topic]
    return [(body["status"], body["connections"]) for body in bodies]


async def told(service: Service) -> None:
    """Wait until all is shown."""

    async def done() -> bool:
        return not await service.store.presence.untold(1)

    await eventually(done, 30, "presence is shown")


def publishing(tmp_path: Path, broker: Mosquitto, **more: Any) -> Any:
    settings = {"mqtt_port": broker.port, "presence_topic": TOPIC, "publisher_lease": 2.0, "shutdown_deadline": 1.0}
    return serving(tmp_path, Role.PUBLISHER, **settings | more)


async def test_who_is_there(tmp_path: Path) -> None:
    """The topic of a session says online while it has a connection, whichever ends, and whoever asks later hears it too."""
    async with Mosquitto() as broker, publishing(tmp_path, broker) as service, subscriber(broker.port) as inbox:
        take = service.store.presence.take
        await take([connected("s1:a")])
        await wait_until(lambda: shown(inbox, "alice/s1/status") == [("online", 1)], 30)
        await take([connected("s1:b"), connected("s2:a")])
        await take([disconnected("s1:b")])
        await told(service)
        await wait_until(lambda: shown(inbox, "alice/s1/status")[-1:] == [("online", 1)], 30)
        # The client id now belongs to somebody else: who had it is not said to be there any more.
        await take([connected("s1:a", NOW + 10, "a/b")])
        await wait_until(lambda: shown(inbox, "a%2Fb/s1/status") == [("online", 1)], 30)
        await wait_until(lambda: shown(inbox, "alice/s1/status")[-1:] == [("offline", 0)], 30)
        await take([connected("s1:c"), disconnected("s2:a")])
        await told(service)
        await wait_until(lambda: shown(inbox, "alice/s2/status")[-1:] == [("offline", 0)], 30)
        await wait_until(lambda: shown(inbox, "alice/s1/status")[-1:] == [("online", 1)], 30)
        async with subscriber(broker.port, "alice/+/status", client_id="later") as later:
            await wait_until(lambda: len(later.messages) == 2, 30)
            assert {one.topic: json.loads(one.payload)["status"] for one in later.messages} == {
                "alice/s1/status": "online",
                "alice/s2/status": "offline",
            }
            assert all(one.properties["retain"] for one in later.messages)
        assert await service.metric("companion_presence_shown_total") >= 5


async def test_a_broker_that_is_away(tmp_path: Path) -> None:
    """What changes while the broker is away is shown when it is back; the last state is the one that stays."""
    async with Mosquitto(autostart=False) as broker, publishing(tmp_path, broker) as service:
        await service.store.presence.take([connected("s1:a"), disconnected("s1:a"), connected("s2:a")])
        await broker.start()
        await told(service)
        async with subscriber(broker.port, "alice/+/status") as inbox:
            await wait_until(lambda: len(inbox.messages) == 2, 30)
            assert shown(inbox, "alice/s1/status") == [("offline", 0)]
            assert shown(inbox, "alice/s2/status") == [("online", 1)]


async def test_a_publisher_that_ends_before_it_could_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was shown and not noted is shown again by the next, until it is noted."""
    async with Mosquitto() as broker, subscriber(broker.port) as inbox:
        async with publishing(tmp_path, broker) as service:
            with monkeypatch.context() as patch:

                async def away(*_: object) -> None:
                    raise Transient("store: away")

                patch.setattr(type(service.running.store.presence), "told", away)
                await service.store.presence.take([connected("s1:a")])
                await wait_until(lambda: len(shown(inbox, "alice/s1/status")) >= 2, 30)
        async with publishing(tmp_path, broker) as service:
            await told(service)
            await service.store.presence.take([disconnected("s1:a")])
            await told(service)
        await wait_until(lambda: shown(inbox, "alice/s1/status")[-1] == ("offline", 0), 30)


async def test_off_by_default(tmp_path: Path) -> None:
    """Without the setting nothing is shown; a client without a name has no topic with it."""
    async with Mosquitto() as broker, subscriber(broker.port) as inbox:
        async with publishing(tmp_path, broker, presence_topic="") as service:
            await service.store.presence.take([connected("s1:a")])
            assert len(await service.store.presence.untold(10)) == 1
        async with publishing(tmp_path, broker) as service:
            await service.store.presence.take([connected("nameless", principal="")])
            await told(service)
        await wait_until(lambda: shown(inbox, "alice/s1/status") == [("online", 1)], 30)
        assert len(inbox.messages) == 1


def test_templates() -> None:
    """A topic is by principal, session and client; what would mix up people, or is no topic, is refused."""
    one = Present("s1:x", "u", "alice")
    assert topic_of(parse("presence/{identity}/{client}"), one) == "presence/alice/s1:x"
    assert topic_of(parse(TOPIC), one) == "alice/s1/status"
    for wrong in ("{session}/status", "{identity}/#", "{owner}", "status", "{identity}{session}"):
        with pytest.raises(Invalid, match="presence_topic"):
            parse(wrong)
        with pytest.raises(Invalid, match="presence_topic"):
            Settings(presence_topic=wrong)
