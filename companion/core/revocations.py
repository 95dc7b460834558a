"""Revocations: who or what is refused from now on, and what has to be done about those who are connected. Plain values, pure.

    written ──▶ told ──▶ caches ──▶ (ban) ──▶ kick ──▶ check
                                                        lifted ──▶ unban

Once a revocation is written, the hooks refuse (`cause` REVOKED) until it is lifted or its time is over. The steps behind that are
work: each is noted when it is done, so that whoever goes on knows what is left. The order is that of the broker's gaps: what its
nodes remember goes before the ban, both before the kick, or whoever is kicked would be back at once.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from companion.core.errors import Invalid
from companion.core.model import Session


class Target(StrEnum):
    """What is revoked: a user name, a platform session, one token, or a client id."""

    ACCOUNT = "account"
    SESSION = "session"
    TOKEN = "token"  # noqa: S105 - a kind of thing, not a secret
    CLIENT = "client"


class Cause(StrEnum):
    """Why. Only REVOKED refuses by itself; for the others, which the account refuses if anything does, who is connected has to go.

    KICK: somebody asked for just that, as for clients that shall come back by other rules.
    SECRET: one of several was taken away, and nobody knows which of them let whom in.
    """

    REVOKED = "revoked"
    KICK = "kick"
    DISABLED = "disabled"
    REMOVED = "removed"
    PASSWORD = "password"  # noqa: S105 - likewise
    SECRET = "secret"  # noqa: S105 - likewise


_BACK: Final = frozenset({Cause.KICK, Cause.PASSWORD, Cause.SECRET})
"""Whoever is kicked for these may come back at once."""


class Step(StrEnum):
    """What is done about a revocation, in this order; the last two once it is lifted."""

    TOLD = "told"
    CACHES = "caches"
    BAN = "ban"
    KICK = "kick"
    CHECK = "check"
    LIFTED = "lifted"
    UNBAN = "unban"


@dataclass(frozen=True, slots=True)
class Done:
    """A step that was done: when (Unix milliseconds), how many milliseconds it took, and what came of it."""

    step: Step
    at: int
    took: int
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Revocation:
    """One revocation. `at`, `lifted_at` and `due_at` are Unix milliseconds, `until` and `ban_until` Unix seconds.

    `name` is the user name, the session, the client id, or of a token `jti:…` or `sha256:…`. `waiting` is whether something is left
    to do; then it is due at `due_at`, and `fence` is that of whoever did the last of it.
    """

    id: str
    target: Target
    name: str
    at: int
    cause: Cause = Cause.REVOKED
    reason: str = ""
    asked_by: str = ""
    until: int | None = None
    ban_until: int | None = None
    lifted_at: int | None = None
    waiting: bool = True
    due_at: int = 0
    attempts: int = 0
    error: str = ""
    fence: int = 0
    steps: tuple[Done, ...] = ()

    @property
    def key(self) -> str:
        """What the hooks look for."""
        return key_of(self.target, self.name)

    @property
    def plan(self) -> tuple[Step, ...]:
        """The steps that belong to it as it stands."""
        if self.lifted_at is not None:
            return (Step.LIFTED, Step.UNBAN)
        ban = () if self.ban_until is None else (Step.BAN,)
        check = () if self.cause in _BACK else (Step.CHECK,)
        return (Step.TOLD, Step.CACHES, *ban, Step.KICK, *check)

    @property
    def settled(self) -> frozenset[Step]:
        """The steps for which it is waited until whatever was remembered before everybody was told is surely forgotten.

        Who may come back at once is kicked once, then: nobody could tell later who came in by what was remembered.
        """
        return frozenset({Step.KICK if self.cause in _BACK else Step.CHECK})

    @property
    def next(self) -> Step | None:
        """The step that is to be done; None after the last."""
        done = {one.step for one in self.steps}
        return next((step for step in self.plan if step not in done), None)

    def done(self, step: Step) -> Done | None:
        """Return how this step went; None while it is not done."""
        return next((one for one in self.steps if one.step is step), None)

    def stands(self, now: float) -> bool:
        """Tell whether the hooks refuse because of it (Unix seconds)."""
        return self.cause is Cause.REVOKED and self.lifted_at is None and (self.until is None or self.until > now)

    def after(self, done: Done, due_at: int) -> Revocation:
        """Return the record after a step; the next one is due then."""
        record = replace(self, steps=(*self.steps, done), attempts=0, error="", due_at=due_at)
        return replace(record, waiting=record.next is not None)


@dataclass(frozen=True, slots=True)
class Standing:
    """A revocation as the hooks know it: `until` in Unix seconds, None until it is lifted."""

    id: str
    key: str
    until: int | None


_MOST_NAME: Final = 65_535
"""The longest string of MQTT, in bytes."""

_MOST_REASON: Final = 500
_MOST_SECONDS: Final = 10 * 366 * 86_400
_DIGEST: Final = re.compile(r"(?:sha256:)?([0-9a-fA-F]{64})")
_JTI: Final = "jti:"
_SHA256: Final = "sha256:"
_TOKEN_LIKE: Final = re.compile(r"ey[A-Za-z0-9_-]{8,}\..*|apt.{20,}", re.DOTALL)


def key_of(target: Target, name: str) -> str:
    """Return one text for a target and its name."""
    return f"{target.value}:{name}"


def digest_name(token: str) -> str:
    """Return the name of a token by its digest, which does not tell the token."""
    return _SHA256 + hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()


def jti_name(jti: str) -> str:
    """Return the name of a token by its claim `jti`."""
    return _JTI + jti


def revocation_of(
    target: Target,
    name: str,
    now: float,
    *,
    token: str = "",
    seconds: float | None = None,
    ban: float = 0,
    reason: str = "",
    asked_by: str = "",
    refuse: bool = True,
) -> Revocation:
    """Return what a person asks for, from `now` on (Unix seconds), for `seconds` (None: until it is lifted).

    A token can be given itself; only its digest is kept. `ban` are seconds for which the broker shall refuse too. Without `refuse`
    who is connected is kicked and may come back. Raises `Invalid`.
    """
    if not refuse and (ban or seconds is not None):
        raise Invalid("refuse", "false", "without a ban and without an end: who is only kicked may come back at once")
    if token:
        if target is not Target.TOKEN or name:
            raise Invalid("token", "***", "only with the target token, and in place of a name")
        name = digest_name(token)
    elif target is Target.TOKEN:
        name = _token_name(name)
    if not name or len(name.encode(errors="surrogatepass")) > _MOST_NAME or not _is_text(name):
        raise Invalid("name", name, f"text of 1 to {_MOST_NAME} bytes")
    if len(reason) > _MOST_REASON or not all(one.isprintable() for one in reason):
        raise Invalid("reason", reason, f"one line of at most {_MOST_REASON} characters")
    if seconds is not None and not 1 <= seconds <= _MOST_SECONDS:
        raise Invalid("seconds", seconds, f"seconds from 1 to {_MOST_SECONDS}, or none: until it is lifted")
    if ban and target not in {Target.ACCOUNT, Target.CLIENT}:
        raise Invalid("ban", ban, "only for an account or a client id: the broker bans by these")
    if ban and not 1 <= ban <= _MOST_SECONDS:
        raise Invalid("ban", ban, f"seconds from 1 to {_MOST_SECONDS}, or 0 for none")
    at = int(now * 1000)
    moment = datetime.fromtimestamp(now, UTC)
    return Revocation(
        f"{target.value}-{moment:%Y%m%dT%H%M%S}-{secrets.token_hex(6)}",
        target,
        name,
        at,
        Cause.REVOKED if refuse else Cause.KICK,
        reason=reason,
        asked_by=asked_by,
        until=None if seconds is None else int(now + seconds),
        ban_until=int(now + ban) if ban else None,
        due_at=at,
    )


def kick_of(username: str, cause: Cause, identity: str, at: int, asked_by: str = "") -> Revocation:
    """Return what has to be done when an account has changed (Unix milliseconds): those connected have to go.

    `identity` tells this change from every other of the account, so that whoever hears of it twice asks for it once.
    """
    digest = hashlib.sha256(f"{len(username)}:{username}:{cause}:{identity}".encode(errors="surrogatepass")).hexdigest()
    return Revocation(f"{cause.value}-{digest[:24]}", Target.ACCOUNT, username, at, cause, asked_by=asked_by, due_at=at)


def keys_of(*, username: str = "", client_id: str = "", session: str = "", tokens: Iterable[str] = ()) -> list[str]:
    """Return the keys under which somebody may be refused; nothing is known by an empty name."""
    named = ((Target.ACCOUNT, username), (Target.CLIENT, client_id), (Target.SESSION, session))
    found = [key_of(target, name) for target, name in named if name]
    return found + [key_of(Target.TOKEN, name) for name in tokens if name]


def keys_of_client(username: str, client_id: str, session: Session | None) -> list[str]:
    """Return the keys under which somebody who is connected may be refused."""
    if session is None:
        return keys_of(username=username, client_id=client_id)
    tokens = (session.jti and jti_name(session.jti), session.digest)
    return keys_of(username=username, client_id=client_id, session=session.session, tokens=tokens)


def _token_name(name: str) -> str:
    digest = _DIGEST.fullmatch(name)
    if digest is not None:
        return _SHA256 + digest[1].lower()
    bare = name.removeprefix(_JTI)
    if _TOKEN_LIKE.fullmatch(bare):
        raise Invalid(
            "name", "***", "a jti or the SHA-256 of a token; give a token itself as one, for names are kept and shown"
        )
    return jti_name(bare) if bare else ""


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown_revocation(one: Revocation) -> Mapping[str, Any]:
    """Return a revocation for people and programs; times as in `Revocation`, `took` in milliseconds."""
    return {
        "id": one.id,
        "target": one.target.value,
        "name": one.name,
        "cause": one.cause.value,
        "reason": one.reason,
        "asked_by": one.asked_by,
        "at": one.at,
        "until": one.until,
        "ban_until": one.ban_until,
        "lifted_at": one.lifted_at,
        "state": "waiting" if one.waiting else "done",
        "next": None if not one.waiting or one.next is None else one.next.value,
        "due_at": one.due_at if one.waiting else None,
        "attempts": one.attempts,
        "error": one.error,
        "steps": [
            {"step": done.step.value, "at": done.at, "took": done.took, "detail": done.detail} for done in one.steps
        ],
    }
