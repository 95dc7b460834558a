"""Credential kind `token`: a JWT as the password, or as the user name.

The principal of a platform token is `uid`, else `aid`, else `cid`; the user name is the principal, the client id
`{session}:{random}`. Of other issuers' tokens a claim of the settings names the principal. What was verified is remembered under
a keyed digest of the token, never under the token, and for no longer than the keys hold.
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
from typing import Any, Final, Literal

import jwt

from broker_hooks.cache import Cache
from broker_hooks.directory import Directory, refusal
from broker_hooks.granting import Granting
from broker_hooks.revoked import REVOKED, Revoked
from broker_hooks.token_claims import Claims, Reading
from broker_hooks.token_keyset import KeySet
from companion.core.model import Account, Allow, Connect, Decision, Deny, Reason, Session
from companion.core.revocations import digest_name, jti_name, keys_of
from companion.metrics import Metrics

_DOTS: Final = 2
_CLAIMS_BYTES: Final = 700


@dataclass(slots=True)
class _Verified:
    """A token whose signature is known to be good, and the session that was begun with it last: mostly the next is the same."""

    claims: Claims
    session: Session | None = None


class TokenCredential:
    """Tries the password, or the user name, as an access token."""

    def __init__(
        self,
        directory: Directory,
        metrics: Metrics,
        revoked: Revoked,
        *,
        keys: KeySet,
        algorithms: Sequence[str],
        leeway: int,
        entries: int,
        seconds: float,
        size: int = 2**40,
        reading: Reading,
        granting: Granting,
        issuers: Sequence[str] = (),
        audiences: Sequence[str] = (),
        found_in: Literal["password", "username"] = "password",
        now: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._revoked = revoked
        self._keys = keys
        self._algorithms = frozenset(algorithms)
        self._leeway = leeway
        self._reading = reading
        self._issuers = list(issuers)
        self._audiences = list(audiences)
        self._found_in = found_in
        self._granting = granting
        self._now = now
        self._verified: Cache[bytes, _Verified] = Cache("token", entries, seconds, metrics, size=size, weigh=_weight)
        self._digest_key = secrets.token_bytes(32)
        keys.when_changed(self._verified.clear)

    async def decide(self, connect: Connect) -> Decision | None:
        """Judge; None when there is nothing that looks like a token, or no key is configured."""
        if not self.concerns(connect):
            return None
        token = self._token(connect)
        verified = await self._known(token)
        if isinstance(verified, Deny):
            return verified
        claims, now = verified.claims, self._now()
        if claims.exp + self._leeway <= now:
            return Deny(Reason.TOKEN_EXPIRED)
        refused = self._mismatch(connect, claims) or self._reading.refusal(claims, connect)
        if refused:
            return refused
        account = await self._directory.principal_account(claims.principal)
        refused = refusal(account, now) if account else None
        if refused:
            return refused
        # By the user name and what was sent it is looked for with every login; these only the token tells.
        if self._revoked.some and await self._revoked.refuses(_keys_of(claims)):
            return REVOKED
        session = self._session(connect, verified, token, now)
        await self._directory.start_session(session)
        return self._allow(account, claims, session)

    def concerns(self, connect: Connect) -> bool:
        """Tell whether there is something that looks like a token, and a key to verify it with."""
        return bool(self._keys) and _looks_like_token(self._token(connect))

    def recall(self, connect: Connect) -> Allow | None:
        """Return the yes to a token that was verified, whose session was begun."""
        now, token = self._now(), self._token(connect)
        verified = self._verified.recall(self._digest(token))
        if verified is None or verified.claims.exp + self._leeway <= now:
            return None
        claims = verified.claims
        if self._mismatch(connect, claims) or self._reading.refusal(claims, connect):
            return None
        known, account = self._directory.recall_principal(claims.principal)
        if not known or (account is not None and refusal(account, now) is not None):
            return None
        if self._revoked.some and not self._revoked.clears_keys(_keys_of(claims)):
            return None
        session = self._session(connect, verified, token, now)
        if not self._directory.recall_session(session):
            return None
        self._verified.used()
        self._directory.used_account()
        return self._allow(account, claims, session)

    def _token(self, connect: Connect) -> str:
        return connect.password if self._found_in == "password" else connect.token

    def _session(self, connect: Connect, verified: _Verified, token: str, now: float) -> Session:
        claims, known = verified.claims, verified.session
        # EMQX refuses a login whose expire_at has passed; within the leeway the end is that of the leeway.
        ends = claims.exp if claims.exp > now + 1 else claims.exp + self._leeway
        if (
            known is not None
            and known.client_id == connect.client_id
            and known.username == connect.username
            and known.expires_at == ends
        ):
            return known
        verified.session = Session(
            connect.username,
            connect.client_id,
            claims.principal,
            claims.session,
            ends,
            claims.subject,
            claims.scope,
            claims.groups,
            claims.tenant,
            claims.jti,
            digest_name(token),
            claims.acl,
        )
        return verified.session

    def _allow(self, account: Account | None, claims: Claims, session: Session) -> Allow:
        return self._granting.allow(
            Reason.TOKEN, account, ends=session.expires_at, claimed=claims.attrs, superuser=claims.superuser
        )

    def _mismatch(self, connect: Connect, claims: Claims) -> Deny | None:
        """Tell why this client may not come with this token. Rules go by the user name, so it has to be the principal."""
        if self._found_in == "password" and connect.username != claims.principal:
            return Deny(Reason.WRONG_PRINCIPAL, detail="the user name is not the principal of the token")
        if claims.platform:
            session, colon, rest = connect.client_id.partition(":")
            if session != claims.session or not colon or not rest:
                return Deny(Reason.WRONG_CLIENT_ID, detail="the client id is not {session}:{random}")
        return None

    async def _known(self, token: str) -> _Verified | Deny:
        digest = self._digest(token)
        known = self._verified.get(digest)
        if known is not None:
            return known
        epoch = self._verified.epoch
        claims = await self._verify(token)
        if isinstance(claims, Deny):
            return claims
        verified = _Verified(claims)
        self._verified.put(digest, verified, epoch)
        return verified

    def _digest(self, token: str) -> bytes:
        return hashlib.blake2b(token.encode(), key=self._digest_key, digest_size=32).digest()

    async def _verify(self, token: str) -> Claims | Deny:
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.InvalidTokenError, ValueError, RecursionError):
            return Deny(Reason.TOKEN_INVALID, detail="the token cannot be decoded")
        algorithm, kid = header.get("alg"), header.get("kid", "")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            return Deny(Reason.TOKEN_INVALID, detail="the algorithm is not one of token_algorithms")
        keys = await self._keys.fitting(algorithm, kid if isinstance(kid, str) else "")
        if isinstance(keys, Deny):
            return keys
        for key in keys:
            try:
                return self._reading.read(self._decode(token, key.key, algorithm))
            except jwt.InvalidSignatureError:
                continue
            except (jwt.InvalidTokenError, ValueError, TypeError, OverflowError, RecursionError) as problem:
                return _refusal(problem)
        return Deny(Reason.TOKEN_INVALID, detail="the signature does not fit")

    def _decode(self, token: str, key: Any, algorithm: str) -> dict[str, Any]:  # noqa: ANN401 - of whatever type
        required = ["exp", *(["iss"] if self._issuers else []), *(["aud"] if self._audiences else [])]
        return jwt.decode(
            token,
            key,
            # Exactly the one that the key was chosen for.
            algorithms=[algorithm],
            leeway=self._leeway,
            issuer=self._issuers or None,
            audience=self._audiences or None,
            # RFC 7519 wants text in `sub` and `jti`; issuers with numbers there exist, and we look at neither that way.
            options={
                "require": required,
                "verify_aud": bool(self._audiences),
                "verify_sub": False,
                "verify_jti": False,
            },
        )


def _keys_of(claims: Claims) -> Sequence[str]:
    """Return the keys under which a token may be revoked that only itself tells."""
    return keys_of(username=claims.principal, session=claims.session, tokens=[claims.jti and jti_name(claims.jti)])


def _weight(verified: _Verified) -> int:
    """Estimate the bytes of what is remembered of a token; the session is the one that the directory remembers."""
    claims = verified.claims
    return _CLAIMS_BYTES + len(claims.acl) + len(claims.scope) + len(claims.principal)


def _refusal(problem: Exception) -> Deny:
    """Return why a token is refused whose signature fits."""
    match problem:
        case jwt.ExpiredSignatureError():
            return Deny(Reason.TOKEN_EXPIRED)
        case jwt.ImmatureSignatureError():
            return Deny(Reason.TOKEN_CLAIMS, detail="the token is not valid yet (nbf or iat)")
        case jwt.MissingRequiredClaimError():
            return Deny(Reason.TOKEN_CLAIMS, detail=f"the claim {problem.claim} is missing")
        case jwt.InvalidIssuerError():
            return Deny(Reason.TOKEN_CLAIMS, detail="iss is none that is accepted")
        case jwt.InvalidAudienceError():
            return Deny(Reason.TOKEN_CLAIMS, detail="aud is none that is accepted")
    return Deny(Reason.TOKEN_INVALID, detail="the token cannot be decoded")


def _looks_like_token(text: str) -> bool:
    """Tell a token from a password by its form: three segments, the first of which decodes to a JSON object with `alg`."""
    if text.count(".") != _DOTS or not text.isascii():
        return False
    if text.startswith("eyJ"):
        return True
    head = text.partition(".")[0]
    try:
        header = json.loads(urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return False
    return isinstance(header, dict) and "alg" in header
