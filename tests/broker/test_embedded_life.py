"""The embedded broker starts, stops and says why when it cannot."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from companion.core.errors import Invalid
from companion.embedded import EmbeddedBroker, EmbeddedBrokerConfig
from tests.broker.embedded_client import Will, client
from tests.broker.embedded_hooks import Reply, nothing_left, running_hooks
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]


async def test_it_starts_and_stops_on_the_same_port_again_and_again() -> None:
    """Three lives of one object on one port, each ended with a client inside; no will is asked about at the end."""
    async with nothing_left(), running_hooks() as hooks:
        broker = EmbeddedBroker(EmbeddedBrokerConfig(port=0, hooks_url=hooks.url))
        async with broker:
            port = broker.port
        broker = EmbeddedBroker(EmbeddedBrokerConfig(port=port, hooks_url=hooks.url))
        for _ in range(3):
            async with broker, client(port) as device, client(port) as silent:
                assert await device.connect("device", will=Will("will")) == 0
                assert await device.subscribe(("a", 1)) == [1]
                await device.publish("a", qos=1)
                await broker.__aexit__(None, None, None)
                await device.closed()
                await silent.closed()
        assert hooks.questions == [("subscribe", "a"), ("publish", "a")] * 3


async def test_it_stops_while_questions_are_open() -> None:
    """A login and a publish that wait for hooks which never answer do not hold the end up beyond the deadline."""
    never = asyncio.Event()
    async with nothing_left(), running_hooks() as hooks:
        config = EmbeddedBrokerConfig(port=0, hooks_url=hooks.url, request_timeout=1.0)
        async with EmbeddedBroker(config) as broker, client(broker.port) as device, client(broker.port) as late:
            assert await device.connect("device") == 0
            hooks.answer = lambda _: Reply(hold=never)
            await device.publish("a", qos=1)
            late.send(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01a")
            await wait_until(lambda: len(hooks.asked) == 3)
            await broker.__aexit__(None, None, None)
            assert await late.closed() == b""


async def test_a_port_that_is_taken_is_named() -> None:
    """The error names host and port, and the broker can be started once the port is free."""
    async with nothing_left(), running_hooks() as hooks:
        second = EmbeddedBroker(EmbeddedBrokerConfig(port=hooks.port, hooks_url=hooks.url))
        with pytest.raises(OSError, match=f"127.0.0.1:{hooks.port}"):
            await second.__aenter__()
    async with second:
        assert second.port == hooks.port


async def test_it_is_started_once() -> None:
    """A second start of a running broker is an error, and so is a port of a broker that does not run."""
    broker = EmbeddedBroker(EmbeddedBrokerConfig(port=0))
    with pytest.raises(RuntimeError, match="not running"):
        _ = broker.port
    async with broker:
        with pytest.raises(RuntimeError, match="running already"):
            await broker.__aenter__()
        assert broker.port
    with pytest.raises(RuntimeError, match="not running"):
        _ = broker.port


async def test_hooks_that_answer_again_are_told_about(capsys: pytest.CaptureFixture[str]) -> None:
    """The log says when nobody gets a verdict and when that ends, once each, with the reason."""
    async with (
        nothing_left(),
        running_hooks() as hooks,
        EmbeddedBroker(EmbeddedBrokerConfig(port=0, hooks_url=hooks.url)) as broker,
    ):
        for status in (200, 503, 503, 200, 200):
            hooks.answer = lambda _, status=status: Reply(status=status)  # type: ignore[misc]  # a default binds
            async with client(broker.port) as device:
                assert await device.connect("device") == (0 if status == 200 else 5)
    said = "".join(capsys.readouterr())
    assert said.count("HTTP 503") == 1
    assert said.count("answer again") == 1


def test_without_amqtt_it_says_what_to_install() -> None:
    """The package can be imported without amqtt; starting a broker names the extra."""
    program = (
        "import asyncio, sys\n"
        "sys.modules['amqtt'] = None\n"
        "from companion.embedded import EmbeddedBroker, EmbeddedBrokerConfig, EmbeddedBrokerUnavailable\n"
        "try:\n"
        "    asyncio.run(EmbeddedBroker(EmbeddedBrokerConfig()).__aenter__())\n"
        "except EmbeddedBrokerUnavailable as problem:\n"
        "    print(problem)\n"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True, text=True, check=True, cwd=ROOT, env=os.environ, timeout=60,
    )  # fmt: skip
    assert "pip install 'mqtt-companion[embedded]'" in result.stdout
    assert result.stderr == ""


def test_a_process_ends_without_a_warning() -> None:
    """With every warning an error and asyncio in debug mode, start, refused client and stop say nothing; uvloop as well."""
    program = (
        "import asyncio, sys\n"
        "from companion.embedded import EmbeddedBroker, EmbeddedBrokerConfig\n"
        "async def main():\n"
        "    asyncio.get_running_loop().slow_callback_duration = 60\n"
        "    async with EmbeddedBroker(EmbeddedBrokerConfig(port=0, hooks_url='http://127.0.0.1:9')) as broker:\n"
        "        reader, writer = await asyncio.open_connection('127.0.0.1', broker.port)\n"
        "        writer.write(b'\\x10\\x0d\\x00\\x04MQTT\\x04\\x02\\x00\\x00\\x00\\x01a')\n"
        "        assert await reader.read() == b'\\x20\\x02\\x00\\x05'\n"
        "        writer.close()\n"
        "        await writer.wait_closed()\n"
        "    assert asyncio.all_tasks() == {asyncio.current_task()}\n"
        "import uvloop\n"
        "asyncio.run(main(), debug=True)\n"
        "uvloop.run(main())\n"
    )
    result = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", program],
        capture_output=True, text=True, check=False, cwd=ROOT, env=os.environ, timeout=60,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"port": -1}, "port"),
        ({"port": 65_536}, "port"),
        ({"hook_key": "a\r\nx: y"}, "hook_key"),
        ({"hook_key": "schlüssel"}, "hook_key"),
        ({"request_timeout": 0.0}, "request_timeout"),
        ({"request_timeout": float("nan")}, "request_timeout"),
        ({"request_timeout": float("inf")}, "request_timeout"),
        ({"hooks_url": "127.0.0.1:8080"}, "hooks_url"),
        ({"hooks_url": "ftp://127.0.0.1"}, "hooks_url"),
        ({"hooks_url": "http://127.0.0.1:99999"}, "hooks_url"),
        ({"hooks_url": "http://user:pw@127.0.0.1"}, "hooks_url"),
        ({"hooks_url": "http://127.0.0.1/?a=b"}, "hooks_url"),
        ({"hooks_url": "http://"}, "hooks_url"),
    ],
    ids=str,
)
def test_a_configuration_that_cannot_work_is_refused(fields: dict[str, object], named: str) -> None:
    """The error names the field, and never shows the key."""
    with pytest.raises(Invalid) as refused:
        EmbeddedBrokerConfig(**fields)  # type: ignore[arg-type]  # wrong on purpose
    assert refused.value.field == named
    assert "x: y" not in str(refused.value)
