"""What a token makes of the rules of whoever is connected with it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from companion.core.acl_claims import acl_in_session
from companion.core.long_tokens import WHOLE
from companion.core.model import Session
from companion.core.rules import Effect, Rule, RuleAction, subject_of_grants


def rules_in_session(rules: Sequence[Rule], session: Session) -> Sequence[Rule]:
    """Return what holds in a session of somebody with these rules. Denials hold whatever a token says."""
    if session.acl:
        claim = acl_in_session(session.acl)
        # The old format says everything that is allowed.
        kept = [rule for rule in rules if not claim.only or rule.effect is Effect.DENY]
        rules = [*kept, *claim.rules]
    if session.token:
        denied = [rule for rule in rules if rule.effect is Effect.DENY]
        allowed = [rule for rule in rules if rule.effect is Effect.ALLOW]
        rules = [*denied, *_in_scope(allowed, session.scope.split())]
    return rules


def granted_within_scope(rules: Sequence[Rule], session: Session) -> Sequence[Rule]:
    """Leave out the grants whose action the token's scope does not hold."""
    if not session.subject or session.token:
        return rules
    scope, grants = session.scope.split(), subject_of_grants(session.subject)
    kept: list[Rule] = []
    for rule in rules:
        kept += _in_scope([rule], scope) if rule.subject == grants else [rule]
    return kept


def _in_scope(rules: Sequence[Rule], scope: Sequence[str]) -> Sequence[Rule]:
    """Return what of these rules a token of this scope has."""
    if WHOLE in scope:
        return rules
    return [one for rule in rules for one in _by_action(rule) if one.action.value in scope]


def _by_action(rule: Rule) -> Sequence[Rule]:
    actions = (RuleAction.PUBLISH, RuleAction.SUBSCRIBE) if rule.action is RuleAction.ALL else (rule.action,)
    return [replace(rule, action=action) for action in actions]
