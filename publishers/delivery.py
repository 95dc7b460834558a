"""Acknowledged delivery: the port between the publishing pipeline and a broker.

CompanionError
├── Transient      the delivery was closed before the broker acknowledged: deliver again after the next start
└── Refused        the broker answered with a reason code of 0x80 or above
    └── Unsendable (also Permanent)  known before sending that this broker, or any, would refuse it
"""

from __future__ import annotations

from typing import Protocol

from companion.core.errors import CompanionError, Permanent
from publishers.messages import Message
from publishers.mqtt_reasons import reason_name, shown_reason


class Refused(CompanionError):
    """The broker refused the message (MQTT 5 §2.4): a reason code of 0x80 or above, and its name in the standard."""

    def __init__(self, reason_code: int, detail: str = "") -> None:
        self.reason_code = reason_code
        self.reason_name = reason_name(reason_code)
        super().__init__(shown_reason(reason_code) + (f" ({detail})" if detail else ""))


class Unsendable(Refused, Permanent):
    """The message was not sent: it breaks a rule of MQTT or a limit that the broker announced when it accepted us."""


class Delivery(Protocol):
    """A way to a broker that tells when a message has arrived there."""

    async def deliver(self, message: Message) -> None:
        """Return once the broker has taken responsibility for the message: PUBACK for QoS 1, PUBCOMP for QoS 2.

        Messages leave in the order of the calls. While the broker is away, or the window is full, the call waits; the caller
        bounds how many wait and for how long. Cancelling the call withdraws the message: it is not sent, or not sent again.
        Delivery is at least once: after a lost connection everything unacknowledged is published anew.

        Raises `Refused` for a reason code of 0x80 or above, `Unsendable` without sending, `Transient` when the delivery ends.
        """
        ...

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted us and the connection stands."""
        ...

    @property
    def trouble(self) -> str | None:
        """Why there is no connection, in one line without a secret; None while connected."""
        ...
