"""From a change to the messages that tell about it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from companion.core.model import Change, ChangeOp
from companion.core.routing import Router
from publishers.messages import Message

_PLATFORM_OPS: Final = {
    ChangeOp.CREATE: "c",
    ChangeOp.UPDATE: "u",
    ChangeOp.RESTORE: "u",
    ChangeOp.DELETE: "d",
    ChangeOp.DESTROY: "d",
}
"""The platform's payload knows three; the user property `op` says which of the five it was."""


@dataclass(frozen=True, slots=True)
class Renderer:
    """How messages look: QoS, message expiry in seconds (0: never)."""

    router: Router
    qos: Literal[1, 2]
    expiry: int

    def messages(self, change: Change) -> tuple[Message, ...]:
        """Return one message per topic; raises `Invalid` for a change that cannot be routed."""
        payload = msgspec.json.encode(
            {
                "id": change.id,
                "op": _PLATFORM_OPS[change.op],
                "src": f"{change.db}/{change.collection}",
                "event_id": change.event_id,
            }
        )
        properties = (("event-id", change.event_id), ("op", change.op.value))
        return tuple(
            Message(topic, payload, self.qos, False, self.expiry or None, "application/json", properties)  # noqa: FBT003 - not retained
            for topic in self.router.topics(change)
        )
