"""What a token makes of the rules of whoever is connected with it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from companion.core.acl_claims import acl_in_session
from companion.core.model import Session
from companion.core.rules import Effect, Rule


def rules_in_session(rules: Sequence[Rule], session: Session) -> Sequence[Rule]:
    """Return what holds in a session of somebody with these rules. Denials hold whatever a token says."""
    if session.acl:
        claim = acl_in_session(session.acl)
        # The old format says everything that is allowed.
        kept = [rule for rule in rules if not claim.only or rule.effect is Effect.DENY]
        rules = [*kept, *claim.rules]
    return rules
