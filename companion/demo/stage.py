"""What the tour plays on: a broker, the service and sample accounts, on free ports and in a folder of their own."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

from pydantic import SecretStr
from rich.console import Console

from broker_hooks.hashing import hash_password
from companion.core.errors import Invalid
from companion.core.model import Account, Kind
from companion.core.ports import Store
from companion.core.revocations import keys_of
from companion.core.rules import Effect, Rule, RuleAction, subject_of_account
from companion.embedded import EmbeddedBroker, EmbeddedBrokerConfig
from companion.keys import hook_keys
from companion.logs import configure_logs
from companion.runtime import Running, running
from companion.settings import Role, Settings
from companion.stores.embedded import EmbeddedStore

DEVICE: Final = "thermostat-1"
PERSON: Final = "alice"
PUBLISHER: Final = "companion-publisher"

_PORTS_TRIED: Final = 100


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything is running; `passwords` are those of the sample accounts."""

    settings: Settings
    service: Running
    passwords: dict[str, str] = field(repr=False)
    console: Console

    def say(self, text: str, style: str | None = None) -> None:
        """Print a line."""
        self.console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    def good(self, text: str) -> None:
        """Print what went as it should."""
        self.say(f"  ✓ {text}", "green")


@contextlib.asynccontextmanager
async def staged(settings: Settings) -> AsyncIterator[Stage]:
    """Set the stage; raises `CompanionError` when something cannot start."""
    passwords = {name: secrets.token_hex(8) for name in (DEVICE, PERSON, PUBLISHER)}
    broker_port = _free_port(settings.mqtt_port)
    chosen = settings.model_copy(
        update={
            "store": "embedded",
            "data_dir": settings.data_dir / "demo",
            "log_format": "console",
            "log_decisions": "all",
            "hooks_host": "127.0.0.1",
            "hooks_port": _free_port(settings.hooks_port),
            "ops_host": "127.0.0.1",
            "ops_port": _free_port(settings.ops_port),
            "mqtt_host": "127.0.0.1",
            "mqtt_port": broker_port,
            "mqtt_protocol": "3.1.1",
            "mqtt_tls": False,
            # All of it stays on this machine, under addresses that no certificate has to name.
            **dict.fromkeys(("hooks_tls_cert", "hooks_tls_key", "hooks_tls_client_ca")),
            **dict.fromkeys(("ops_tls_cert", "ops_tls_key", "ops_tls_client_ca")),
            "mqtt_username": PUBLISHER,
            "mqtt_password": SecretStr(passwords[PUBLISHER]),
        }
    )
    configure_logs(chosen.log_format, "info")
    async with EmbeddedStore.open(chosen.data_dir, chosen.cache_poll) as store:
        await _people(store, passwords, chosen.password_cost)
    async with running(chosen, Role.ALL) as service:
        config = EmbeddedBrokerConfig(
            port=broker_port, hooks_url=f"http://127.0.0.1:{service.hooks_port}", hook_key=hook_keys(chosen)[0]
        )
        async with EmbeddedBroker(config):
            yield Stage(chosen, service, passwords, Console())


async def _people(store: Store, passwords: dict[str, str], cost: int) -> None:
    """Make the sample accounts, with new passwords each time, and the rule that lets the publisher publish."""
    for name, kind in ((DEVICE, Kind.DEVICE), (PERSON, Kind.USER), (PUBLISHER, Kind.SERVICE)):
        password_hash = await asyncio.to_thread(hash_password, passwords[name], cost)
        if not await store.accounts.set_password(name, password_hash):
            await store.accounts.add([Account(name, kind, name, password_hash)])
        # Whoever tried out what takes somebody's rights away gets the demo as it was.
        await store.accounts.set_disabled(name, disabled=False)
        now = int(time.time())
        for standing in await store.revocations.of(keys_of(username=name, client_id=client_of(name)), now):
            await store.revocations.lift(standing.id, now * 1000)
    if not await store.rules.of([subject_of_account(PUBLISHER)]):
        await store.rules.add(Rule(subject_of_account(PUBLISHER), Effect.ALLOW, RuleAction.PUBLISH, "#"))


def client_of(name: str) -> str:
    """Return the client id with which the tour connects somebody."""
    return f"{name}-demo"


def _free_port(wanted: int) -> int:
    """Return `wanted` if it is free on this machine, else the next one that is."""
    for port in range(wanted, wanted + _PORTS_TRIED):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise Invalid("port", wanted, f"a free port between {wanted} and {wanted + _PORTS_TRIED - 1}")
