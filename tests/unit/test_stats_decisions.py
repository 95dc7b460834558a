"""What is counted of decisions."""

from __future__ import annotations

import pytest

from companion.core.model import Audit, Reason
from companion.core.stats import Fact, Subject
from companion.core.stats_decisions import KNOWN, fact_of


def test_a_login() -> None:
    """A decision is counted for all hooks and for who is concerned, by verdict and by reason, at its own time."""
    amounts = (("HOOKS_COUNT__ALLOW_AUTH", 1), ("HOOKS_COUNT__ALLOW_AUTH_PASSWORD", 1))
    audit = Audit(1234, "auth", "allow", "password", "alice", "c1")
    assert fact_of(audit) == Fact(1234, (Subject("hooks"), Subject("alice")), amounts)


@pytest.mark.parametrize("reason", Reason)
def test_names_that_anybody_may_make_up(reason: Reason) -> None:
    """Only a user name that there is has statistics; that of whoever was not found has none."""
    subjects = fact_of(Audit(0, "authz", "deny", reason.value, "mallory")).subjects
    assert (Subject("mallory") in subjects) == (reason in KNOWN)
    assert Reason.UNKNOWN_USER not in KNOWN
    assert Reason.THROTTLED not in KNOWN


def test_once_each() -> None:
    """Who is called as all of them is counted once; nobody is nobody."""
    assert fact_of(Audit(0, "auth", "allow", "password", "hooks")).subjects == (Subject("hooks"),)
    assert fact_of(Audit(0, "auth", "allow", "password", "")).subjects == (Subject("hooks"),)


def test_what_is_no_decision_of_the_hooks() -> None:
    """What a shadow would have decided, and whatever else is recorded, is counted for nobody."""
    assert fact_of(Audit(1234, "shadow", "allow", "rule", "alice")) == Fact(1234, (), ())
