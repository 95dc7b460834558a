"""Credential kind `token`: a platform access token (JWT, HMAC) as the password.

The principal is `uid`, else `aid`, else `cid`; the user name is the principal, the client id `{session}:{random}`. What was
verified is remembered under a keyed digest of the token, never under the token.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import secrets
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jwt

from broker_hooks.cache import Cache
from broker_hooks.directory import Directory, refusal
from broker_hooks.revoked import REVOKED, Revoked
from companion.core.model import Allow, Connect, Decision, Deny, Reason, Session
from companion.core.revocations import digest_name, jti_name, keys_of
from companion.metrics import Metrics

_PRINCIPAL_CLAIMS: Final = ("uid", "aid", "cid")
_DOTS: Final = 2
_LATEST: Final = 253_402_300_799  # the last second of the year 9999; EMQX refuses milliseconds


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified token says: principal, session, `exp` in Unix seconds; subject and scope, for grants, may be empty.

    So may the groups (the claim `groups`, the domain and the app), the tenant (the client application) and `jti`.
    """

    principal: str
    session: str
    exp: int
    subject: str
    scope: str
    groups: tuple[str, ...]
    tenant: str
    jti: str = ""


class TokenCredential:
    """Tries the password as an access token."""

    def __init__(
        self,
        directory: Directory,
        metrics: Metrics,
        revoked: Revoked,
        *,
        keys: Sequence[str],
        algorithms: Sequence[str],
        leeway: int,
        entries: int,
        seconds: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._revoked = revoked
        self._keys = tuple(keys)
        self._algorithms = list(algorithms)
        self._leeway = leeway
        self._now = now
        self._verified: Cache[bytes, Claims] = Cache("token", entries, seconds, metrics)
        self._digest_key = secrets.token_bytes(32)

    async def decide(self, connect: Connect) -> Decision | None:
        """Judge; None when the password does not look like a token, or no key is configured."""
        if not self._keys or not _looks_like_token(connect.password):
            return None
        claims = self._claims(connect.password)
        if isinstance(claims, Deny):
            return claims
        now = self._now()
        if claims.exp + self._leeway <= now:
            return Deny(Reason.TOKEN_EXPIRED)
        if connect.username != claims.principal:
            return Deny(Reason.WRONG_PRINCIPAL, detail="the user name is not the principal of the token")
        session, colon, rest = connect.client_id.partition(":")
        if session != claims.session or not colon or not rest:
            return Deny(Reason.WRONG_CLIENT_ID, detail="the client id is not {session}:{random}")
        account = await self._directory.principal_account(connect.username)
        refused = refusal(account, now) if account else None
        if refused:
            return refused
        if self._revoked.some:
            named = keys_of(session=claims.session, tokens=[claims.jti and jti_name(claims.jti)])
            if await self._revoked.refuses(named):
                return REVOKED
        # EMQX refuses a login whose expire_at has passed; within the leeway the end is that of the leeway.
        expires_at = claims.exp if claims.exp > now + 1 else claims.exp + self._leeway
        await self._directory.start_session(
            Session(
                connect.username,
                connect.client_id,
                claims.principal,
                claims.session,
                expires_at,
                claims.subject,
                claims.scope,
                claims.groups,
                claims.tenant,
                claims.jti,
                digest_name(connect.password),
            )
        )
        if account is not None and account.expires_at is not None:
            expires_at = min(expires_at, account.expires_at)
        return Allow(Reason.TOKEN, expires_at=expires_at)

    def _claims(self, token: str) -> Claims | Deny:
        digest = hashlib.blake2b(token.encode(), key=self._digest_key, digest_size=32).digest()
        known = self._verified.get(digest)
        if known is not None:
            return known
        claims = self._verify(token)
        if isinstance(claims, Claims):
            self._verified.put(digest, claims, self._verified.epoch)
        return claims

    def _verify(self, token: str) -> Claims | Deny:
        problem = Deny(Reason.TOKEN_INVALID, detail="the signature does not fit")
        for key in self._keys:
            try:
                return _checked(self._decode(token, key))
            except jwt.InvalidSignatureError:
                continue
            except jwt.ExpiredSignatureError:
                return Deny(Reason.TOKEN_EXPIRED)
            except jwt.InvalidAlgorithmError:
                return Deny(Reason.TOKEN_INVALID, detail="the algorithm is not one of token_algorithms")
            except jwt.ImmatureSignatureError:
                return Deny(Reason.TOKEN_CLAIMS, detail="the token is not valid yet (nbf or iat)")
            except jwt.MissingRequiredClaimError as missing:
                return Deny(Reason.TOKEN_CLAIMS, detail=f"the claim {missing.claim} is missing")
            except (jwt.InvalidTokenError, ValueError, OverflowError, RecursionError):
                return Deny(Reason.TOKEN_INVALID, detail="the token cannot be decoded")
        return problem

    def _decode(self, token: str, key: str) -> dict[str, Any]:
        return jwt.decode(
            token,
            key,
            algorithms=self._algorithms,
            leeway=self._leeway,
            options={"require": ["exp"], "verify_aud": False},
        )


def _checked(claims: dict[str, Any]) -> Claims | Deny:
    if claims.get("type") != "access":
        return Deny(Reason.TOKEN_CLAIMS, detail="type is not access")
    principal = next((claims[name] for name in _PRINCIPAL_CLAIMS if claims.get(name)), None)
    if not isinstance(principal, str):
        return Deny(Reason.TOKEN_CLAIMS, detail="none of uid, aid and cid names a principal")
    session = claims.get("session")
    if not isinstance(session, str) or not session:
        return Deny(Reason.TOKEN_CLAIMS, detail="session is missing")
    exp = int(claims["exp"])
    if exp > _LATEST:
        return Deny(Reason.TOKEN_CLAIMS, detail="exp is not in seconds")
    groups = _groups(claims)
    if groups is None:
        return Deny(Reason.TOKEN_CLAIMS, detail="groups is not a list of names")
    tenant = _text(claims.get("cid"))
    subject, scope, jti = (_text(claims.get(name)) for name in ("subject", "scope", "jti"))
    return Claims(principal, session, exp, subject, scope, groups, tenant, jti)


def _groups(claims: dict[str, Any]) -> tuple[str, ...] | None:
    """Return what a token belongs to; None where `groups` is no list of names: what is denied to a group must not be evaded so."""
    named = claims.get("groups")
    listed = [] if named is None else named
    if not isinstance(listed, list) or not all(isinstance(one, str) and one for one in listed):
        return None
    # As the platform has it on every entity, a group is a domain name or the id of an app.
    own = [text for name in ("domain", "aid") if (text := _text(claims.get(name)))]
    return tuple(dict.fromkeys((*listed, *own)))


def _text(claim: object) -> str:
    """Return an optional claim; what is no text grants nothing."""
    return claim if isinstance(claim, str) else ""


def _looks_like_token(password: str) -> bool:
    """Tell a token from a password by its form: three segments, the first of which decodes to a JSON object with `alg`."""
    if password.count(".") != _DOTS or not password.isascii():
        return False
    if password.startswith("eyJ"):
        return True
    head = password.partition(".")[0]
    try:
        header = json.loads(urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return False
    return isinstance(header, dict) and "alg" in header
