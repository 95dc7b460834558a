"""The measure of the publisher: gmqtt alone, publishing ready messages at QoS 1 with a window, in a process of its own."""

from __future__ import annotations

import asyncio
import sys
import time

import msgspec
from gmqtt import Client
from gmqtt.storage import PersistentStorage

from benchmarks._processes import call
from companion.background import run


class Raw(msgspec.Struct, frozen=True):
    """How many messages to publish where, and how many of them may be unacknowledged."""

    port: int
    messages: int
    window: int


def messages_per_second(raw: Raw) -> float:
    """Publish in a process of its own and return the rate, from the first PUBLISH to the last PUBACK."""
    return float(call(__spec__.name, msgspec.json.encode(raw)))


class _InFlight(PersistentStorage):  # type: ignore[misc] # gmqtt ships no types
    """What is unacknowledged: gmqtt stores a message when it sends it and removes it on its PUBACK."""

    def __init__(self) -> None:
        super().__init__()
        self.removed = asyncio.Event()

    def remove_message_by_mid(self, mid: int) -> None:
        """See gmqtt."""
        super().remove_message_by_mid(mid)
        self.removed.set()

    def count(self) -> int:
        """Return how many they are."""
        return len(self._messages)


async def _publish(raw: Raw) -> float:
    in_flight = _InFlight()
    client = Client("benchmark-raw", persistent_storage=in_flight)
    await client.connect("127.0.0.1", raw.port)
    started = time.perf_counter()
    for number in range(raw.messages):
        while in_flight.count() >= raw.window:
            in_flight.removed.clear()
            await in_flight.removed.wait()
        client.publish(
            f"64b7f0c2a{number % 1000:015x}/thing/66a1d9e4b{number % 1000:015x}/devices",
            b'{"id":"66a1d9e4b000000000000000","op":"u","src":"thing/devices","event_id":"0192e0a4-7d1c-7c5e-8a7b-3f1f0c9d2e11"}',
            qos=1,
            content_type="application/json",
            message_expiry_interval=604_800,
            user_property=[("event-id", "0192e0a4-7d1c-7c5e-8a7b-3f1f0c9d2e11"), ("op", "update")],
        )
    await in_flight.wait_empty()
    seconds = time.perf_counter() - started
    await client.disconnect()
    return raw.messages / seconds


if __name__ == "__main__":
    print(run(_publish(msgspec.json.decode(sys.stdin.buffer.read(), type=Raw))))
