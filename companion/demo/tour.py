"""The tour: who may connect, who is refused, who is told about a change; then the live view until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import aiohttp

from companion.core.errors import CompanionError, Transient
from companion.core.model import Audit
from companion.demo.client import ConnectionRefused, DemoClient
from companion.demo.stage import DEVICE, PERSON, Stage, client_of, staged
from companion.embedded import require_amqtt
from companion.keys import ops_keys
from companion.settings import Settings

ENTITY: Final = "65f1c0ffee0000000000d001"

_PATIENCE: Final = 30.0
_ACCEPTED: Final = 202
_LOOK_SECONDS: Final = 0.05


async def demo(settings: Settings, *, once: bool) -> None:
    """Run the demo in a folder of its own (`demo` in the data folder) until Ctrl-C, or only the tour with `once`.

    Raises `CompanionError` when something does not go as it should.
    """
    require_amqtt()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with staged(settings) as stage:
        tour = asyncio.create_task(_tour(stage, once=once))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({tour, stopped}, return_when=asyncio.FIRST_COMPLETED)
        for task in (tour, stopped):
            task.cancel()
        await asyncio.wait({tour, stopped})
        if not tour.cancelled():
            tour.result()
        stage.say("\nStopping.")


async def _tour(stage: Stage, *, once: bool) -> None:
    received: asyncio.Queue[str] = asyncio.Queue()

    def client(name: str) -> contextlib.AbstractAsyncContextManager[DemoClient]:
        def heard(topic: str, payload: bytes) -> None:
            stage.say(f"  ● {name} received {topic}  {payload.decode(errors='replace')}", "bold cyan")
            received.put_nowait(name)

        return DemoClient.connect(stage.settings.mqtt_port, client_of(name), name, stage.passwords[name], heard)

    stage.say("\n1. Connecting: the broker asks our hooks over HTTP, as EMQX does", "bold")
    async with client(DEVICE) as device, client(PERSON) as person:
        stage.good(f"{DEVICE} and {PERSON} connected with their passwords")
        await _refused_login(stage)
        await _subscriptions(stage, device, person)
        await _refused_publish(stage, device)
        stage.say(f"\n3. A change: {DEVICE} owns an entity that it shares with {PERSON}", "bold")
        await _until(lambda: _connected(stage), "the publisher connected to the broker")
        await _post_change(stage)
        async with _patience("both received the change"):
            told = {await received.get(), await received.get()}
        stage.good(f"a device received a change: {' and '.join(sorted(told))} were told")
        if not once:
            _show_commands(stage)
            await asyncio.Event().wait()


async def _refused_login(stage: Stage) -> None:
    try:
        async with DemoClient.connect(stage.settings.mqtt_port, "intruder", DEVICE, "a guess", lambda *_: None):
            raise CompanionError("a wrong password was accepted")
    except ConnectionRefused as refusal:
        stage.good(f"a wrong password was refused: {refusal}")


async def _subscriptions(stage: Stage, device: DemoClient, person: DemoClient) -> None:
    stage.say("\n2. Subscribing and publishing: a principal owns the topics below its own name", "bold")
    for name, subscriber in ((DEVICE, device), (PERSON, person)):
        if not await subscriber.subscribe(f"{name}/#"):
            raise CompanionError(f"{name} could not subscribe to its own topics")
        stage.good(f"{name} subscribed to {name}/#")
    for topic_filter in ("#", "+/#", f"{PERSON}/#"):
        if await device.subscribe(topic_filter):
            raise CompanionError(f"{DEVICE} could subscribe to {topic_filter}")
        stage.good(f"{DEVICE} was refused {topic_filter}")


async def _refused_publish(stage: Stage, device: DemoClient) -> None:
    topic = f"{PERSON}/hello"
    device.publish(topic, b"nobody may see this")

    async def audited() -> Audit | None:
        latest = await stage.service.store.audits.latest(50)
        return next((record for record in latest if record.topic == topic and record.action == "publish"), None)

    record = await _until(audited, "the refusal of the publish is in the audit")
    if record.verdict != "deny":
        raise CompanionError(f"{DEVICE} could publish to {topic}")
    stage.good(f"{DEVICE} was refused to publish to {topic} ({record.reason}, as the audit says)")


async def _connected(stage: Stage) -> bool:
    return bool(stage.service.metrics.registry.get_sample_value("companion_broker_connected"))


async def _post_change(stage: Stage) -> None:
    url = f"http://127.0.0.1:{stage.service.ops_port}/changes"
    change = {
        "op": "update",
        "db": "thing",
        "collection": "devices",
        "id": ENTITY,
        "after": {"id": ENTITY, "owner": DEVICE, "shares": [PERSON], "state": "warm"},
    }
    headers = {"Authorization": f"Bearer {ops_keys(stage.settings)[0]}"}
    async with aiohttp.ClientSession() as session, session.post(url, json=change, headers=headers) as response:
        if response.status != _ACCEPTED:
            raise CompanionError(f"the change was refused: {await response.text()}")
        stage.good(f"POST /changes answered 202: thing/devices {ENTITY} was updated")


def _show_commands(stage: Stage) -> None:
    settings, port = stage.settings, stage.settings.mqtt_port
    companion = Path(sys.executable).with_name("companion")
    with contextlib.suppress(ValueError):
        companion = companion.relative_to(Path.cwd())
    variables = f"COMPANION_DATA_DIR={shlex.quote(str(settings.data_dir))} COMPANION_OPS_PORT={settings.ops_port}"
    password = stage.passwords[PERSON]
    if shutil.which("mosquitto_sub"):
        listen = f"mosquitto_sub -h 127.0.0.1 -p {port} -i {PERSON}-2 -u {PERSON} -P {password} -q 1 -v -t"
    else:
        amqtt_sub = companion.with_name("amqtt_sub")
        listen = f"{amqtt_sub} --url mqtt://{PERSON}:{password}@127.0.0.1:{port} -i {PERSON}-2 --clean-session -q 1 -t"
    change = f"{variables} {companion} change --db thing --collection devices --id {ENTITY} --owner {DEVICE} --share {PERSON}"
    stage.say("\n4. Your turn, in a second terminal", "bold")
    for meaning, command in (
        ("listen as alice", f"{listen} '{PERSON}/#'"),
        ("be refused", f"{listen} '#'"),
        ("change the entity", change),
        (
            "see who was refused, and why",
            f"curl -s http://127.0.0.1:{settings.ops_port}/metrics | grep 'hook_decisions_total.* [1-9]'",
        ),
        ("is everything there?", f"curl -s http://127.0.0.1:{settings.ops_port}/readyz"),
    ):
        stage.say(f"\n  # {meaning}\n  {command}")
    stage.say("\nWhat happens shows below. Ctrl-C ends the demo.", "bold")


async def _until(look: Callable[[], Awaitable[Any]], what: str) -> Any:  # noqa: ANN401 - whatever `look` found
    """Look until there is something to see; raises `Transient` after a while."""
    async with _patience(what):
        while not (found := await look()):  # noqa: ASYNC110 - what is looked at lies in a store or in the broker and sets no event
            await asyncio.sleep(_LOOK_SECONDS)
        return found


@contextlib.asynccontextmanager
async def _patience(what: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(_PATIENCE):
            yield
    except TimeoutError:
        raise Transient(f"not seen within {_PATIENCE:g} s: {what}") from None
