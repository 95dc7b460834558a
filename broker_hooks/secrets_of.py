"""The secrets of an account: its password, and further ones, good for a time, so that one can be replaced while both serve."""

from __future__ import annotations

from collections.abc import Sequence

from companion.core.model import MAX_SECRETS, Account, AccountSecret, Deny, Reason
from companion.core.password_hashes import AnyOf, PasswordHash, Single, affordable, parse_password_hash


def singles_of(account: Account, max_cost: int) -> Sequence[tuple[AccountSecret | None, Single]]:
    """Return the secrets that can be checked, the password (None) first; none where there are too many of them."""
    if len(account.secrets) > MAX_SECRETS:
        return ()
    listed = [(None, account.password_hash), *((one, one.password_hash) for one in account.secrets)]
    parsed = [(secret, parse_password_hash(text)) for secret, text in listed]
    return [(secret, known) for secret, known in parsed if known is not None and affordable(known, max_cost)]


def hash_of(account: Account, max_cost: int) -> PasswordHash | None:
    """Return what a password is compared with: all secrets at once, also those that are not good now. None without any."""
    singles = singles_of(account, max_cost)
    if len(singles) > 1:
        return AnyOf(tuple(known for _, known in singles))
    return singles[0][1] if singles else None


def refusal_of(secret: AccountSecret | None, now: float) -> Deny | None:
    """Tell why this secret may not be used now (Unix seconds); None when it may."""
    if secret is None:
        return None
    if secret.not_before is not None and secret.not_before > now:
        return Deny(Reason.SECRET_NOT_YET, detail=f"secret {secret.id}")
    if secret.not_after is not None and secret.not_after <= now:
        return Deny(Reason.SECRET_EXPIRED, detail=f"secret {secret.id}")
    return None
