"""Why somebody may or may not: the account, the session and the rules as the store has them now, and what memory would answer.

Enforcement's own code decides: `principal_of`, `RuleSet.of` and `Policy.decide`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from math import isinf
from typing import Any, Final

from broker_hooks.directory import Directory
from broker_hooks.policy_lists import CompileAcl, PolicyList
from broker_hooks.principals import NOT_CONNECTED, Principal, Refused, principal_of, refusal
from broker_hooks.revoked import REVOKED
from companion.core.acl import NotExact
from companion.core.errors import CompanionError
from companion.core.explaining import Considered, Explanation, explain
from companion.core.model import Access, Account, Allow, Decision, Deny, Lookup, Reason, Session
from companion.core.ports import Store
from companion.core.revocations import keys_of_client
from companion.core.rule_sets import RuleBook, RuleSet
from companion.core.rules import Rule
from companion.metrics import Metrics

MIRROR: Final = "mirror"
MOST_SHOWN: Final = 200
"""Most rules that are shown one by one, those that had to do with the topic first."""

_LOOKED: ContextVar[list[Lookup] | None] = ContextVar("looked", default=None)


def note_lookups(metrics: Metrics | None = None) -> Callable[[Lookup], None]:
    """Return what counts every look into the mirror and lets whoever explains see its own."""

    def told(outcome: Lookup) -> None:
        if metrics is not None:
            metrics.mirror.looked(outcome)
        looked = _LOOKED.get()
        if looked is not None:
            looked.append(outcome)

    return told


@dataclass(frozen=True, slots=True)
class Found:
    """What the store has about somebody: where the account came from, and the rules of the subjects, if anybody may be somebody."""

    account: Account | None
    session: Session | None
    source: str
    lookup: Lookup | None
    who: Principal | Deny
    stored: Sequence[Rule] = ()

    def decided(self, rule_set: RuleSet, access: Access, now: float) -> Explanation:
        """Return what the store and this rule set decide, and why."""
        if isinstance(self.who, Deny):
            return Explanation(self.who, {}, ())
        rules = self.who.of(rule_set, self.stored)
        if self.who.expires_at <= now:
            return Explanation(self.who.ended, self.who.values, ())
        return explain(rules, self.who.values, access, now)

    def listed(
        self, rule_set: RuleSet, compile_acl: CompileAcl | None, access: Access, now: float
    ) -> Mapping[str, Any] | None:
        """Return whether EMQX is given the policy as a list, by which it decides itself, or why not; None without lists."""
        if compile_acl is None or isinstance(self.who, Deny):
            return None
        rules = rule_set.of(self.who.subjects, self.who.held(self.stored))
        listed = PolicyList(compile_acl, rules, self.who.values).at(now, access.peer_host)
        until = None if isinf(listed.until) else listed.until
        if isinstance(listed.acl, NotExact):
            return {"exact": False, "why": listed.acl.why.value, "rule": listed.acl.rule, "until": until}
        return {"exact": True, "why": "", "rule": "", "until": until}

    def beyond_scope(self, access: Access) -> Sequence[str]:
        """Return the ids of grants that speak about the action and do not hold, since the token's scope does not have it."""
        if isinstance(self.who, Deny):
            return ()

        def speaking(rules: Sequence[Rule]) -> set[str]:
            return {rule.id for rule in rules if rule.action in {"all", access.action.value}}

        return sorted(speaking(self.stored) - speaking(self.who.held(self.stored)))


class Explainer:
    """Explains what the hooks decide. `directory` is theirs, where they run in this process; `compile_acl` where lists are made."""

    def __init__(
        self,
        store: Store,
        book: Callable[[], RuleBook],
        directory: Directory | None = None,
        compile_acl: CompileAcl | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._book = book
        self._directory = directory
        self._compile_acl = compile_acl
        self._now = now

    async def find(self, username: str, client_id: str, now: float) -> Found:
        """Ask the store about somebody. Raises `Transient` while it is away."""
        # No cache is asked, or filled: what enforcement remembers is told beside it.
        looked: list[Lookup] = []
        token = _LOOKED.set(looked)
        try:
            account, session = await asyncio.gather(
                self._store.accounts.get(username), self._store.sessions.get(username, client_id)
            )
        finally:
            _LOOKED.reset(token)
        lookup = looked[-1] if looked else None
        source = MIRROR if lookup is Lookup.HIT else min(self._store.hooks_need)
        try:
            who = principal_of(account, session, username, client_id, now)
        except Refused as refused:
            return Found(account, session, source, lookup, refused.deny)
        if await self._store.revocations.of(keys_of_client(username, client_id, session), int(now)):
            return Found(account, session, source, lookup, REVOKED)
        if session is not None and session.token and await self._store.tokens.get(session.token) is None:
            return Found(account, session, source, lookup, NOT_CONNECTED)
        return Found(account, session, source, lookup, who, await self._store.rules.of(who.subjects))

    async def explain(self, access: Access, at: float | None = None) -> dict[str, Any]:
        """Return everything about one request as JSON values; at another time than now, memory has no say.

        `verdict`, `reason` and `rule` are what the hooks answer. A store that is away is told in `problem`.
        """
        now = self._now() if at is None else at
        book = self._book()
        remembered = self._directory.remembered(access) if self._directory is not None and at is None else None
        answer: dict[str, Any] = {"asked": {**access._asdict(), "action": access.action.value, "at": now}}
        found: Found | None = None
        try:
            if not access.username:
                explanation = Explanation(NOT_CONNECTED, {}, ())
            else:
                found = await self.find(access.username, access.client_id, now)
                explanation = found.decided(book.enforced, access, now)
        except CompanionError as problem:
            answer["problem"] = str(problem)
            explanation = Explanation(Deny(Reason.STORE_AWAY, detail=str(problem)), {}, ())
        decision = explanation.decision if remembered is None else remembered.decision
        answer |= _decision(decision)
        answer["decided_from"] = "cache" if remembered is not None else "store"
        answer["cache"] = (
            None
            if remembered is None
            else _decision(remembered.decision) | {"age": round(remembered.age, 3), "left": round(remembered.left, 3)}
        )
        answer["store"] = _decision(explanation.decision) if found is not None else None
        answer["account"] = None if found is None else _account(found, now)
        answer["session"] = None if found is None or found.session is None else _session(found.session, now)
        answer["values"] = dict(explanation.values)
        answer["subjects"] = [] if found is None or isinstance(found.who, Deny) else list(found.who.subjects)
        answer |= _rules(explanation.rules)
        answer["beyond_scope"] = [] if found is None else list(found.beyond_scope(access))
        answer["list"] = None if found is None else found.listed(book.enforced, self._compile_acl, access, now)
        answer["shadow"] = (
            None
            if found is None or book.shadow is None
            else _decision(found.decided(book.shadow, access, now).decision)
        )
        return answer


def _decision(decision: Decision) -> dict[str, Any]:
    return {
        "verdict": "allow" if isinstance(decision, Allow) else "deny",
        "reason": decision.reason.value,
        "rule": decision.rule,
        "detail": decision.detail if isinstance(decision, Deny) else "",
    }


def _account(found: Found, now: float) -> Mapping[str, Any]:
    account = found.account
    told: dict[str, Any] = {"found": account is not None, "from": found.source}
    if found.lookup is not None:
        told["mirror"] = found.lookup.value
    if account is not None:
        refused = refusal(account, now)
        told |= {
            "state": "usable" if refused is None else refused.reason.value,
            "kind": account.kind.value,
            "principal": account.principal,
            "disabled": account.disabled,
            "expires_at": account.expires_at,
            "groups": list(account.groups),
            "tenant": account.tenant,
            "subjects": list(account.subjects),
        }
    return told


def _session(session: Session, now: float) -> Mapping[str, Any]:
    told = asdict(session)
    return told | {"groups": list(session.groups), "state": "usable" if session.expires_at > now else "token_expired"}


def _rules(considered: Sequence[Considered]) -> dict[str, Any]:
    shown = sorted(considered, key=lambda one: not one.near)[:MOST_SHOWN]
    return {"rules": [_rule(one) for one in shown], "rules_not_shown": len(considered) - len(shown)}


def _rule(one: Considered) -> Mapping[str, Any]:
    rule = one.rule
    return {
        "id": rule.id,
        "outcome": one.outcome.value,
        "misses": [miss.value for miss in one.misses],
        "subject": rule.subject,
        "effect": rule.effect.value,
        "action": rule.action.value,
        "filter": rule.filter,
        "rendered": one.filter,
        "qos": sorted(rule.qos),
        "retain": rule.retain,
        "windows": [asdict(window) for window in rule.windows],
        "locations": list(rule.locations),
    }
