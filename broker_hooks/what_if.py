"""Which recorded decisions would change under another rule set.

Replayed are the audit records of publishes and subscribes that a rule decided, or no rule: by the accounts, sessions and stored
rules of today, at the time and from the address of the record, once with the rule file as it is and once with the other one in its
place. The audit records refusals, and of what was allowed only logins, which no rule decides; so it is seen what would be allowed
that was refused, and not what would be refused that was allowed. QoS and retain are not recorded: where the verdict depends on
them, it is unsure.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

from broker_hooks.principals import Principal, Refused, principal_of
from companion.core.model import Access, Account, Action, Allow, Audit, Decision, Reason, Session
from companion.core.policy import Policy
from companion.core.ports import Store
from companion.core.revocations import keys_of_client
from companion.core.rule_sets import RuleSet

_BY_RULES: Final = frozenset({Reason.RULE, Reason.OWN_TOPIC, Reason.DENIED_BY_RULE, Reason.NO_RULE})
_LIMITS: Final = tuple(product((0, 1, 2), (True, False)))
NOT_RECORDED: Final = (
    "not covered: publishes and subscribes that were allowed are not recorded, so what would be refused of them is not seen"
    " (a shadow rule file sees it)"
)


@dataclass(frozen=True, slots=True)
class _Known:
    account: Account | None
    session: Session | None
    policies: tuple[Policy, Policy] | None
    """By the enforced rules and by the others."""


async def what_if(
    store: Store, enforced: RuleSet, candidate: RuleSet, *, records: int, samples: int
) -> Mapping[str, Any]:
    """Replay up to so many of the newest records and return counts, notes and samples of changes as JSON values."""
    audits = await store.audits.latest(records)
    replay = _Replay(samples)
    known: dict[tuple[str, str], _Known] = {}
    for audit in audits:
        if audit.kind != "authz" or audit.reason not in _BY_RULES or audit.action not in list(Action):
            replay.others[f"{audit.kind} {audit.verdict}: {audit.reason}"] += 1
            continue
        key = (audit.username, audit.client_id)
        if key not in known:
            known[key] = await _look_up(store, (enforced, candidate), *key)
        replay.take(audit, _decisions(known[key], audit))
    return replay.report(len(audits))


class _Replay:
    """Counts what came of it."""

    def __init__(self, samples: int) -> None:
        self.others: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._differing = 0
        self._most = samples
        self._samples: list[Mapping[str, Any]] = []

    def take(self, audit: Audit, decisions: Sequence[tuple[Decision, Decision]]) -> None:
        """Take both decisions, for every QoS and retain, on one record; none for who is not known any more."""
        if not decisions:
            self._counts["gone"] += 1
            return
        before, after = (_one(some) for some in zip(*decisions, strict=True))
        if before is not None and _verdict(before) != audit.verdict:
            self._differing += 1
        if before is None or after is None:
            self._counts["unsure"] += 1
        elif _verdict(before) == _verdict(after):
            self._counts["same"] += 1
        else:
            self._counts["would_allow" if isinstance(after, Allow) else "would_refuse"] += 1
            if len(self._samples) < self._most:
                self._samples.append(_sample(audit, before, after))

    def report(self, records: int) -> Mapping[str, Any]:
        """Return everything as JSON values."""
        gone, others = self._counts["gone"], sum(self.others.values())
        notes = [NOT_RECORDED]
        if gone:
            notes.append(f"{gone} of somebody who is not known, or may not be used, any more")
        if self._differing:
            notes.append(f"{self._differing} were recorded with another verdict than today's rules give")
        if others:
            notes.append(f"{others} were not decided by rules")
        return {
            "records": records,
            "replayed": records - gone - others,
            **{name: self._counts[name] for name in ("same", "would_allow", "would_refuse", "unsure", "gone")},
            "recorded_otherwise": self._differing,
            "not_by_rules": dict(self.others.most_common()),
            "notes": notes,
            "samples": self._samples,
        }


async def _look_up(store: Store, rule_sets: tuple[RuleSet, RuleSet], username: str, client_id: str) -> _Known:
    account, session = await store.accounts.get(username), await store.sessions.get(username, client_id)
    # Whom somebody has rules of does not depend on the time.
    who = _principal(account, session, username, client_id, 0.0)
    revoked = await store.revocations.of(keys_of_client(username, client_id, session), int(time.time()))
    if who is None or revoked:
        return _Known(account, session, None)
    stored = await store.rules.of(who.subjects)
    enforced, candidate = (Policy(who.of(rules, stored), who.values) for rules in rule_sets)
    return _Known(account, session, (enforced, candidate))


def _principal(
    account: Account | None, session: Session | None, username: str, client_id: str, at: float
) -> Principal | None:
    try:
        who = principal_of(account, session, username, client_id, at)
    except Refused:
        return None
    return who if who.expires_at > at else None


def _decisions(known: _Known, audit: Audit) -> Sequence[tuple[Decision, Decision]]:
    at = audit.at / 1000
    who = _principal(known.account, known.session, audit.username, audit.client_id, at)
    if who is None or known.policies is None:
        return ()
    enforced, candidate = known.policies
    asked = [
        Access(
            Action(audit.action), audit.topic, audit.client_id, audit.username, audit.peer_host, qos=qos, retain=retain
        )
        for qos, retain in _LIMITS
    ]
    return [(enforced.decide(access, at), candidate.decide(access, at)) for access in asked]


def _one(decisions: tuple[Decision, ...]) -> Decision | None:
    """Return the decision, if all say the same; None where it depends."""
    return decisions[0] if len({_verdict(one) for one in decisions}) == 1 else None


def _verdict(decision: Decision) -> str:
    return "allow" if isinstance(decision, Allow) else "deny"


def _sample(audit: Audit, before: Decision, after: Decision) -> Mapping[str, Any]:
    return {
        "at": audit.at,
        "username": audit.username,
        "client_id": audit.client_id,
        "peer_host": audit.peer_host,
        "action": audit.action,
        "topic": audit.topic,
        "recorded": audit.verdict,
        "now": _told(before),
        "then": _told(after),
    }


def _told(decision: Decision) -> str:
    return f"{_verdict(decision)}: {decision.reason.value}{f' ({decision.rule})' if decision.rule else ''}"
