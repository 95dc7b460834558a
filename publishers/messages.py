"""What is handed to a broker: plain values, no behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Message:
    """One message for one topic name.

    `expiry` is the message expiry interval in seconds (MQTT 5 §3.3.2.3.3), None for "never". `content_type` (§3.3.2.3.9) is
    left out when empty; `user_properties` (§3.3.2.3.7) keep their order and may repeat a name. MQTT 3.1.1 has no room for these
    three and drops them.
    """

    topic: str
    payload: bytes
    qos: Literal[1, 2]
    retain: bool
    expiry: int | None
    content_type: str
    user_properties: tuple[tuple[str, str], ...]
