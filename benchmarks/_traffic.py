"""Who asks the hooks, and what: the fleet of the hook benchmark, and its requests with the exact bytes that EMQX 5.8 sends.

Half of the clients are devices with an account, half are platform sessions that logged in with an access token. One request for
a publish or a subscription in sixteen is refused: clients ask for what they need, and the few that do not are answered, logged and
audited.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Final

import jwt
import msgspec

from benchmarks._load import Exchange
from broker_hooks.hashing import hash_password
from broker_hooks.wire import ALLOW, DENY
from companion.core.model import Account, Kind
from companion.core.rules import EVERYONE, Effect, Rule, RuleAction

HOOK_KEY: Final = "hook-key-of-the-benchmark"
TOKEN_SECRET: Final = "token-secret-of-the-benchmark-with-length"  # noqa: S105 - signs nothing but the tokens below
TOKEN_SECONDS: Final = 3600
PASSWORD: Final = "correct horse battery staple"  # noqa: S105 - opens nothing but the accounts below
PASSWORD_COST: Final = 10
DEVICES: Final = 32
SESSIONS: Final = 32

RULES: Final = (
    Rule(EVERYONE, Effect.ALLOW, RuleAction.PUBLISH, "devices/${clientid}/telemetry/#"),
    Rule(EVERYONE, Effect.ALLOW, RuleAction.PUBLISH, "devices/${clientid}/status", retain=True),
    Rule(EVERYONE, Effect.ALLOW, RuleAction.SUBSCRIBE, "devices/${clientid}/commands/+"),
    Rule(EVERYONE, Effect.ALLOW, RuleAction.SUBSCRIBE, "announcements/#"),
    Rule(EVERYONE, Effect.DENY, RuleAction.PUBLISH, "announcements/#"),
    Rule(EVERYONE, Effect.DENY, RuleAction.ALL, "devices/+/secrets/#"),
    Rule(EVERYONE, Effect.ALLOW, RuleAction.ALL, "plants/7/+/state"),
    Rule(EVERYONE, Effect.ALLOW, RuleAction.PUBLISH, "logs/${username}/#", qos=frozenset({0, 1})),
    Rule(EVERYONE, Effect.DENY, RuleAction.PUBLISH, "devices/+/firmware"),
    Rule(EVERYONE, Effect.ALLOW, RuleAction.SUBSCRIBE, "firmware/${principal}/+"),
)

_ASKED: Final = (
    ("publish", "devices/{client_id}/telemetry/temperature", "0", "false", True),
    ("publish", "devices/{client_id}/telemetry/pressure", "1", "false", True),
    ("publish", "devices/{client_id}/telemetry/motor/1/current", "0", "false", True),
    ("publish", "devices/{client_id}/telemetry/motor/2/current", "0", "false", True),
    ("publish", "devices/{client_id}/status", "1", "true", True),
    ("publish", "logs/{username}/boot", "1", "false", True),
    ("publish", "logs/{username}/network/wifi", "0", "false", True),
    ("publish", "plants/7/hall-2/state", "1", "false", True),
    ("publish", "devices/{client_id}/telemetry/position", "0", "false", True),
    ("subscribe", "devices/{client_id}/commands/+", "1", "false", True),
    ("subscribe", "announcements/#", "1", "false", True),
    ("subscribe", "announcements/site/7", "0", "false", True),
    ("subscribe", "plants/7/+/state", "1", "false", True),
    ("subscribe", "firmware/{principal}/stable", "1", "false", True),
    ("subscribe", "{principal}/#", "1", "false", True),
    ("publish", "announcements/site/7", "1", "false", False),
)


@dataclass(frozen=True, slots=True)
class Client:
    """One MQTT client; `token` is empty for a device, which has an account."""

    username: str
    client_id: str
    principal: str
    token: str = ""
    expires_at: int = 0


def devices(count: int = DEVICES) -> list[Client]:
    """Return the clients with an account."""
    return [Client(f"device-{number:03}", f"device-{number:03}", f"{number:024x}") for number in range(count)]


def accounts(count: int = DEVICES) -> list[Account]:
    """Return the devices' accounts. One hash serves all: to check it takes as long as to check any other."""
    hashed = hash_password(PASSWORD, PASSWORD_COST)
    return [Account(client.username, Kind.DEVICE, client.principal, hashed) for client in devices(count)]


def sessions() -> list[Client]:
    """Return the clients with an access token, as the platform makes them."""
    expires_at = int(time.time()) + TOKEN_SECONDS
    clients = []
    for number in range(SESSIONS):
        principal, session = f"64b7f0c2a{number:015x}", f"66a1d9e4b{number:015x}"
        claims = {
            "type": "access",
            "cid": "5f2a0c11d4e6b80012a3b4c5",
            "aid": "5f2a0c11d4e6b80012a3b4c6",
            "uid": principal,
            "scope": "read:identity:users write:identity:users publish subscribe",
            "domain": "example.org",
            "subject": "someone@example.org",
            "session": session,
            "exp": expires_at,
        }
        token = jwt.encode(claims, TOKEN_SECRET, "HS256")
        clients.append(Client(principal, f"{session}:{number:08x}", principal, token, expires_at))
    return clients


def logins(clients: list[Client]) -> list[Exchange]:
    """Return one request to connect for each platform session."""
    return [
        _login(client, client.token, msgspec.json.encode({"result": "allow", "expire_at": client.expires_at}))
        for client in clients
    ]


def password_logins(clients: list[Client], password: str = PASSWORD, answer: bytes = ALLOW) -> list[Exchange]:
    """Return one request to connect for each device."""
    return [_login(client, password, answer) for client in clients]


def _login(client: Client, password: str, answer: bytes) -> Exchange:
    fields = {
        "zone": "default",
        "username": client.username,
        "peerhost": "10.0.7.21",
        "password": password,
        "clientid": client.client_id,
        "cert_subject": "",
        "cert_common_name": "",
    }
    return _exchange("/mqtt/auth", fields, answer)


def accesses(clients: list[Client]) -> list[Exchange]:
    """Return sixteen publishes and subscriptions for each client, mixed."""
    exchanges = []
    for client in clients:
        for action, topic, qos, retain, allowed in _ASKED:
            fields = {
                "username": client.username,
                "topic": topic.format(client_id=client.client_id, username=client.username, principal=client.principal),
                "retain": retain,
                "qos": qos,
                "proto_name": "mqtt",
                "peerhost": "10.0.7.21",
                "mountpoint": "",
                "clientid": client.client_id,
                "action": action,
            }
            exchanges.append(_exchange("/mqtt/authz", fields, ALLOW if allowed else DENY))
    random.Random(0).shuffle(exchanges)  # noqa: S311 - the same order in every run
    return exchanges


def always_allowed(exchanges: list[Exchange]) -> list[Exchange]:
    """Return the same requests for a server that allows everything."""
    return [Exchange(exchange.request, ALLOW) for exchange in exchanges]


def _exchange(path: str, fields: dict[str, str], answer: bytes) -> Exchange:
    body = msgspec.json.encode(fields)
    head = (
        f"POST {path} HTTP/1.1\r\ncontent-length: {len(body)}\r\nhost: 127.0.0.1:8080\r\n"
        f"authorization: Bearer {HOOK_KEY}\r\ncontent-type: application/json\r\n\r\n"
    )
    return Exchange(head.encode() + body, answer)
