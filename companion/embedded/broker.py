"""The life of the embedded broker: it begins to listen, it ends with nothing left behind."""

from __future__ import annotations

from contextlib import AsyncExitStack
from importlib.util import find_spec
from types import TracebackType
from typing import Self

from companion.core.errors import CompanionError
from companion.embedded.config import EmbeddedBrokerConfig


class EmbeddedBrokerUnavailable(CompanionError):
    """amqtt, which the embedded broker is made of, is not installed."""


def require_amqtt() -> None:
    """Raise `EmbeddedBrokerUnavailable`, with a message for people, where amqtt is not installed."""
    if find_spec("amqtt") is None:
        raise EmbeddedBrokerUnavailable(
            "the embedded broker is an extra that is not installed: pip install 'mqtt-companion[embedded]'"
        )


class EmbeddedBroker:
    """An MQTT 3.1.1 broker in this process. Use as an async context manager, as often as wanted.

    Entering raises `EmbeddedBrokerUnavailable` without amqtt, and `OSError` naming host and port when it cannot listen there.
    Leaving ends every connection and waits for it; sessions and retained messages live in memory and end too.
    """

    def __init__(self, config: EmbeddedBrokerConfig) -> None:
        self._config = config
        self._stack: AsyncExitStack | None = None
        self._port: int | None = None

    @property
    def port(self) -> int:
        """The port that is listened on; raises `RuntimeError` while there is none."""
        if self._port is None:
            raise RuntimeError("the embedded broker is not running")
        return self._port

    async def __aenter__(self) -> Self:
        if self._stack is not None:
            raise RuntimeError("the embedded broker is running already")
        require_amqtt()
        # Only here: everything below imports amqtt, which is an extra.
        from companion.embedded.door import open_door  # noqa: PLC0415
        from companion.embedded.hook_client import open_hook_client  # noqa: PLC0415
        from companion.embedded.mqtt_core import MqttCore  # noqa: PLC0415

        async with AsyncExitStack() as stack:
            hooks = await stack.enter_async_context(open_hook_client(self._config))
            core = MqttCore()
            await core.start()
            stack.push_async_callback(core.shutdown)
            self._port = await stack.enter_async_context(open_door(self._config, hooks, core))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stack, self._stack, self._port = self._stack, None, None
        if stack is not None:
            await stack.aclose()
