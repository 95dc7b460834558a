"""How to reach a broker."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from companion.core.errors import Invalid

_MAX_UINT16 = 65_535


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttConfig:
    """Address, identity and pace of one MQTT client. All times are in seconds. Raises `Invalid` for what cannot work.

    `password` may be a function, called before every attempt, so that a rotated secret is picked up; it must not block for long
    and may raise `OSError` or `CompanionError`. `window` is how many messages may be unacknowledged at a time; the broker's
    receive maximum lowers it (in MQTT 3.1.1: to 20). Without an acknowledgement within `ack_timeout` the connection counts as
    dead. The delay before an attempt is random between 0 and a ceiling that doubles from `backoff_initial` to `backoff_max`.
    """

    host: str
    port: int = 1883
    client_id: str
    username: str | None = None
    password: str | Callable[[], str] | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None
    protocol: Literal["5", "3.1.1"] = "5"
    window: int = 64
    keepalive: int = 30
    connect_timeout: float = 10.0
    ack_timeout: float = 30.0
    backoff_initial: float = 0.1
    backoff_max: float = 30.0

    def __post_init__(self) -> None:
        if self.password is not None and self.username is None:
            raise Invalid("username", None, "a password needs a user name")
        for name in ("window", "keepalive"):
            if not 1 <= getattr(self, name) <= _MAX_UINT16:
                raise Invalid(name, getattr(self, name), f"from 1 to {_MAX_UINT16}")
        for name in ("connect_timeout", "ack_timeout", "backoff_initial"):
            if not getattr(self, name) > 0:
                raise Invalid(name, getattr(self, name), "more than 0 seconds")
        if self.backoff_max < self.backoff_initial:
            raise Invalid("backoff_max", self.backoff_max, f"at least backoff_initial ({self.backoff_initial})")

    @property
    def endpoint(self) -> str:
        """Host and port, for messages."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
