"""What a second rule set would decide: counted, and where it differs sampled into the log and the audit. It decides nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import structlog

from broker_hooks.audit import AuditTrail
from companion.core.model import Access, Allow, Audit, Decision
from companion.metrics import Metrics

log = structlog.get_logger("broker_hooks.shadow")

KIND: Final = "shadow"
"""The kind of its audit records: their verdict, reason and rule are those of the shadow, the detail tells what was decided."""

_MINUTE: Final = 60.0


class Shadow:
    """Compares decisions. At most `samples` differences a minute are told one by one."""

    def __init__(
        self, metrics: Metrics, trail: AuditTrail, *, samples: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tallies = metrics.shadow
        self._trail = trail
        self._samples = samples
        self._clock = clock
        self._minute = -_MINUTE
        self._told = 0

    def compare(self, access: Access, decision: Decision, other: Decision) -> None:
        """Take note of what was decided and of what the shadow would have decided."""
        allowed, would_allow = isinstance(decision, Allow), isinstance(other, Allow)
        if allowed is would_allow:
            self._tallies["same"].count += 1
            return
        self._tallies["would_allow" if would_allow else "would_refuse"].count += 1
        if self._may_tell():
            self._tell(access, decision, other)

    def _may_tell(self) -> bool:
        now = self._clock()
        if now >= self._minute + _MINUTE:
            self._minute, self._told = now, 0
        self._told += 1
        return self._told <= self._samples

    def _tell(self, access: Access, decision: Decision, other: Decision) -> None:
        enforced = f"{_verdict(decision)}: {decision.reason.value}{f' ({decision.rule})' if decision.rule else ''}"
        self._trail.record(
            Audit(
                at=int(time.time() * 1000),
                kind=KIND,
                verdict=_verdict(other),
                reason=other.reason.value,
                username=access.username,
                client_id=access.client_id,
                peer_host=access.peer_host,
                action=access.action.value,
                topic=access.topic,
                rule=other.rule,
                detail=f"enforced: {enforced}",
            )
        )
        log.info(
            "the shadow differs",
            username=access.username,
            client_id=access.client_id,
            action=access.action.value,
            topic=access.topic,
            enforced=enforced,
            would=_verdict(other),
            reason=other.reason.value,
            **({"rule": other.rule} if other.rule else {}),
        )


def _verdict(decision: Decision) -> str:
    return "allow" if isinstance(decision, Allow) else "deny"
