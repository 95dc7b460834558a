"""What a decision leaves behind: a metric, a log line, an audit record, all from the one value."""

from __future__ import annotations

import random
import time
from typing import Literal

import structlog

from broker_hooks.audit import AuditTrail
from companion.core.model import Access, Allow, Audit, Connect, Decision, Reason
from companion.metrics import Hook, Metrics

log = structlog.get_logger("broker_hooks")

LogDecisions = Literal["all", "refused", "none"]


class Recorder:
    """Counts, logs and audits decisions."""

    def __init__(self, metrics: Metrics, trail: AuditTrail, decisions: LogDecisions, sample: float) -> None:
        self._metrics = metrics
        self._trail = trail
        self._decisions = decisions
        self._sample = sample
        # Bound once: the proxy would be bound for every line, which costs as much as writing it.
        self._log_line = log.bind().info

    def record(self, hook: Hook, decision: Decision, request: Connect | Access | None) -> None:
        """Record one decision. Logins and refusals are audited; an allowed publish or subscribe is only counted (and logged).

        That somebody is no superuser, which EMQX 4.4 asks after every login, is only counted.
        """
        self._metrics.decided(hook, decision)
        if decision.reason is Reason.NO_SUPERUSER:
            return
        allowed = isinstance(decision, Allow)
        if allowed and hook == "authz" and self._decisions != "all":
            return
        audit = _audit(hook, decision, request)
        if not allowed or hook != "authz":
            self._trail.record(audit)
        if self._decisions == "all" or (self._decisions == "refused" and not allowed):
            self._log(audit)

    def _log(self, audit: Audit) -> None:
        if self._sample < 1 and random.random() >= self._sample:  # noqa: S311 - thins out log lines, protects nothing
            return
        filled = {
            "username": audit.username,
            "client_id": audit.client_id,
            "peer_host": audit.peer_host,
            "action": audit.action,
            "topic": audit.topic,
            "rule": audit.rule,
            "detail": audit.detail,
        }
        self._log_line(
            "decision",
            hook=audit.kind,
            verdict=audit.verdict,
            reason=audit.reason,
            **{name: value for name, value in filled.items() if value},
        )


def _audit(hook: Hook, decision: Decision, request: Connect | Access | None) -> Audit:
    action = topic = ""
    if isinstance(request, Access):
        action, topic = request.action.value, request.topic
    verdict, detail = ("allow", "") if isinstance(decision, Allow) else ("deny", decision.detail)
    username = client_id = peer_host = ""
    if request is not None:
        username, client_id, peer_host = request.username, request.client_id, request.peer_host
    # In the order of its fields: names cost a third more.
    return Audit(
        int(time.time() * 1000),
        hook,
        verdict,
        decision.reason.value,
        username,
        client_id,
        peer_host,
        action,
        topic,
        decision.rule,
        detail,
        "hooks",
    )
