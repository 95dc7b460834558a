"""What a token says, once its signature is known to be good: who it is for, until when, with which rights.

Two profiles. The platform's: `type` = `access`, `session`, and the principal is `uid`, else `aid`, else `cid`. Any other
issuer's: the principal is a claim that the settings name. A token that has any of the platform's claims is never judged as
somebody else's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from companion.core.acl_claims import rules_of_claim
from companion.core.claim_tests import ClaimTest, claim_at, text_of_claim
from companion.core.client_attrs import sendable
from companion.core.errors import Invalid
from companion.core.model import Connect, Deny, Reason

Profile = Literal["platform", "generic"]

_PRINCIPAL_CLAIMS: Final = ("uid", "aid", "cid")
_PLATFORM_CLAIMS: Final = ("type", "session", *_PRINCIPAL_CLAIMS)
_LATEST: Final = 253_402_300_799  # the last second of the year 9999; EMQX refuses milliseconds


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified token says: principal, session, `exp` in Unix seconds.

    Subject and scope, for grants, may be empty, and so may groups and tenant, for rules. `tested` holds the claims that are
    compared with what the client sends.
    """

    principal: str
    session: str
    exp: int
    subject: str = ""
    scope: str = ""
    groups: tuple[str, ...] = ()
    tenant: str = ""
    jti: str = ""
    acl: str = ""
    attrs: Mapping[str, str] = field(default_factory=dict)
    superuser: bool = False
    platform: bool = True
    tested: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reading:
    """How tokens are read. Names of claims; an empty one: not at all."""

    profiles: tuple[Profile, ...] = ("platform",)
    principal: str = "sub"
    acl: str = "acl"
    superuser: str = ""
    attrs: Mapping[str, str] = field(default_factory=dict)
    required: tuple[ClaimTest, ...] = ()
    forbidden: tuple[ClaimTest, ...] = ()

    def read(self, claims: Mapping[str, Any]) -> Claims | Deny:
        """Return what these claims say, or why nobody is let in with them."""
        exp = int(claims["exp"])
        if exp > _LATEST:
            return _refused("exp is not in seconds")
        platform = "platform" in self.profiles and (
            "generic" not in self.profiles or any(name in claims for name in _PLATFORM_CLAIMS)
        )
        who = _of_platform(claims) if platform else self._of_others(claims)
        if isinstance(who, Deny):
            return who
        groups = _groups(claims, platform=platform)
        if groups is None:
            return _refused("groups is not a list of names")
        acl = claim_at(claims, self.acl) if self.acl else None
        try:
            if acl is not None:
                rules_of_claim(acl)
        except Invalid as problem:
            return _refused(f"{problem.field} is not {problem.allowed}")
        return Claims(
            *who,
            exp,
            subject=_text(claims.get("subject")) if platform else "",
            scope=_text(claims.get("scope")) if platform else "",
            groups=groups,
            tenant=_text(claims.get("cid")) if platform else "",
            jti=_text(claims.get("jti")),
            acl="" if acl is None else json.dumps(acl, separators=(",", ":")),
            attrs=sendable({key: text_of_claim(claim_at(claims, name)) for key, name in self.attrs.items()}),
            superuser=bool(self.superuser) and claim_at(claims, self.superuser) is True,
            platform=platform,
            tested={test.name: claim_at(claims, test.name) for test in (*self.required, *self.forbidden)},
        )

    def _of_others(self, claims: Mapping[str, Any]) -> tuple[str, str] | Deny:
        principal = claim_at(claims, self.principal)
        if not isinstance(principal, str) or not principal:
            return _refused(f"{self.principal} names no principal")
        return principal, ""

    def refusal(self, claims: Claims, connect: Connect) -> Deny | None:
        """Tell which demand of the settings these claims do not meet for this client."""
        # A user name that is the token itself is nothing that a claim could say.
        username = "" if connect.token else connect.username
        for test in self.required:
            if not test.met(claims.tested[test.name], username, connect.client_id):
                return _refused(f"{test.name} is not what token_required demands")
        for test in self.forbidden:
            if test.met(claims.tested[test.name], username, connect.client_id):
                return _refused(f"{test.name} is what token_forbidden forbids")
        return None


def _of_platform(claims: Mapping[str, Any]) -> tuple[str, str] | Deny:
    if claims.get("type") != "access":
        return _refused("type is not access")
    principal = next((claims[name] for name in _PRINCIPAL_CLAIMS if claims.get(name)), None)
    if not isinstance(principal, str):
        return _refused("none of uid, aid and cid names a principal")
    session = claims.get("session")
    if not isinstance(session, str) or not session:
        return _refused("session is missing")
    return principal, session


def _groups(claims: Mapping[str, Any], *, platform: bool) -> tuple[str, ...] | None:
    """Return what a token belongs to; None where `groups` is no list of names: what is denied to a group must not be evaded so."""
    named = claims.get("groups")
    listed = [] if named is None else named
    if not isinstance(listed, list) or not all(isinstance(one, str) and one for one in listed):
        return None
    # As the platform has it on every entity, a group is a domain name or the id of an app.
    own = [text for name in ("domain", "aid") if platform and (text := _text(claims.get(name)))]
    return tuple(dict.fromkeys((*listed, *own)))


def _refused(detail: str) -> Deny:
    return Deny(Reason.TOKEN_CLAIMS, detail=detail)


def _text(claim: object) -> str:
    """Return an optional claim; what is no text grants nothing."""
    return claim if isinstance(claim, str) else ""
